"""Figures with their spread, and whether two of them differ: medians, quartiles, and a paired test."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from math import comb
from typing import Any, NamedTuple

import numpy as np

EXACT = 12  # up to so many pairs, all ways to flip signs are tried; of more, FLIPS are sampled
FLIPS = 4096
CONFIDENCE = 0.95


def rounds(least: int, most: int, *, seconds: float) -> Iterator[int]:
    """The numbers of rounds: `most` of them, or, once the seconds are over, at least `least`."""
    end = time.perf_counter() + seconds
    for number in range(most):
        if number >= least and time.perf_counter() > end:
            return
        yield number


def seconds_each(count: int, run: Callable[..., Any], *given: Any) -> float:
    """Seconds a batch of one call that runs `count` batches, its last argument."""
    start = time.perf_counter()
    run(*given, count)
    return (time.perf_counter() - start) / count


class Spread(NamedTuple):
    """A median and the quartiles around it."""

    median: float
    low: float
    high: float
    rounds: int


def spread_of(values: Sequence[float]) -> Spread:
    """Median and quartiles.

    >>> spread_of([1.0, 2.0, 3.0, 4.0, 50.0])
    Spread(median=3.0, low=2.0, high=4.0, rounds=5)
    """
    low, median, high = (float(value) for value in np.percentile(values, [25, 50, 75]))
    return Spread(median, low, high, len(values))


def p_value(differences: Sequence[float]) -> float:
    """How likely differences of pairs are to lie as far to either side, if each could as well have the other sign.

    The signed-rank test of Wilcoxon (1945), which outliers do not sway: exact for few pairs, sampled for more.

    >>> p_value([1.0, 2.0, 1.5, 0.5, 1.2, 0.8]), p_value([1.0, -1.0, 0.5, -0.5])
    (0.03125, 1.0)
    """
    values = np.asarray(differences, np.float64)
    sizes, count = np.abs(values), len(values)
    ranks = sum(np.searchsorted(np.sort(sizes), sizes, side) for side in ("left", "right")) + 1  # twice the rank
    ranked = np.sign(values) * ranks
    if count <= EXACT:
        signs = 1 - 2 * ((np.arange(2**count)[:, None] >> np.arange(count)) & 1)
    else:
        signs = np.random.default_rng(0).choice([-1, 1], (FLIPS, count))
        signs[0] = 1
    return float(np.mean(np.abs(signs @ ranked) >= abs(ranked.sum())))


def interval(values: Sequence[float]) -> tuple[float, float]:
    """A confidence interval of the median, as sure as `CONFIDENCE` or as sure as so few values can be.

    From the signs alone, whatever the distribution (David and Nagaraja, Order Statistics, 7.1).

    >>> interval([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0])
    (1.0, 8.0)
    """
    ordered = sorted(values)
    count, place, outside = len(ordered), 0, 2 / 2 ** len(ordered)
    while place + 1 < count // 2 and outside + 2 * comb(count, place + 1) / 2**count <= 1 - CONFIDENCE:
        place += 1
        outside += 2 * comb(count, place) / 2**count
    return ordered[place], ordered[count - 1 - place]
