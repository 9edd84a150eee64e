"""A graph as a Keras model: tensors by name in and out. Keras writes it as files that need no Python of ours."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from itertools import zip_longest
from pathlib import Path
from threading import RLock, get_ident
from typing import Any

import keras
import numpy as np

from experimentator.backends import MissingFrameworkError, Shape, Sizes
from experimentator.backends.keras.context import InContext
from experimentator.backends.keras.onnx import check_known, check_runs
from experimentator.graph import Graph, Ref
from experimentator.loading.blocks import Spec
from experimentator.patches import patched

log = logging.getLogger(__name__)
CONVERTING = RLock()  # what converters must not log is kept silent for one of them at a time
CALL_HANDLERS = logging.Logger.callHandlers
FLEX = re.compile(rb"Flex[A-Z]\w+")
PLAIN_NAME = re.compile(r"[\w.>\\-]+", re.ASCII)  # TensorFlow takes these two as well
# Packages that a format needs, besides the framework itself.
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
        self.item: dict[str, Any] = {}  # an item as a batch of one, on which a file is tried
        self.built = True

    def call(self, tensors: Mapping[str, Any]) -> dict[str, Any]:
        try:
            results = self.graph.run(dict(tensors), training=False)
        except Exception as error:
            vars(error)["_keras_call_info_injected"] = True  # Keras would raise another, without the notes of this one
            raise
        return apart({name: results[name] for name in self.results}, tensors)

    def compute_output_spec(self, tensors: Mapping[str, Any]) -> dict[str, Any]:
        """The shapes known already; Keras would run the graph on sizes of its own, which not every network takes."""
        return {name: keras.KerasTensor(sizes, dtype, name=name) for name, (sizes, dtype) in self.results.items()}

    def get_config(self) -> dict[str, Any]:
        """Refused: Keras saves what can be made again from classes and numbers, and processors are any Python."""
        raise NotImplementedError(
            "The model of an experiment cannot be saved as Keras saves models: its processors are Python.\n"
            "Write exp.export(PATH) for a file that runs without them, exp.save_weights(PATH) for the weights alone."
        )


def apart(results: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Results as separate tensors: formats of files know none that is an input, too, or is there twice."""
    taken, found = set(map(id, given.values())), {}
    for name, value in results.items():
        tensor = keras.ops.convert_to_tensor(value)
        found[name] = keras.ops.copy(tensor) if id(tensor) in taken else tensor
        taken.add(id(tensor))
    return found


def model_of(layer: Infers, specs: Mapping[str, Any], sizes: Mapping[str, Sizes]) -> Any:
    """The model of that layer alone."""
    inputs = {name: keras.Input(sizes[name], dtype=str(specs[name].dtype), name=name) for name in sorted(sizes)}
    model = keras.Model(inputs, layer(inputs), name=layer.name)
    layer.sizes = _items(specs, sizes, 1)
    return model


def shapes_of(backend: Any, graph: Graph, specs: Mapping[str, Any], sizes: Mapping[str, Sizes]) -> dict[str, Shape]:
    """Shapes of a graph's results; an axis whose size differs between batches is None."""

    def at(rows: int, factor: int) -> dict[Ref, Shape]:
        items = _items(specs, sizes, factor)
        given = {name: Spec((rows, *own), specs[name].dtype) for name, own in items.items()}
        with patched(backend, batch_size=rows):
            found: dict[Ref, Shape] = backend.shapes(graph, given)
            if not found.keys() >= {*graph.results.values()}:  # only tensors have shapes
                backend.abstract(backend.forward_of(graph, detach=0), given)  # raises, and says which is none
        return found

    one, is_free = at(2, 1), any(None in some for some in sizes.values())
    try:
        other = at(3, 2 if is_free else 1)
    except Exception:  # doubled sizes may be more than a network takes
        if not is_free:
            raise
        other = {ref: ((), dtype) for ref, (_, dtype) in one.items()}
    return {name: (_common(one[ref][0], other[ref][0]), one[ref][1]) for name, ref in graph.results.items()}


