"""Feeds: the batches of one cycle as `(columns, index, keys)` blocks, resident or streamed.

A step runs the K batches of a block in one call: batch k is rows `index[k]` of the columns. A resident feed hands out
the same columns every time and the next K rows of the epoch's order; a streamed feed stacks the block's own items.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from experimentator.items import DatasetError, check_names, is_numeric
from experimentator.subset import Subset, columns_of

RESIDENT_BYTES = 4 << 30  # a subset of more is streamed, so that it leaves a device its memory, unless told otherwise


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


class ResidentFeed:
    """The whole subset as columns, kept where `put` places them; only row numbers travel."""

    resident = True

    def __init__(
        self, subset: Subset, columns: Mapping[str, Any], put: Callable[[Mapping[str, Any]], Mapping[str, Any]]
    ):
        self.subset = subset
        self.specs = specs_of(columns)
        self.columns = put({name: columns[name] for name in self.specs})
        self.objects = {name: values for name, values in columns.items() if name not in self.specs}

    def cycle(self, batch_size: int) -> _Cycle:
        """Start a pass."""
        return _Cycle(_rows(self.subset, batch_size), self._block)

    def _block(self, rows: np.ndarray) -> Block:
        objects = {name: Picked(values, rows) for name, values in self.objects.items()}
        return Block(self.columns, rows, Picked(self.subset.keys, rows), objects)


class StreamedFeed:
    """Items read as they are needed, stacked a block at a time."""

    resident = False

    def __init__(self, subset: Subset, sample: Mapping[str, Any]):
        self.subset = subset
        self.specs = specs_of(sample)
        self.names = _of_items(sample)

    def cycle(self, batch_size: int) -> _Cycle:
        """Start a pass."""
        return _Cycle(_rows(self.subset, batch_size), self._block)

    def _block(self, rows: np.ndarray) -> Block:
        known = self.subset.keys
        keys = [known[position] for position in rows.flat]
        batch = self.subset.batch(keys)
        check_names(_of_items(batch), self.names, key=keys[0], first=known[0], subset=self.subset.name)
        columns = {name: self._checked(name, batch[name], keys) for name in self.specs}
        index = np.arange(rows.size, dtype=np.int32).reshape(rows.shape)
        objects = {name: Picked(values, index) for name, values in batch.items() if name not in self.specs}
        return Block(columns, index, Picked(keys, index), objects)

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
    subset: Subset, *, residency: str, put: Callable[[Mapping[str, Any]], Mapping[str, Any]]
) -> ResidentFeed | StreamedFeed:
    """A resident feed where items are known to be the same every time and to take little room, else a streamed one.

    `residency` "device" and "stream" leave no choice.
    """
    if residency not in ("auto", "device", "stream"):
        raise ValueError(f"residency={residency!r} is not known. Write 'auto', 'device' or 'stream'.")
    if not len(subset):
        subset.batch(())
    sample = subset.batch(subset.keys[:1])
    size = len(subset.keys) * sum(np.asarray(sample[name]).nbytes for name in specs_of(sample))
    if residency == "stream" or (residency == "auto" and size > RESIDENT_BYTES):
        return StreamedFeed(subset, sample)
    columns = columns_of(subset)
    if columns is None and residency == "device":
        columns = subset.batch(subset.keys)
    return StreamedFeed(subset, sample) if columns is None else ResidentFeed(subset, columns, put)


def _rows(subset: Subset, batch_size: int) -> Rows:
    if not len(subset):
        subset.batch(())
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
