"""A graph as a Keras model: tensors by name in and out. Keras writes it as files that need no Python of ours."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from itertools import zip_longest
from pathlib import Path
from typing import Any

import keras

from experimentator.backends import MissingFrameworkError, Shape, Sizes
from experimentator.backends.keras.context import InContext
from experimentator.graph import Graph, Ref
from experimentator.loading.blocks import Spec

# What writes a format, besides the framework itself.
NEEDED = {
    ("tensorflow", ".onnx"): ("onnx", "tf2onnx"),
    ("torch", ".onnx"): ("onnx", "onnxscript"),
    ("jax", ""): ("tensorflow",),
}


class Infers(keras.Layer):
    """A layer that runs a graph and has the variables that it reads; `results` are the shapes of what it gives."""

    def __init__(self, graph: InContext, results: Mapping[str, Shape], held: Sequence[Any], name: str):
        super().__init__(name=name, autocast=False)
        self.graph, self.results, self.held = graph, dict(results), list(held)
        self.built = True

    def call(self, tensors: Mapping[str, Any]) -> dict[str, Any]:
        results = self.graph.run(dict(tensors), training=False)
        return {name: keras.ops.convert_to_tensor(results[name]) for name in self.results}

    def compute_output_spec(self, tensors: Mapping[str, Any]) -> dict[str, Any]:
        """What is known; Keras would run the graph on sizes of its own, which not every network takes."""
        return {name: keras.KerasTensor(sizes, dtype, name=name) for name, (sizes, dtype) in self.results.items()}


def model_of(layer: Infers, specs: Mapping[str, Any], sizes: Mapping[str, Sizes]) -> Any:
    """The model of that layer alone."""
    inputs = {name: keras.Input(sizes[name], dtype=str(specs[name].dtype), name=name) for name in sorted(sizes)}
    model = keras.Model(inputs, layer(inputs), name=layer.name)
    layer.sizes = _items(specs, sizes, 1)
    return model


def shapes_of(backend: Any, graph: Graph, specs: Mapping[str, Any], sizes: Mapping[str, Sizes]) -> dict[str, Shape]:
    """Of what a graph gives; an axis that is another for other batches is None."""

    def at(rows: int, factor: int) -> dict[Ref, Shape]:
        items = _items(specs, sizes, factor)
        before, backend.batch_size = backend.batch_size, rows
        try:
            return backend.shapes(graph, {n: Spec((rows, *own), specs[n].dtype) for n, own in items.items()})
        finally:
            backend.batch_size = before

    one, is_free = at(2, 1), any(None in some for some in sizes.values())
    try:
        other = at(3, 2 if is_free else 1)
    except Exception:  # it may be more than a network takes
        if not is_free:
            raise
        other = {ref: ((), dtype) for ref, (_, dtype) in one.items()}
    return {name: (_common(one[ref][0], other[ref][0]), one[ref][1]) for name, ref in graph.results.items()}


def _items(specs: Mapping[str, Any], sizes: Mapping[str, Sizes], factor: int) -> dict[str, tuple[int, ...]]:
    """Sizes of an item that a graph takes; those that are free are its own, or a multiple."""
    return {
        name: tuple(
            own * factor if size is None else size for own, size in zip(specs[name].shape[1:], some, strict=True)
        )
        for name, some in sizes.items()
    }


def _common(one: Sizes | None, other: Sizes | None) -> Sizes:
    return tuple(a if a == b else None for a, b in zip_longest(one or (None,), other or ()))


def write(model: Any, path: Path, form: str) -> None:
    """Let Keras write a model in one of its formats."""
    check_there(path)
    inputs = model._inputs_struct.items()
    signature = {name: keras.InputSpec(shape=one.shape, dtype=one.dtype, name=name) for name, one in inputs}
    with quietly():
        model.export(path, format=form, verbose=False, input_signature=[signature])
    if form == "onnx":
        _check_known(path)


def check_there(path: Path) -> None:
    """Refuse a format that something is missing for."""
    for package in NEEDED.get((keras.backend.backend(), path.suffix), ()):
        try:
            import_module(package)
        except ImportError as error:
            extra = "tensorflow-cpu" if package == "tensorflow" else "onnx"
            raise MissingFrameworkError(
                f"{path.suffix or 'SavedModel'} files cannot be written here.\nSeen: {error}.\n"
                f'Type: pip install "experimentator-dl[{extra}]".'
            ) from error


def _check_known(path: Path) -> None:
    """Refuse a file with operations that ONNX does not have: it would be written all the same."""
    onnx = import_module("onnx")
    try:
        onnx.checker.check_model(path)
    except onnx.checker.ValidationError as error:
        seen = " ".join(str(error).split())
        raise ValueError(
            f"ONNX cannot say all that this graph computes.\nSeen: {seen:.200}.\n"
            "Leave that processor out, by outputs=[...] that need it not, or export another format."
        ) from None


@contextmanager
def quietly() -> Iterator[None]:
    """Within, converters do not tell of their own affairs."""
    logs = [logging.getLogger(name) for name in ("tf2onnx", "tf2onnx.tfonnx", "absl", "tensorflow", "torch.onnx")]
    levels = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)
