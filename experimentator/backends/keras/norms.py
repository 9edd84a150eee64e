"""Norms of gradients, for processors that ask for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import keras

from experimentator.graph import Graph
from experimentator.saving.matching import named_by


def asked_in(graph: Graph) -> dict[str, Any]:
    """The norms that processors ask for in `norm_of`: by name, the patterns of the weights; None for all."""
    writers = {name: graph.writers.get(ref) for name, ref in graph.results.items()}
    asked = {name: getattr(node.processor, "norm_of", {}) for name, node in writers.items() if node is not None}
    return {name: of[name] for name, of in asked.items() if name in of}


class Norms:
    """Norms of gradients that a graph asks for, by name: of the weights that patterns name, or of all.

    `keyed` gives all weights by key.
    """

    def __init__(self, graph: Graph, keyed: Callable[[], Mapping[str, Any]]):
        self.asked, self.keyed = asked_in(graph), keyed

    def put(self, outputs: dict[str, Any], pairs: Iterable[tuple[Any, Any]], optimizer: Any) -> dict[str, Any]:
        """The outputs of a batch, with these norms; `pairs` are gradients and the variables that they are of."""
        if not self.asked:
            return outputs
        found, keyed = {id(variable): gradient for gradient, variable in pairs}, self.keyed()
        scale = getattr(optimizer, "dynamic_scale", optimizer.loss_scale_factor or 1.0)  # of the loss, as in float16
        lengths = {}
        for name, patterns in self.asked.items():
            own = keyed if patterns is None else named_by(patterns, keyed)
            lengths[name] = _length([found[id(keyed[key])] for key in own if id(keyed[key]) in found]) / scale
        return {**outputs, **lengths}


def _length(gradients: Iterable[Any]) -> Any:
    """The L2 norm of all of them as one vector: [] float32."""
    flat = [keras.ops.cast(keras.ops.convert_to_tensor(one), "float32") for one in gradients]
    return keras.ops.sqrt(sum((keras.ops.sum(keras.ops.square(one)) for one in flat), start=keras.ops.zeros(())))
