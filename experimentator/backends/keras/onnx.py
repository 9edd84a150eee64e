"""Checks of an ONNX file: that it is valid, and computes what the graph computes that it was made of."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import keras
import numpy as np

log = logging.getLogger(__name__)
ROWS = 2, 3  # rows of the batches that a file is tried on; to PyTorch, an axis of 1 is always 1
FAR = 0.05  # of the largest number: rounding is far below, a file that computes something else far above
FATAL = 4  # onnxruntime's own log tells of fatal errors only

Given = Mapping[str, Any]


def check_known(path: Path) -> None:
    """Refuse a file with operations that ONNX does not have: it would be written all the same."""
    onnx = import_module("onnx")
    try:
        onnx.checker.check_model(path)
    except onnx.checker.ValidationError as error:
        raise unknown(" ".join(str(error).split())) from None


def unknown(seen: str, form: str = "ONNX") -> ValueError:
    """The error where a format lacks an operation."""
    return ValueError(
        f"{form} cannot express all that this graph computes.\nSeen: {seen:.200}.\n"
        "Leave that processor out, by outputs=[...] that do not need it, or export another format or from another "
        "framework."
    )


def check_runs(path: Path, run: Callable[[Given], Given], model: Any) -> None:
    """Refuse a file that does not run, or gives something else than `run` of the model; where onnxruntime is installed.

    It is tried on an item; integers that differ, as they do by a tie or a rounding, are only logged. Where an input has
    sizes that no item has, it is tried on zeros, which the graph may not be made for: what is odd then is only logged.
    """
    try:
        onnxruntime = import_module("onnxruntime")
    except ImportError:
        return
    infers = model.layers[-1]
    one = {
        name: _tried(infers, name, infers.sizes[name], tensor.dtype) for name, tensor in model._inputs_struct.items()
    }
    is_item = all(value is not None for value in one.values())
    try:
        for rows in ROWS:
            given = {
                name: np.zeros((rows, *infers.sizes[name]), model._inputs_struct[name].dtype)
                if value is None
                else np.repeat(value, rows, axis=0)
                for name, value in one.items()
            }
            others = _check_batch(path, onnxruntime, run, given)
        if is_item and others:
            said = (
                "In the %s file, onnxruntime computes %s otherwise than the graph: by a tie or a rounding, or wrongly."
            )
            log.warning(said, path.suffix, ", ".join(others))
    except _OddError as error:
        if is_item and not error.is_of_cpu:
            raise _wrong(str(error)) from None
        on = "" if is_item else ", on zeros, since no item has the sizes that were asked for"
        log.warning("The %s file is written, but could not be tried here%s: %.300s", path.suffix, on, error)


class _OddError(Exception):
    """What a trial found wrong; `is_of_cpu` where that says nothing about the file."""

    def __init__(self, seen: str, *, is_of_cpu: bool = False):
        super().__init__(seen)
        self.is_of_cpu = is_of_cpu


def _tried(infers: Any, name: str, sizes: Any, dtype: Any) -> np.ndarray | None:
    """The value of an item [1, ...]; None where it has none of these sizes."""
    value = infers.item.get(name)
    fits = value is not None and np.shape(value)[1:] == tuple(sizes)
    return np.asarray(value)[:1].astype(dtype) if fits else None


def _check_batch(
    path: Path, onnxruntime: Any, run: Callable[[Given], Given], given: Mapping[str, np.ndarray]
) -> list[str]:
    """Run the file on a batch, and compare; returns which integers differ, in words."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = FATAL
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        names = [one.name for one in session.get_outputs()]
        found = session.run(names, {one.name: given[one.name] for one in session.get_inputs()})
    except Exception as error:  # of classes of onnxruntime's own, which have nothing else in common
        seen = " ".join(str(error).split()).replace(str(path), "it")
        raise _OddError(seen, is_of_cpu=type(error).__name__ == "NotImplemented") from None
    if _is_drawing(path):
        return []
    try:
        with keras.StatelessScope():
            expected = run({name: keras.ops.convert_to_tensor(value) for name, value in given.items()})
    except Exception as error:  # of the framework, whatever a processor refuses
        raise _OddError(f"the graph itself refuses what it is tried on: {error}", is_of_cpu=True) from None
    pairs = {
        name: (np.asarray(result), np.asarray(keras.ops.convert_to_numpy(expected[name])))
        for name, result in zip(names, found, strict=True)
    }
    others = {name: _differing(name, result, wanted) for name, (result, wanted) in pairs.items()}
    return [f"{count} of {pairs[name][1].size} in {name!r}" for name, count in others.items() if count]


def _is_drawing(path: Path) -> bool:
    """Whether the file draws random numbers, so that no two runs give the same."""
    onnx = import_module("onnx")
    kinds = {node.op_type for node in onnx.load(path).graph.node}
    return any(kind.startswith("Random") or kind in ("Bernoulli", "Multinomial") for kind in kinds)


def _differing(name: str, found: np.ndarray, expected: np.ndarray) -> int:
    """Refuse another shape, and floats that are far off; how many integers differ, by a tie or a rounding maybe."""
    if found.shape != expected.shape:
        raise _OddError(f"{name!r} is {list(found.shape)}, and {list(expected.shape)} in the graph")
    if not keras.backend.is_float_dtype(str(expected.dtype)):
        return int((found != expected).sum())
    known = np.isfinite(expected := expected.astype(np.float64))
    off = np.abs(found.astype(np.float64) - expected)[known]
    if not (off <= FAR * (1 + np.abs(expected[known]).max(initial=0))).all():
        raise _OddError(f"{name!r} is off by {off.max():.3g}")
    return 0


def _wrong(seen: str) -> ValueError:
    write = (
        "Set exp.precision = 'float32' before: ONNX has few operations of bfloat16, and weights are of float32 anyway."
        if "bfloat16" in seen
        else "Leave that processor out, by outputs=[...] that do not need it, write it by other operations, or export "
        "another format or from another framework."
    )
    return ValueError(
        f"onnxruntime does not compute from this file what the graph computes.\nSeen: {seen:.300}.\n{write}"
    )
