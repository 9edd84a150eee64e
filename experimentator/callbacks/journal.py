"""Callbacks that report a training as it goes: times, lines of losses, the state as JSON."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from experimentator.callbacks.callback import Callback, nothing_saved, run_folder
from experimentator.callbacks.order import CallbackError
from experimentator.checkpoint import add_lines, lines_in, shorten
from experimentator.records.plainfile import json_of


class MeasureTime(Callback):
    """Measure how long each cycle takes: `<subset>_time` in seconds, `<subset>_batch_time` in seconds a batch.

    Data, compiling and callbacks of the cycle are part of it. Writes both into the history and the state.

    >>> MeasureTime().measures
    ('time', 'batch_time')
    """

    before = ("GatherCycleMetrics",)
    of_pass = ("start", "steps")
    measures = ("time", "batch_time")
    state_dict = nothing_saved

    def on_cycle_begin(self, steps: int, **_: Any) -> None:
        """Start the watch."""
        self.start, self.steps = time.perf_counter(), steps

    def on_cycle_end(self, cycle_name: str, metrics: dict[str, float], state: dict[str, Any], **_: Any) -> None:
        """Read the watch."""
        seconds = time.perf_counter() - self.start
        for name, value in zip(self.measures, (seconds, seconds / max(self.steps, 1)), strict=True):
            metrics[f"{cycle_name}_{name}"] = state[f"{cycle_name}_{name}"] = round(value, 9)


class PrintLoss(Callback):
    """Print a line with the loss at the end of each cycle, to stderr unless `file` says otherwise.

    Reads `<subset>_loss` from the cycle's averages.

    >>> PrintLoss(sys.stdout).on_cycle_end("validation", {"validation_loss": 0.25}, {"epoch": 3})
    epoch 3  validation loss 0.25
    """

    phase = "record"
    after = ("AverageMetrics",)

    def __init__(self, file: TextIO | None = None):
        if file is not None and not hasattr(file, "write"):
            raise CallbackError(f"PrintLoss needs an open file.\nSeen: {file!r}.\nWrite PrintLoss(sys.stdout).")
        self.file = file

    def on_cycle_end(self, cycle_name: str, metrics: dict[str, float], state: dict[str, Any], **_: Any) -> None:
        """Print the line, if the cycle has a loss."""
        loss = metrics.get(f"{cycle_name}_loss")
        if loss is not None:
            epoch = f"epoch {state['epoch']}  " if "epoch" in state else ""
            from experimentator.callbacks.progress import Forgiving  # loads rich

            (self.file or Forgiving(sys.stderr)).write(f"{epoch}{cycle_name} loss {loss:.6g}\n")


class StateLogger(Callback):
    """Add a line of JSON at the end of each epoch: every number, text and truth value in the state.

    Values that are not plain are left out; NaN and infinity, which JSON lacks, become null. Lines go to `filename`,
    else to `state.jsonl` in the run folder, else in the current one.

    >>> StateLogger.line({"epoch": 1, "validation_loss": float("nan"), "keys": (1, 2)})
    '{"epoch": 1, "validation_loss": null}'
    """

    leaves_files = True

    phase = "record"

    def __init__(self, filename: str | os.PathLike[str] | None = None):
        self.filename = filename
        self.kept: int | None = None  # lines, where a resume leaves out others: only once training goes on

    @property
    def path(self) -> Path:
        """The file of the lines."""
        return Path(self.filename) if self.filename is not None else (run_folder(self.exp) or Path()) / "state.jsonl"

    def state_dict(self) -> dict[str, Any]:
        """How many lines there are."""
        return {"lines": lines_in(self.path) if self.kept is None else self.kept}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Leave out lines that were added since, with the next one: the epochs they are of are trained again."""
        self.kept = state["lines"]

    def on_epoch_end(self, state: dict[str, Any], **_: Any) -> None:
        """Add the line, and force it to disk."""
        if self.kept is not None:
            shorten(self.path, self.kept)
            self.kept = None
        add_lines(self.path, f"{self.line(state)}\n")

    @staticmethod
    def line(state: dict[str, Any]) -> str:
        """The plain values of a state as JSON."""
        values = {name: value.item() if isinstance(value, np.generic) else value for name, value in state.items()}
        plain = {name: value for name, value in values.items() if isinstance(value, bool | int | float | str)}
        return json_of(plain)
