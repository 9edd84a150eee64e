"""The confusion matrix of a cycle, counted and drawn by a callback."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experimentator.callbacks.callback import Callback, run_folder
from experimentator.callbacks.monitored import check_tensors
from experimentator.callbacks.order import CallbackError
from experimentator.callbacks.picture import matrix
from experimentator.checkpoint import write_atomically
from experimentator.graph import Mode
from experimentator.scalars import is_whole


class ConfusionMatrix(Callback):
    """Count over each EVAL cycle how often a sample of class `target` was given class `prediction`.

    `prediction` names class ids [B, ...] int, or logits or scores [B, ..., K]; `target` ids [B, ...] int, or rows
    [B, ..., K]. Rows of the matrix are targets, columns predictions. Ids below 0 and NaN mean "no label": left out.
    `classes` gives their names, or how many there are; without it, as many as are seen. `when=Mode.ALL` counts in
    training too.

    Reads both names from the graph; writes `<subset>_confusion` [K, K] int into the state, `cycles` here, and
    `confusion-<subset>.svg` and `.json` into `folder`, else into the run folder, if any.

    >>> matrix = ConfusionMatrix("batch_ids", "batch_target", classes=["cat", "dog"])
    >>> matrix.count(np.array([0, 1, 1]), np.array([0, 0, 1])).tolist()
    [[1, 1], [0, 1]]
    """

    leaves_files = True
    of_pass = ("counts",)

    def __init__(
        self,
        prediction: str,
        target: str = "batch_target",
        *,
        classes: int | Sequence[str] | None = None,
        when: Mode = Mode.EVAL,
        folder: str | os.PathLike[str] | None = None,
    ):
        self.prediction, self.target, self.when, self.folder = prediction, target, when, folder
        self.inputs = (prediction, target)
        given: Any = classes  # whatever its annotation says
        are_names = hasattr(given, "__iter__") and not isinstance(given, str)
        if given is not None and not are_names and not is_whole(given, least=1):
            raise CallbackError(
                f"ConfusionMatrix needs the names of the classes, or how many there are.\nSeen: classes={given!r}.\n"
                'Write classes=10, or classes=["cat", "dog"].'
            )
        self.names = [str(name) for name in given] if are_names else None
        self.size = int(given) if is_whole(given, least=1) else len(self.names or ())
        self.cycles: dict[str, np.ndarray] = {}
        self.counts = np.zeros((self.size, self.size), int)

    def on_train_begin(self, **_: Any) -> None:
        """Refuse names that nothing produces."""
        check_tensors(self.inputs, self.exp, asker=self)

    def on_cycle_begin(self, **_: Any) -> None:
        """Reset the counts."""
        self.counts = np.zeros((self.size, self.size), int)

    def on_block_end(self, results: Mapping[str, np.ndarray], **_: Any) -> None:
        """Count the samples of a call."""
        for name in self.inputs:
            if name not in results or results[name].ndim < 2:
                seen = f"[{', '.join('B' * (results[name].ndim > 1))}]" if name in results else "no such tensor"
                raise CallbackError(
                    f"ConfusionMatrix needs {name!r} to hold a class for each sample.\nSeen: {seen}.\n"
                    "Name ids [B], or scores [B, K], that a processor writes in this mode."
                )
        prediction, target = (results[name] for name in self.inputs)
        more = prediction.ndim - target.ndim
        are_rows = more > 0 or (more == 0 and prediction.dtype.kind not in "iub")  # whole numbers of one shape are ids
        ids = _ids(prediction, are_rows=are_rows), _ids(target, are_rows=more < 0 or (more == 0 and are_rows))
        if len(ids[0]) != len(ids[1]):
            raise CallbackError(
                f"ConfusionMatrix needs a class in {self.prediction!r} for each in {self.target!r}.\n"
                f"Seen: {_sizes(prediction)} and {_sizes(target)}.\n"
                "Name ids of one shape, or scores with one axis more."
            )
        for name, values, some in zip(self.inputs, (prediction, target), ids, strict=True):
            _check_ids(name, values, some)
        self.counts = _added(self.counts, self.count(*ids))

    def count(self, prediction: np.ndarray, target: np.ndarray) -> np.ndarray:
        """The matrix [K, K] of predicted and true ids, [N] each."""
        known = (prediction >= 0) & (target >= 0)
        prediction, target = prediction[known], target[known]
        seen = 1 + int(max(prediction.max(initial=-1), target.max(initial=-1)))
        if self.size and seen > self.size:
            raise CallbackError(
                f"ConfusionMatrix was told of {self.size} classes.\nSeen: class {seen - 1} in {self.target!r} or "
                f"{self.prediction!r}.\nGive all classes, or none."
            )
        size = self.size or seen
        return np.bincount(target * size + prediction, minlength=size * size).reshape(size, size)

    def on_cycle_end(self, cycle_name: str, state: dict[str, Any], **_: Any) -> None:
        """Keep the matrix, and draw it."""
        self.cycles[cycle_name] = state[f"{cycle_name}_confusion"] = self.counts
        folder = self.folder or run_folder(self.exp)
        if folder is not None and len(self.counts):
            write_atomically(Path(folder) / f"confusion-{cycle_name}.svg", self.svg(cycle_name).encode())
            numbers = {"classes": self._names(cycle_name), "counts": self.counts.tolist()}
            write_atomically(Path(folder) / f"confusion-{cycle_name}.json", json.dumps(numbers).encode())

    def state_dict(self) -> dict[str, Any]:
        """The counts so far, and the matrices of the cycles before."""
        return {"counts": self.counts, "cycles": self.cycles}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the counts and the matrices."""
        self.counts, self.cycles = state["counts"], dict(state["cycles"])

    def svg(self, cycle_name: str) -> str:
        """The picture of a cycle's matrix."""
        counts = self.cycles[cycle_name]
        return matrix(
            counts, self._names(cycle_name), title=f"{cycle_name}: {np.trace(counts)} of {counts.sum()} right"
        )

    def _names(self, cycle_name: str) -> list[str]:
        return self.names or [str(number) for number in range(len(self.cycles[cycle_name]))]


