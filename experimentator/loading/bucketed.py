"""Feeds of subsets with buckets: all batches of a block are of one bucket."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Self

import numpy as np

from experimentator.data.buckets import Buckets
from experimentator.data.columns import all_items
from experimentator.data.fields import Asking
from experimentator.data.items import DatasetError, check_names
from experimentator.graph import Mode
from experimentator.loading.blocks import Block, Making, Pass, Placing, Spec, block_of, specs_of
from experimentator.loading.bucket_order import BucketRows, dealt
from experimentator.loading.feeds import Feed
from experimentator.loading.kinds import check_kinds
from experimentator.loading.streamed import Stream, StreamedFeed
from experimentator.loading.threads import spread
from experimentator.subset import Subset

log = logging.getLogger(__name__)
LONG_SECONDS = 10.0  # of reading every item for its size; a warning tells of more


class BucketedPass(Pass):
    """A pass whose blocks are each made by the one of `parts` that is for its bucket."""

    rows: BucketRows

    def __init__(self, rows: BucketRows, parts: Sequence[Any], end: Callable[[], None] = lambda: None):
        super().__init__(rows, end)
        self.parts, self.buckets = parts, rows.buckets

    def make(self, rows: np.ndarray) -> Making:
        """Let the part of their bucket make the block; `done` counts these rows already."""
        making: Making = self.parts[self.rows.buckets[self.done - len(rows)]].make(rows)
        return making


class BucketedFeed(Feed):
    """The base class of feeds with buckets.

    `parts`, one for each bucket, have the `specs` of its batches, and get the `placing` of its blocks.
    """

    numbers: np.ndarray  # of the bucket of each key, [keys]; -1 for one that is left out

    def __init__(self, subset: Subset, buckets: Buckets, parts: Sequence[Any]):
        super().__init__(subset)
        self.buckets, self.parts = buckets, parts
        self.specs = parts[-1].specs

    def part(self, bucket: int | None, batch_size: int) -> tuple[Any, int, Any, str]:
        assert bucket is not None  # noqa: S101  # for the type checker
        size = self.buckets.batch_sizes_for(batch_size)[bucket]
        return self.parts[bucket], size, self.buckets.each()[bucket], self.buckets.label(bucket)

    def over_the_same(self) -> Self:
        other = copy.copy(self)
        other.parts = [copy.copy(part) for part in self.parts]
        return other

    def rows(self, batch_size: int) -> BucketRows:
        """The order of the pass that begins, as positions in the keys."""
        positions, drop_last = self.orders.of(self.mode)
        numbers = self.numbers[positions]
        positions, numbers = positions[numbers >= 0], numbers[numbers >= 0]
        if not len(positions):
            raise self.subset.empty_error(self.subset.keys)
        return dealt(positions, numbers, self.buckets, batch_size, drop_last=drop_last)


class BucketedHostFeed(BucketedFeed):
    """The whole subset in host memory, a table for each bucket; the rows of a block are gathered and travel."""

    place = "in host memory"

    def __init__(self, subset: Subset, buckets: Buckets, sample: Mapping[str, Spec], *, threads: int):
        keys = subset.keys
        items = all_items(subset, threads)
        there = [(key, item) for key, item in zip(keys, items, strict=True) if item is not None]
        for key, item in there:
            check_names(item, there[0][1], key=key, first=there[0][0], subset=subset.name)
        answered = _answered(subset, buckets)
        found = [
            -1 if item is None else answered(key) if answered else buckets.of_item(item, key, subset=subset.name)
            for key, item in zip(keys, items, strict=True)
        ]
        self.numbers, self.row = np.array(found), np.zeros(len(keys), np.intp)
        self.by_bucket: dict[int, dict[str, Any]] = {}
        for number in sorted({*found} - {-1}):
            places = np.flatnonzero(self.numbers == number)
            self.row[places] = np.arange(len(places))
            some, rest = [keys[place] for place in places], [items[place] for place in places]
            self.by_bucket[number] = subset.stacked(some, rest, bucket=number)
        if not self.by_bucket:
            raise subset.empty_error(keys)
        self.lists = self._lists(found)
        specs = _common({number: specs_of(table) for number, table in self.by_bucket.items()}, subset, buckets)
        check_kinds(specs, sample, there, subset=subset.name)
        sized = [_sized(specs, buckets, number) for number in range(buckets.count)]
        super().__init__(subset, buckets, [_HostPart(self, one, number) for number, one in enumerate(sized)])

    def cycle(self, batch_size: int) -> BucketedPass:
        return BucketedPass(self.rows(batch_size), self.parts)

    def tables(self) -> Iterator[tuple[Mapping[str, Any], list[Hashable]]]:
        """The table of each bucket, with its keys."""
        for number, table in self.by_bucket.items():
            yield table, [self.subset.keys[place] for place in np.flatnonzero(self.numbers == number)]

    def gathered(self, name: str, places: np.ndarray, number: int, spec: Spec) -> np.ndarray:
        """The values of a name for the keys at these places, padded to bucket `number`: [N, ...]."""
        own = self.numbers[places]
        found = np.unique(own).tolist()
        if found == [number]:
            values: np.ndarray = np.take(self.by_bucket[number][name], self.row[places], axis=0)
            return values.astype(spec.dtype, copy=False)
        out = spec.zeros(len(places))
        for smaller in found:
            (there,) = np.nonzero(own == smaller)
            values = np.take(self.by_bucket[smaller][name], self.row[places[there]], axis=0)
            out[there] = self.buckets.grown(name, values, number)
        return out

    def _lists(self, numbers: Sequence[int]) -> dict[str, list[Any]]:
        """Values that are no numbers: {name: one for each key}, None for a key that is left out."""
        tables, rows = self.by_bucket, self.row.tolist()
        names = [name for name, values in next(iter(tables.values())).items() if isinstance(values, list)]
        return {
            name: [tables[n][name][row] if n >= 0 else None for n, row in zip(numbers, rows, strict=True)]
            for name in names
        }


class _HostPart:
    """One bucket of a subset in host memory."""

    placing: Placing | None = None

    def __init__(self, feed: BucketedHostFeed, specs: Mapping[str, Spec], number: int):
        self.feed, self.specs, self.number = feed, specs, number

    def make(self, rows: np.ndarray) -> Making:
        """The function that gathers a block of these rows, and places it."""
        return partial(self._block, rows)

    def _block(self, rows: np.ndarray) -> Block:
        names = self.specs if self.placing is None else self.placing.names
        columns = {name: self.feed.gathered(name, rows.ravel(), self.number, self.specs[name]) for name in names}
        return block_of(columns, rows, self.feed.subset.keys, self.feed.lists, self.placing)


class BucketedStreamFeed(BucketedFeed):
    """Items read as they are needed; before the first pass `by` tells their sizes, or each item is read once."""

    place = "streamed"

    def __init__(self, subset: Subset, buckets: Buckets, first: Hashable, sample: Mapping[str, Any]):
        parts = [_StreamedPart(subset, first, sample, buckets, number) for number in range(buckets.count)]
        for part in parts:
            part.held = parts[0].held  # the same processes read for all
        super().__init__(subset, buckets, parts)
        self._asked: tuple[tuple[int, int], np.ndarray] | None = None

    @property
    def numbers(self) -> np.ndarray:  # type: ignore[override]  # here it may change
        """The number of the bucket of each key, by `by` or by its item; found anew where random draws differ."""
        subset = self.subset
        address = subset.seed, -1 if self.mode != Mode.TRAIN and subset.is_training else 0
        if self._asked is None or self._asked[0] != address:
            self._asked = address, self._numbers(subset._in_epoch(address[1]))
        return self._asked[1]

    def _numbers(self, reader: Subset) -> np.ndarray:
        """The numbers for passes with its seed, the same in all epochs of a training; `workers` read."""
        subset, start = self.subset, time.perf_counter()
        answered = _answered(reader, self.buckets)

        def number(key: Hashable) -> int:
            if answered is not None:
                return answered(key)
            (item,) = reader.items_of([key], [0])
            return -1 if item is None else self.buckets.of_item(item, key, subset=subset.name)

        count = 1 if self.workers is None else self.workers.count
        numbers = spread(lambda keys: list(map(number, keys)), subset.keys, count, "experimentator-sizes")
        if (took := time.perf_counter() - start) > LONG_SECONDS:
            said = (
                "To know the size of every item of %r took %d s. Buckets(..., by=...) can tell it from the key alone."
            )
            log.warning(said, subset.name, took)
        return np.array(numbers)

    def cycle(self, batch_size: int) -> BucketedPass:
        rows, reader = self.rows(batch_size), self.parts[0]
        reader.workers = self.workers
        reader.start_processes()
        pool = reader.pool()
        visits = self.subset.visits(rows.positions)
        streams = [Stream(part, rows.positions, rows, pool, visits) for part in self.parts]
        places = replace(rows, positions=np.arange(len(rows.positions)))
        return BucketedPass(places, streams, end=streams[0].close)


class _StreamedPart(StreamedFeed):
    """One bucket of a streamed subset."""

    def __init__(self, subset: Subset, first: Hashable, sample: Mapping[str, Any], buckets: Buckets, number: int):
        super().__init__(subset, first, sample)
        self.buckets, self.bucket = buckets, number
        self.specs = _sized(self.specs, buckets, number)

    def read(self, keys: Sequence[Hashable], visits: Sequence[int], columns: dict[str, np.ndarray], start: int) -> Any:
        """As in the base; but no item may be left out now, since batches were made before."""
        kept, objects = super().read(keys, visits, columns, start)
        if kept is not None:
            odd = next(key for place, key in enumerate(keys) if place not in kept)
            raise DatasetError(
                f"An item of subset {self.subset.name!r}, which has buckets, is left out in some passes only, or "
                "although `by` gives it a size.",
                f"None for key {odd!r:.80}",
                "Leave out the same items every time, and give the buckets no `by`; or choose the keys beforehand, "
                "with a FilteredSubset.",
            )
        return kept, objects

    def _checked(self, name: str, values: Any, keys: Sequence[Hashable]) -> np.ndarray:
        seen, spec = specs_of({name: values}).get(name), self.specs[name]
        if seen is not None and seen.shape != spec.shape:
            plain = name.removeprefix("batch_")
            raise self.buckets.refuse_axes(plain, values.shape[1:], spec.shape[1:], self.subset.name)
        return super()._checked(name, values, keys)


def _answered(subset: Subset, buckets: Buckets) -> Callable[[Hashable], int] | None:
    """Gives the number of the bucket of a key, as `by` answers; None without it."""
    if buckets.by is None:
        return None
    asking = Asking(buckets.by, subset.dataset, f"`by` of the buckets of subset {subset.name!r}")
    return lambda key: buckets.asked(asking.answer(key), key, subset=subset.name)


def _sized(specs: Mapping[str, Spec], buckets: Buckets, number: int) -> dict[str, Spec]:
    """The specs of bucket `number`, from those of any bucket."""
    sizes = {f"batch_{name}": listed[number] for name, listed in buckets.sizes.items()}
    return {
        name: spec._replace(shape=(None, *sizes.get(name, ()), *spec.shape[1 + len(sizes.get(name, ())) :]))
        for name, spec in specs.items()
    }


def _common(tables: Mapping[int, Mapping[str, Spec]], subset: Subset, buckets: Buckets) -> dict[str, Spec]:
    """The specs that the tables of all buckets share, for the last one; refused if they differ beyond the buckets."""
    sized = [_sized(specs, buckets, -1) for specs in tables.values()]
    for specs in sized:
        for name in sized[0].keys() | specs.keys():
            one, other = (known[name].shape[1:] if name in known else () for known in (sized[0], specs))
            if one != other or name not in specs or name not in sized[0]:
                raise buckets.refuse_axes(name.removeprefix("batch_"), one, other, subset.name)
    dtypes = {name: np.result_type(*(specs[name].dtype for specs in sized)) for name in sized[0]}
    return {name: spec._replace(dtype=dtypes[name]) for name, spec in sized[0].items()}
