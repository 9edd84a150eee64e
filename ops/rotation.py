"""Turning images, in TRAIN only unless `mode=` says otherwise; each image draws its own angle.

Written with gathers: the frameworks' own transformations of images have no XLA form.

>>> import numpy as np
>>> from experimentator.graph import Chunk, Mode
>>> chunk = Chunk({"batch_input": np.ones([2, 8, 8, 3], "uint8")}, mode=Mode.TRAIN)
>>> RandomRotation("batch_input", 10)(chunk)
>>> tuple(chunk["batch_input"].shape)
(2, 8, 8, 3)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import keras

from experimentator.ops.augment import RandomOp, counted, span
from experimentator.ops.images import check_images, check_interpolation
from experimentator.ops.op import dtype_of, is_number, rounded, widened


@dataclass(eq=False)
class RandomRotation(RandomOp):
    """Turn each image about its middle: `name` [B, H, W, ...] any number, unchanged in shape and dtype.

    The angle is uniform between -`degrees` and `degrees`, or between the two given; above 0 it is counterclockwise.
    Pixels from outside the image are `fill`. `interpolation` is "bilinear", rounded for integers, or "nearest", which
    mixes no values.

    >>> import numpy as np
    >>> from experimentator.graph import Chunk, Mode
    >>> chunk = Chunk({"batch_input": np.array([[[1, 2], [3, 4]]])}, mode=Mode.TRAIN)
    >>> RandomRotation("batch_input", (90, 90))(chunk)
    >>> np.asarray(chunk["batch_input"]).tolist()
    [[[2, 4], [1, 3]]]

    Raises:
        DeclarationError: for degrees that are not a number from 0 on or two in order, or another interpolation.
        TensorError: for fewer than three axes.
    """

    degrees: float | Sequence[float]
    interpolation: str = "bilinear"
    fill: float = field(default=0.0, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_interpolation(self, self.interpolation)
        angles = span(self.degrees)
        fine = len(angles) == 2 and all(map(is_number, angles)) and angles[0] <= angles[1]
        write = "Give the largest angle, 0 or above, or (least, largest)."
        self.require(fine, seen=f"its degrees are {self.degrees!r}", write=write)

    def compute(self, tensor: Any) -> Any:
        check_images(self, self.name, tensor)
        least, largest = span(self.degrees)
        angles = (least + (largest - least) * self.draw(tensor, 1)) * (math.pi / 180)
        rows, columns = _turned(angles, *keras.ops.shape(tensor)[1:3])
        if self.interpolation == "nearest":
            fill = rounded(keras.ops.convert_to_tensor(self.fill, dtype="float32"), dtype_of(tensor))
            return _looked_up(tensor, keras.ops.round(rows), keras.ops.round(columns), fill)
        values, rank = keras.ops.cast(tensor, "float32"), len(tensor.shape)
        total = 0.0
        for row, column, weight in _corners(rows, columns):
            total = total + widened(weight, rank) * _looked_up(values, row, column, self.fill)
        return rounded(total, dtype_of(tensor))


def _turned(angles: Any, height: Any, width: Any) -> tuple[Any, Any]:
    """Where each pixel of the turned images comes from: rows and columns, [B, H, W] float32 each."""
    middle_row, middle_column = ((keras.ops.cast(size, "float32") - 1.0) / 2.0 for size in (height, width))
    down = (keras.ops.cast(counted(height), "float32") - middle_row)[None, :, None]
    right = (keras.ops.cast(counted(width), "float32") - middle_column)[None, None, :]
    cos, sin = keras.ops.cos(angles)[:, :, None], keras.ops.sin(angles)[:, :, None]
    return middle_row + right * sin + down * cos, middle_column + right * cos - down * sin


def _corners(rows: Any, columns: Any) -> list[tuple[Any, Any, Any]]:
    """The four pixels around each place, with their bilinear weights."""
    top, left = keras.ops.floor(rows), keras.ops.floor(columns)
    low, high = rows - top, columns - left
    pairs = [(0, 0, (1 - low) * (1 - high)), (0, 1, (1 - low) * high), (1, 0, low * (1 - high)), (1, 1, low * high)]
    return [(top + down, left + right, weight) for down, right, weight in pairs]


def _looked_up(images: Any, rows: Any, columns: Any, fill: Any) -> Any:
    """The pixels at these places, `fill` where there are none."""
    batch, height, width, *rest = keras.ops.shape(images)
    pixels = keras.ops.reshape(images, (-1, *rest))
    first = (counted(batch) * height * width)[:, None, None]
    i, j = keras.ops.cast(rows, "int32"), keras.ops.cast(columns, "int32")
    inside = (i >= 0) & (i < height) & (j >= 0) & (j < width)
    found = keras.ops.take(pixels, keras.ops.where(inside, first + i * width + j, 0), axis=0)
    return keras.ops.where(widened(inside, len(images.shape)), found, fill)
