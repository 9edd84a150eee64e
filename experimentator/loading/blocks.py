"""Blocks: K batches of a pass that go to one call of the compiled step, and the order they are cut from."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from typing import Any, NamedTuple

import numpy as np

from experimentator.data.items import is_numeric
from experimentator.loading.threads import Threads, awaited

BLOCK_BYTES = 64 << 20  # the most bytes of a block that travels to the device, unless it is one batch
BLOCKS_AHEAD = 3  # blocks that are begun while the device works on one


@dataclass(frozen=True)
class Block:
    """K batches: `columns` {name: [N, ...]}, `index` [K, B] int32, the keys of each batch, and host-side objects.

    `fixed` is for columns that were copied to the device: whether they have just the rows of K batches, for the
    function compiled for K, and no padding; None if resident.
    """

    columns: Mapping[str, Any]
    index: np.ndarray
    keys: Sequence[Sequence[Hashable]]
    objects: Mapping[str, Any]
    fixed: bool | None = None


Ahead = Callable[[int], int]  # given the batches done, how many to run next
Making = Callable[[], Block | None]  # waits for a block that was begun; None if all its items were left out


class Spec(NamedTuple):
    """Shape (batch axis first, None) and dtype of one name of a batch."""

    shape: tuple[int | None, ...]
    dtype: np.dtype[Any]

    def zeros(self, rows: int) -> np.ndarray:
        """An array of `rows` zeros: rows that nothing fills reach the device, too, and must hold valid numbers."""
        return np.zeros((rows, *(int(size or 0) for size in self.shape[1:])), self.dtype)


def specs_of(batch: Mapping[str, Any]) -> dict[str, Spec]:
    """The numeric names of a batch, with shape and dtype.

    >>> specs_of({"batch_input": np.zeros((2, 3), "uint8"), "batch_path": ["a", "b"]})
    {'batch_input': Spec(shape=(None, 3), dtype=dtype('uint8'))}
    """
    arrays = {n: np.asarray(v) for n, v in batch.items() if not isinstance(v, list) and is_numeric(v)}
    return {name: Spec((None, *array.shape[1:]), array.dtype) for name, array in arrays.items()}


def items_like(specs: Mapping[str, Spec], subsets: Iterable[Any], rows: int) -> dict[str, np.ndarray]:
    """For each name of `specs`, an item of a subset with these sizes, repeated `rows` times; names without one lack.

    Items are cast to the dtypes of `specs`, which `predict` may be given, other than those of subsets. With buckets,
    the item fits in the bucket of these sizes, so that its lengths match its arrays.
    """
    found: dict[str, np.ndarray] = {}
    shapes = {name: spec.shape[1:] for name, spec in specs.items()}
    for subset in subsets:
        if specs.keys() - found.keys():
            batch = subset.sample(shapes)[1]
            fits = [n for n, seen in specs_of(batch).items() if n in specs and seen.shape[1:] == specs[n].shape[1:]]
            items = {name: np.asarray(batch[name])[:1].astype(specs[name].dtype) for name in fits}
            found = {name: np.repeat(item, rows, axis=0) for name, item in items.items()} | found
    return found


@dataclass(frozen=True)
class Rows:
    """The order of one pass, `positions` [N] int32, cut into batches; a last, smaller batch may be kept."""

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
    """Copies blocks to the device: the `names` that the graph reads, in buffers of `rows` rows, by `put`.

    Buffers have one size, so that a shorter block does not make the step trace again. A block whose number of batches
    `is_fixed`, as most are once the pace has settled, has a compiled function of its own, and is not padded.
    """

    names: Sequence[str]
    rows: int
    put: Callable[[Mapping[str, Any]], Mapping[str, Any]]
    is_fixed: Callable[[int], bool] = lambda count: False

    def __call__(self, block: Block) -> Block:
        """The same block with its columns on the device."""
        rows = block.index.size
        fixed = self.is_fixed(len(block.index)) and all(len(block.columns[name]) == rows for name in self.names)
        columns = {name: padded(block.columns[name], rows if fixed else self.rows) for name in self.names}
        return replace(block, columns=self.put(columns), fixed=fixed)

    def buffer(self, shape: tuple[int, ...]) -> int:
        """Rows of the buffer for batches of `shape` [K, B]."""
        return prod(shape) if self.is_fixed(shape[0]) else self.rows


def padded(values: np.ndarray, rows: int) -> np.ndarray:
    """The values, padded with zeros to `rows` rows; no batch reads the padding."""
    if len(values) >= rows:
        return values
    buffer = np.zeros((rows, *values.shape[1:]), values.dtype)
    buffer[: len(values)] = values
    return buffer


class Pass:
    """A cursor over the blocks of one pass.

    Blocks are made in two parts, so that some are read while one is trained on: `make(rows)` starts to read a block and
    returns a function that waits for it and returns it, or None if all its items were left out.
    """

    buckets: np.ndarray | None = None  # the number of the bucket of each batch, [steps]
    left_out = False  # whether items read so far were left out
    meanwhile: Callable[[], None] = staticmethod(lambda: None)  # called while items are waited for; may raise
    ahead: Ahead = staticmethod(lambda done: 1)  # as `take` was given it
    reader: Threads | None = None  # waits for blocks that are read ahead

    def __init__(self, rows: Rows, end: Callable[[], None] = lambda: None):
        self.rows, self.end = rows, end
        self.steps, self.batch_size = rows.steps, rows.batch_size
        self.done = 0
        self.begun: deque[Future[Block | None]] = deque()

    def read_ahead(self) -> None:
        """From now on, have the next blocks begun while one is in use, so that workers need not wait for its end."""
        self.reader = Threads(1, "experimentator-feed")

    def skip(self, batches: int, *, left_out: bool = True) -> None:
        """Begin behind the first `batches`, trained on before; `left_out`: some of their items may be None."""
        self.done = batches

    def begin(self) -> Making | None:
        """Start to read the next block; returns the function that waits for it, None when the pass is over."""
        rows = self.rows.take(self.done, self.ahead(self.done))
        if rows is None:
            return self.rest()
        self.done += len(rows)
        return self.make(rows)

    def make(self, rows: np.ndarray) -> Making:
        """Start to read a block of these rows, `[K, B]`."""
        raise NotImplementedError

    def rest(self) -> Making | None:
        """Like `begin`, when no rows are left: items may wait that filled no batch; here none."""
        return None

    def take(self, ahead: Ahead) -> Block | None:
        """The next block that has batches, at most `ahead(done)` after `done` batches; None when the pass is over."""
        self.ahead = ahead
        while (making := self._following()) is not None:
            if (block := making()) is not None:
                return block
        self.close()
        return None

    def close(self) -> None:
        """Stop reading, and drop the blocks that were begun; done by itself at the end of the pass."""
        self.begun.clear()
        self.ahead = Pass.ahead  # the one that was given holds its runners, and they this pass, with its data
        if self.reader is not None:
            self.reader.shutdown()
        self.end()

    def _following(self) -> Making | None:
        """Like `begin`; where blocks are read ahead, of the one that was begun first."""
        if self.reader is None:
            return self.begin()
        while len(self.begun) <= BLOCKS_AHEAD and (making := self.begin()) is not None:
            self.begun.append(self.reader.submit(making))
        return partial(awaited, self.begun.popleft(), self.meanwhile) if self.begun else None


class ColumnsPass(Pass):
    """A pass over whole columns: `block(rows)` cuts a block out; `left_out`: some keys have no row."""

    def __init__(self, rows: Rows, block: Callable[[np.ndarray], Block], *, left_out: bool):
        super().__init__(rows)
        self.block, self.left_out = block, left_out

    def make(self, rows: np.ndarray) -> Making:
        """The function that cuts the block out; there is nothing to read."""
        return partial(self.block, rows)


class Picked(Sequence[Any]):
    """Values for each batch of a block, such as its keys, picked by `rows` [K, B] only when they are read.

    >>> list(Picked("abcd", np.array([[3, 0], [1, 2]])))
    [('d', 'a'), ('b', 'c')]
    """

    def __init__(self, values: Sequence[Any], rows: np.ndarray):
        self.values, self.rows = values, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: Any) -> Any:
        return tuple(self.values[position] for position in self.rows[place])


def block_of(
    columns: Mapping[str, Any],
    rows: np.ndarray,
    keys: Sequence[Hashable],
    objects: Mapping[str, Sequence[Any]],
    placing: Placing | None = None,
) -> Block:
    """A block of K batches, whose values were gathered into `columns`, [K*B, ...] each; on the device, with `placing`.

    `rows` [K, B] are the places of its items in `keys` and `objects`.
    """
    index = np.arange(rows.size, dtype=np.int32).reshape(rows.shape)
    block = Block(columns, index, Picked(keys, rows), {name: Picked(values, rows) for name, values in objects.items()})
    return block if placing is None else placing(block)


def batch_bytes(specs: Mapping[str, Spec]) -> int:
    """Bytes of one row."""
    return sum(spec.dtype.itemsize * prod(size or 1 for size in spec.shape) for spec in specs.values())