def _sizes(values: np.ndarray) -> str:
    return f"[{', '.join(['B', *map(str, values.shape[2:])])}] {values.dtype}"


def _ids(values: np.ndarray, *, are_rows: bool) -> np.ndarray:
    """Class ids [N] of ids [K, B, ...] or rows [K, B, ..., C]."""
    if are_rows and values.ndim > 2 and values.shape[-1] > 1:
        rows = values.reshape(-1, values.shape[-1])
        values = np.where(np.not_equal(rows, rows).any(axis=-1), -1, rows.argmax(axis=-1))  # NaN is no label
    if values.dtype.kind not in "iub":
        values = np.nan_to_num(values.astype(np.float64), nan=-1.0, posinf=-1.0, neginf=-1.0)  # no label
    return values.reshape(-1).astype(np.int64)


def _check_ids(name: str, values: np.ndarray, ids: np.ndarray) -> None:
    """Refuse ids made of numbers that are not whole, such as one score for each sample; NaN is no label."""
    if values.size != ids.size or values.dtype.kind in "iub":
        return
    plain = values.ravel().astype(np.float64)
    if len(odd := plain[np.isfinite(plain) & (plain != np.floor(plain))]):
        raise CallbackError(
            f"ConfusionMatrix needs {name!r} to hold classes.\nSeen: {odd[0]:.4g}, where ids are whole numbers.\n"
            "Where one score means yes or no, let a processor write which of them: "
            f"ops.Apply(lambda score: score > 0.5, inputs={name!r}, outputs='batch_answer')."
        )


def _added(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The sum of matrices, as large as the larger."""
    size = max(len(one), len(other))
    total = np.zeros((size, size), int)
    for counts in (one, other):
        total[: len(counts), : len(counts)] += counts
    return total
