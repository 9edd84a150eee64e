"""Buckets: the few sizes that items of many sizes are padded to."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np

from experimentator.data.items import DatasetError, is_numeric, refuse_masks

WRITE = 'Write buckets={"tokens": [32, 64, 128]}, the smallest first.'
Size = tuple[int, ...]  # of the leading axes of a value


class Buckets:
    """The few sizes that items of many sizes are padded to: `Subset(..., buckets={"tokens": [32, 64, 128]})`.

    `sizes` gives, for each name that varies, its length in each bucket; a tuple is the size of the leading axes, such
    as `{"input": [(128, 256), (256, 128)]}` for images [H, W, C]. All names have equally many sizes. An item goes into
    the first bucket that all its names fit in, and is padded with `fill`, a number, or one for each name. No mask is
    made: use `Embedding(mask_zero=True)`, or give the length as one more name of the item. A batch of a BalancedSubset
    or CombinedSubset is of one bucket, too, so these are balanced over a pass, not in each batch.

    `batch_sizes` has the batch size of each bucket, in place of the experiment's: short items allow larger batches.

    `by` tells the size of an item: a field of its key or of the item, or a function of (key) or (key, item), which
    returns the size of the name that varies, or a tuple of the sizes of all names in order. If it needs the key alone,
    no item is read to make batches; without it, every item is read once.

    >>> buckets = Buckets({"tokens": [2, 4]}, fill=-1)
    >>> [one["tokens"].tolist() for one in buckets.padded([{"tokens": [7]}, {"tokens": [7, 8, 9]}], "ab", subset="")]
    [[7, -1, -1, -1], [7, 8, 9, -1]]

    Raises:
        DatasetError: for sizes that are not whole numbers above 0, or not equally many for each name, or that fit in an
            earlier bucket; for a fill that is no number or of another name.
    """

    def __init__(
        self,
        sizes: Mapping[str, Sequence[int | Size]],
        *,
        by: str | Callable[..., Any] | None = None,
        fill: float | Mapping[str, float] = 0,
        batch_sizes: Sequence[int] | None = None,
    ):
        self.sizes = _by_name(sizes)
        self.by = by
        self.count = len(next(iter(self.sizes.values())))
        self.fills = _fills(fill, self.sizes)
        self.batch_sizes = None if batch_sizes is None else _batch_sizes(batch_sizes, self.count)
        for number in range(self.count):
            if any(self.holds(earlier, number) for earlier in range(number)):
                wrong = f"The bucket of {self.label(number)} would stay empty: one before it is as large."
                raise DatasetError(wrong, repr(self), WRITE)

    def __repr__(self) -> str:
        parts = [f"{name} {', '.join(map(_said, sizes))}" for name, sizes in self.sizes.items()]
        parts += [f"{name} filled with {fill}" for name, fill in self.fills.items() if fill != 0]
        parts += [f"in batches of {', '.join(map(str, self.batch_sizes))}"] if self.batch_sizes else []
        by = self.by if isinstance(self.by, str) else getattr(self.by, "__qualname__", type(self.by).__name__)
        parts += [f"by {by}"] if self.by is not None else []
        return "; ".join(parts)

    @classmethod
    def of(cls, given: Any) -> Buckets | None:
        """From what a subset is given: None, Buckets, or their sizes."""
        return given if given is None or isinstance(given, Buckets) else cls(given)

    def whole(self) -> Buckets:
        """A single bucket that is as large as all of them."""
        sizes = {name: [tuple(map(max, zip(*listed, strict=True)))] for name, listed in self.sizes.items()}
        return Buckets(sizes, fill=self.fills, batch_sizes=self.batch_sizes and [min(self.batch_sizes)])

    def batch_sizes_for(self, batch_size: int) -> tuple[int, ...]:
        """The batch size of each bucket, in an experiment of that size."""
        return self.batch_sizes or (batch_size,) * self.count

    def work(self, number: int, batch_size: int) -> int:
        """The size of a bucket's batches in numbers, to compare buckets."""
        return self.batch_sizes_for(batch_size)[number] * sum(prod(sizes[number]) for sizes in self.sizes.values())

    def each(self) -> list[tuple[Size, ...]]:
        """The sizes of each bucket, in the order of names."""
        return list(zip(*self.sizes.values(), strict=True))

    def label(self, number: int) -> str:
        """The sizes of one bucket as text; equal sizes once, if the texts of all buckets still differ."""
        every = [list(map(_said, sizes)) for sizes in self.each()]
        once = [", ".join(dict.fromkeys(sizes)) for sizes in every]
        return once[number] if len(set(once)) == self.count else ", ".join(every[number])

    def holds(self, number: int, other: int) -> bool:
        """Whether items of bucket `other` fit in bucket `number`."""
        return all(_fits(sizes[other], sizes[number]) for sizes in self.sizes.values())

    def of_item(self, item: Mapping[str, Any], key: Hashable, *, subset: str) -> int:
        """The first bucket that an item fits in."""
        return self._first(self._sizes_of(item, key, subset), key, subset)

    def all_of(self, item: Mapping[str, Any], key: Hashable, *, subset: str) -> list[int]:
        """The buckets that an item fits in."""
        first = self.of_item(item, key, subset=subset)
        return [number for number in range(self.count) if self.holds(number, first)]

    def of_shapes(self, shapes: Mapping[str, tuple[int | None, ...]]) -> int | None:
        """The bucket whose batches hold these shapes for an item, by prefixed names; None where that is no bucket."""
        found = {name: shapes[f"batch_{name}"] for name in self.sizes if f"batch_{name}" in shapes}
        for number in range(self.count):
            if all(shape[: len(size)] == size for name, shape in found.items() for size in [self.sizes[name][number]]):
                return number
        return None

    def asked(self, answer: Any, key: Hashable, *, subset: str) -> int:
        """The first bucket for the size that `by` answered."""
        answers = [answer] if len(self.sizes) == 1 else answer
        try:
            pairs = zip(self.sizes, answers, strict=True)
            sizes = {name: _size(value, len(self.sizes[name][0])) for name, value in pairs}
        except (TypeError, ValueError, OverflowError):
            wrong = f"`by` of the buckets of subset {subset!r} gives no size for key {key!r:.80}."
            write = f"Let it give that of {' and '.join(self.sizes)}, in whole numbers."
            raise DatasetError(wrong, f"{answer!r:.60}", write) from None
        return self._first(sizes, key, subset)

    def padded(
        self, items: Sequence[Mapping[str, Any]], keys: Sequence[Hashable], *, subset: str, number: int | None = None
    ) -> list[dict[str, Any]]:
        """The items, padded to bucket `number`, or else to the first bucket that holds all of them."""
        found = [self._sizes_of(item, key, subset) for item, key in zip(items, keys, strict=True)]
        if number is None:
            most = {name: tuple(map(max, zip(*(one[name] for one in found), strict=True))) for name in self.sizes}
            if len(keys) > 1 and not any(self._fit(most, one) for one in range(self.count)):
                for sizes, key in zip(found, keys, strict=True):
                    self._first(sizes, key, subset)
                return self.whole().padded(items, keys, subset=subset)
            number = self._first(most, keys[0], subset)
        for sizes, key in zip(found, keys, strict=True):
            self._check(sizes, number, key, subset)
        self._check_axes(items, subset)
        for name in self.sizes:
            refuse_masks(name, [item[name] for item in items])
        return [{**item, **{name: self._one(name, item[name], number) for name in self.sizes}} for item in items]

    def grown(self, name: str, values: np.ndarray, number: int) -> np.ndarray:
        """Stacked values [B, ...] padded to bucket `number`; a name that does not vary stays as it is."""
        name = name.removeprefix("batch_")
        if name not in self.sizes or values.shape[1 : 1 + len(self.sizes[name][0])] == self.sizes[name][number]:
            return values
        size = self.sizes[name][number]
        out = np.zeros((len(values), *size, *values.shape[1 + len(size) :]), values.dtype)
        if self.fills[name]:
            out[...] = self._fill(name, values.dtype)
        out[(slice(None), *(slice(length) for length in values.shape[1 : 1 + len(size)]))] = values
        return out

    def refuse_axes(self, name: str, one: Sequence[Any], other: Sequence[Any], subset: str) -> DatasetError:
        """The error for values that differ in axes whose size no bucket gives."""
        seen = f"{list(one)} and {list(other)}"
        if name in self.sizes:
            axes = max(2, len(self.sizes[name][0]) + 1)
            wrong = f"{name!r} varies in more axes of subset {subset!r} than its buckets say."
            example = ", ".join(str((size[0], *[8] * (axes - 1))) for size in self.sizes[name])
            return DatasetError(
                wrong, seen, f"Say the size of each axis that varies, such as {{{name!r}: [{example}]}}."
            )
        wrong, example = (
            f"{name!r} varies in subset {subset!r}, and its buckets do not name it.",
            ", ".join(["..."] * self.count),
        )
        return DatasetError(wrong, seen, f"Name it, too: buckets={{..., {name!r}: [{example}]}}.")

    def _fit(self, sizes: Mapping[str, Size], number: int) -> bool:
        return all(_fits(sizes[name], listed[number]) for name, listed in self.sizes.items())

    def _first(self, sizes: Mapping[str, Size], key: Hashable, subset: str) -> int:
        for number in range(self.count):
            if self._fit(sizes, number):
                return number
        odd = [name for name, listed in self.sizes.items() if not any(_fits(sizes[name], size) for size in listed)]
        names = odd[:1] or list(self.sizes)
        seen = ", ".join(f"{name} {_said(sizes[name])}" for name in names)
        known = ", ".join(f"{name} {' or '.join(map(_said, self.sizes[name]))}" for name in names)
        raise DatasetError(
            f"Key {key!r:.80} of subset {subset!r} fits in no bucket.",
            f"{seen}, where buckets have {known}",
            "Add a bucket that holds it, cut such items, or leave them out.",
        )

    def _check(self, sizes: Mapping[str, Size], number: int, key: Hashable, subset: str) -> None:
        """Refuse an item that does not fit in the bucket it was assigned to."""
        for name, listed in self.sizes.items():
            if not _fits(sizes[name], listed[number]):
                said = "what `by` of the buckets says" if self.by else "when it was read for its size"
                raise DatasetError(
                    f"{name!r} of key {key!r:.80} of subset {subset!r} is larger than {said}.",
                    f"{_said(sizes[name])}, in the bucket of {_said(listed[number])}",
                    "Let `by` give the size that each item has, or the largest that it may have where that is drawn.",
                )

    def _check_axes(self, items: Sequence[Mapping[str, Any]], subset: str) -> None:
        """Refuse arrays that differ in axes whose size no bucket gives."""
        for name in items[0]:
            axes = len(self.sizes[name][0]) if name in self.sizes else 0
            arrays = [item[name] for item in items if isinstance(item.get(name), np.ndarray)]
            if odd := [one for one in arrays if one.shape[axes:] != arrays[0].shape[axes:]]:
                raise self.refuse_axes(name, arrays[0].shape, odd[0].shape, subset)

    def _one(self, name: str, value: Any, number: int) -> np.ndarray:
        array = np.asarray(value)
        if not array.size and not hasattr(value, "dtype") and isinstance(self.fills[name], int):
            array = array.astype(int)  # numpy takes an empty list for floats
        grown: np.ndarray = self.grown(name, array[None], number)[0]
        return grown

    def _fill(self, name: str, dtype: np.dtype[Any]) -> np.ndarray:
        """The fill of a name in that dtype; refused if the dtype cannot hold it."""
        fill = np.asarray(self.fills[name])
        with np.errstate(all="ignore"):
            found = fill.astype(dtype)
        if found.dtype.kind in "biu" and found != fill:
            write = "Give a number that it can hold, or items of another dtype."
            raise DatasetError(f"`fill` of {name!r} in buckets is no {dtype}.", f"fill={self.fills[name]!r}", write)
        return found

    def _sizes_of(self, item: Mapping[str, Any], key: Hashable, subset: str) -> dict[str, Size]:
        sizes = {}
        for name, listed in self.sizes.items():
            axes, shape = len(listed[0]), _numbers(item[name]) if name in item else None
            if shape is None or len(shape) < axes:
                what = "no such name" if name not in item else f"{item[name]!r:.40}"
                raise DatasetError(
                    f"The buckets of subset {subset!r} pad {name!r}, no array of {axes} axes in key {key!r:.80}.",
                    f"{what}; the item has {', '.join(map(str, item))}",
                    "Name what varies as the items do, and give it as numbers.",
                )
            sizes[name] = shape[:axes]
        return sizes


