"""Handing what a run measures to trackers."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from experimentator.callbacks.callback import Callback, ended_by, how_ended, nothing_saved, run_folder
from experimentator.callbacks.monitored import of_subset
from experimentator.callbacks.order import CallbackError
from experimentator.config import resolved
from experimentator.graph import Mode
from experimentator.scalars import is_whole
from experimentator.trackers.delivery import Delivery
from experimentator.trackers.tracker import TrackedRun, Tracker

METHODS = ("start", "scalars", "artifact", "finish")


class Track(Callback):
    """Hand each epoch's measures to a tracker, as `validation/accuracy`, and at the end files of the run folder.

    With `batches=50`, the results of every 50th training batch, too, as `batch/loss`; steps then count trained batches,
    for epochs as well, else epochs. `artifacts` are patterns of files in the run folder. The tracker works in a thread
    of its own: if it fails or hangs, that costs a warning, and at the end of the training `seconds` at most.

    Reads the history, and results of calls as they are: calls do not become shorter. Writes nothing into the state.

    >>> from experimentator import JsonLinesTracker
    >>> Track(JsonLinesTracker("scalars.jsonl"))
    Track(JsonLinesTracker)
    """

    leaves_files = True
    phase = "record"
    after = ("RunFolder",)
    state_dict = nothing_saved  # trackers have what they were told

    def __init__(
        self,
        tracker: Tracker,
        *,
        batches: int | None = None,
        artifacts: str | Iterable[str] = ("config.py", "*.svg"),
        seconds: float = 10.0,
    ):
        missing = [name for name in METHODS if not callable(getattr(tracker, name, None))]
        if missing or isinstance(tracker, type):
            raise CallbackError(
                f"{tracker!r:.80} is no tracker.\nSeen: {f'no {missing[0]}()' if missing else 'a class'}.\n"
                "Write Track(JsonLinesTracker()), Track(TensorBoardTracker()) or one of the other trackers, or give it "
                f"{', '.join(METHODS)}."
            )
        if batches is not None and not is_whole(batches, least=1):
            raise CallbackError(f"batches={batches!r} is no period.\nSeen: {batches!r}.\nWrite a number above 0.")
        self.artifacts = (artifacts,) if isinstance(artifacts, str) else tuple(artifacts)
        for pattern in self.artifacts:
            _check_pattern(pattern)
        self.tracker, self.batches, self.seconds = tracker, batches, seconds
        self.delivery: Delivery | None = None
        self.name = f"{datetime.now(UTC):%Y%m%d-%H%M%S}"  # where there is no run folder to give one

    def __repr__(self) -> str:
        return f"Track({type(self.tracker).__name__})"

    def on_train_begin(self, **_: Any) -> None:
        """Open the run, in the tracker's thread."""
        self._outer = sys.exception()
        if self.delivery is None or not self.delivery.is_alive:  # else it hangs since an earlier training
            self.delivery = Delivery(self.tracker)
            self.delivery.send("start", self._run())

    def on_block_end(self, block: Any, results: Mapping[str, Any], mode: Mode, **_: Any) -> None:
        """Hand over the batches of a call that are to be seen."""
        if self.delivery is not None and self.batches and mode & Mode.TRAIN:
            first = self.exp.walk.batches + 1
            for place in range(-first % self.batches, len(block.index), self.batches):
                values = {f"batch/{name}": float(one[place]) for name, one in results.items() if _is_scalar(one)}
                self.delivery.send("scalars", values, first + place)

    def on_epoch_end(self, epoch: int, **_: Any) -> None:
        """Hand over the epoch."""
        if self.delivery is not None:
            step = self.exp.walk.batches if self.batches else epoch
            self.delivery.send("scalars", self.shown(self.exp.history[-1]), step)

    def on_train_end(self, **_: Any) -> None:
        """Hand over the files, and wait a little for the tracker to finish."""
        if self.delivery is None:
            return
        if (folder := run_folder(self.exp)) is not None:
            for path in [path for pattern in self.artifacts for path in sorted(folder.glob(pattern))]:
                self.delivery.send("artifact", path)
        self.delivery.close(how_ended(ended_by(self._outer)), seconds=self.seconds)
        if not self.delivery.is_alive:
            self.delivery = None

    def shown(self, row: Mapping[str, Any]) -> dict[str, float]:
        """The numbers of an epoch, with the name of their subset as a folder."""
        subsets = [subset.name for subset in self.exp.subsets]
        numbers = {name: as_number(value) for name, value in row.items() if name != "epoch"}
        return {
            "/".join(filter(None, of_subset(name, subsets))): value
            for name, value in numbers.items()
            if value is not None
        }

    def _run(self) -> TrackedRun:
        folder = run_folder(self.exp)
        project = folder.parent.name if folder is not None else str(self.exp.project_name)
        name = folder.name if folder is not None else str(self.exp.cfg.get("experiment_id") or self.name)
        walk = self.exp.walk
        is_within = walk.position is not None  # then the row of its epoch, told after the last batch, comes again
        epochs = walk.batches - is_within if self.batches else self.exp.epoch
        return TrackedRun(project, name, folder, resolved(self.exp.cfg), epochs=epochs, batches=walk.batches)


def as_number(value: Any) -> float | None:
    """What a callback may have written into the history, as a number; None for a text and other values.

    >>> as_number(True), as_number("good"), as_number(None)
    (1.0, None, None)
    """
    try:
        return None if isinstance(value, str | bytes) else float(value)
    except (TypeError, ValueError, RuntimeError):  # the last of tensors
        return None


def _check_pattern(pattern: Any) -> None:
    """Refuse a pattern of files that cannot be looked for, before there is anything to lose."""
    try:
        next(Path(os.devnull).glob(pattern), None)
    except (IndexError, NotImplementedError, TypeError, ValueError) as error:
        raise CallbackError(
            f"artifacts are patterns of files in the run folder.\nSeen: {pattern!r}: {error}.\n"
            'Write artifacts=["config.py", "*.svg"].'
        ) from None


def _is_scalar(values: Any) -> bool:
    """Whether K batches gave a number each."""
    return bool(values.ndim == 1 and values.dtype.kind in "biuf")
