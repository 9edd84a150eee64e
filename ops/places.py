"""Keep or drop some places of an axis, such as channels, classes or points.

>>> import numpy as np
>>> from experimentator.graph import Chunk, Mode
>>> chunk = Chunk({"batch_points": np.array([[[3, 5], [4, 6]]])}, mode=Mode.ALL)
>>> Select("batch_points", 1, axis=1)(chunk)
>>> np.asarray(chunk["batch_points"]).tolist()
[[4, 6]]
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import keras

from experimentator.ops.op import InPlace, is_whole, plain


@dataclass(eq=False)
class AtPlaces(InPlace):
    """An op on some places of an axis: one, or several."""

    places: int | Sequence[int]
    axis: int = -1

    def __post_init__(self) -> None:
        super().__post_init__()
        listed = _listed(self.places)
        fine = bool(listed) and all(is_whole(place) for place in listed)
        self.require(fine, seen=f"its places are {self.places!r}", write="Give one place, or a list of them.")

    def places_of(self, tensor: Any) -> list[int]:
        """Places as a list, counted from 0 where the size is known; refuses those that do not exist."""
        listed = _listed(self.places)
        rank = len(tensor.shape)
        size = tensor.shape[self.axis] if -rank <= self.axis < rank else 0
        if size is None:
            return listed
        if not all(-size <= place < size for place in listed):
            rule = f"Axis {self.axis} must have place{'s' * (len(listed) > 1)} {self.places}"
            raise self.refuse(rule, tensor, "Give places that exist, or another axis.")
        return [place % size for place in listed]


@dataclass(eq=False)
class Select(AtPlaces):
    """Keep some places of an axis: `name` [B, ..., N] -> [B, ..., n] for n `places`, in their order.

    One place, given as a number, removes the axis. Places below 0 count from the end; an array of integers is a
    list of them.

    >>> import numpy as np
    >>> from experimentator.graph import Chunk, Mode
    >>> chunk = Chunk({"batch_input": np.array([[10, 20, 30]])}, mode=Mode.ALL)
    >>> Select("batch_input", [2, 0])(chunk)
    >>> np.asarray(chunk["batch_input"]).tolist()
    [[30, 10]]

    Raises:
        DeclarationError: for no places, or one that is no whole number, when the op is made.
        TensorError: if there is no such axis or place.
    """

    def compute(self, tensor: Any) -> Any:
        kept = self.places_of(tensor)
        taken = keras.ops.take(tensor, kept, axis=self.axis)
        return keras.ops.squeeze(taken, axis=self.axis) if is_whole(self.places) else taken


@dataclass(eq=False)
class Drop(AtPlaces):
    """Leave out some places of an axis: `name` [B, ..., N] -> [B, ..., N - n] for n `places`.

    >>> import numpy as np
    >>> from experimentator.graph import Chunk, Mode
    >>> chunk = Chunk({"batch_logits": np.array([[10, 20, 30]])}, mode=Mode.ALL)
    >>> Drop("batch_logits", 0)(chunk)
    >>> np.asarray(chunk["batch_logits"]).tolist()
    [[20, 30]]

    Raises:
        DeclarationError: for no places, or one that is no whole number, when the op is made.
        TensorError: if there is no such axis or place, or its size is not known.
    """

    def compute(self, tensor: Any) -> Any:
        dropped = self.places_of(tensor)
        size = tensor.shape[self.axis]
        if size is None:
            write = "Give a tensor of known size, or write ops.Select."
            raise self.refuse("The size of the axis must be known", tensor, write)
        kept = keras.ops.convert_to_tensor([place for place in range(size) if place not in dropped], dtype="int32")
        return keras.ops.take(tensor, kept, axis=self.axis)


def _listed(places: Any) -> list[Any]:
    places = plain(places)
    return list(places) if isinstance(places, Iterable) else [places]