def _by_name(sizes: Any) -> dict[str, tuple[Size, ...]]:
    if not isinstance(sizes, Mapping) or not sizes or not all(isinstance(name, str) for name in sizes):
        raise DatasetError("`buckets` says which sizes each name is padded to.", f"{sizes!r:.60}", WRITE)
    found: dict[str, tuple[Size, ...]] = {}
    for given, listed in sizes.items():
        name = given.removeprefix("batch_")
        if name in found:
            raise DatasetError(f"Buckets name {name!r} twice.", f"{', '.join(sizes)}", "Leave one of them out.")
        try:
            found[name] = tuple(_size(one, None) for one in listed)
        except (TypeError, ValueError, OverflowError):
            found[name] = ()
        axes = {len(size) for size in found[name]}
        if len(axes) != 1 or min(map(min, found[name])) < 1:
            wrong = f"The buckets of {name!r} are no sizes."
            raise DatasetError(wrong, f"{listed!r:.60}", f"Each is a whole number above 0, or a tuple of them. {WRITE}")
    counts = {name: len(listed) for name, listed in found.items()}
    if len(set(counts.values())) != 1:
        seen = ", ".join(f"{name}: {count}" for name, count in counts.items())
        raise DatasetError("Buckets need equally many sizes for each name.", seen, WRITE)
    return found


