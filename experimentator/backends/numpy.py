"""The reference backend: eager, without training; what a graph means, batch by batch."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from experimentator.backends import Backend, Step, get_backend
from experimentator.graph import Graph


class NumpyStep(Step):
    """Runs a graph on numpy rows, one batch after the other."""

    def __init__(self, graph: Graph):
        self.graph = graph

    def __call__(self, columns: Mapping[str, Any], index: np.ndarray, *, fixed: bool | None = None) -> dict[str, Any]:
        """Every selected name stacked over the batches: {name: [K, ...]}."""
        names = sorted(self.graph.inputs)
        rows = [self.graph.run({name: columns[name][row] for name in names}) for row in np.asarray(index)]
        return {name: np.stack([np.asarray(row[name]) for row in rows]) for name in rows[0]}


class NumpyBackend(Backend):
    """Any processors over numpy arrays; nothing is compiled and nothing is trained.

    >>> from experimentator.graph import chunk_processor
    >>> total = chunk_processor(inputs=["batch_x"], outputs=["total"])(lambda batch_x: batch_x.sum())
    >>> step = NumpyBackend().compile(Graph([total], provided={"batch_x"}).select("total"), {})
    >>> step({"batch_x": np.arange(4)}, np.array([[0, 1], [2, 3]]))
    {'total': array([1, 5])}
    """

    name = "numpy"

    def compile(self, graph: Graph, specs: Mapping[str, Any], optimizer: Any = None, **options: Any) -> NumpyStep:
        """An eager step; an optimizer is refused."""
        if optimizer is not None:
            raise ValueError(
                "The numpy backend does not train.\nSeen: an optimizer.\n"
                "Give the experiment a Keras optimizer, whose framework then is the backend, or list a class with a "
                "backend of your own in experiment_type; or leave it out to evaluate and predict."
            )
        return NumpyStep(graph)

    def held(self, graph: Graph) -> Callable[[Mapping[str, Any]], Mapping[str, Any]]:
        """A graph as a function of tensors; layers of Keras in it are not trained."""
        if "keras" not in sys.modules:
            return graph.run
        return get_backend("keras").held(graph)

    def weights(self) -> dict[str, np.ndarray]:
        return {}

    def set_weights(self, weights: Mapping[str, np.ndarray]) -> None:
        """There are none."""

    def optimizer_state(self, optimizer: Any) -> dict[str, np.ndarray]:
        return {}

    def set_optimizer_state(self, optimizer: Any, state: Mapping[str, np.ndarray]) -> None:
        """There is none."""


BACKEND = NumpyBackend
