"""Shares of several totals in whole numbers, of which the sums are as close to their shares as each of them."""

from __future__ import annotations

import numpy as np

DIGITS = 9  # of a share that are told apart


def quotas(totals: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """How much of each total each part gets, `[totals, parts] int`: its share rounded up or down, and so are sums.

    Each total, `[T] int`, is given out whole; `shares`, `[P]`, sum to 1. Such roundings exist for any totals and
    shares (they are a flow of whole units), and are found by giving what is left over of a total to the parts that
    lack most in all, then by handing units on between parts until every sum is less than one off.

    >>> quotas(np.array([3, 3, 3, 3, 3]), np.array([0.8, 0.2])).tolist()
    [[2, 1], [3, 0], [2, 1], [3, 0], [2, 1]]
    """
    exact = np.round(np.outer(totals, shares), DIGITS)
    given = np.floor(exact).astype(int)
    rest = exact - given
    over = np.zeros(exact.shape, bool)  # what gets one more than its share rounded down
    lack = np.zeros(len(shares))
    for row, left in enumerate(totals - given.sum(1)):
        lack += rest[row]
        first = np.argsort(-np.where(rest[row] > 0, lack, -np.inf).round(DIGITS), kind="stable")[:left]
        over[row, first] = True
        lack[first] -= 1
    lack = np.round(totals.sum() * shares - (given + over).sum(0), DIGITS)  # without the errors that have added up
    _even_out(over, (rest > 0) & ~over, lack)
    return given + over


def _even_out(over: np.ndarray, free: np.ndarray, lack: np.ndarray) -> None:
    """Hand units on, in place, from parts that have too many to parts that have too few, along the shortest way."""
    while (worst := np.abs(lack)).max() >= 1:
        start = int(worst.argmax())
        # Searched from the part that is worst off: one with too few is, seen by its `free` places, one with too many.
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
