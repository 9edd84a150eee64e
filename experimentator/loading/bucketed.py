"""Feeds of subsets with buckets: every batch is of one bucket, and so are the batches of one call."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from experimentator.data.buckets import RUN, Buckets
from experimentator.data.fields import Asking
from experimentator.data.items import DatasetError
from experimentator.data.sieve import Ahead
from experimentator.graph import Mode
from experimentator.loading.blocks import Block, Making, Pass, Picked, Placing, Rows, Spec, specs_of
from experimentator.loading.orders import Orders
from experimentator.loading.streamed import Stream, StreamedFeed
from experimentator.loading.workers import Workers
from experimentator.subset import Subset

log = logging.getLogger(__name__)
LONG_SECONDS = 10.0  # of reading every item for its size


@dataclass(frozen=True)
class BucketRows(Rows):
    """The order of a pass in batches of one bucket each: `buckets` their numbers, `ends` where each ends, `[steps]`.

    >>> rows = BucketRows(np.arange(7), 2, False, buckets=np.array([1, 1, 0, 1]), ends=np.array([2, 4, 6, 7]))
    >>> [rows.take(start, count=9).tolist() for start in (0, 2, 3)]
    [[[0, 1], [2, 3]], [[4, 5]], [[6]]]
    """

    buckets: np.ndarray
    ends: np.ndarray

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


def dealt(positions: np.ndarray, buckets: np.ndarray, sizes: Sequence[int], *, drop_last: bool) -> BucketRows:
    """Positions in their order, the bucket of each beside them, as batches of one bucket, of `sizes` for each of them.

    What fills no batch goes into one of the next larger bucket, so that nothing is lost but what is at last too little.
    Batches of one bucket come in runs, each when its last item has its turn: of at most `RUN` in training, which drops
    the last, smaller batch; else all of a bucket are one.

    >>> rows = dealt(np.arange(10, 16), np.array([1, 0, 0, 1, 0, 1]), [2, 2], drop_last=False)
    >>> rows.positions.tolist(), rows.buckets.tolist()
    ([11, 12, 14, 10, 13, 15], [0, 1, 1])
    """
    runs: list[tuple[int, np.ndarray]] = []
    left, largest = np.zeros(0, np.intp), int(buckets.max())
    for bucket, size in enumerate(sizes[: largest + 1]):
        here = np.concatenate([left, np.flatnonzero(buckets == bucket)])
        whole = len(here) // size * size
        length = RUN * size if drop_last else max(whole, 1)
        runs += [(bucket, here[start : min(start + length, whole)]) for start in range(0, whole, length)]
        left = here[whole:]
    runs.sort(key=lambda run: int(run[1].max()))
    if len(left) and not (drop_last and runs):
        runs.append((largest, left))
    batches = [
        (bucket, min(sizes[bucket], len(run) - start))
        for bucket, run in runs
        for start in range(0, len(run), sizes[bucket])
    ]
    numbers, counts = np.array(batches).T
    places = np.concatenate([run for _, run in runs])
    return BucketRows(positions[places], sizes[largest], drop_last, numbers, np.cumsum(counts))


class BucketedPass(Pass):
    """A pass whose blocks are made by what makes those of their bucket."""

    rows: BucketRows

    def __init__(
        self,
        rows: BucketRows,
        begins: Sequence[Callable[[np.ndarray, Ahead], Making]],
        close: Callable[[], None] = lambda: None,
    ):
        super().__init__(rows, close=close)
        self.begins, self.buckets = begins, rows.buckets

    def begun(self, rows: np.ndarray, ahead: Ahead) -> Making:
        """What finishes a block of these rows, which count as done already."""
        bucket = int(self.rows.buckets[self.done - len(rows)])
        return partial(_of_bucket, self.begins[bucket](rows, ahead), bucket)


def _of_bucket(making: Making, bucket: int) -> Block | None:
    block = making()
    return block and replace(block, bucket=bucket)


class BucketedFeed:
    """What feeds of buckets share; `numbers` [keys] are those of their buckets, -1 for a key that is left out.

    `parts` have the `specs` of each bucket, and are told how its blocks are placed.
    """

    resident = False
    mode: Mode | None = None
    workers: Workers | None = None

    def __init__(self, subset: Subset, buckets: Buckets, numbers: np.ndarray, parts: Sequence[Any]):
        self.subset, self.buckets, self.numbers, self.parts = subset, buckets, numbers, parts
        self.orders = Orders(subset)
        self.specs: Mapping[str, Spec] = parts[-1].specs

    def rows(self, batch_size: int) -> BucketRows:
        """The order of the pass that begins, of positions in the keys."""
        positions, drop_last = self.orders.of(self.mode)
        numbers = self.numbers[positions]
        positions, numbers = positions[numbers >= 0], numbers[numbers >= 0]
        if not len(positions):
            raise self.subset.empty_error(self.subset.keys)
        return dealt(positions, numbers, self.buckets.batch_sizes_for(batch_size), drop_last=drop_last)


class BucketedHostFeed(BucketedFeed):
    """The whole subset in host memory, a table for each bucket; the rows of a block are gathered and travel."""

    place = "in host memory"

    def __init__(self, subset: Subset, buckets: Buckets):
        keys = subset.keys
        items = subset.items(keys, [0] * len(keys))
        numbers = np.array([_number(item, key, subset, buckets) for key, item in zip(keys, items, strict=True)])
        self.row = np.zeros(len(keys), np.intp)
        self.tables: dict[int, dict[str, Any]] = {}
        for number in np.unique(numbers[numbers >= 0]).tolist():
            places = np.flatnonzero(numbers == number)
            self.row[places] = np.arange(len(places))
            self.tables[number] = subset.stacked([keys[place] for place in places], [items[place] for place in places])
        if not self.tables:
            raise subset.empty_error(keys)
        self.lists = self._lists(numbers)
        specs = _common({number: specs_of(table) for number, table in self.tables.items()}, subset, buckets)
        super().__init__(
            subset,
            buckets,
            numbers,
            [_HostPart(self, _sized(specs, buckets, number), number) for number in range(buckets.count)],
        )

    def cycle(self, batch_size: int) -> BucketedPass:
        """Start a pass."""
        return BucketedPass(self.rows(batch_size), [part.begun for part in self.parts])

    def gathered(self, name: str, places: np.ndarray, number: int, spec: Spec) -> np.ndarray:
        """The values of a name for keys at these places, as those of bucket `number`."""
        own = self.numbers[places]
        found = np.unique(own).tolist()
        if found == [number]:
            values: np.ndarray = np.take(self.tables[number][name], self.row[places], axis=0)
            return values.astype(spec.dtype, copy=False)
        out = spec.zeros(len(places))
        for smaller in found:
            (there,) = np.nonzero(own == smaller)
            values = np.take(self.tables[smaller][name], self.row[places[there]], axis=0)
            out[there] = self.buckets.grown(name, values, number)
        return out

    def _lists(self, numbers: np.ndarray) -> dict[str, list[Any]]:
        """What is no number, by name and key."""
        tables = self.tables
        names = [name for name, values in next(iter(tables.values())).items() if isinstance(values, list)]
        rows = list(zip(numbers.tolist(), self.row.tolist(), strict=True))
        return {
            name: [tables[number][name][row] if number in tables else None for number, row in rows] for name in names
        }


class _HostPart:
    """One bucket of a subset in host memory."""

    resident = False
    placing: Placing | None = None

    def __init__(self, feed: BucketedHostFeed, specs: Mapping[str, Spec], number: int):
        self.feed, self.specs, self.number = feed, specs, number

    def begun(self, rows: np.ndarray, ahead: Ahead) -> Making:
        """What gathers a block of these rows, and places it."""
        return partial(self._block, rows)

    def _block(self, rows: np.ndarray) -> Block:
        names = self.specs if self.placing is None else self.placing.names
        columns = {name: self.feed.gathered(name, rows.ravel(), self.number, self.specs[name]) for name in names}
        index = np.arange(rows.size, dtype=np.int32).reshape(rows.shape)
        objects = {name: Picked(values, rows) for name, values in self.feed.lists.items()}
        block = Block(columns, index, Picked(self.feed.subset.keys, rows), objects)
        return block if self.placing is None else self.placing(block)


class BucketedStreamFeed(BucketedFeed):
    """Items read as they are needed; before the first pass their sizes are asked for, or each is read once."""

    place = "streamed"

    def __init__(self, subset: Subset, buckets: Buckets, first: Hashable, sample: Mapping[str, Any]):
        parts = [_StreamedPart(subset, first, sample, buckets, number) for number in range(buckets.count)]
        super().__init__(subset, buckets, asked(subset, buckets), parts)

    def cycle(self, batch_size: int) -> BucketedPass:
        """Start a pass."""
        rows, reader = self.rows(batch_size), self.parts[0]
        reader.workers = self.workers
        reader.start_processes()
        pool = reader.pool()
        for part in self.parts:
            part.workers, part.processes = self.workers, reader.processes
        streams = [Stream(part, rows.positions, rows, pool) for part in self.parts]
        places = replace(rows, positions=np.arange(len(rows.positions)))
        return BucketedPass(places, [stream.begun for stream in streams], close=streams[0].close)


class _StreamedPart(StreamedFeed):
    """One bucket of a streamed subset."""

    def __init__(self, subset: Subset, first: Hashable, sample: Mapping[str, Any], buckets: Buckets, number: int):
        super().__init__(subset, first, sample)
        self.buckets, self.number = buckets, number
        self.specs = _sized(self.specs, buckets, number)

    def read(self, keys: Sequence[Hashable], visits: Sequence[int], columns: dict[str, np.ndarray], start: int) -> Any:
        """As of any stream; nothing may be left out any more, since batches are made by then."""
        kept, objects = super().read(keys, visits, columns, start)
        if kept is not None:
            odd = next(key for place, key in enumerate(keys) if place not in kept)
            raise DatasetError(
                f"An item of subset {self.subset.name!r}, which has buckets, is left out by chance, or unasked.",
                f"None for key {odd!r:.80}",
                "Leave out the same items every time, and let `by` of the buckets be; or choose the keys beforehand, "
                "with a FilteredSubset.",
            )
        return kept, objects

    def _checked(self, name: str, values: Any, keys: Sequence[Hashable]) -> np.ndarray:
        plain = name.removeprefix("batch_")
        sizes = self.buckets.sizes.get(plain)
        if sizes is not None and any(a > b for a, b in zip(values.shape[1:], sizes[self.number], strict=False)):
            given = "what `by` of the buckets says of it" if self.buckets.by else "when it was read for its size"
            raise DatasetError(
                f"{plain!r} of subset {self.subset.name!r} is larger than {given}; keys {keys[0]!r:.80} and on.",
                f"{list(values.shape[1:])}, where its bucket has {self.buckets.label(self.number)}",
                "Items whose size is drawn anew need Buckets(..., by=...) that tells the largest that each may have.",
            )
        return super()._checked(name, self.buckets.grown(name, values, self.number), keys)

    def _fits(self, name: str, values: Any) -> bool:
        return super()._fits(name, self.buckets.grown(name, values, self.number))


def asked(subset: Subset, buckets: Buckets) -> np.ndarray:
    """The number of the bucket of every key, by what `by` says or by its item; -1 for what is left out: [keys] int."""
    start = time.perf_counter()
    if buckets.by is not None:
        asking = Asking(buckets.by, subset.dataset, f"`by` of the buckets of subset {subset.name!r}")
        return np.array([buckets.asked(asking.answer(key), key, subset=subset.name) for key in subset.keys])
    reader = copy.copy(subset)
    reader.seed = reader.epoch = 0  # so that what is drawn is the same whenever they are asked
    numbers = [_number(reader.items([key], [0])[0], key, subset, buckets) for key in subset.keys]
    if (took := time.perf_counter() - start) > LONG_SECONDS:
        log.warning(
            "Reading every item of %r for its size took %d s. Buckets(..., by=...) tells it from the key.",
            subset.name,
            took,
        )
    return np.array(numbers)


def _number(item: Any, key: Hashable, subset: Subset, buckets: Buckets) -> int:
    return -1 if item is None else buckets.of_item(item, key, subset=subset.name)


def _sized(specs: Mapping[str, Spec], buckets: Buckets, number: int) -> dict[str, Spec]:
    """The specs of bucket `number`, from those of any."""
    sizes = {f"batch_{name}": listed[number] for name, listed in buckets.sizes.items()}
    return {
        name: spec._replace(shape=(None, *sizes.get(name, ()), *spec.shape[1 + len(sizes.get(name, ())) :]))
        for name, spec in specs.items()
    }


def _common(tables: Mapping[int, Mapping[str, Spec]], subset: Subset, buckets: Buckets) -> dict[str, Spec]:
    """What the tables of all buckets hold, in the largest; a value that varies and is in no bucket is refused."""
    sized = [_sized(specs, buckets, -1) for specs in tables.values()]
    for specs in sized:
        for name in sized[0].keys() | specs.keys():
            if name not in specs or name not in sized[0] or specs[name].shape != sized[0][name].shape:
                raise DatasetError(
                    f"{name.removeprefix('batch_')!r} varies in subset {subset.name!r}; its buckets do not say how.",
                    " and ".join(
                        str(list(one[name].shape[1:])) if name in one else "no number" for one in (sized[0], specs)
                    ),
                    f"Name it among them, too: buckets={{..., {name.removeprefix('batch_')!r}: [...]}}.",
                )
    dtypes = {name: np.result_type(*(specs[name].dtype for specs in sized)) for name in sized[0]}
    return {name: spec._replace(dtype=dtypes[name]) for name, spec in sized[0].items()}
