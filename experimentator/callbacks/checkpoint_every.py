"""Checkpoints while a training runs: when one is due."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from experimentator.callbacks.callback import Callback, nothing_saved, run_folder
from experimentator.callbacks.order import CallbackError
from experimentator.checkpoint import CheckpointError, make_folder
from experimentator.graph import Mode
from experimentator.records.hold import Hold
from experimentator.records.throttle import Throttle, seconds_to_save
from experimentator.saving.manifest import CHECKPOINTS, KEPT, remove_unfinished
from experimentator.scalars import is_number, is_whole

log = logging.getLogger(__name__)

SHARE = 0.007  # share of the time that saving may take, if no period is given
COPIES = 3  # copies of the trained weights in a checkpoint, as a guess: with the two moments of Adam
SECONDS = 600.0  # if no period is given, longer epochs are saved within, too


class CheckpointEvery(Callback):
    """Save everything that a training needs to go on exactly: every so many batches, epochs or seconds.

    `steps` counts batches trained on, and calls of the compiled step end at each such batch of a pass; `seconds` act at
    the next end of a call, at most half a second later. Without any of them: at the end of epochs, and every ten
    minutes within, so that saving takes less than a hundredth of the time; a run folder does that by itself. At the end
    of a training, and at the first SIGTERM, SIGHUP (of a terminal that is closed) or Ctrl-C, a checkpoint is saved in
    any case.

    Checkpoints are folders `00000001`, ... in `folder`, else in `checkpoints/` of the run folder, else of the current
    folder; the newest `keep` are kept. Each is forced to disk and read back before an older one goes. `exp.resume`, or
    `experimentator run CONFIG --resume`, goes on from the newest that is whole.

    Reads everything; writes nothing into the state.

    >>> CheckpointEvery(steps=100).every
    100
    >>> CheckpointEvery(steps=0)
    Traceback (most recent call last):
    experimentator.callbacks.order.CallbackError: steps=0 is no period.
    Seen: 0.
    Write a number above 0.
    """

    phase = "record"  # it saves what the others have done
    when = Mode.TRAIN  # its `steps` are batches trained on: calls that evaluate need not end there
    leaves_files = True
    state_dict = nothing_saved  # a resumed training counts from the checkpoint it came from

    def __init__(
        self,
        *,
        steps: int | None = None,
        epochs: int | None = None,
        seconds: float | None = None,
        keep: int = KEPT,
        folder: str | os.PathLike[str] | None = None,
    ):
        _check(steps=steps, epochs=epochs)
        if seconds is not None and not (is_number(seconds) and seconds > 0):
            raise CallbackError(f"seconds={seconds!r} is no period.\nSeen: {seconds!r}.\nWrite a number above 0.")
        _check(keep=keep)
        self.every, self.epochs, self.seconds, self.keep, self.folder = steps, epochs, seconds, keep, folder
        self.has_period = (steps, epochs, seconds) != (None, None, None)
        self.saved: Any = None  # where the training stood at the last save
        self.saving = Throttle(SHARE)
        self.held: Hold | None = None  # the folder, while it trains

    @property
    def place(self) -> Path:
        """The folder of the checkpoints."""
        return Path(self.folder) if self.folder is not None else (run_folder(self.exp) or Path()) / CHECKPOINTS

    def on_train_begin(self, **_: Any) -> None:
        """Count from here."""
        self._note()
        self.saving.begin()
        self.saving.seconds = self.saving.seconds or seconds_to_save(self.exp, copies=COPIES)
        self.is_clean = False

    def on_pause(self, why: str, **_: Any) -> None:
        """Save if it is due."""
        if why in ("signal", "end") or self._is_due(why):
            self.save()

    def save(self) -> None:
        """Save now, unless nothing happened since the last time."""
        if self.saved == self._standing():
            return
        if not self.is_clean:
            self._take()
            self.is_clean = True
        with self.saving:
            self.exp.save_checkpoint(self.place, keep=self.keep)
        self._note()
        self.saved = self._standing()

    def on_train_end(self, **_: Any) -> None:
        """Leave the folder to others."""
        if self.held is not None:
            self.held.release()
            self.held = None

    def _take(self) -> None:
        """Tidy the folder, and hold it, so that another training that saves there is told, too."""
        others = [one for one in self.exp.callbacks if isinstance(one, CheckpointEvery) and one.held is not None]
        own = {place.resolve() for place in (*(one.place for one in others), run_folder(self.exp)) if place}
        try:
            if self.place.resolve() not in own:  # else this training holds it already
                make_folder(self.place)
                self.held = Hold(self.place)
            remove_unfinished(self.place)
        except CheckpointError:
            log.warning(
                "Another training saves its checkpoints in %s, too, and each removes those of the other. Give each a "
                "folder of its own: CheckpointEvery(folder=...).",
                self.place,
            )
        except OSError as error:  # saving says what to write
            log.info("%s cannot be held: %s", self.place, error)

    def _is_due(self, why: str) -> bool:
        waited = self.saving.waited
        if not self.has_period:
            return self.saving.is_due and (why == "epoch" or waited >= SECONDS)
        steps = self.every is not None and self.exp.walk.batches - self.batches >= self.every
        epochs = self.epochs is not None and self.exp.epoch - self.epoch >= self.epochs
        return steps or epochs or (self.seconds is not None and waited >= self.seconds)

    def _note(self) -> None:
        self.batches, self.epoch = self.exp.walk.batches, self.exp.epoch

    def _standing(self) -> tuple[Any, ...]:
        position = self.exp.walk.position
        within = (position.subset, position.batch) if position else None
        return self.exp.walk.batches, self.exp.epoch, within


def _check(**counts: Any) -> None:
    for name, count in counts.items():
        if count is not None and not is_whole(count, least=1):
            wrong = "is no number of checkpoints" if name == "keep" else "is no period"
            raise CallbackError(f"{name}={count!r} {wrong}.\nSeen: {count!r}.\nWrite a number above 0.")
