"""Orders in which several kinds take turns, so that every stretch holds them in their proportions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np

from experimentator.data.items import DatasetError
from experimentator.scalars import is_number

FINEST = 1_000  # the largest denominator when float proportions become fractions


def proportions_of(given: Any, names: Sequence[str], *, asker: str) -> tuple[int, ...]:
    """Proportions as whole numbers without a common divisor: `{"real": 0.75, "drawn": 0.25}` or `[3, 1]` give (3, 1).

    >>> proportions_of([0.5, 0.25, 0.25], ["a", "b", "c"], asker="the example")
    (2, 1, 1)

    Raises:
        DatasetError: unless there is a number above 0 for each name.
    """
    is_named = isinstance(given, Mapping)
    listed = [given.get(name) for name in names] if is_named else list(given)
    fits = len(given if is_named else listed) == len(names)
    if not fits or not all(is_number(number) and 0 < number < math.inf for number in listed):
        raise DatasetError(
            f"{asker} has proportions that do not fit.",
            f"{given!r:.120} for {', '.join(names)}",
            "Give a number above 0 for each, such as "
            + "{" + ", ".join(f'"{name}": 1' for name in names[:3]) + "}.",
        )  # fmt: skip
    shares = [Fraction(float(number)).limit_denominator(FINEST) or Fraction(1, FINEST) for number in listed]
    common = math.lcm(*(share.denominator for share in shares))
    whole = [int(share * common) for share in shares]
    return tuple(number // math.gcd(*whole) for number in whole)


def take_turns(proportions: Sequence[int], length: int) -> np.ndarray:
    """The kind at each place, `[length] int`: always the one that is furthest behind its proportion.

    Each run of `sum(proportions)` places that starts at a multiple of it holds each kind exactly in proportion.

    >>> take_turns([2, 1], 6).tolist()
    [0, 1, 0, 0, 1, 0]
    """
    period = _turns(tuple(proportions), min(sum(proportions), length))
    return np.resize(period, length)


def length_to_show_all(proportions: Sequence[int], sizes: Sequence[int]) -> int:
    """The places it takes until each kind i has come `sizes[i]` times; whole rounds of `sum(proportions)` if short.

    >>> length_to_show_all([1, 1], [2, 5])
    10
    """
    total = sum(proportions)
    length = max(-(-size * total // share) for size, share in zip(sizes, proportions, strict=True))
    if total <= length:
        return -(-length // total) * total
    turns = take_turns(proportions, length + total)
    counts = [np.cumsum(turns == kind) for kind in range(len(sizes))]
    return max(int(np.searchsorted(count, size)) + 1 for count, size in zip(counts, sizes, strict=True))


def interleaved(turns: np.ndarray, rounds: Sequence[Callable[[int], np.ndarray]]) -> np.ndarray:
    """Positions [N] int32 in the order of `turns` [N]: those of kind i are `rounds[i](0)`, then `rounds[i](1)`, ...

    >>> interleaved(np.array([0, 1, 0, 1]), [lambda _: np.array([5, 6]), lambda _: np.array([7])]).tolist()
    [5, 7, 6, 7]
    """
    positions = np.empty(len(turns), dtype=np.int32)
    for kind, one_round in enumerate(rounds):
        places = np.flatnonzero(turns == kind)
        parts: list[np.ndarray] = []
        count = 0
        while count < len(places):
            parts.append(one_round(len(parts)))
            count += len(parts[-1])
        if parts:
            positions[places] = np.concatenate(parts)[: len(places)]
    return positions


@lru_cache(maxsize=32)
def _turns(proportions: tuple[int, ...], length: int) -> np.ndarray:
    total, behind = sum(proportions), [0] * len(proportions)
    turns = np.empty(length, dtype=np.int64)
    for place in range(length):
        behind = [debt + share for debt, share in zip(behind, proportions, strict=True)]
        turns[place] = kind = max(range(len(behind)), key=behind.__getitem__)
        behind[kind] -= total
    turns.setflags(write=False)
    return turns
