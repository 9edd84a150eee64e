"""Which batches of which buckets there are in a pass, and in which order they come."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from experimentator.data.buckets import Buckets
from experimentator.loading.blocks import Rows

RUN = 8  # batches of one bucket that follow each other in training: enough for a call, few among those of an epoch
ROUNDS = 4  # of leaving out what fills no batch: with one batch size for all buckets, one is enough


@dataclass(frozen=True)
class BucketRows(Rows):
    """The order of a pass in batches of one bucket each: `buckets` their numbers, `ends` where each ends, `[steps]`.

    `turns` are the places that the positions had in the order of the subset.

    >>> buckets, ends = np.array([1, 1, 0, 1]), np.array([2, 4, 6, 7])
    >>> rows = BucketRows(np.arange(7), 2, False, buckets, ends, turns=np.arange(7))
    >>> [rows.take(start, count=9).tolist() for start in (0, 2, 3)]
    [[[0, 1], [2, 3]], [[4, 5]], [[6]]]
    """

    buckets: np.ndarray
    ends: np.ndarray
    turns: np.ndarray

    @property
    def steps(self) -> int:
        """Number of batches."""
        return len(self.buckets)

    def take(self, start: int, count: int) -> np.ndarray | None:
        """Batches `start` to `start + count` at most, all of one size and of one bucket: `[K, B]` int32."""
        if start >= self.steps:
            return None
        begin = int(self.ends[start - 1]) if start else 0
        size = int(self.ends[start]) - begin
        alike = begin + size * np.arange(1, count + 1)[: self.steps - start] == self.ends[start : start + count]
        alike &= self.buckets[start : start + count] == self.buckets[start]
        many = len(alike) if alike.all() else int(alike.argmin())
        return self.positions[begin : begin + many * size].reshape(many, size)


def dealt(
    positions: np.ndarray, numbers: np.ndarray, buckets: Buckets, batch_size: int, *, drop_last: bool
) -> BucketRows:
    """Positions in their order, the number of the bucket of each beside them, as batches of one bucket.

    What fills no batch goes into one of a larger bucket, the next that holds it. What is at last too little for a batch
    is dropped in training, if there are others: then what is visited last in the epoch, of any bucket, is left out
    instead, so that it is not always the largest.

    Batches of one bucket come in runs, each somewhere between the turns of its first and its last item: at most `RUN`
    in training, else all of a bucket.

    >>> buckets = Buckets({"x": [4, 8]})
    >>> rows = dealt(np.arange(10, 16), np.array([1, 0, 0, 1, 0, 1]), buckets, batch_size=2, drop_last=False)
    >>> rows.positions.tolist(), rows.buckets.tolist()
    ([14, 10, 13, 15, 11, 12], [1, 1, 0])
    """
    sizes, kept = buckets.batch_sizes_for(batch_size), np.arange(len(positions))
    there = np.unique(numbers).tolist()
    next_of = {one: next((n for n in there if n > one and buckets.holds(n, one)), None) for one in there}
    end_of = {one: one for one in there}  # where what fills no batch arrives at last
    for one in reversed(there):
        if (larger := next_of[one]) is not None:
            end_of[one] = end_of[larger]
    ends = np.array([end_of.get(one, -1) for one in range(buckets.count)])[numbers]
    runs, rests = _cut(kept, numbers, sizes, next_of, RUN if drop_last else None)
    for _ in range(ROUNDS):
        filled = {end_of[one] for one, _ in runs}
        spare = {one: rest for one, rest in rests.items() if drop_last and one in filled}
        if not spare:
            break
        late = [kept[ends[kept] == one][-len(rest) :] for one, rest in spare.items()]
        kept = np.setdiff1d(kept, np.concatenate(late))
        runs, rests = _cut(kept, numbers, sizes, next_of, RUN)

    def turn(run: Run) -> int:
        """That of an item which is chosen by its position, so that it may be any when the order is shuffled."""
        own = run[1][numbers[run[1]] == run[0]]
        own = own if len(own) else run[1]
        return int(own[positions[own].argmin()])

    runs.sort(key=turn)
    runs += [(one, rest) for one, rest in rests.items() if not (drop_last and one in {end_of[n] for n, _ in runs})]
    batches = [
        (one, min(sizes[one], len(run) - start)) for one, run in runs for start in range(0, len(run), sizes[one])
    ]
    each, counts = np.array(batches).T
    order = np.concatenate([run for _, run in runs])
    return BucketRows(positions[order], batch_size, drop_last, each, np.cumsum(counts), order)


Run = tuple[int, np.ndarray]  # the number of a bucket, and places in the order of the pass


def _cut(
    kept: np.ndarray,
    numbers: np.ndarray,
    sizes: Sequence[int],
    next_of: Mapping[int, int | None],
    most: int | None,
) -> tuple[list[Run], dict[int, np.ndarray]]:
    """Runs of at most `most` whole batches, and what is left of buckets of which none is larger."""
    runs: list[Run] = []
    waiting: dict[int, list[np.ndarray]] = defaultdict(list)
    rests: dict[int, np.ndarray] = {}
    for bucket, larger in next_of.items():
        here = np.concatenate([*waiting[bucket], kept[numbers[kept] == bucket]])
        whole = len(here) // sizes[bucket] * sizes[bucket]
        length = most * sizes[bucket] if most else max(whole, 1)
        runs += [(bucket, here[start : min(start + length, whole)]) for start in range(0, whole, length)]
        if larger is not None:
            waiting[larger].append(here[whole:])
        elif whole < len(here):
            rests[bucket] = here[whole:]
    return runs, rests


def longest_runs(buckets: np.ndarray) -> dict[int, int]:
    """How many batches of each bucket follow each other at most, of the buckets of batches in their order.

    >>> longest_runs(np.array([1, 1, 0, 1, 1, 1]))
    {1: 3, 0: 1}
    """
    starts = [0, *(np.flatnonzero(np.diff(buckets)) + 1).tolist(), len(buckets)]
    longest: dict[int, int] = {}
    for start, end in pairwise(starts):
        bucket = int(buckets[start])
        longest[bucket] = max(longest.get(bucket, 0), end - start)
    return longest
