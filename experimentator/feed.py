"""Feeds: the batches of one cycle as `(columns, index, keys)` blocks, resident or streamed.

A step runs the K batches of a block in one call: batch k is rows `index[k]` of the columns. A resident feed hands out
the same columns every time and the next K rows of the epoch's order. A host feed gathers the block's rows from columns
in host memory, a streamed feed reads and stacks the block's items; both blocks are placed on the device whole.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from typing import Any, NamedTuple, Protocol

import numpy as np

from experimentator.graph import Mode
from experimentator.items import DatasetError, check_names, is_numeric
from experimentator.memory import SHARE, free_host_memory
from experimentator.subset import Subset, columns_of, is_columnar

BLOCK_BYTES = 64 << 20  # a block that travels is at most this large, or one batch


@dataclass(frozen=True)
class Block:
    """K batches: `columns` {name: [N, ...]}, `index` [K, B] int32, the keys of each batch, and host-side objects."""

    columns: Mapping[str, Any]
    index: np.ndarray
    keys: Sequence[Sequence[Hashable]]
    objects: Mapping[str, Any]


class Spec(NamedTuple):
    """What one name of a batch looks like: shape with the batch axis first, and dtype."""

    shape: tuple[int | None, ...]
    dtype: np.dtype[Any]

    def empty(self, rows: int) -> np.ndarray:
        """An array of that many rows, not filled yet."""
        return np.empty((rows, *(int(size or 0) for size in self.shape[1:])), self.dtype)


class Cycle(Protocol):
    """One pass over a subset."""

    steps: int
    batch_size: int

    def take(self, count: int) -> Block | None:
        """The next `count` batches at most; None when the pass is over."""


def specs_of(batch: Mapping[str, Any]) -> dict[str, Spec]:
    """The numeric names of a batch, with shape and dtype.

    >>> specs_of({"batch_input": np.zeros((2, 3), "uint8"), "batch_path": ["a", "b"]})
    {'batch_input': Spec(shape=(None, 3), dtype=dtype('uint8'))}
    """
    arrays = {n: np.asarray(v) for n, v in batch.items() if not isinstance(v, list) and is_numeric(v)}
    return {name: Spec((None, *array.shape[1:]), array.dtype) for name, array in arrays.items()}


@dataclass(frozen=True)
class Rows:
    """The order of one pass, cut into batches: `[K, B]` positions and a last, smaller row where it is kept."""

    positions: np.ndarray
    batch_size: int
    drop_last: bool

    @property
    def whole(self) -> int:
        """Number of full batches."""
        return len(self.positions) // self.batch_size

    @property
    def steps(self) -> int:
        """Number of batches, with the partial one where it is kept."""
        partial = len(self.positions) % self.batch_size
        return self.whole + bool(partial and not (self.drop_last and self.whole))

    def take(self, start: int, count: int) -> np.ndarray | None:
        """Batches `start` to `start + count`, all of one size: `[K, B]` int32."""
        if start >= self.steps:
            return None
        if start >= self.whole:
            return self.positions[start * self.batch_size :][None]
        stop = min(start + count, self.whole)
        return self.positions[start * self.batch_size : stop * self.batch_size].reshape(stop - start, self.batch_size)


@dataclass(frozen=True)
class Placing:
    """How blocks that travel reach the device: `names` the graph reads, in buffers of `rows`, through `put`.

    Buffers have one size, so that a shorter block does not make the step be traced again.
    """

    names: Sequence[str]
    rows: int
    put: Callable[[Mapping[str, Any]], Mapping[str, Any]]

    def __call__(self, block: Block) -> Block:
        """The same block with its columns on the device."""
        columns = {name: self._padded(block.columns[name]) for name in self.names}
        return replace(block, columns=self.put(columns))

    def _padded(self, values: np.ndarray) -> np.ndarray:
        if len(values) >= self.rows:
            return values
        buffer = np.zeros((self.rows, *values.shape[1:]), values.dtype)
        buffer[: len(values)] = values
        return buffer


class ResidentFeed:
    """The whole subset as columns, kept where `put` places them; only row numbers travel."""

    resident = True
    mode: Mode | None = None

    def __init__(
        self, subset: Subset, columns: Mapping[str, Any], put: Callable[[Mapping[str, Any]], Mapping[str, Any]]
    ):
        self.subset = subset
        self.specs = specs_of(columns)
        self.columns = put({name: columns[name] for name in self.specs})
        self.objects = {name: values for name, values in columns.items() if name not in self.specs}

    def cycle(self, batch_size: int) -> _Cycle:
        """Start a pass."""
        return _Cycle(_rows(self.subset, batch_size, self.mode), self._block)

    def _block(self, rows: np.ndarray) -> Block:
        objects = {name: Picked(values, rows) for name, values in self.objects.items()}
        return Block(self.columns, rows, Picked(self.subset.keys, rows), objects)


class HostFeed:
    """The whole subset as columns in host memory; the rows of a block are gathered and travel."""

    resident = False
    mode: Mode | None = None
    placing: Placing | None = None

    def __init__(self, subset: Subset, columns: Mapping[str, Any]):
        self.subset = subset
        self.specs = specs_of(columns)
        self.columns = columns

    def cycle(self, batch_size: int) -> _Cycle:
        """Start a pass."""
        return _Cycle(_rows(self.subset, batch_size, self.mode), self._block)

    def _block(self, rows: np.ndarray) -> Block:
        names = self.specs if self.placing is None else self.placing.names
        columns = {name: np.take(self.columns[name], rows.ravel(), axis=0) for name in names}
        index = np.arange(rows.size, dtype=np.int32).reshape(rows.shape)
        objects = {name: Picked(values, rows) for name, values in self.columns.items() if name not in self.specs}
        block = Block(columns, index, Picked(self.subset.keys, rows), objects)
        return block if self.placing is None else self.placing(block)


class StreamedFeed:
    """Items read as they are needed, stacked a block at a time; `workers` threads share the batches of a block."""

    resident = False
    mode: Mode | None = None
    placing: Placing | None = None
    workers = 0

    def __init__(self, subset: Subset, sample: Mapping[str, Any]):
        self.subset = subset
        self.specs = specs_of(sample)
        self.names = _of_items(sample)

    def cycle(self, batch_size: int) -> _Cycle:
        """Start a pass."""
        if self.workers < 2:
            return _Cycle(_rows(self.subset, batch_size, self.mode), self._block)
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="experimentator-worker")
        return _Cycle(_rows(self.subset, batch_size, self.mode), partial(self._block, pool=pool), close=pool.shutdown)

    def _block(self, rows: np.ndarray, pool: ThreadPoolExecutor | None = None) -> Block:
        """Every batch is read into its part of the block, so that workers share nothing but the buffers."""
        known = self.subset.keys
        keys = [known[position] for position in rows.flat]
        names, size = (self.specs, rows.size) if self.placing is None else (self.placing.names, self.placing.rows)
        columns = {name: self.specs[name].empty(size) for name in names}
        starts = range(0, rows.size, rows.shape[1])
        read = partial(self._read, keys, rows.shape[1], columns)
        parts = list(map(read, starts) if pool is None else pool.map(read, starts))
        index = np.arange(rows.size, dtype=np.int32).reshape(rows.shape)
        objects = {name: Picked([one for part in parts for one in part[name]], index) for name in parts[0]}
        block = Block(columns, index, Picked(keys, index), objects)
        return block if self.placing is None else self.placing(block)

    def _read(self, keys: Sequence[Hashable], size: int, columns: dict[str, Any], start: int) -> dict[str, Any]:
        """Put one batch into the columns from row `start` on; what is no number is returned."""
        mine = keys[start : start + size]
        batch = self.subset.batch(mine)
        check_names(_of_items(batch), self.names, key=mine[0], first=self.subset.keys[0], subset=self.subset.name)
        for name in self.specs:
            values = self._checked(name, batch[name], mine)
            if name in columns:
                columns[name][start : start + size] = values
        return {name: values for name, values in batch.items() if name not in self.specs}

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


class _Cycle:
    """One pass: a cursor over its rows."""

    def __init__(self, rows: Rows, block: Callable[[np.ndarray], Block], close: Callable[[], None] = lambda: None):
        self.rows, self.block, self.close = rows, block, close
        self.steps, self.batch_size = rows.steps, rows.batch_size
        self.done = 0

    def take(self, count: int) -> Block | None:
        rows = self.rows.take(self.done, count)
        if rows is None:
            self.close()
            return None
        self.done += len(rows)
        return self.block(rows)


class Picked(Sequence[Any]):
    """What belongs to each batch of a block, such as its keys, picked out when somebody asks.

    >>> list(Picked("abcd", np.array([[3, 0], [1, 2]])))
    [('d', 'a'), ('b', 'c')]
    """

    def __init__(self, values: Sequence[Any], rows: np.ndarray):
        self.values, self.rows = values, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: Any) -> Any:
        return tuple(self.values[position] for position in self.rows[place])


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


def batch_bytes(specs: Mapping[str, Spec]) -> int:
    """Bytes of one row."""
    return sum(spec.dtype.itemsize * prod(size or 1 for size in spec.shape) for spec in specs.values())


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
