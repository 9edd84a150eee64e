"""Feeds: the batches of one cycle as `(columns, index, keys)` blocks, resident or streamed.

A step runs the K batches of a block in one call: batch k is rows `index[k]` of the columns. A resident feed hands out
the same columns every time and the next K rows of the epoch's order. A host feed gathers the block's rows from columns
in host memory, a streamed feed reads and stacks the block's items; both blocks are placed on the device whole.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np

from experimentator.blocks import Block, Making, Pass, Picked, Placing, Rows, Spec, batch_bytes, specs_of
from experimentator.graph import Mode
from experimentator.items import DatasetError, check_names
from experimentator.memory import SHARE, free_host_memory
from experimentator.subset import Subset, columns_of, is_columnar
from experimentator.workers import Workers


class ResidentFeed:
    """The whole subset as columns, kept where `put` places them; only row numbers travel."""

    resident = True
    place = "on the device"
    mode: Mode | None = None

    def __init__(
        self, subset: Subset, columns: Mapping[str, Any], put: Callable[[Mapping[str, Any]], Mapping[str, Any]]
    ):
        self.subset = subset
        self.specs = specs_of(columns)
        self.columns = put({name: columns[name] for name in self.specs})
        self.objects = {name: values for name, values in columns.items() if name not in self.specs}

    def cycle(self, batch_size: int) -> Pass:
        """Start a pass."""
        return Pass(_rows(self.subset, batch_size, self.mode), lambda rows: partial(self._block, rows))

    def _block(self, rows: np.ndarray) -> Block:
        objects = {name: Picked(values, rows) for name, values in self.objects.items()}
        return Block(self.columns, rows, Picked(self.subset.keys, rows), objects)


class HostFeed:
    """The whole subset as columns in host memory; the rows of a block are gathered and travel."""

    resident = False
    place = "in host memory"
    mode: Mode | None = None
    placing: Placing | None = None

    def __init__(self, subset: Subset, columns: Mapping[str, Any]):
        self.subset = subset
        self.specs = specs_of(columns)
        self.columns = columns

    def cycle(self, batch_size: int) -> Pass:
        """Start a pass."""
        return Pass(_rows(self.subset, batch_size, self.mode), lambda rows: partial(self._block, rows))

    def _block(self, rows: np.ndarray) -> Block:
        names = self.specs if self.placing is None else self.placing.names
        columns = {name: np.take(self.columns[name], rows.ravel(), axis=0) for name in names}
        index = np.arange(rows.size, dtype=np.int32).reshape(rows.shape)
        objects = {name: Picked(values, rows) for name, values in self.columns.items() if name not in self.specs}
        block = Block(columns, index, Picked(self.subset.keys, rows), objects)
        return block if self.placing is None else self.placing(block)


class StreamedFeed:
    """Items read as they are needed, stacked a block at a time; `workers` share the batches of the blocks begun."""

    resident = False
    place = "streamed"
    mode: Mode | None = None
    placing: Placing | None = None
    workers: Workers | None = None

    def __init__(self, subset: Subset, sample: Mapping[str, Any]):
        self.subset = subset
        self.specs = specs_of(sample)
        self.names = _of_items(sample)
        self._processes: Any = None  # made when asked for, kept from pass to pass

    def cycle(self, batch_size: int) -> Pass:
        """Start a pass."""
        rows = _rows(self.subset, batch_size, self.mode)
        self._start_processes()
        if self.workers is None or self.workers == Workers(1):
            return Pass(rows, partial(self._begin, pool=None))
        pool = ThreadPoolExecutor(self.workers.count, thread_name_prefix="experimentator-worker")
        close = partial(pool.shutdown, wait=False, cancel_futures=True)
        return Pass(rows, partial(self._begin, pool=pool), close=close)

    def _start_processes(self) -> None:
        if self.workers is None or not self.workers.are_processes:
            self._processes = None
        elif self._processes is None or not self._processes.hold(self.subset, self.workers.count):
            from experimentator.processes import Processes  # 0.1 s that only those pay who ask for processes

            self._processes = Processes(self.subset, self.workers.count)

    def _begin(self, rows: np.ndarray, pool: ThreadPoolExecutor | None) -> Making:
        """Every batch is read into its part of the block, so that workers share nothing but the buffers."""
        known = self.subset.keys
        keys = [known[position] for position in rows.flat]
        names, size = (
            (self.specs, rows.size) if self.placing is None else (self.placing.names, self.placing.buffer(rows.shape))
        )
        columns = {name: self.specs[name].empty(size) for name in names}
        read = partial(self._read, keys, rows.shape[1], columns)
        starts = range(0, rows.size, rows.shape[1])
        parts = map(read, starts) if pool is None else [pool.submit(read, start) for start in starts]
        return partial(self._finish, rows.shape, keys, columns, parts)

    def _finish(self, shape: Any, keys: Sequence[Hashable], columns: dict[str, Any], parts: Iterable[Any]) -> Block:
        """Wait until every batch of the block is read."""
        read = [part.result() if isinstance(part, Future) else part for part in parts]
        index = np.arange(len(keys), dtype=np.int32).reshape(shape)
        objects = {name: Picked([one for part in read for one in part[name]], index) for name in read[0]}
        block = Block(columns, index, Picked(keys, index), objects)
        return block if self.placing is None else self.placing(block)

    def _read(self, keys: Sequence[Hashable], size: int, columns: dict[str, Any], start: int) -> dict[str, Any]:
        """Put one batch into the columns from row `start` on; what is no number is returned."""
        mine = keys[start : start + size]
        into = {name: column[start : start + size] for name, column in columns.items()}
        batch = self._batch(mine, into)
        check_names(_of_items(batch), self.names, key=mine[0], first=self.subset.keys[0], subset=self.subset.name)
        for name in self.specs:
            if name in into and batch[name] is not into[name]:
                into[name][...] = self._checked(name, batch[name], mine)
        return {name: values for name, values in batch.items() if name not in self.specs}

    def _batch(self, keys: Sequence[Hashable], into: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """The items of `keys` stacked: straight into the columns where nobody has a say in between."""
        if self._processes is not None:
            batch: dict[str, Any] = self._processes.batch(keys)
            return batch
        if type(self.subset).batch is Subset.batch:
            return self.subset.batch(keys, into=into)
        return self.subset.batch(keys)

    def _checked(self, name: str, values: Any, keys: Sequence[Hashable]) -> np.ndarray:
        if self._fits(name, values):
            return np.asarray(values).astype(self.specs[name].dtype, copy=False)
        odd = next((key for key in keys if not self._fits(name, self.subset.batch([key])[name])), keys[0])
        seen, spec = specs_of({name: values}).get(name), self.specs[name]
        raise DatasetError(
            f"{name.removeprefix('batch_')!r} of subset {self.subset.name!r} is another kind of value in key {odd!r} "
            f"than in key {self.subset.keys[0]!r}.",
            f"{_kind(seen)} against {_kind(spec)}",
            "Let the dataset give every item one shape and dtype, such as np.float32(...).",
        )

    def _fits(self, name: str, values: Any) -> bool:
        """Whether values are of the shape of the first item, and lose nothing in its dtype."""
        seen, spec = specs_of({name: values}).get(name), self.specs[name]
        return seen is not None and seen.shape == spec.shape and np.can_cast(seen.dtype, spec.dtype, "safe")


def _of_items(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(name.removeprefix("batch_") for name in names)


def _kind(spec: Spec | None) -> str:
    return "an object" if spec is None else f"{list(spec.shape[1:])} {spec.dtype}"


def feed_of(
    subset: Subset, *, residency: str, put: Callable[[Mapping[str, Any]], Mapping[str, Any]], room: int
) -> ResidentFeed | HostFeed | StreamedFeed:
    """The feed that `residency` names.

    With "auto", items known to be the same every time are columns: on the device if they take at most half of the
    `room` bytes free there, else on the host if they take at most half of its free memory. All else is streamed.
    """
    if residency not in ("auto", "device", "host", "stream"):
        raise ValueError(f"residency={residency!r} is not known. Write 'auto', 'device', 'host' or 'stream'.")
    if not len(subset):
        subset.batch(())
    sample = subset.batch(subset.keys[:1])
    size = len(subset.keys) * batch_bytes(specs_of(sample))
    if residency == "auto" and is_columnar(subset):
        fits = {"device": size <= SHARE * room, "host": size <= SHARE * free_host_memory()}
        residency = next((place for place, enough in fits.items() if enough), "stream")
    if residency in ("auto", "stream"):
        return StreamedFeed(subset, sample)
    columns = columns_of(subset)
    return ResidentFeed(subset, columns, put) if residency == "device" else HostFeed(subset, columns)


def _rows(subset: Subset, batch_size: int, mode: Mode | None) -> Rows:
    """The rows of a pass; evaluating a training subset leaves nothing out, and takes the keys as they are listed."""
    if not len(subset):
        subset.batch(())
    if mode == Mode.EVAL and subset.is_training:
        positions = np.tile(np.arange(len(subset.keys), dtype=np.int32), subset.repetitions)
        return Rows(positions, batch_size, drop_last=False)
    return Rows(_positions(subset), batch_size, drop_last=subset.is_training)


def _positions(subset: Subset) -> np.ndarray:
    if not subset.reorders:
        return subset.order()
    places = {key: place for place, key in enumerate(subset.keys)}
    try:
        positions = [places[key] for key in subset.shuffled_keys()]
    except (KeyError, TypeError) as error:
        if isinstance(error, TypeError) and "unhashable" not in str(error):
            raise
        raise _order_error(subset, "gives a key that the subset does not have", repr(error.args[0])) from None
    if not positions:
        raise _order_error(subset, "gives no keys", f"none out of {len(subset.keys)}")
    return np.array(positions, dtype=np.int32)


def _order_error(subset: Subset, wrong: str, seen: str) -> DatasetError:
    return DatasetError(
        f"shuffled_keys() of subset {subset.name!r} {wrong}.",
        seen,
        "Give keys out of subset.keys, in any order and number.",
    )