def _items(specs: Mapping[str, Any], sizes: Mapping[str, Sizes], factor: int) -> dict[str, tuple[int, ...]]:
    """Sizes of an item by input; free ones are those of the items, times `factor`."""
    return {
        name: tuple(
            own * factor if size is None else size for own, size in zip(specs[name].shape[1:], some, strict=True)
        )
        for name, some in sizes.items()
    }


def _common(one: Sizes | None, other: Sizes | None) -> Sizes:
    return tuple(a if a == b else None for a, b in zip_longest((None,) if one is None else one, other or ()))


def write(model: Any, path: Path, form: str, **options: Any) -> None:
    """Let Keras write a model in one of its formats; `options` are of that one."""
    check_able(model, path)
    inputs = model._inputs_struct.items()
    signature = {name: keras.InputSpec(shape=one.shape, dtype=one.dtype, name=name) for name, one in inputs}
    with quietly():
        model.export(path, format=form, verbose=False, input_signature=[signature], **options)
    if form == "onnx":
        check_known(path)
        check_runs(path, model, model)
    elif form == "litert" and (flex := sorted(set(FLEX.findall(path.read_bytes())))):
        said = "%s has operations that only an interpreter with TensorFlow's own (Flex) runs: %s."
        log.warning(said, path.suffix, ", ".join(one.decode() for one in flex))
    elif (keras.backend.backend(), form) == ("jax", "tf_saved_model"):
        _check_read(model, path)


def _check_read(model: Any, path: Path) -> None:
    """Refuse a folder that the TensorFlow which is installed cannot run: what JAX writes may be too new for it."""
    with quietly():  # it tells of gradients that it could not take
        loaded = import_module("tensorflow").saved_model.load(str(path))
    sizes, rows = model.layers[-1].sizes, 2
    given = {one.name: np.zeros((rows, *sizes[one.name]), one.dtype) for one in model.inputs}
    try:
        loaded.serve(given)
    except Exception as error:
        seen = str(error).rpartition("<stack traces unavailable>\n")[2].partition("\n")[0].rstrip(".")
        raise ValueError(
            f"TensorFlow cannot run what JAX writes for this graph.\nSeen: {seen:.200}.\n"
            "Export on TensorFlow, KERAS_BACKEND=tensorflow, with the same weights; or, where "
            "versions do not go together, with an earlier JAX (0.10) or a later TensorFlow."
        ) from error


def check_able(model: Any, path: Path) -> None:
    """Refuse a format whose package is missing, or that cannot have these inputs and outputs."""
    for package in NEEDED.get((keras.backend.backend(), path.suffix), ()):
        try:
            import_module(package)
        except ImportError as error:
            extra = "tensorflow-cpu" if package == "tensorflow" else "onnx"
            raise MissingFrameworkError(
                f"{path.suffix or 'SavedModel'} files cannot be written here.\nSeen: {error}.\n"
                f'Type: pip install "experimentator-dl[{extra}]".'
            ) from None
    odd = sorted(name for name in model._inputs_struct if not PLAIN_NAME.fullmatch(name))
    if path.suffix in ("", ".tflite") and odd:
        raise ValueError(
            f"TensorFlow cannot give an input of a file this name.\nSeen: {', '.join(map(repr, odd))}.\n"
            "Rename it in the items, using only letters A to Z, digits, '_', '-' and '.'; or name a file .onnx."
        )
    both = sorted(set(model._inputs_struct) & set(model._outputs_struct))
    if path.suffix == ".onnx" and both:
        raise ValueError(
            f"In ONNX, no output can be an input.\nSeen: {', '.join(both)}.\nName other outputs, or another format."
        )


@contextmanager
def quietly() -> Iterator[None]:
    """Within, converters log and warn of nothing, nor leave a handler of logs behind; threads take turns."""
    root, here = logging.getLogger(), get_ident()

    def called(logger: logging.Logger, record: logging.LogRecord) -> None:
        if get_ident() != here or logger.name.startswith("experimentator"):  # of a training in another thread, or ours
            CALL_HANDLERS(logger, record)

    with CONVERTING, patched(logging.Logger, callHandlers=called), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        handlers = list(root.handlers)
        try:
            yield
        finally:
            root.handlers[:] = handlers  # `logging.warning`, which they call, adds one that shows ours otherwise
