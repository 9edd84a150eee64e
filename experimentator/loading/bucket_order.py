"""Cuts the order of a pass into batches of one bucket each, and orders these."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from experimentator.data.buckets import Buckets
from experimentator.loading.blocks import Rows

RUN = 8  # batches of one bucket in a row in training, at most: enough for a call, few in an epoch


@dataclass(frozen=True)
class BucketRows(Rows):
    """The order of a pass in batches of one bucket each: `buckets` and `ends` [steps], the bucket and end of each.

    `turns` [N] are the places that the positions had in the order of the subset.

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
    """Batches of one bucket each, from positions [N] in the order of the pass and `numbers` [N], their buckets.

    Items that fill no batch of their bucket go into a larger bucket (`Ladder`). If they fill none there either, they
    become a smaller batch, which training drops if its bucket has other batches. So that the largest bucket does not
    always lose items, training instead leaves out as many of the last items of the epoch, of any bucket that can fill
    it, if nothing is left over then, as is so where all buckets have one batch size.

    Batches of one bucket come in runs, of at most `RUN` batches in training, else of all. The place of a run in the
    order is that of one of its items. Smaller batches come last.

    >>> buckets = Buckets({"x": [4, 8]})
    >>> rows = dealt(np.arange(10, 16), np.array([1, 0, 0, 1, 0, 1]), buckets, batch_size=2, drop_last=False)
    >>> rows.positions.tolist(), rows.buckets.tolist()
    ([14, 10, 13, 15, 11, 12], [1, 1, 0])
    """
    ladder = Ladder(buckets, np.unique(numbers).tolist(), batch_size)
    turns = np.arange(len(positions))
    if drop_last:
        turns = turns[ladder.kept(numbers)]
    runs, rests = ladder.cut(turns, numbers[turns], RUN if drop_last else None)

    def turn(run: Run) -> int:
        """The turn of the item with the smallest position: a random one of the run, if the order is shuffled."""
        own = run[1][numbers[run[1]] == run[0]]
        own = own if len(own) else run[1]
        return int(own[positions[own].argmin()])

    runs.sort(key=turn)
    filled = {bucket for bucket, _ in runs}
    runs += [(bucket, rest) for bucket, rest in rests.items() if not (drop_last and bucket in filled)]
    batches = [
        (bucket, min(size, len(run) - start))
        for bucket, run in runs
        for size in [ladder.sizes[bucket]]
        for start in range(0, len(run), size)
    ]
    each, counts = np.array(batches).T
    order = np.concatenate([run for _, run in runs])
    return BucketRows(positions[order], batch_size, drop_last, each, np.cumsum(counts), order)


Run = tuple[int, np.ndarray]  # the number of a bucket, and turns in the order of the pass


class Ladder:
    """Where items go that fill no batch of their bucket: into the next larger bucket of the pass that holds them.

    `there` are the numbers of the buckets that have items, in order.

    >>> ladder = Ladder(Buckets({"x": [2, 4, 8]}), [0, 2], batch_size=3)
    >>> ladder.next, ladder.rests({0: 4, 2: 4})
    ({0: 2, 2: None}, {2: 2})
    """

    def __init__(self, buckets: Buckets, there: Sequence[int], batch_size: int):
        self.sizes = buckets.batch_sizes_for(batch_size)
        self.next = {one: next((n for n in there if n > one and buckets.holds(n, one)), None) for one in there}

    def last(self, bucket: int) -> int:
        """The last bucket that items of this one can move on to."""
        while (larger := self.next[bucket]) is not None:
            bucket = larger
        return bucket

    def rests(self, counts: Mapping[int, int]) -> dict[int, int]:
        """The items left over in each bucket from which they cannot move on, given how many items each bucket has."""
        waiting: dict[int, int] = defaultdict(int)
        rests = {}
        for bucket, larger in self.next.items():
            left = (waiting[bucket] + counts.get(bucket, 0)) % self.sizes[bucket]
            if larger is not None:
                waiting[larger] += left
            elif left:
                rests[bucket] = left
        return rests

    def kept(self, numbers: np.ndarray) -> np.ndarray:
        """Which turns are used, [N] bool: not the last few, if nothing is left over then and no more items are lost."""
        lasts = np.array([self.last(one) if one in self.next else -1 for one in range(len(self.sizes))])[numbers]
        kept = np.ones(len(numbers), bool)
        counts = Counter(numbers.tolist())
        for bucket, rest in self.rests(counts).items():
            (theirs,) = np.nonzero(lasts == bucket)
            fewer = counts.copy()
            for count, turn in enumerate(theirs[::-1][:rest].tolist(), start=1):
                fewer[int(numbers[turn])] -= 1
                if bucket not in self.rests(fewer) and count < len(theirs):
                    kept[theirs[-count:]] = False
                    break
        return kept

    def cut(self, turns: np.ndarray, numbers: np.ndarray, most: int | None) -> tuple[list[Run], dict[int, np.ndarray]]:
        """Runs of at most `most` whole batches (None: any number), and the items left over, by bucket."""
        runs: list[Run] = []
        waiting: dict[int, list[np.ndarray]] = defaultdict(list)
        rests: dict[int, np.ndarray] = {}
        for bucket, larger in self.next.items():
            here = np.concatenate([*waiting[bucket], turns[numbers == bucket]])
            whole = len(here) // self.sizes[bucket] * self.sizes[bucket]
            length = most * self.sizes[bucket] if most else max(whole, 1)
            runs += [(bucket, here[start : min(start + length, whole)]) for start in range(0, whole, length)]
            if larger is not None:
                waiting[larger].append(here[whole:])
            elif whole < len(here):
                rests[bucket] = here[whole:]
        return runs, rests


def longest_runs(buckets: np.ndarray) -> dict[int, int]:
    """The most batches of each bucket in a row; `buckets` are those of the batches in order.

    >>> longest_runs(np.array([1, 1, 0, 1, 1, 1]))
    {1: 3, 0: 1}
    """
    starts = [0, *(np.flatnonzero(np.diff(buckets)) + 1).tolist(), len(buckets)]
    longest: dict[int, int] = {}
    for start, end in pairwise(starts):
        bucket = int(buckets[start])
        longest[bucket] = max(longest.get(bucket, 0), end - start)
    return longest
