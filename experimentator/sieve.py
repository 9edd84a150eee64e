"""Whole batches out of rows of which some are left out."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from experimentator.blocks import Block, Picked


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
        index = np.arange(len(self.keys), dtype=np.int32).reshape(-1, batch_size)
        objects = {name: Picked(values, index) for name, values in self.objects.items()}
        return Block(self.columns, index, Picked(self.keys, index), objects)


class Sieve:
    """Cuts the rows that are kept into batches; what fills none waits for the next block, or for the end of the pass.

    As long as nothing is left out, blocks pass through it as they are.

    >>> sieve = Sieve(2, drop_last=False, none_left=ValueError)
    >>> rows = Loose({"x": np.arange(4)}, [*"abcd"], {})
    >>> sieve.cut(rows, np.array([0, 2, 3]), 2).columns["x"].tolist(), sieve.rest().columns["x"].tolist()
    ([0, 2], [3])
    """

    def __init__(self, batch_size: int, *, drop_last: bool, none_left: Callable[[], Exception]):
        self.batch_size, self.drop_last, self.none_left = batch_size, drop_last, none_left
        self.waiting: Loose | None = None
        self.is_empty = True

    def cut(self, rows: Loose, kept: np.ndarray | None, size: int) -> Block | None:
        """The batches that are whole: those of `size` rows as they come, others anew; None where there are none."""
        if kept is None and self.waiting is None:
            self.is_empty = False
            return rows.block(size)
        if kept is not None:
            rows = rows.take(kept)
        if self.waiting is not None:
            rows = self.waiting.followed_by(rows)
        whole = len(rows.keys) // self.batch_size * self.batch_size
        self.waiting = rows.take(range(whole, len(rows.keys)))
        if not whole:
            return None
        self.is_empty = False
        return rows.take(range(whole)).block(self.batch_size)

    def rest(self) -> Block | None:
        """What is left at the end of the pass, as a smaller batch; a pass without any item is an error."""
        left = self.waiting
        if left is not None and left.keys and (self.is_empty or not self.drop_last):
            return left.block(len(left.keys))
        if self.is_empty:
            raise self.none_left()
        return None
