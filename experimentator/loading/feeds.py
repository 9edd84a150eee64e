"""What a feed is: the data of one subset, pass by pass."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Self

from experimentator.graph import Mode
from experimentator.loading.blocks import Pass, Placing, Spec
from experimentator.loading.orders import Orders
from experimentator.loading.workers import Workers
from experimentator.subset import Subset


class Feed(ABC):
    """The data of a subset; `cycle` begins a pass over them. What one kind lacks is empty, as here."""

    place: ClassVar[str]  # where the data lie, in words
    resident = False  # all of them on the device, where only row numbers travel
    length = 0  # rows of the columns there
    specs: Mapping[str, Spec]  # names, shapes and dtypes of batches
    parts: Sequence[Any] = ()  # of a subset with buckets, one for each: its own `specs`, and `placing` of its blocks
    mode: Mode | None = None  # of the passes that begin; None for the own of the subset
    placing: Placing | None = None  # how blocks that travel reach the device
    workers: Workers | None = None  # what reads items; None for the thread that trains

    def __init__(self, subset: Subset):
        self.subset = subset
        self.orders = Orders(subset)

    @abstractmethod
    def cycle(self, batch_size: int) -> Pass:
        """Start a pass."""

    def over_the_same(self) -> Self:
        """A feed of the same data for passes of another mode."""
        return copy.copy(self)

    def tables(self) -> Iterator[tuple[Mapping[str, Any], list[Hashable]]]:
        """The columns that are held, each time with the keys of their rows; of what is streamed none."""
        yield from ()
