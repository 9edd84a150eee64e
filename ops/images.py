"""Images in another size, or as uint8 to be looked at.

>>> import numpy as np
>>> from experimentator.graph import Chunk, Mode
>>> chunk = Chunk({"batch_input": np.ones([2, 5, 5, 3], "uint8")}, mode=Mode.ALL)
>>> Pad("batch_input", 1)(chunk)
>>> CenterCrop("batch_input", (5, 5))(chunk)
>>> bool(np.all(np.asarray(chunk["batch_input"]) == 1))
True
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import keras

from experimentator.ops.errors import TensorError
from experimentator.ops.op import InPlace, Op, dtype_of, holding, is_discrete, is_whole, plain, rounded

_INTERPOLATIONS = ("bilinear", "nearest")  # others have no XLA form


@dataclass(eq=False)
class Resize(InPlace):
    """Stretch to another size: `name` [B, H, W, C] or [B, H, W] any number -> [B, h, w, ...] with `size` (h, w).

    The dtype stays; bilinear values of integers and booleans are rounded. `interpolation` is "bilinear" or "nearest",
    with pixels as areas, so that corners stay corners. Nothing is blurred first: halve in steps where fine patterns
    matter.

    >>> import numpy as np
    >>> from experimentator.graph import Chunk, Mode
    >>> chunk = Chunk({"batch_input": np.array([[[0, 100]]], "uint8")}, mode=Mode.ALL)
    >>> Resize("batch_input", (1, 4))(chunk)
    >>> np.asarray(chunk["batch_input"]).tolist()
    [[[0, 25, 75, 100]]]

    Raises:
        DeclarationError: for a size that is not two numbers above 0, or another interpolation, when the op is made.
        TensorError: for other numbers of axes.
    """

    size: Sequence[int]
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_size(self, self.size)
        check_interpolation(self, self.interpolation)

    def compute(self, tensor: Any) -> Any:
        rank = len(tensor.shape)
        if rank not in (3, 4):
            write = "Write ops.Apply to reshape them above."
            raise self.refuse("Images are [B, H, W, C] or [B, H, W]", tensor, write)
        if self.interpolation == "nearest":
            return _nearest(_nearest(tensor, self.size[0], 1), self.size[1], 2)
        images = keras.ops.cast(tensor[..., None] if rank == 3 else tensor, "float32")
        resized = keras.ops.image.resize(images, tuple(self.size), "bilinear", data_format="channels_last")
        return rounded(resized[..., 0] if rank == 3 else resized, dtype_of(tensor))


@dataclass(eq=False)
class Pad(InPlace):
    """Surround with one value: `name` [B, H, W, ...] any number -> [B, top + H + bottom, left + W + right, ...].

    `padding` is one number of pixels, (rows, columns) for both sides of each, or ((top, bottom), (left, right)). The
    dtype stays, but integers become float32 for a value that is not whole.

    >>> import numpy as np
    >>> from experimentator.graph import Chunk, Mode
    >>> chunk = Chunk({"batch_input": np.array([[[7]]])}, mode=Mode.ALL)
    >>> Pad("batch_input", ((0, 0), (2, 1)), value=1)(chunk)
    >>> np.asarray(chunk["batch_input"]).tolist()
    [[[1, 1, 7, 1]]]

    Raises:
        DeclarationError: for a padding of another form, or below 0, when the op is made.
        TensorError: for fewer than three axes, or a value that the dtype cannot hold.
    """

    padding: int | Sequence[int] | Sequence[Sequence[int]]
    value: float = field(default=0.0, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        sides = self._sides()
        fine = len(sides) == 2 and all(len(pair) == 2 and all(is_whole(n) and n >= 0 for n in pair) for pair in sides)
        write = "Give one number, (rows, columns), or ((top, bottom), (left, right)), 0 or above."
        self.require(fine, seen=f"its padding is {self.padding!r}", write=write)

    def compute(self, tensor: Any) -> Any:
        check_images(self, self.name, tensor)
        widths = ((0, 0), *self._sides(), *[(0, 0)] * (len(tensor.shape) - 3))
        tensor = holding(self.value, tensor, op=self, name=self.name)
        kind = bool if dtype_of(tensor) == "bool" else int if is_discrete(tensor) else float
        return keras.ops.pad(tensor, widths, constant_values=kind(self.value) if self.value else None)

    def _sides(self) -> tuple[tuple[int, ...], ...]:
        given: Any = plain(self.padding)
        sides = given if isinstance(given, (list, tuple)) else (given, given)
        return tuple(tuple(side) if isinstance(side, (list, tuple)) else (side, side) for side in sides)


@dataclass(eq=False)
class CenterCrop(InPlace):
    """Cut out the middle: `name` [B, H, W, ...] any dtype -> [B, h, w, ...] with `size` (h, w).

    Where the margin is odd, the lesser part of it is above and to the left.

    >>> import numpy as np
    >>> from experimentator.graph import Chunk, Mode
    >>> chunk = Chunk({"batch_input": np.arange(6).reshape(1, 1, 6)}, mode=Mode.ALL)
    >>> CenterCrop("batch_input", (1, 3))(chunk)
    >>> np.asarray(chunk["batch_input"]).tolist()
    [[[1, 2, 3]]]

    Raises:
        DeclarationError: for a size that is not two numbers above 0, when the op is made.
        TensorError: for fewer than three axes, or images smaller than the window.
    """

    size: Sequence[int]

    def __post_init__(self) -> None:
        super().__post_init__()
        check_size(self, self.size)

    def compute(self, tensor: Any) -> Any:
        check_window(self, self.size, tensor, write="Give a smaller size, or write Pad above.")
        height, width = self.size
        top, left = ((size - part) // 2 for size, part in zip(keras.ops.shape(tensor)[1:3], self.size))
        return tensor[:, top : top + height, left : left + width]


@dataclass(eq=False)
class ToUint8(InPlace):
    """Turn what a network writes into an image to look at: `name` [...] any number -> uint8, round(x * scale).

    [0, 1] becomes [0, 255]; values beyond become 0 or 255, NaN 0. It undoes Scale.

    >>> import numpy as np
    >>> from experimentator.graph import Chunk, Mode
    >>> chunk = Chunk({"batch_heatmap": np.array([0.0, 0.5, 1.0, 7.0])}, mode=Mode.INFER)
    >>> ToUint8("batch_heatmap")(chunk)
    >>> np.asarray(chunk["batch_heatmap"]).tolist()
    [0, 128, 255, 255]

    Raises:
        DeclarationError: for a scale that is not above 0, when the op is made.
    """

    scale: float = 255.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.scale > 0, seen=f"its scale is {self.scale!r}", write="Give what becomes of 1.")

    def compute(self, tensor: Any) -> Any:
        values = keras.ops.cast(tensor, "float32") * self.scale
        return rounded(keras.ops.where(keras.ops.isnan(values), 0.0, values), "uint8")


def _nearest(images: Any, size: int, axis: int) -> Any:
    """The pixels nearest to `size` places, in their dtype; Keras' own are float32, with a gradient that XLA lacks."""
    twice = 2 * keras.ops.arange(size, dtype="int32") + 1
    return keras.ops.take(images, twice * keras.ops.shape(images)[axis] // (2 * size), axis=axis)


def check_images(op: Op, name: str, tensor: Any) -> None:
    """Refuse a tensor that has no rows and columns."""
    if len(tensor.shape) < 3:
        write = "Give [B, H, W, C] or [B, H, W]."
        raise TensorError(op, rule="Images have rows and columns", tensors={name: tensor}, write=write)


def check_window(op: InPlace, size: Sequence[int], tensor: Any, *, padding: int = 0, write: str) -> None:
    """Refuse images that are smaller than the window to cut out of them."""
    check_images(op, op.name, tensor)
    for window, image in zip(size, tuple(tensor.shape)[1:3]):
        if image is not None and image + 2 * padding < window:
            raise op.refuse("A window fits its image", tensor, write)


def check_size(op: Op, size: Any) -> None:
    """Refuse a size that is not (height, width)."""
    fine = isinstance(size, Sequence) and len(size) == 2 and all(is_whole(n) and n > 0 for n in size)
    op.require(fine, seen=f"its size is {size!r}", write="Give (height, width).")


def check_interpolation(op: Op, interpolation: str) -> None:
    """Refuse an interpolation that has no XLA form."""
    write = f"Write one of {', '.join(map(repr, _INTERPOLATIONS))}."
    op.require(interpolation in _INTERPOLATIONS, seen=f"there is no interpolation {interpolation!r}", write=write)
