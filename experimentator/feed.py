"""Feeds: hold or read the data of a subset, and give the batches of a pass as blocks (columns, index, keys).

A step runs the K batches of a block in one call: batch k is rows `index[k]` of the columns. A resident feed hands out
the same columns every time and the next K rows of the epoch's order. A host feed gathers the block's rows from columns
in host memory, a streamed feed reads and stacks the block's items; both blocks are placed on the device whole.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from experimentator.data.columns import changes, columns_of, is_columnar
from experimentator.data.items import DatasetError, check_keys
from experimentator.graph import Mode
from experimentator.loading.blocks import (
    Block,
    ColumnsPass,
    Pass,
    Picked,
    Rows,
    batch_bytes,
    block_of,
    padded,
    specs_of,
)
from experimentator.loading.bucketed import BucketedHostFeed, BucketedStreamFeed
from experimentator.loading.feeds import Feed
from experimentator.loading.kinds import check_kinds, check_rows
from experimentator.loading.memory import SHARE, free_host_memory
from experimentator.loading.streamed import StreamedFeed
from experimentator.subset import Subset

log = logging.getLogger(__name__)
LARGE = 1 << 26  # bytes of a subset


class Columnar(Feed):
    """A feed that holds the whole subset as columns; `kept` are the places of keys that have rows, None for all.

    `keys` are those of the rows; `row` [keys of the subset] int32 has the row of each, -1 for none, or is None.
    """

    def __init__(self, subset: Subset, columns: Mapping[str, Any], kept: np.ndarray | None):
        super().__init__(subset)
        self.specs = specs_of(columns)
        self.columns: Mapping[str, Any] = columns
        self.objects = {name: values for name, values in columns.items() if name not in self.specs}
        self.keys = subset.keys
        self.row: np.ndarray | None = None
        if kept is not None:
            self.row = np.full(len(self.keys), -1, np.int32)
            self.row[kept] = np.arange(len(kept), dtype=np.int32)
            self.keys = tuple(self.keys[place] for place in kept)

    def cycle(self, batch_size: int) -> Pass:
        positions, drop_last = self.orders.of(self.mode)
        if self.row is not None:
            positions = self.row[positions]
            positions = positions[positions >= 0]
        if not len(positions):
            raise self.subset.empty_error(self.subset.keys)
        return ColumnsPass(Rows(positions, batch_size, drop_last), self._block, left_out=self.row is not None)

    def tables(self) -> Iterator[tuple[Mapping[str, Any], list[Hashable]]]:
        """All columns, and the keys that have rows."""
        yield self.columns, list(self.keys)

    def _block(self, rows: np.ndarray) -> Block:
        raise NotImplementedError


class ResidentFeed(Columnar):
    """The whole subset as columns on the device, where `put` places them; only row numbers travel."""

    resident = True
    place = "on the device"

    def __init__(
        self,
        subset: Subset,
        columns: Mapping[str, Any],
        put: Callable[[Mapping[str, Any]], Mapping[str, Any]],
        kept: np.ndarray | None,
        *,
        before: int,
    ):
        super().__init__(subset, columns, kept)
        self.length = rows_for(len(next(iter(columns.values()))), before)
        self.columns = put({name: padded(columns[name], self.length) for name in self.specs})

    def _block(self, rows: np.ndarray) -> Block:
        objects = {name: Picked(values, rows) for name, values in self.objects.items()}
        return Block(self.columns, rows, Picked(self.keys, rows), objects)


class HostFeed(Columnar):
    """The whole subset as columns in host memory; the rows of a block are gathered and travel."""

    place = "in host memory"

    def _block(self, rows: np.ndarray) -> Block:
        names = self.specs if self.placing is None else self.placing.names
        columns = {name: np.take(self.columns[name], rows.ravel(), axis=0) for name in names}
        return block_of(columns, rows, self.keys, self.objects, self.placing)


class Fed(NamedTuple):
    """The feed of a subset, what it was made of, and its feeds for passes of other modes."""

    source: tuple[Any, ...]
    own: Feed
    others: dict[Mode, Feed]


def fed(feeds: dict[int, Fed], subset: Subset, mode: Mode, **options: Any) -> Feed:
    """The feed of a subset, kept in `feeds`; `feed_of` makes it with `options`, anew if the data were replaced.

    For another mode than the subset's own it is a copy over the same data, since a pass of one may lie within a pass
    of the other.
    """
    source = (subset, subset.dataset, subset.keys, subset.buckets)
    kept = feeds.get(id(subset))
    if kept is None or any(old is not new for old, new in zip(kept.source, source, strict=True)):
        before = kept.own.length if kept else 0
        kept = feeds[id(subset)] = Fed(source, feed_of(subset, before=before, **options), {})
    if mode != subset.mode and mode not in kept.others:
        kept.others[mode] = kept.own.over_the_same()
    feed = kept.own if mode == subset.mode else kept.others[mode]
    feed.mode = mode
    return feed


def rows_for(number: int, before: int) -> int:
    """The number of rows of columns on the device for `number` items; `before` is that of the columns they replace.

    Steps are compiled for this number, so a dataset that has grown gets a power of two: room to grow without another
    compilation.

    >>> rows_for(1000, 0), rows_for(1100, 1000), rows_for(2000, 2048), rows_for(1000, 2048)
    (1000, 2048, 2048, 1000)
    """
    if number <= before < 2 * number:
        return before
    return 1 << (number - 1).bit_length() if number > before > 0 else number


def feed_of(
    subset: Subset,
    *,
    residency: str,
    put: Callable[[Mapping[str, Any]], Mapping[str, Any]],
    room: Callable[[], int],
    before: int = 0,
    threads: int = 1,
) -> Feed:
    """The feed that `residency` names.

    With "auto", items known to be the same every time are columns: on the device if they take at most half of the
    bytes that `room` says are free there, else on the host if they take at most half of its free memory. All others are
    streamed. Of a subset with buckets, columns are in host memory. `before` is the number of rows of the columns that
    these replace. So many `threads` read the items of columns.
    """
    _check_replaced(subset)
    first, sample = subset.sample()
    size = len(subset.keys) * batch_bytes(specs_of(sample))
    if size >= LARGE and residency != "stream":
        gc.collect()  # frees the data of experiments without references, as after a notebook cell ran again
    if residency == "auto":
        residency = _roomy(subset, size, room, before) if is_columnar(subset) else "stream"
    buckets = subset.buckets
    if residency == "stream":
        check_keys(subset.dataset, subset.keys, subset=subset.name)  # the other feeds read every item now anyway
        if buckets is not None:
            return BucketedStreamFeed(subset, buckets, first, sample)
        return StreamedFeed(subset, first, sample)
    if buckets is not None:
        bucketed = BucketedHostFeed(subset, buckets, specs_of(sample), threads=threads)
        _tell_kept_draws(subset)
        return bucketed
    kept, columns = _checked_columns(subset, sample, threads)
    _tell_kept_draws(subset)
    if residency == "device":
        return ResidentFeed(subset, columns, put, kept, before=before)
    return HostFeed(subset, columns, kept)


def _checked_columns(
    subset: Subset, sample: Mapping[str, Any], threads: int
) -> tuple[np.ndarray | None, Mapping[str, Any]]:
    """Places of keys with rows (None: all), and columns; refuses values that the first item's dtype would change."""
    kept, columns = columns_of(subset, threads=threads)
    if subset.has_own_batch:
        check_rows(columns, subset.keys, subset=subset.name)
    else:
        again = ((key, subset.items_of([key], [0])[0]) for key in subset.keys)
        check_kinds(specs_of(columns), specs_of(sample), again, subset=subset.name)
    return kept, columns


