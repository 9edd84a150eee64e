"""Feeds: the batches of one cycle as `(columns, index, keys)` blocks, resident or streamed.

A step runs the K batches of a block in one call: batch k is rows `index[k]` of the columns. A resident feed hands out
the same columns every time and the next K rows of the epoch's order; a streamed feed stacks the block's own items.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from experimentator.items import DatasetError
from experimentator.subset import Subset, columns_of


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
    arrays = {name: np.asarray(values) for name, values in batch.items() if not isinstance(values, list)}
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


class ResidentFeed:
    """The whole subset as columns, kept where `put` places them; only row numbers travel."""

    resident = True

    def __init__(
        self, subset: Subset, columns: Mapping[str, Any], put: Callable[[Mapping[str, Any]], Mapping[str, Any]]
    ):
        self.subset = subset
        numeric = specs_of(columns)
        self.specs = numeric
        self.columns = put({name: columns[name] for name in numeric})
        self.objects = {name: values for name, values in columns.items() if name not in numeric}

    def cycle(self, batch_size: int) -> _Cycle:
        """Start a pass."""
        return _Cycle(_rows(self.subset, batch_size), self._block)

    def _block(self, rows: np.ndarray) -> Block:
        objects = {name: [[values[i] for i in row] for row in rows] for name, values in self.objects.items()}
        return Block(self.columns, rows, _Keys(self.subset.keys, rows), objects)


class StreamedFeed:
    """Items read as they are needed, stacked a block at a time."""

    resident = False

    def __init__(self, subset: Subset, sample: Mapping[str, Any]):
        self.subset = subset
        self.specs = specs_of(sample)

    def cycle(self, batch_size: int) -> _Cycle:
        """Start a pass."""
        return _Cycle(_rows(self.subset, batch_size), self._block)

    def _block(self, rows: np.ndarray) -> Block:
        keys = _Keys(self.subset.keys, rows)
        batch = self.subset.batch([key for row in keys for key in row])
        columns = {name: self._checked(name, batch[name], keys) for name in self.specs}
        chunks = np.arange(rows.size, dtype=np.int32).reshape(rows.shape)
        objects = {n: [[v[i] for i in row] for row in chunks] for n, v in batch.items() if n not in self.specs}
        return Block(columns, chunks, keys, objects)

    def _checked(self, name: str, values: Any, keys: Sequence[Any]) -> np.ndarray:
        spec = self.specs[name]
        seen = np.asarray(values)
        if seen.dtype == spec.dtype and seen.shape[1:] == spec.shape[1:]:
            return seen
        raise DatasetError(
            f"{name!r} of subset {self.subset.name!r} changes between batches, from key {keys[0][0]!r} on.",
            f"{list(seen.shape[1:])} {seen.dtype} where the first batch had {list(spec.shape[1:])} {spec.dtype}",
            "Let the dataset give every item one shape and dtype, such as np.float32(...).",
        )


class _Cycle:
    """One pass: a cursor over its rows."""

    def __init__(self, rows: Rows, block: Callable[[np.ndarray], Block]):
        self.rows, self.block = rows, block
        self.steps, self.batch_size = rows.steps, rows.batch_size
        self.done = 0

    def take(self, count: int) -> Block | None:
        rows = self.rows.take(self.done, count)
        if rows is None:
            return None
        self.done += len(rows)
        return self.block(rows)


class _Keys(Sequence[Any]):
    """The keys of each batch of a block, looked up when somebody asks."""

    def __init__(self, keys: Sequence[Hashable], rows: np.ndarray):
        self.keys, self.rows = keys, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: Any) -> Any:
        return tuple(self.keys[position] for position in self.rows[place])


def feed_of(
    subset: Subset, *, residency: str, put: Callable[[Mapping[str, Any]], Mapping[str, Any]]
) -> ResidentFeed | StreamedFeed:
    """A resident feed where the dataset is known to be deterministic (or `residency="device"`), else a streamed one."""
    if residency not in ("auto", "device", "stream"):
        raise ValueError(f"residency={residency!r} is not known. Write 'auto', 'device' or 'stream'.")
    if not len(subset):
        subset.batch(())
    columns = None
    if residency != "stream":
        columns = columns_of(subset) if residency == "auto" else subset.batch(subset.keys)
    if columns is not None:
        return ResidentFeed(subset, columns, put)
    return StreamedFeed(subset, subset.batch(subset.keys[:1]))


def _rows(subset: Subset, batch_size: int) -> Rows:
    if not len(subset):
        subset.batch(())
    return Rows(_positions(subset), batch_size, drop_last=subset.is_training)


def _positions(subset: Subset) -> np.ndarray:
    if not subset.reorders:
        return subset.order()
    places = {key: place for place, key in enumerate(subset.keys)}
    try:
        return np.array([places[key] for key in subset.shuffled_keys()], dtype=np.int32)
    except KeyError as error:
        raise DatasetError(
            f"shuffled_keys() of subset {subset.name!r} gives a key that the subset does not have.",
            repr(error.args[0]),
            "Give keys out of subset.keys, in any order and number.",
        ) from None
