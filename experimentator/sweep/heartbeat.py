"""What the process of a point tells the sweep that began it: its run folder, how far it is, and that it is done."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

WATCH_SECONDS = 0.5
TELL_SECONDS = 0.2
ORPHAN_SECONDS = 30.0  # for a training whose sweep is gone to put its run folder in order
# Files in the folder that a sweep gives to the process.
FOLDER, BEAT, ERROR, DONE, LOADED = "folder", "beat", "error", "done", "loaded"
QUIET = "quiet"  # the beat of one that has none


class Heartbeat:
    """Tells after a call of the compiled step, in training and evaluation, how far the training is.

    The training itself tells it, no thread beside it: where it hangs, nothing is told.
    """

    phase = "record"

    def __init__(self, place: Path, run: Any):
        self.place, self.run, self.told = place, run, 0.0

    def init(self, exp: Any) -> None:
        """Remember whose progress it is."""
        self.exp, self.calls = exp, 0

    def state_dict(self) -> dict[str, Any]:
        """Nothing that a resume needs."""
        return {}

    def on_block_end(self, **_: Any) -> None:
        """Count the call, and tell now and then."""
        if not self.calls:
            self.tell_folder()
        self.calls += 1
        if (now := time.monotonic()) - self.told > TELL_SECONDS:
            self.told = now
            self._write(BEAT, f"{self.exp.epoch} {self.calls}")

    def keep_quiet(self) -> None:
        """Tell that nothing will be told: there are no callbacks."""
        self._write(BEAT, QUIET)

    def tell_folder(self) -> None:
        """Tell which run folder it is, once there is one."""
        if self.run and self.run.path:
            self._write(FOLDER, str(self.run.path.absolute()))

    def _write(self, name: str, text: str) -> None:
        aside = self.place / f"{name}.new"
        aside.write_text(text, "utf-8")
        os.replace(aside, self.place / name)


def tell_error(place: str, error: BaseException) -> None:
    """Tell what ended the process of a point, in a line: it may have no run folder that says so."""
    lines = f"{type(error).__name__}: {error}".removesuffix(": ").splitlines()
    Path(place, ERROR).write_text(lines[0] if lines else "", "utf-8")


def tell_done(place: str) -> None:
    """Tell that the training is done: an exit status of 0 alone may be that of an `os._exit` in its midst."""
    Path(place, DONE).touch()


def tell_loaded(place: str, loaded: str) -> None:
    """Tell what the process has imported, for others to begin with; without room for it, they start anew."""
    with suppress(OSError):
        Path(place, LOADED).write_text(loaded, "utf-8")


def tidy(place: str, parent: int) -> None:
    """Take away what was told, where the sweep that was to read it, and to take it away, is gone."""
    if os.getppid() != parent:
        shutil.rmtree(place, ignore_errors=True)


def end_with(parent: int) -> None:
    """Let this process end as SIGTERM ends it, once its parent is gone: killed, a sweep cannot say so."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(WATCH_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(ORPHAN_SECONDS)  # it may hang: then nobody is left who could end it
        if os.getpgrp() == os.getpid():
            os.killpg(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
