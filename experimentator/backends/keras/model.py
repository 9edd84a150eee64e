"""A graph as a Keras model: tensors by name in and out. Keras writes it as files that need no Python of ours."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import keras

from experimentator.backends import MissingFrameworkError, Shape
from experimentator.backends.keras.context import InContext

# What Keras writes with, besides its own framework.
NEEDED = {
    ("tensorflow", "onnx"): ("onnx", "tf2onnx"),
    ("torch", "onnx"): ("onnx", "onnxscript"),
    ("jax", "tf_saved_model"): ("tensorflow",),
}


class Infers(keras.Layer):
    """A layer that runs a graph and has the variables that it reads."""

    def __init__(self, graph: InContext, names: Sequence[str], held: Sequence[Any], name: str):
        super().__init__(name=name, autocast=False)
        self.graph, self.names, self.held = graph, list(names), list(held)
        self.built = True

    def call(self, tensors: Mapping[str, Any]) -> dict[str, Any]:
        results = self.graph.run(dict(tensors), training=False)
        return {name: keras.ops.convert_to_tensor(results[name]) for name in self.names}


def model_of(
    graph: InContext, names: Sequence[str], held: Sequence[Any], shapes: Mapping[str, Shape], name: str
) -> Any:
    """The model that runs a graph, which reads these variables."""
    inputs = {key: keras.Input(sizes, dtype=dtype, name=key) for key, (sizes, dtype) in sorted(shapes.items())}
    return keras.Model(inputs, Infers(graph, names, held, name)(inputs), name=name)


def write(model: Any, path: Path, form: str, **options: Any) -> None:
    """Let Keras write a model in one of its formats."""
    for package in NEEDED.get((keras.backend.backend(), form), ()):
        _check_there(package, path)
    inputs = model._inputs_struct.items()
    signature = {name: keras.InputSpec(shape=one.shape, dtype=one.dtype, name=name) for name, one in inputs}
    with _quietly():
        model.export(path, format=form, verbose=False, **{"input_signature": [signature], **options})


def _check_there(package: str, path: Path) -> None:
    try:
        import_module(package)
    except ImportError as error:
        extra = "tensorflow-cpu" if package == "tensorflow" else "onnx"
        raise MissingFrameworkError(
            f"Keras cannot write {path.suffix or 'SavedModel'} files here.\nSeen: {error}.\n"
            f'Type: pip install "experimentator-dl[{extra}]".'
        ) from error


@contextmanager
def _quietly() -> Iterator[None]:
    """Within, converters do not tell of their own affairs."""
    logs = [logging.getLogger(name) for name in ("tf2onnx", "absl", "tensorflow")]
    levels = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)
