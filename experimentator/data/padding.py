"""Chooses bucket sizes that pad least, and concatenates arrays of several lengths."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from experimentator.data.items import DatasetError


def bucket_sizes(lengths: Iterable[int], count: int, *, multiple_of: int = 1) -> list[int]:
    """The sizes of at most `count` buckets that leave the least padding for items of these lengths.

    They are multiples of `multiple_of`, such as 8, which suits tensor cores. Found by dynamic programming over the
    given lengths, so that no other sizes leave less.

    >>> bucket_sizes([3, 3, 4, 9, 10, 30], 3)
    [4, 10, 30]

    Raises:
        DatasetError: for no lengths, or a count or multiple below 1.
    """
    found = np.asarray(list(lengths))
    if (
        not found.size
        or found.ndim > 1
        or found.dtype.kind not in "iu"
        or found.min() < 0
        or min(count, multiple_of) < 1
    ):
        seen = f"{found.size} lengths, count={count!r}, multiple_of={multiple_of!r}"
        write = "Give whole numbers: bucket_sizes([len(item) for item in items], 4)."
        raise DatasetError(
            "bucket_sizes needs lengths from 0 on, at least one, and count and multiple_of from 1 on.", seen, write
        )
    sizes, counts = np.unique(-(-np.maximum(found, 1) // multiple_of) * multiple_of, return_counts=True)
    before = np.concatenate([[0], np.cumsum(counts)])  # number of items shorter than each size
    costs, ends = sizes * before[1:], []  # padded length of all items up to each size, in one bucket
    for _ in range(min(count, len(sizes)) - 1):
        last = np.full(len(sizes), -1)
        better = costs.copy()
        for place in range(1, len(sizes)):
            all_costs = costs[:place] + sizes[place] * (before[place + 1] - before[1 : place + 1])
            best = int(all_costs.argmin())
            if all_costs[best] < better[place]:
                better[place], last[place] = all_costs[best], best
        costs = better
        ends.append(last)
    chosen, place = [], len(sizes) - 1
    while place >= 0:
        chosen.append(int(sizes[place]))
        place = int(ends.pop()[place]) if ends else -1
    return chosen[::-1]


def together(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Arrays [N, ...] concatenated; if their other axes differ in length, they are padded with zeros to the longest.

    >>> together([np.ones((1, 2), int), np.ones((1, 3), int)]).tolist()
    [[1, 1, 0], [1, 1, 1]]
    """
    if len({array.shape[1:] for array in arrays}) > 1 and len({array.ndim for array in arrays}) == 1:
        size = [max(lengths) for lengths in zip(*(array.shape[1:] for array in arrays), strict=True)]
        arrays = [
            np.pad(one, [(0, 0), *((0, most - own) for most, own in zip(size, one.shape[1:], strict=True))])
            for one in arrays
        ]
    return np.concatenate(arrays)
