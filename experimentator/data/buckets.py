"""The few lengths that items of many lengths are padded to."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np

from experimentator.data.items import DatasetError

RUN = 8  # batches of one bucket that follow each other in training: enough for a call, few among those of an epoch
Size = tuple[int, ...]  # of the leading axes of a value


class Buckets:
    """The few sizes that items of many sizes are padded to: `Subset(..., buckets={"tokens": [32, 64, 128]})`.

    `sizes` says for each name that varies how long it is in each bucket, from the smallest to the largest; a tuple is
    the size of the leading axes, such as `{"input": [(128, 128), (256, 256)]}` of images [H, W, C]. Several names have
    as many sizes each: an item is of the first bucket that all its names fit in. `fill`, a number or one for each name,
    stands behind what an item holds. A mask is what the network makes of it: `Embedding(mask_zero=True)`, or the length
    as one more name of the item.

    `batch_sizes` are those of each bucket, in place of the experiment's: many short items make as good a batch as few
    long ones.

    `by` tells the size of an item without reading it: a field of its key, or a function of (key), which gives the size
    of the name that varies, or a tuple of those of all names in their order. Without it, every item is read once.

    >>> buckets = Buckets({"tokens": [2, 4]}, fill=-1)
    >>> [one["tokens"].tolist() for one in buckets.padded([{"tokens": [7]}, {"tokens": [7, 8, 9]}], "ab", subset="")]
    [[7, -1, -1, -1], [7, 8, 9, -1]]

    Raises:
        DatasetError: for sizes that are no whole numbers, that do not grow, or of which one name has more than another.
    """

    def __init__(
        self,
        sizes: Mapping[str, Sequence[int | Size]],
        *,
        by: str | Callable[..., Any] | None = None,
        fill: float | Mapping[str, float] = 0,
        batch_sizes: Sequence[int] | None = None,
    ):
        self.sizes = {name.removeprefix("batch_"): _sizes(name, listed) for name, listed in dict(sizes).items()}
        self.by = by
        self.fills = {name: _fill(fill, name) for name in self.sizes}
        counts = {name: len(listed) for name, listed in self.sizes.items()}
        if len(set(counts.values())) != 1:
            seen = ", ".join(f"{name}: {count}" for name, count in counts.items()) or "no name"
            raise DatasetError("Buckets need as many sizes for each name.", seen, WRITE)
        self.count = next(iter(counts.values()))
        self.batch_sizes = None if batch_sizes is None else _batch_sizes(batch_sizes, self.count)

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name} {', '.join(map(_said, sizes))}" for name, sizes in self.sizes.items())
        return sizes if self.batch_sizes is None else f"{sizes}, in batches of {', '.join(map(str, self.batch_sizes))}"

    @classmethod
    def of(cls, given: Any) -> Buckets | None:
        """What a subset is given: none, buckets, or their sizes."""
        if given is None or isinstance(given, Buckets):
            return given
        if not isinstance(given, Mapping):
            raise DatasetError("`buckets` says which sizes a name is padded to.", f"{given!r:.60}", WRITE)
        return cls(given)

    def largest(self) -> Buckets:
        """The largest of them alone."""
        sizes = self.batch_sizes and self.batch_sizes[-1:]
        return Buckets({name: sizes[-1:] for name, sizes in self.sizes.items()}, fill=self.fills, batch_sizes=sizes)

    def batch_sizes_for(self, batch_size: int) -> tuple[int, ...]:
        """The batch size of each bucket, in an experiment of that size."""
        return self.batch_sizes or (batch_size,) * self.count

    def work(self, number: int, batch_size: int) -> int:
        """How large the batches of a bucket are, for comparing them."""
        return self.batch_sizes_for(batch_size)[number] * sum(prod(sizes[number]) for sizes in self.sizes.values())

    def label(self, number: int) -> str:
        """The sizes of one bucket."""
        return ", ".join(_said(sizes[number]) for sizes in self.sizes.values())

    def number(self, sizes: Mapping[str, Size], key: Hashable, *, subset: str) -> int:
        """The first bucket that values of these sizes fit in."""
        for number in range(self.count):
            if all(_fits(sizes[name], listed[number]) for name, listed in self.sizes.items()):
                return number
        name = next((name for name, listed in self.sizes.items() if not _fits(sizes[name], listed[-1])), "")
        raise DatasetError(
            f"{name!r} of key {key!r:.80} of subset {subset!r} fits in no bucket.",
            f"{_said(sizes[name])}, where the largest bucket has {_said(self.sizes[name][-1])}",
            f"Add a larger one: buckets={{{name!r}: [..., {_said(sizes[name])}]}}; or cut such items, or leave them "
            "out.",
        )

    def asked(self, answer: Any, key: Hashable, *, subset: str) -> int:
        """The bucket of an item of which `by` says how large it is."""
        answers = [answer] if len(self.sizes) == 1 else answer
        try:
            pairs = zip(self.sizes, answers, strict=True)
            sizes = {name: _size(value, len(self.sizes[name][0])) for name, value in pairs}
        except (TypeError, ValueError):
            kind = "a whole number" if len(self.sizes) == 1 else f"{len(self.sizes)} whole numbers"
            wrong = f"`by` of the buckets of subset {subset!r} gives no size for key {key!r:.80}."
            raise DatasetError(
                wrong, f"{answer!r:.60}", f"Let it give {kind}: that of {', '.join(self.sizes)}."
            ) from None
        return self.number(sizes, key, subset=subset)

    def of_item(self, item: Mapping[str, Any], key: Hashable, *, subset: str) -> int:
        """The first bucket that an item fits in."""
        return self.number(self._sizes_of(item, key, subset), key, subset=subset)

    def padded(
        self, items: Sequence[Mapping[str, Any]], keys: Sequence[Hashable], *, subset: str
    ) -> list[dict[str, Any]]:
        """The items with what varies padded to the first bucket that all of them fit in."""
        pairs = zip(items, keys, strict=True)
        number = max((self.of_item(item, key, subset=subset) for item, key in pairs), default=0)
        return [{**item, **{name: self._one(name, item[name], number) for name in self.sizes}} for item in items]

    def grown(self, name: str, values: np.ndarray, number: int) -> np.ndarray:
        """Stacked values [B, ...] of a smaller bucket as those of bucket `number`; other names stay as they are."""
        name = name.removeprefix("batch_")
        if name not in self.sizes or values.shape[1 : 1 + len(self.sizes[name][0])] == self.sizes[name][number]:
            return values
        size = self.sizes[name][number]
        out = np.full((len(values), *size, *values.shape[1 + len(size) :]), self.fills[name], values.dtype)
        out[(slice(None), *(slice(length) for length in values.shape[1 : 1 + len(size)]))] = values
        return out

    def _one(self, name: str, value: Any, number: int) -> np.ndarray:
        grown: np.ndarray = self.grown(name, np.asarray(value)[None], number)[0]
        return grown

    def _sizes_of(self, item: Mapping[str, Any], key: Hashable, subset: str) -> dict[str, Size]:
        sizes = {}
        for name, listed in self.sizes.items():
            axes = len(listed[0])
            value = np.asarray(item[name]) if name in item else None
            if value is None or value.ndim < axes or value.dtype.kind not in "biufcV":
                what = "no such name" if value is None else f"shape {list(value.shape)}, {value.dtype}"
                names = ", ".join(map(str, item))
                raise DatasetError(
                    f"The buckets of subset {subset!r} pad {name!r}, no array of {axes} axes in key {key!r:.80}.",
                    f"{what}; the item has {names}",
                    "Name what varies as the items do, and give it as numbers.",
                )
            sizes[name] = value.shape[:axes]
        return sizes


WRITE = 'Write buckets={"tokens": [32, 64, 128]}, the smallest first.'


def _sizes(name: str, listed: Any) -> tuple[Size, ...]:
    try:
        sizes = tuple(_size(one, None) for one in listed)
    except (TypeError, ValueError):
        sizes = ()
    grows = all(len(one) == len(other) and one != other and _fits(one, other) for one, other in pairwise(sizes))
    if not sizes or not grows or min(map(min, sizes)) < 1:
        wrong = f"The buckets of {name!r} are no sizes that grow."
        raise DatasetError(wrong, f"{listed!r:.60}", f"Each is at least as large as the one before. {WRITE}")
    return sizes


def _batch_sizes(listed: Any, count: int) -> tuple[int, ...]:
    try:
        sizes = tuple(_size(one, 1)[0] for one in listed)
    except (TypeError, ValueError):
        sizes = ()
    if len(sizes) != count or min(sizes) < 1:
        wrong, write = "`batch_sizes` of buckets are no whole numbers above 0, one for each.", f"Write {count} of them."
        raise DatasetError(wrong, f"{listed!r:.60}", write)
    return sizes


def _size(value: Any, axes: int | None) -> Size:
    """A size of leading axes: a whole number of one, or a tuple of them."""
    size = tuple(value) if isinstance(value, tuple | list) else (value,)
    whole = tuple(int(one) for one in size)
    if whole != size or not whole or len(whole) != (axes or len(whole)):
        raise ValueError
    return whole


def _fill(fill: Any, name: str) -> Any:
    return fill.get(name, fill.get(f"batch_{name}", 0)) if isinstance(fill, Mapping) else fill


def _fits(size: Size, into: Size) -> bool:
    return all(length <= room for length, room in zip(size, into, strict=True))


def _said(size: Size) -> str:
    return str(size[0]) if len(size) == 1 else str(size)


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


def together(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Arrays [N, ...] one behind the other; where other axes are of several lengths, zeros fill them to the longest.

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
