"""How many of its keys a subset visits in an epoch, and in which order."""

from __future__ import annotations

import copy
from collections.abc import Hashable
from typing import Any, Self

import numpy as np

from experimentator.data.chance import generator
from experimentator.data.items import DatasetError
from experimentator.data.reading import visits_of
from experimentator.graph import Mode
from experimentator.scalars import is_whole


class Ordered:
    """The order of a subset's keys: a pure function of seed, name and epoch."""

    name: str
    keys: tuple[Hashable, ...]
    mode: Mode
    seed: int
    epoch: int

    @property
    def is_training(self) -> bool:
        """Whether the subset trains the experiment."""
        return self.mode == Mode.TRAIN

    @property
    def repetitions(self) -> int:
        """How often each key is visited in an epoch; assign to change it."""
        return self._repetitions

    @repetitions.setter
    def repetitions(self, times: Any) -> None:
        if not isinstance(times, (int, float, np.integer, np.floating)) or not times >= 1 or times % 1:
            raise ValueError(f"Subset {self.name!r} has repetitions={times!r}. Write a whole number of at least 1.")
        self._repetitions = int(times)

    @property
    def length(self) -> int | None:
        """How many keys an epoch visits, None for all; assign to change it."""
        return self._length

    @length.setter
    def length(self, length: Any) -> None:
        if length is not None and not is_whole(length, least=1):
            write = "Write how many keys an epoch visits, 1 or more."
            raise DatasetError(f"Subset {self.name!r} has no length.", f"length={length!r}", write)
        self._length: int | None = length if length is None else int(length)

    @property
    def is_part(self) -> bool:
        """Whether an epoch visits `length` keys; not if the class or instance makes its own order."""
        return self.length is not None and not self.reorders and not self.replaces("arrange", of=Ordered)

    def __len__(self) -> int:
        whole = len(self.keys) * self.repetitions
        if not self.is_part or not self.keys:
            return whole
        length = self.length or 0
        return length if self.is_training else min(length, whole)

    @property
    def amount(self) -> str:
        """How many keys an epoch visits, in words."""
        whole = f" of {len(self.keys) * self.repetitions:,}" if self.is_part else ""
        return f"{len(self):,}{whole} items"

    def arrange(self) -> np.ndarray:
        """Positions in `keys` in the order of this epoch, `[len(self)] int32`; shuffled in training."""
        positions = np.tile(np.arange(len(self.keys), dtype=np.int32), self.repetitions)
        length = self.length if self.is_part else None
        if not self.is_training or length is None:
            return self.shuffled(positions) if self.is_training else positions[:length]
        size, start = len(positions), self.epoch * length  # this epoch's stretch of a sequence of whole rounds
        rounds = range(start // size, (start + length - 1) // size + 1)
        found = np.concatenate([self._in_epoch(number).shuffled(positions) for number in rounds])
        return found[start - rounds[0] * size :][:length]

    def _in_epoch(self, epoch: int) -> Self:
        """A copy of the subset for that epoch, with its seed."""
        other = copy.copy(self)
        other.seed, other.epoch = self.seed, epoch  # copies begin with seed and epoch 0
        return other

    def shuffled(self, positions: np.ndarray, *address: Any) -> np.ndarray:
        """The positions, shuffled by seed, name, epoch and `address`."""
        return generator(self.seed, self.name, self.epoch, *address).permutation(positions)

    def shuffled_keys(self) -> tuple[Hashable, ...]:
        """The keys in the order of this epoch; a subclass or an instance may replace it."""
        keys = self.keys
        return tuple(keys[position] for position in self.arrange())

    @property
    def reorders(self) -> bool:
        """Whether `shuffled_keys` was replaced, so that it makes the order."""
        return self.replaces("shuffled_keys", of=Ordered)

    def replaces(self, name: str, *, of: type) -> bool:
        """Whether a subclass, or this instance, has a method of its own in place of that of a class."""
        return name in vars(self) or getattr(type(self), name) is not getattr(of, name)

    def order(self) -> np.ndarray:
        """The order of this epoch as positions in `keys`, [N] int32; by `shuffled_keys`, if that was replaced.

        Raises:
            DatasetError: if `shuffled_keys` gives no keys, or others than `keys`.
        """
        if not self.reorders:
            return self.arrange()
        places = {key: place for place, key in enumerate(self.keys)}
        try:
            positions = [places[key] for key in self.shuffled_keys()]
        except (KeyError, TypeError) as error:
            if isinstance(error, TypeError) and "unhashable" not in str(error):
                raise
            raise self._order_error("gives a key that the subset does not have", repr(error.args[0])) from None
        if not positions:
            raise self._order_error("gives no keys", f"none out of {len(self.keys)}")
        return np.array(positions, dtype=np.int32)

    def visits(self, positions: np.ndarray) -> np.ndarray:
        """For each position in this order, how often its key came before: [N] int."""
        keys = self.keys
        is_once = len(positions) == len(keys) and not np.any(np.bincount(positions) > 1)
        if is_once and len(set(keys)) == len(keys):  # in the order of their places in memory: a fourth of the time
            return np.zeros(len(keys), dtype=np.int64)
        return visits_of([keys[place] for place in positions.tolist()])  # alone: an epoch may be a small part of them

    def _order_error(self, wrong: str, seen: str) -> DatasetError:
        write = (
            "Give keys out of subset.keys, in any order and number. Those that its dataset has gained since are among "
            "them once it is assigned anew: subset.dataset = dataset."
        )
        return DatasetError(f"shuffled_keys() of subset {self.name!r} {wrong}.", seen, write)
