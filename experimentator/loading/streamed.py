"""The feed that reads items as they are needed; workers read the batches of several blocks at once."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any

import numpy as np

from experimentator.data.items import DatasetError, check_names
from experimentator.loading.blocks import Block, Making, Pass, Rows, specs_of
from experimentator.loading.feeds import Feed
from experimentator.loading.kinds import check_rows, kind_error, kind_of
from experimentator.loading.sieve import Loose, Sieve
from experimentator.loading.threads import Threads
from experimentator.loading.workers import Workers
from experimentator.subset import Subset


class StreamedFeed(Feed):
    """Items read as they are needed, stacked a block at a time; `workers` read batches of several blocks at once."""

    place = "streamed"
    bucket: int | None = None

    def __init__(self, subset: Subset, first: Hashable, sample: Mapping[str, Any]):
        super().__init__(subset)
        self.first = first
        self.specs = specs_of(sample)
        self.names = _of_items(sample)
        self.object_names = [name for name in sample if name not in self.specs]
        self.held: list[Any] = [None]  # a list, so that copies for other modes share the processes that read

    def cycle(self, batch_size: int) -> Pass:
        positions, drop_last = self.orders.of(self.mode)
        self.start_processes()
        return Stream(self, positions, Rows(np.arange(len(positions)), batch_size, drop_last), self.pool())

    def read(self, keys: Sequence[Hashable], visits: Sequence[int], columns: dict[str, np.ndarray], start: int) -> Any:
        """Read one batch into the columns from row `start` on; returns the places kept (None: all), and objects."""
        into = {name: column[start : start + len(keys)] for name, column in columns.items()}
        reader: Any = self.processes or self.subset
        kept, batch = reader.read(keys, visits, into=into, bucket=self.bucket)
        if self.subset.has_own_batch:
            check_rows({name: batch[name] for name in into if name in batch}, keys, subset=self.subset.name)
        if kept is not None and not len(kept):
            return kept, {}
        there = keys if kept is None else [keys[place] for place in kept]
        check_names(_of_items(batch), self.names, key=there[0], first=self.first, subset=self.subset.name)
        for name in self.specs:
            if name in into and batch[name] is not into[name]:
                into[name][slice(None) if kept is None else kept] = self._checked(name, batch[name], there)
        return kept, {name: values for name, values in batch.items() if name not in self.specs}

    @property
    def processes(self) -> Any:
        """The worker processes, or None."""
        return self.held[0]

    def pool(self) -> Threads | None:
        """The threads of a pass; None for one worker."""
        if self.workers is None or self.workers == Workers(1):
            return None
        return Threads(self.workers.count, "experimentator-worker")

    def start_processes(self) -> None:
        """Start worker processes, if `workers` asks for them, with copies of the subset as it is now."""
        if self.workers is None or not self.workers.are_processes:
            self.held[0] = None
        elif self.processes is None or not self.processes.hold(self.subset, self.workers.count):
            from experimentator.loading.processes import Processes  # takes 0.1 s

            self.held[0] = Processes(self.subset, self.workers.count)

    def _checked(self, name: str, values: Any, keys: Sequence[Hashable]) -> np.ndarray:
        if self._fits(name, values):
            return np.asarray(values).astype(self.specs[name].dtype, copy=False)
        odd = next((key for key in keys if not self._fits(name, self.subset.batch([key])[name])), keys[0])
        seen, spec = specs_of({name: values}).get(name), self.specs[name]
        if self.subset.has_own_batch and seen is not None and seen.dtype == spec.dtype:
            raise DatasetError(
                f"Batches of subset {self.subset.name!r} are of several shapes: {name!r} with key {odd!r} and with "
                f"key {self.first!r}.",
                f"{kind_of(seen)} against {kind_of(spec)}, without the batch axis",
                "Let its `batch` pad to one length for all. Items of several lengths may be several subsets, of one "
                "length each.",
            )
        if not self._fits(name, alone := self.subset.batch([odd])[name]):
            seen = specs_of({name: alone}).get(name)  # stacked with others, it has a dtype that holds all
        error = kind_error(name, self.subset.name, odd, self.first, seen, spec)
        if self._has_changed(name):
            error.add_note(
                f"Key {self.first!r} has changed, too, since it was first read. Where all items change shape between "
                "passes, write `subset.dataset = subset.dataset` before the pass."
            )
        raise error

    def _has_changed(self, name: str) -> bool:
        """Whether the first item has another shape or dtype now than when it was first read."""
        if self.subset.has_own_batch or self.bucket is not None:
            return False
        _, batch = self.subset.read([self.first], [0])
        return name in batch and not self._fits(name, batch[name])

    def _fits(self, name: str, values: Any) -> bool:
        """Whether values have the shape of the first item, and can be cast safely to its dtype."""
        seen, spec = specs_of({name: values}).get(name), self.specs[name]
        return seen is not None and seen.shape == spec.shape and np.can_cast(seen.dtype, spec.dtype, "safe")


class Stream(Pass):
    """One pass of a streamed feed."""

    def __init__(self, feed: StreamedFeed, positions: np.ndarray, rows: Rows, pool: Threads | None, visits: Any = None):
        super().__init__(rows, end=(lambda: None) if pool is None else pool.shutdown)
        self.feed, self.positions, self.pool = feed, positions, pool
        self.keys = feed.subset.keys
        self.visits = feed.subset.visits(positions) if visits is None else visits
        none_left = partial(feed.subset.empty_error, self.keys)
        self.sieve = Sieve(rows.batch_size, drop_last=rows.drop_last, none_left=none_left)
        self.tail = rows.positions[rows.steps * rows.batch_size :]

    @property
    def left_out(self) -> bool:  # type: ignore[override]  # here it may change
        """Whether items read so far were None."""
        return self.sieve.left_out

    def skip(self, batches: int, *, left_out: bool = True) -> None:
        """Begin behind the first `batches`; if items may be `left_out`, they are read again to know which."""
        if left_out:
            self.sieve.skipping = batches
        else:
            super().skip(batches)
            self.sieve.came = self.sieve.went = batches

    def rest(self) -> Making | None:
        """Make a block of the items that wait in the sieve, now that none follow."""
        return None if self.sieve.is_over else self._rest

    def make(self, rows: np.ndarray) -> Making:
        """Let each batch be read into its own rows of the block's columns."""
        feed, places = self.feed, rows.ravel()
        keys = [self.keys[place] for place in self.positions[places].tolist()]
        visits = self.visits[places].tolist()
        placing = feed.placing
        names, size = (feed.specs, rows.size) if placing is None else (placing.names, placing.buffer(rows.shape))
        columns = {name: feed.specs[name].zeros(size) for name in names}
        batches = [slice(start, start + rows.shape[1]) for start in range(0, rows.size, rows.shape[1])]
        reads = [partial(feed.read, keys[part], visits[part], columns, part.start) for part in batches]
        parts = map(self._heeding, reads) if self.pool is None else [self.pool.submit(read) for read in reads]
        return partial(self._finish, rows.shape, keys, columns, parts)

    def _heeding(self, read: Callable[[], Any]) -> Any:
        if self.reader is None:  # else this is its thread, and the training thread waits
            self.meanwhile()
        return read()

    def _rest(self) -> Block | None:
        """Read the rows of the dropped last batch, which may fill one with items that wait; then empty the sieve."""
        if len(self.tail) and (self.sieve.waiting is not None or not self.sieve.went):
            tail, self.tail = self.tail, self.tail[:0]
            return self.make(tail[None])()
        return self._placed(self.sieve.rest(self.ahead))

    def _finish(self, shape: Any, keys: list[Hashable], columns: dict[str, Any], parts: Iterable[Any]) -> Block | None:
        """Wait until every batch of the block is read, then cut what is kept into batches."""
        read = [part.result() if isinstance(part, Future) else part for part in parts]
        names = self.feed.object_names
        objects = {name: [one for _, objects in read for one in objects.get(name, ())] for name in names}
        if all(kept is None for kept, _ in read):
            return self._placed(self.sieve.cut(Loose(columns, keys, objects), shape, self.ahead))
        places = [number * shape[1] + np.arange(shape[1]) if kept is None else number * shape[1] + kept
                  for number, (kept, _) in enumerate(read)]  # fmt: skip
        kept = np.concatenate(places)
        rows = Loose({name: column[kept] for name, column in columns.items()}, [keys[one] for one in kept], objects)
        return self._placed(self.sieve.cut(rows, shape, self.ahead))

    def _placed(self, block: Block | None) -> Block | None:
        return block if block is None or self.feed.placing is None else self.feed.placing(block)


def _of_items(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(name.removeprefix("batch_") for name in names)
