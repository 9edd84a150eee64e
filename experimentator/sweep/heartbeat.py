"""How the process of a point reports to its sweep: by files for its run folder, progress, error, and end."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from experimentator.callbacks.callback import Callback, nothing_saved

WATCH_SECONDS = 0.5
TELL_SECONDS = 0.2
ORPHAN_SECONDS = 30.0  # in which a training whose sweep is gone must end
# Files in the folder `place` that a sweep makes for the process.
FOLDER, BEAT, ERROR, DONE, LOADED = "folder", "beat", "error", "done", "loaded"
QUIET = "quiet"  # the beat of a process that reports no progress


class Heartbeat(Callback):
    """A callback that reports progress after calls of the compiled step, in training and evaluation.

    The training's own thread reports, so that a training that hangs is silent.
    """

    phase = "record"
    state_dict = nothing_saved

    def __init__(self, place: Path, run: Any):
        self.place, self.run, self.told, self.calls = place, run, 0.0, 0

    def on_block_end(self, **_: Any) -> None:
        """Count the call, and report every TELL_SECONDS."""
        if not self.calls:
            self.tell_folder()
        self.calls += 1
        if (now := time.monotonic()) - self.told > TELL_SECONDS:
            self.told = now
            self._tell(BEAT, f"{self.exp.epoch} {self.calls}")

    def keep_quiet(self) -> None:
        """Report that there will be no reports, since there are no callbacks."""
        self._write(BEAT, QUIET)

    def tell_folder(self) -> None:
        """Report the run folder, once there is one."""
        if self.run and self.run.path:
            self._tell(FOLDER, str(self.run.path.absolute()))

    def _tell(self, name: str, text: str) -> None:
        """Report; where the disk is full, by the time of the folder alone: the training goes on."""
        try:
            self._write(name, text)
        except OSError:
            with suppress(OSError):
                os.utime(self.place)

    def _write(self, name: str, text: str) -> None:
        aside = self.place / f"{name}.new"
        aside.write_text(text, "utf-8")
        os.replace(aside, self.place / name)


def tell_error(place: str, error: BaseException) -> None:
    """Report the error that ended the process of a point, in one line: it may have no run folder yet."""
    lines = f"{type(error).__name__}: {error}".removesuffix(": ").splitlines()
    with suppress(OSError):  # on a full disk, the error itself matters more; names of files may be no text
        Path(place, ERROR).write_text(lines[0] if lines else "", "utf-8", "backslashreplace")


def tell_done(place: str) -> None:
    """Report that the training is done: exit status 0 alone may come from an `os._exit` within it."""
    Path(place, DONE).touch()


def tell_loaded(place: str, loaded: str) -> None:
    """Report the modules that the process has imported, for the fork server; skipped if the disk is full."""
    with suppress(OSError):
        Path(place, LOADED).write_text(loaded, "utf-8")


def remove_reports(place: str, parent: int) -> None:
    """Remove the reports, if the sweep that would read and remove them is gone."""
    if os.getppid() != parent:
        shutil.rmtree(place, ignore_errors=True)


def end_with(parent: int) -> None:
    """Send this process SIGTERM once its parent is gone: a sweep that is killed cannot do it."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(WATCH_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(ORPHAN_SECONDS)  # if it hangs, there is no sweep to kill it
        if os.getpgrp() == os.getpid():
            os.killpg(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
