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

from experimentator.ops.errors import TensorError
from experimentator.ops.op import InPlace, Op, is_whole, plain


@dataclass(eq=False)
class Select(InPlace):
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

    places: int | Sequence[int]
    axis: int = -1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_places(self, self.places)

    def compute(self, tensor: Any) -> Any:
        kept = places_of(self, tensor, self.places, self.axis)
        taken = keras.ops.take(tensor, kept, axis=self.axis)
        return keras.ops.squeeze(taken, axis=self.axis) if is_whole(self.places) else taken


@dataclass(eq=False)
class Drop(InPlace):
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

    places: int | Sequence[int]
    axis: int = -1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_places(self, self.places)

    def compute(self, tensor: Any) -> Any:
        dropped = places_of(self, tensor, self.places, self.axis)
        size = tensor.shape[self.axis]
        if size is None:
            write = "Give a tensor of known size, or write Select."
            raise TensorError(self, rule="The size of the axis must be known", tensors={self.name: tensor}, write=write)
        return keras.ops.take(tensor, [place for place in range(size) if place not in dropped], axis=self.axis)


def check_places(op: Op, places: Any) -> None:
    """Refuse places that are neither a whole number nor several."""
    listed = _listed(places)
    fine = bool(listed) and all(is_whole(place) for place in listed)
    op.require(fine, seen=f"its places are {places!r}", write="Give one place, or a list of them.")


def places_of(op: InPlace, tensor: Any, places: int | Sequence[int], axis: int) -> list[int]:
    """Places as a list, counted from 0 where the size is known; refuses those that do not exist."""
    listed = _listed(places)
    rank = len(tensor.shape)
    size = tensor.shape[axis] if -rank <= axis < rank else 0
    if size is None:
        return listed
    if not all(-size <= place < size for place in listed):
        rule = f"Axis {axis} must have place{'s' * (len(listed) > 1)} {places}"
        raise TensorError(op, rule=rule, tensors={op.name: tensor}, write="Give places that exist, or another axis.")
    return [place % size for place in listed]


def _listed(places: Any) -> list[Any]:
    places = plain(places)
    return list(places) if isinstance(places, Iterable) else [places]
