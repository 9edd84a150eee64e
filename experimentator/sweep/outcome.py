"""How the training of a point of a sweep ended."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

FINISHED, UNFINISHED, HUNG, OUT_OF_MEMORY = "finished", "unfinished", "hung", "out of memory"
WORDS = {
    0: FINISHED,
    1: "error",
    2: "refused",
    3: "bad data",
    4: "not finite",
    5: "file error",
    130: "interrupted",
    143: "terminated",
}


@dataclass(frozen=True)
class Outcome:
    """How a point ended: exit status, run folder, last epoch and error.

    >>> Outcome(3, {"rate": 0.1}, 4).ended, Outcome(3, {"rate": 0.1}, -9).ended
    ('not finite', 'killed (SIGKILL)')
    """

    number: int
    values: Mapping[str, Any]
    status: int
    folder: str = ""
    seconds: float = 0.0
    error: str = ""
    why: str = ""  # replaces the word for the status, if that does not tell
    last: Mapping[str, Any] = field(default_factory=dict)

    @property
    def ended(self) -> str:
        """How it ended, in a word."""
        if self.why or self.status in WORDS:
            return self.why or WORDS[self.status]
        if self.status < 0:
            return f"killed ({_signal(-self.status)})"
        return f"exit {self.status}"

    @property
    def is_finished(self) -> bool:
        """Whether its training is done; exit status 0 alone does not prove it."""
        return self.ended == FINISHED

    @property
    def exit_status(self) -> int:
        """The exit status as in a shell: 128 plus the signal if one ended the process; never 0 if not finished."""
        return 128 - self.status if self.status < 0 else self.status or int(not self.is_finished)


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
