"""Limits work beside a training, such as saving, to a small share of its time."""

from __future__ import annotations

import time
from typing import Any

SPEED = 2e8  # bytes a second for gathering, writing and forcing to disk, as a first guess
LEAST = 4e-3  # seconds for writing and renaming a file of any size


class Throttle:
    """Says when work is due again: when the seconds that it took last are at most a `share` of the time since then.

    `seconds` may be set to a guess until the work was done once; a `with` block times it.

    >>> saving = Throttle(share=0.01)
    >>> saving.seconds = 0.5  # first due after 50 seconds
    >>> saving.is_due
    False
    >>> with saving:
    ...     pass
    >>> time.sleep(100 * saving.seconds)
    >>> saving.is_due
    True
    """

    def __init__(self, share: float):
        self.share, self.seconds = share, 0.0
        self.begin()

    def begin(self) -> None:
        """Start to wait from now."""
        self.at = time.monotonic()

    @property
    def waited(self) -> float:
        """Seconds since the work was done last."""
        return time.monotonic() - self.at

    @property
    def is_due(self) -> bool:
        """Whether the work may be done."""
        return self.waited * self.share >= self.seconds

    def __enter__(self) -> Throttle:
        self._start = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        self.begin()
        self.seconds = self.at - self._start


def seconds_to_save(exp: Any, *, copies: int) -> float:
    """An estimate of the seconds to save an experiment's weights, with `copies` of the trained ones."""
    numbers: int = sum(copies * trained + others for trained, others in exp.backend.sizes().values())
    return LEAST + 4 * numbers / SPEED
