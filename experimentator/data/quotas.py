"""Divides several totals by shares into whole numbers, so that sums over totals are rounded shares, too."""

from __future__ import annotations

import numpy as np

DIGITS = 9  # to which shares are rounded


def quotas(totals: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """What each part gets of each total, `[T, P] int`: its share, rounded up or down; so are a part's sums.

    `totals`, `[T] int`, are given out whole; `shares`, `[P]`, sum to 1. Such roundings exist for any totals and shares
    (as an integral flow). To find them, the rest of each total goes to the parts that lack most in sum; then units
    move between parts until every sum is less than one off.

    >>> quotas(np.array([3, 3, 3, 3, 3]), np.array([0.8, 0.2])).tolist()
    [[2, 1], [3, 0], [2, 1], [3, 0], [2, 1]]
    """
    exact = np.round(np.outer(totals, shares), DIGITS)
    given = np.floor(exact).astype(int)
    rest = exact - given
    over = np.zeros(exact.shape, bool)  # where a share is rounded up
    lack = np.zeros(len(shares))
    for row, left in enumerate(totals - given.sum(1)):
        lack += rest[row]
        first = np.argsort(-np.where(rest[row] > 0, lack, -np.inf).round(DIGITS), kind="stable")[:left]
        over[row, first] = True
        lack[first] -= 1
    lack = np.round(totals.sum() * shares - (given + over).sum(0), DIGITS)  # computed anew, without accumulated errors
    _even_out(over, (rest > 0) & ~over, lack)
    return given + over


def _even_out(over: np.ndarray, free: np.ndarray, lack: np.ndarray) -> None:
    """Move units, in place, from parts that have too many to parts that have too few, along shortest paths."""
    while (worst := np.abs(lack)).max() >= 1:
        start = int(worst.argmax())
        # Breadth-first from the part that is most off; one with too few is treated as one with too many `free` places.
        held, others, sign = (over, free, 1) if lack[start] < 0 else (free, over, -1)
        came_from, waiting = {start: start}, [start]
        for part in waiting:
            for other in np.flatnonzero(others[held[:, part]].any(0)):
                if int(other) not in came_from:
                    came_from[int(other)] = part
                    waiting.append(int(other))
        part = end = next(part for part in waiting if sign * lack[part] > 0)
        while part != start:
            before = came_from[part]
            row = int(np.flatnonzero(held[:, before] & others[:, part])[0])
            held[row, before], held[row, part] = False, True
            others[row, before], others[row, part] = True, False
            part = before
        lack[start] = round(lack[start] + sign, DIGITS)
        lack[end] = round(lack[end] - sign, DIGITS)
