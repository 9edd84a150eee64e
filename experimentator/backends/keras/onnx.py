"""Whether a file is ONNX, and gives what the graph gives that it was made of."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import keras
import numpy as np

log = logging.getLogger(__name__)
ROWS = 2, 3  # of the batches that a file is tried on; PyTorch takes an axis of one for one that is always one
FAR = 0.05  # of the largest number: rounding is far below, a file that computes something else far above
FATAL = 4  # what onnxruntime logs by itself

Given = Mapping[str, Any]


def check_known(path: Path) -> None:
    """Refuse a file with operations that ONNX does not have: it would be written all the same."""
    onnx = import_module("onnx")
    try:
        onnx.checker.check_model(path)
    except onnx.checker.ValidationError as error:
        seen = " ".join(str(error).split())
        raise ValueError(
            f"ONNX cannot say all that this graph computes.\nSeen: {seen:.200}.\n"
            "Leave that processor out, by outputs=[...] that need it not, or export another format or from another "
            "framework."
        ) from None


def check_runs(path: Path, run: Callable[[Given], Given], inputs: Iterable[Any], sizes: Mapping[str, Any]) -> None:
    """Refuse a file that does not run, or gives something else than `run`, on zeros; where onnxruntime is installed."""
    try:
        onnxruntime = import_module("onnxruntime")
    except ImportError:
        return
    options = onnxruntime.SessionOptions()
    options.log_severity_level = FATAL
    given = [{one.name: np.zeros((rows, *sizes[one.name]), one.dtype) for one in inputs} for rows in ROWS]
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        taken = {one.name for one in session.get_inputs()}
        names = [one.name for one in session.get_outputs()]
        found = [session.run(names, {name: batch[name] for name in taken}) for batch in given]
    except Exception as error:  # of classes of its own, which have nothing else in common
        seen = " ".join(str(error).split()).replace(str(path), "it")
        if type(error).__name__ != "NotImplemented":  # by a CPU, which tells nothing of the file
            raise _wrong(seen) from None
        log.warning("The %s file is written, and not tried here: %.300s", path.suffix, seen)
        return
    if _is_drawing(path):
        return
    for batch, results in zip(given, found, strict=True):
        with keras.StatelessScope():
            expected = run({name: keras.ops.convert_to_tensor(value) for name, value in batch.items()})
        for name, result in zip(names, results, strict=True):
            _compare(name, np.asarray(result), np.asarray(keras.ops.convert_to_numpy(expected[name])))


def _is_drawing(path: Path) -> bool:
    """Whether it draws, so that no two runs give the same."""
    onnx = import_module("onnx")
    kinds = {node.op_type for node in onnx.load(path).graph.node}
    return any(kind.startswith("Random") or kind in ("Bernoulli", "Multinomial") for kind in kinds)


def _compare(name: str, found: np.ndarray, expected: np.ndarray) -> None:
    """Refuse another shape; and numbers that are far, but for whole ones, which a tie or a rounding makes others."""
    if found.shape != expected.shape:
        raise _wrong(f"{name!r} is {list(found.shape)}, and {list(expected.shape)} in the graph")
    if keras.backend.is_float_dtype(str(expected.dtype)):
        known = np.isfinite(expected := expected.astype(np.float64))
        off = np.abs(found.astype(np.float64) - expected)[known]
        if not (off <= FAR * (1 + np.abs(expected[known]).max(initial=0))).all():
            raise _wrong(f"{name!r} is off by {off.max():.3g} where all inputs are zeros")


def _wrong(seen: str) -> ValueError:
    write = (
        "Set exp.precision = 'float32' before: ONNX has few operations of bfloat16, and weights are of float32 anyway."
        if "bfloat16" in seen
        else "Leave that processor out, by outputs=[...] that need it not, write it by other operations, or export "
        "another format or from another framework."
    )
    return ValueError(
        f"onnxruntime does not compute from this file what the graph computes.\nSeen: {seen:.300}.\n{write}"
    )
