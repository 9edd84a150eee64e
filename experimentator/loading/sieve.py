"""Makes whole batches of a stream of rows from which some are left out."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from experimentator.loading.blocks import Ahead, Block, block_of


@dataclass(frozen=True)
class Loose:
    """Rows that are in no batch yet: columns {name: [N, ...]}, N keys, and lists of N objects."""

    columns: Mapping[str, np.ndarray]
    keys: list[Hashable]
    objects: Mapping[str, list[Any]]

    def take(self, places: Any) -> Loose:
        """Some of the rows, copied."""
        places = np.asarray(places, np.intp)
        columns = {name: column[places] for name, column in self.columns.items()}
        objects = {name: [values[place] for place in places] for name, values in self.objects.items()}
        return Loose(columns, [self.keys[place] for place in places], objects)

    def followed_by(self, other: Loose) -> Loose:
        """These rows, then those."""
        columns = {name: np.concatenate([column, other.columns[name]]) for name, column in self.columns.items()}
        objects = {name: [*values, *other.objects[name]] for name, values in self.objects.items()}
        return Loose(columns, [*self.keys, *other.keys], objects)

    def block(self, batch_size: int) -> Block:
        """The rows as batches; their number is a multiple of `batch_size`."""
        return block_of(self.columns, np.arange(len(self.keys)).reshape(-1, batch_size), self.keys, self.objects)


class Sieve:
    """Cuts kept rows into batches; rows that fill none wait for the next block, or for the end of the pass.

    As long as nothing is left out, blocks pass through unchanged. The first `skipping` batches are dropped, since they
    were trained on already. A block has at most `ahead(done)` batches, as in `Pass.take`.

    >>> sieve = Sieve(2, drop_last=False, none_left=ValueError)
    >>> rows, ahead = Loose({"x": np.array([0, 2, 3])}, [*"acd"], {}), lambda done: 1  # of [2, 2]; b is left out
    >>> sieve.cut(rows, (2, 2), ahead).columns["x"].tolist(), sieve.rest(ahead).columns["x"].tolist()
    ([0, 2], [3])
    """

    def __init__(self, batch_size: int, *, drop_last: bool, none_left: Callable[[], Exception]):
        self.batch_size, self.drop_last, self.none_left = batch_size, drop_last, none_left
        self.waiting: Loose | None = None
        self.came = self.went = self.skipping = 0  # numbers of batches: read, handed on, still to skip
        self.left_out = self.is_over = False

    def cut(self, rows: Loose, shape: tuple[int, int], ahead: Ahead) -> Block | None:
        """The next block, given the kept rows of a read block of `shape` (K, B); None if they fill no batch."""
        is_whole = self.waiting is None and not self.skipping and self.came == self.went
        self.came += shape[0]
        self.left_out |= len(rows.keys) < shape[0] * shape[1]
        if is_whole and not self.left_out:
            self.went = self.came
            return rows.block(shape[1])
        self.waiting = rows if self.waiting is None else self.waiting.followed_by(rows)
        return self._next(ahead)

    def rest(self, ahead: Ahead) -> Block | None:
        """The next block at the end of the pass, a smaller batch last; raises if the pass had no items at all."""
        block, left = self._next(ahead), self.waiting
        if block is not None or self.is_over:
            return block
        self.is_over, self.waiting = True, None
        if left is not None and left.keys and not self.skipping and (not self.went or not self.drop_last):
            self.went += 1
            return left.block(len(left.keys))
        if not self.went and not self.skipping:
            raise self.none_left()
        return None

    def _next(self, ahead: Ahead) -> Block | None:
        """As many whole batches of the waiting rows as a block may hold."""
        if self.waiting is None:
            return None
        rows, size = self.waiting, self.batch_size
        skipped = min(self.skipping, len(rows.keys) // size)
        self.skipping, self.went = self.skipping - skipped, self.went + skipped
        count = min(len(rows.keys) // size - skipped, ahead(self.went))
        begin, end = skipped * size, (skipped + count) * size
        self.waiting = rows.take(range(end, len(rows.keys))) if end < len(rows.keys) else None
        if not count:
            return None
        self.went += count
        return rows.take(range(begin, end)).block(size)
