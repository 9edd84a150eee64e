"""Sizes and dtypes of tensors: as recording saw them, else from an abstract run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from experimentator.backends import Shape
from experimentator.backends.keras.context import as_tensor
from experimentator.graph import Chunk, Graph, Mode, Node, Ref, text
from experimentator.loading.blocks import items_like


class RecordedShapes:
    """What a backend saw while it recorded a list: the shape of each tensor that it was given, or that a node wrote."""

    def __init__(self, backend: Any, specs: Mapping[str, Any]):
        self.backend, self.specs, self.settings = backend, _items(specs), _settings(backend)
        self.processors: Sequence[Any] = ()  # as recorded
        self.given: dict[str, Shape] = {}
        self.written: dict[tuple[int, str], Shape] = {}

    def take(self, tensors: Mapping[str, Any]) -> None:
        """A run begins, with these tensors."""
        self.given = {name: self.backend.shape_of(tensor) for name, tensor in tensors.items()}

    def note(self, node: Node, chunk: Chunk) -> None:
        """A node ran; what it wrote that is no tensor is not noted."""
        for name in chunk.writes:
            value = dict.__getitem__(chunk, name)
            self.written.pop((node.index, name), None)
            if keras.ops.is_tensor(value):
                self.written[node.index, name] = self.backend.shape_of(value)

    def find(self, graph: Graph, specs: Mapping[str, Any]) -> dict[Ref, Shape] | None:
        """For every version in a graph, its shape; None where it has other processors, batches or settings."""
        own = _items({name: specs[name] for name in graph.inputs if name in specs})
        places = {ref: (node.index, ref.name) for node in graph.nodes for ref in node.writes}
        is_it = (
            not self.backend.eager  # where changed processors act at once, without a recording
            and _settings(self.backend) == self.settings
            and own.keys() == graph.inputs
            and all(self.specs.get(name) == spec for name, spec in own.items())
            and all(node.processor is self.processors[node.index] for node in graph.nodes)
            and self.written.keys() >= {*places.values()}
        )
        if not is_it:
            return None
        return {Ref(name, 0): self.given[name] for name in own} | {ref: self.written[at] for ref, at in places.items()}


def real_batch(backend: Any, specs: Mapping[str, Any]) -> Mapping[str, Any]:
    """A batch of items of the subsets; of zeros where no subset has any."""
    sizes = {name: (backend.batch_size, *(size or 1 for size in spec.shape[1:])) for name, spec in specs.items()}
    zeros = {name: np.zeros(sizes[name], spec.dtype) for name, spec in specs.items()}
    placed: Mapping[str, Any] = backend.put(zeros | items_like(specs, backend.subsets, backend.batch_size))
    return placed


def run_on_items(backend: Any, function: Any, specs: Mapping[str, Any]) -> Any:
    """What a function returns for a real batch, so that one may step through it; Keras variables stay as they are."""
    with keras.StatelessScope():  # variables that the function makes get their values when it ends
        return function(real_batch(backend, specs))


def shapes_by_running(backend: Any, graph: Graph, specs: Mapping[str, Any]) -> dict[Ref, Shape]:
    """Shape and dtype of every version in a graph that is a tensor, from one run on abstract batches."""
    seen: dict[Ref, Shape] = {}

    def call(node: Node, chunk: Chunk) -> None:
        backend.call(node, chunk)
        for ref in node.writes:
            if (tensor := as_tensor(dict.__getitem__(chunk, ref.name))) is not None:
                seen[ref] = backend.shape_of(tensor)

    def run(tensors: Any) -> Any:
        seen.update((Ref(name, 0), backend.shape_of(tensor)) for name, tensor in tensors.items())
        layer.run(tensors, training=graph.mode == Mode.TRAIN)
        return {}  # what is no tensor could not be returned from a trace

    layer = backend.running(graph, call)
    backend.abstract(run, {name: specs[name] for name in graph.inputs})
    return seen


def dtype_told(tensor: Any) -> str:
    """The dtype of a tensor as Keras calls it, or where Keras has no name for it, as for JAX' keys, the framework."""
    try:
        return str(keras.backend.standardize_dtype(tensor.dtype))
    except ValueError:
        return text.dtype_name(tensor)


def _settings(backend: Any) -> tuple[Any, ...]:
    """What shapes depend on, besides processors and data."""
    return backend.batch_size, backend.precision


def _items(specs: Mapping[str, Any]) -> dict[str, tuple[tuple[int, ...], Any]]:
    """Shape and dtype of one item, by name."""
    return {name: (tuple(spec.shape[1:]), spec.dtype) for name, spec in specs.items()}
