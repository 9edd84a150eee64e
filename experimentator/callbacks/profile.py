"""A profile of the compiled training step, with the names of processors on what runs."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import Any

from experimentator.callbacks.callback import Callback, nothing_saved, run_folder
from experimentator.callbacks.order import CallbackError
from experimentator.graph import Mode

log = logging.getLogger(__name__)
PROFILE = "profile"  # the folder in a run folder
SECONDS = 0.5  # recorded at least, unless an epoch is shorter; profiles grow by megabytes a second


class Profile(Callback):
    """Record half a second of training at its full pace, or less: of the second epoch, or of the only one.

    It goes to `folder`, else to `profile` in the run folder, else in the current one. `trace.json.gz` there opens in
    Perfetto (ui.perfetto.dev), where operations carry the processor they belong to, and the pass, forward or backward
    (under XLA on a CPU, TensorFlow names fused kernels only). `plugins/profile` opens in TensorBoard (`pip install
    tensorboard xprof`), whose Framework Op Stats lists operations by such names; it knows no time of a step, as a call
    runs many.

    >>> Profile("runs/digits/first/profile").folder
    'runs/digits/first/profile'
    """

    leaves_files = True
    state_dict = nothing_saved

    def __init__(self, folder: str | os.PathLike[str] | None = None):
        self.folder = folder
        self.recording: Any = None
        self.since, self.is_done = 0.0, False

    def on_train_begin(self, **_: Any) -> None:
        """Make the folder, before there is anything to lose."""
        if self.folder is not None:
            try:
                Path(self.folder).mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise CallbackError(
                    f"A profile cannot be written to {self.folder}.\nSeen: {error.strerror}.\nName another folder."
                ) from None

    def on_cycle_begin(self, mode: Any, **_: Any) -> None:
        """Start with the second epoch, since the first compiles."""
        if mode == Mode.TRAIN and self.exp.epoch:
            self._start()

    def on_block_end(self, mode: Any, epochs: int = 1, **_: Any) -> None:
        """Stop when enough was seen; the only epoch is recorded from its second call on."""
        if self.recording is not None and time.monotonic() - self.since >= SECONDS:
            self._stop()
        elif mode == Mode.TRAIN and epochs == 1:
            self._start()

    def on_cycle_end(self, mode: Any, **_: Any) -> None:
        """Stop: what comes between two passes is not recorded."""
        if mode == Mode.TRAIN:
            self._stop()

    def on_train_end(self, **_: Any) -> None:
        """Stop whatever ended the training."""
        self._stop()
        if not self.is_done:
            log.warning("Nothing was profiled: there was no second call of the training step.")

    def _start(self) -> None:
        if self.recording is None and not self.is_done:
            place = Path(self.folder) if self.folder is not None else (run_folder(self.exp) or Path()) / PROFILE
            self.recording = self.exp.backend.profiled(place, self.exp.graph(Mode.TRAIN))
            self.recording.__enter__()
            self.since = time.monotonic()

    def _stop(self) -> None:
        if self.recording is not None:
            self.recording.__exit__(None, None, None)
            self.recording, self.is_done = None, True
            log.info("Profiled %.1f s of training.", time.monotonic() - self.since)
