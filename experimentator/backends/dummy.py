"""The backend that computes nothing: to try data and callbacks, and to time them, without a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from experimentator.backends.numpy import NumpyBackend, NumpyStep
from experimentator.graph import Chunk, ChunkProcessor, Graph, Mode


class Idle(ChunkProcessor):
    """Stands for a whole list: reads all of a batch, and writes 0.0 under each name that the list declares."""

    failed = None

    def __init__(self, inputs: Sequence[str], outputs: Sequence[str]):
        self.inputs, self.outputs = tuple(inputs), tuple(outputs)

    def __call__(self, chunk: Chunk) -> None:
        chunk.update(dict.fromkeys(self.outputs or (), 0.0))


class DummyBackend(NumpyBackend):
    """No processor is run, nothing is trained, and the loss is 0.0."""

    name = "dummy"

    def record(
        self, processors: Sequence[Any], specs: Mapping[str, Any], mode: Mode, known: Mapping[int, Any]
    ) -> tuple[Any, ...]:
        """One processor in place of all: batches are made as usual, and thrown away."""
        declared = [name for processor in processors for name in (getattr(processor, "outputs", None) or ())]
        return (Idle(tuple(specs), tuple(name for name in dict.fromkeys(["loss", *declared]) if name not in specs)),)

    def compile(self, graph: Graph, specs: Mapping[str, Any], optimizer: Any = None, **options: Any) -> NumpyStep:
        """A step that trains nothing, whatever the optimizer."""
        return NumpyStep(graph)

    def rates(self, optimizer: Any) -> Callable[[np.ndarray], None]:
        """One rate for a whole pass, that of its first batch, since nothing reads rates here."""
        base = float(optimizer.learning_rate)
        return lambda factors: setattr(optimizer, "learning_rate", base * float(factors[0]))


BACKEND = DummyBackend
