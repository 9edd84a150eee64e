"""Work beside a training, such as saving it, at a small share of its time."""

from __future__ import annotations

import time
from typing import Any

SPEED = 2e8  # bytes a second that are gathered, written and forced to disk, as a first guess
LEAST = 4e-3  # seconds that writing and renaming a file takes, however small it is


class Throttle:
    """Says when work is due again: after so long that the last time took a `share` of the time since at most.

    `guess` is how many seconds the work takes, until it was done once; `with` it, the work is timed.

    >>> saving = Throttle(share=0.01, guess=0.5)  # first due after 50 seconds
    >>> saving.is_due
    False
    >>> with saving:
    ...     pass
    >>> time.sleep(100 * saving.seconds)
    >>> saving.is_due
    True
    """

    def __init__(self, share: float, guess: float = 0.0):
        self.share, self.seconds, self.spent = share, guess, 0.0
        self.begin()

    def begin(self) -> None:
        """Count from here."""
        self.at = time.monotonic()

    @property
    def waited(self) -> float:
        """Seconds since the last time."""
        return time.monotonic() - self.at

    @property
    def is_due(self) -> bool:
        """Whether it has waited long enough."""
        return self.waited * self.share >= self.seconds

    def __enter__(self) -> Throttle:
        self._start = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        self.begin()
        self.seconds = self.at - self._start
        self.spent += self.seconds


def seconds_to_save(exp: Any, *, copies: int) -> float:
    """A guess of how long it takes to save the weights of an experiment, trained ones in so many copies."""
    numbers: int = sum(copies * trained + others for trained, others in exp.backend.sizes().values())
    return LEAST + 4 * numbers / SPEED
