"""`log.txt` of a run folder: what the library logs during the run."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from experimentator.graph.text import printable

LOGGER = "experimentator"


class RunLog(logging.Handler):
    """Writes the library's log messages, from INFO on, into a file; other handlers get no more than without it.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     log = RunLog(Path(folder, "log.txt"))
    ...     log.open()
    ...     logging.getLogger("experimentator.runs").info("Saved.")
    ...     log.close()
    ...     Path(folder, "log.txt").read_text()[20:]
    'INFO experimentator.runs: Saved.\\n'
    """

    def __init__(self, path: Path):
        super().__init__(logging.INFO)
        self.path = path
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s", "%Y-%m-%d %H:%M:%S"))
        self.logger = logging.getLogger(LOGGER)
        self.before: tuple[int, bool] | None = None
        self.is_open = False

    def open(self) -> None:
        """Start to listen; lowers the level of the library's logger to INFO, if needed."""
        if not self.is_open:
            self.is_open = True
            self.logger.addHandler(self)
            if self.logger.getEffectiveLevel() > logging.INFO:
                self.before = self.logger.level, self.logger.propagate
                self.logger.setLevel(logging.INFO)
                self.logger.propagate = False  # others did not ask for INFO; `emit` passes on what they did

    def close(self) -> None:
        """Restore the logger's settings."""
        if self.is_open:
            self.is_open = False
            self.logger.removeHandler(self)
            if self.before is not None:
                self.logger.setLevel(self.before[0])
                self.logger.propagate = self.before[1]
                self.before = None
        super().close()

    def emit(self, record: logging.LogRecord) -> None:
        """Append a message to the file; its further lines are indented."""
        lines = [printable(line) for line in self.format(record).expandtabs().splitlines()]
        try:
            with self.path.open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write("\n    ".join(lines) + "\n")
        except OSError as error:  # not fatal: the history raises when the disk is full
            self.path = Path(os.devnull)
            logging.getLogger(__name__).warning("The log of this run ends here: %s.", error.strerror)
        if self.before is not None and self.before[1] and record.levelno >= self._asked():
            logging.root.callHandlers(record)

    def _asked(self) -> int:
        """The level that the library's logger had before, or the root's if it had none."""
        assert self.before is not None  # noqa: S101  # for the type checker
        return self.before[0] or logging.root.level
