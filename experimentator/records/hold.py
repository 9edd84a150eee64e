"""Locks on folders: of a run, a sweep, or checkpoints."""

from __future__ import annotations

import logging
import os
import sys
import weakref
from contextlib import suppress
from pathlib import Path

from experimentator.checkpoint import CheckpointError

if sys.platform != "win32":
    import fcntl

log = logging.getLogger(__name__)


class Hold:
    """A lock on a folder, so that one training uses it; the system releases it when the process ends in any way.

    Raises:
        CheckpointError: if another process, or another training of this one, holds it.
    """

    def __init__(self, path: Path, *, what: str = "training"):
        if sys.platform == "win32":
            return
        handle = self._handle = os.open(path, os.O_RDONLY)
        self._close = weakref.finalize(self, os.close, handle)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._close()
            raise CheckpointError(
                f"A {what} is under way in {path}.\nSeen: the folder is held by a process that runs.\n"
                "Wait for its end, or stop it; then resume."
            ) from None
        except OSError as error:  # some network file systems have no locks
            log.info("%s cannot be held: %s", path, error)

    def release(self) -> None:
        """Release the lock."""
        if sys.platform != "win32" and self._close.alive:
            with suppress(OSError):  # where there are no locks
                fcntl.flock(self._handle, fcntl.LOCK_UN)  # processes that were forked meanwhile have the handle, too
            self._close()