def _tell_kept_draws(subset: Subset) -> None:
    if subset.is_training and not is_columnar(subset) and changes(subset):
        said = (
            "Items of subset %r hold random draws, and are read only once here: all epochs have the same draws.\n"
            "Set residency='stream', or draw in chunk_processors, as those of ops do."
        )
        log.warning(said, subset.name)


def _check_replaced(subset: Subset) -> None:
    """Refuse a `batch` of its own beside buckets, and warn of `batches`, which nothing here calls."""
    if subset.buckets and subset.has_own_batch:
        raise DatasetError(
            f"Subset {subset.name!r} has both buckets and a `batch` of its own.",
            f"{type(subset).__name__}.batch",
            "Leave one of them out; what `batch` does to single items could be a transform of its dataset.",
        )
    if subset.replaces("batches", of=Subset):
        said = (
            "%s.batches was replaced, but it only serves to look at batches. To train and evaluate on other batches, "
        )
        log.warning(said + "replace batch(keys) or query_item(key).", type(subset).__name__)


def _roomy(subset: Subset, size: int, room: Callable[[], int], before: int) -> str:
    """The residency with room for columns of `size` bytes: "device", else "host", else "stream"."""
    if subset.buckets is None:
        rows = rows_for(len(subset.keys), before)
        if size // len(subset.keys) * rows <= SHARE * room():
            return "device"
    return "host" if size <= SHARE * free_host_memory() else "stream"