def _fills(fill: Any, sizes: Mapping[str, Any]) -> dict[str, float]:
    given = fill if isinstance(fill, Mapping) else dict.fromkeys(sizes, fill)
    fills = {str(name).removeprefix("batch_"): value for name, value in given.items()}
    strange = [name for name in fills if name not in sizes]
    odd = [value for value in fills.values() if np.ndim(value) or not is_numeric(value)]
    if strange or odd:
        wrong = f"`fill` of buckets names {strange[0]!r}, which they do not." if strange else "`fill` is no number."
        raise DatasetError(wrong, f"{fill!r:.60}", f"Give a number, or one for each of {', '.join(sizes)}.")
    return {name: fills.get(name, 0) for name in sizes}


def _batch_sizes(listed: Any, count: int) -> tuple[int, ...]:
    try:
        sizes = tuple(_size(one, 1)[0] for one in listed)
    except (TypeError, ValueError, OverflowError):
        sizes = ()
    if len(sizes) != count or min(sizes) < 1:
        wrong, write = "`batch_sizes` of buckets are no whole numbers above 0, one for each.", f"Write {count} of them."
        raise DatasetError(wrong, f"{listed!r:.60}", write)
    return sizes


def _size(value: Any, axes: int | None) -> Size:
    """A size of leading axes as a tuple, from a whole number or a tuple of them; else a ValueError."""
    value = value.tolist() if isinstance(value, np.ndarray) else value
    size = tuple(value) if isinstance(value, tuple | list) else (value,)
    whole = tuple(int(one) for one in size)
    if whole != size or not whole or any(isinstance(one, bool) for one in size) or len(whole) != (axes or len(whole)):
        raise ValueError
    return whole


def _numbers(value: Any) -> tuple[int, ...] | None:
    """The shape of a value; None if it is no array of numbers."""
    try:
        array = np.asarray(value)
    except ValueError:  # ragged
        return None
    return array.shape if is_numeric(array) else None


def _fits(size: Size, into: Size) -> bool:
    return all(length <= room for length, room in zip(size, into, strict=True))


def _said(size: Size) -> str:
    return " x ".join(map(str, size))
