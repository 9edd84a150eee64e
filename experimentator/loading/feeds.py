"""The base class of feeds: the data of one subset, pass by pass."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator, Mapping
from typing import Any, ClassVar, Self

from experimentator.graph import Mode
from experimentator.loading.blocks import Pass, Placing, Spec
from experimentator.loading.orders import Orders
from experimentator.loading.workers import Workers
from experimentator.subset import Subset


class Feed(ABC):
    """The data of a subset; `cycle` begins a pass over them. Attributes that a kind of feed lacks stay empty."""

    place: ClassVar[str]  # where the data are, in words
    resident = False  # whether all of them are on the device, so that only row numbers are copied
    length = 0  # rows of the columns on the device
    specs: Mapping[str, Spec]  # names, shapes and dtypes of batches
    mode: Mode  # of the passes that begin
    placing: Placing | None = None  # copies blocks to the device
    workers: Workers | None = None  # they read items; None for the training thread

    def __init__(self, subset: Subset):
        self.subset, self.mode = subset, subset.mode
        self.orders = Orders(subset)

    @abstractmethod
    def cycle(self, batch_size: int) -> Pass:
        """Start a pass."""

    def part(self, bucket: int | None, batch_size: int) -> tuple[Any, int, Any, str]:
        """What a runner runs: the feed, or its part for a bucket; with batch size, and the bucket's sizes and label.

        It has `specs`, and gets the `placing` of its blocks.
        """
        return self, batch_size, None, ""

    def over_the_same(self) -> Self:
        """A feed of the same data for passes of another mode."""
        return copy.copy(self)

    def tables(self) -> Iterator[tuple[Mapping[str, Any], list[Hashable]]]:
        """The columns that the feed holds, with the keys of their rows; none of a streamed subset."""
        yield from ()
