"""Small real parts that several tests share."""

from __future__ import annotations

from typing import Any

import numpy as np

from experimentator import Mode, Subset

RANDOM = np.random.default_rng(7)
POINTS = RANDOM.normal(size=(64, 3)).astype(np.float32)
SIDES = (POINTS.sum(axis=1) > 0).astype(np.int32)


def arrays(start: int = 0, stop: int = 64) -> dict[str, np.ndarray]:
    """Points in space and the side of a plane they lie on."""
    return {"input": POINTS[start:stop], "target": SIDES[start:stop]}


def subsets() -> list[Subset]:
    """48 points to train on, 16 to validate."""
    return [Subset("training", Mode.TRAIN, arrays(0, 48)), Subset("validation", Mode.EVAL, arrays(48, 64))]


class Rows:
    """A dataset of somebody else's: keys and query_item, random access, nothing known about it."""

    def __init__(self, count: int = 10, fails: Any = None):
        self.keys = tuple(f"row {n}" for n in range(count))
        self.fails = fails
        self.queries: list[str] = []

    def query_item(self, key: str) -> dict[str, Any]:
        self.queries.append(key)
        if key == self.fails:
            raise OSError("disk on fire")
        number = int(key.split()[1])
        return {"input": np.full(3, number, np.float32), "target": np.int32(number % 2), "path": f"/{key}"}


def feed_for(
    subset: Subset, residency: str = "stream", workers: Any = None, *, put: Any = dict, room: int = 1 << 40
) -> Any:
    """The feed of a subset, where by default the device has room for all of it."""
    from experimentator.feed import feed_of  # neither need they this

    feed = feed_of(subset, residency=residency, put=put, room=lambda: room)
    feed.workers = workers
    return feed


def law(*strategies: Any, **named: Any) -> Any:
    """A property that holds for everything drawn; a busy machine may be slow at showing it."""
    from hypothesis import given, settings  # which processes that read the rows above need not load

    return lambda test: settings(deadline=None, max_examples=60)(given(*strategies, **named)(test))
