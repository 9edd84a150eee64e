"""Random changes of how bright pixels are, in TRAIN only unless `mode=` says otherwise; each image draws its own.

The ops work on the range of a pixel: [0, 255] for integers, [0, 1] for floats, or [0, `scale`] where that is given.
Results are clipped to it, so list these ops above Standardize.

>>> import numpy as np
>>> from experimentator.graph import Chunk, Mode
>>> chunk = Chunk({"batch_input": np.full([2, 4, 4, 3], 100, "uint8")}, mode=Mode.TRAIN)
>>> RandomBrightness("batch_input", 0.1)(chunk)
>>> bool(np.all(np.abs(np.asarray(chunk["batch_input"], int) - 100) <= 26))
True
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import keras

from experimentator.ops.augment import RandomOp, span
from experimentator.ops.images import check_images
from experimentator.ops.op import dtype_of, is_discrete, is_number, rounded, widened


@dataclass(eq=False)
class Intensity(RandomOp):
    """What all ops of this module share: images are brought into [0, 1], changed, clipped, and brought back."""

    scale: float | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        fine = self.scale is None or self.scale > 0
        self.require(fine, seen=f"its scale is {self.scale!r}", write="Give the largest value of a pixel.")

    def compute(self, tensor: Any) -> Any:
        check_images(self, self.name, tensor)
        scale = self.scale or (255.0 if is_discrete(tensor) else 1.0)
        images = self.change(keras.ops.cast(tensor, "float32") / scale)
        return rounded(keras.ops.clip(images, 0.0, 1.0) * scale, dtype_of(tensor))

    def change(self, images: Any) -> Any:
        """[B, H, W, ...] float32 in [0, 1], to the same; what leaves the range is clipped."""
        raise NotImplementedError

    def draw_between(self, images: Any, low: float, high: float) -> Any:
        """One number for each image, uniform between the two, as [B, 1, 1, ...]."""
        return widened(low + (high - low) * self.draw(images, 1), len(images.shape))


@dataclass(eq=False)
class RandomBrightness(Intensity):
    """Add a number to each image: `name` [B, H, W, ...] any number, unchanged in shape and dtype.

    The number is uniform between -`amount` and `amount`, or between the two given, in shares of the range of a pixel.

    >>> import numpy as np
    >>> from experimentator.graph import Chunk, Mode
    >>> chunk = Chunk({"batch_input": np.array([[[0, 100, 250]]], "uint8")}, mode=Mode.TRAIN)
    >>> RandomBrightness("batch_input", (0.2, 0.2))(chunk)
    >>> np.asarray(chunk["batch_input"]).tolist()
    [[[51, 151, 255]]]

    Raises:
        DeclarationError: for an amount that is not one number, 0 or above, or two in order, when the op is made.
        TensorError: for fewer than three axes.
    """

    amount: float | Sequence[float] = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        low_to_high(self, "amount", span(self.amount), above=-math.inf)

    def change(self, images: Any) -> Any:
        low, high = span(self.amount)
        return images + self.draw_between(images, low, high)


@dataclass(eq=False)
class RandomContrast(Intensity):
    """Spread each image about its mean colour: `name` [B, H, W, ...] any number, unchanged in shape and dtype.

    m + f (x - m), with m the mean of each channel of an image, and f uniform between 1 - `amount` and 1 + `amount`,
    or between the two factors given.

    >>> import numpy as np
    >>> from experimentator.graph import Chunk, Mode
    >>> chunk = Chunk({"batch_input": np.array([[[90, 110]]], "uint8")}, mode=Mode.TRAIN)
    >>> RandomContrast("batch_input", (2.0, 2.0))(chunk)
    >>> np.asarray(chunk["batch_input"]).tolist()
    [[[80, 120]]]

    Raises:
        DeclarationError: for an amount that is not a share, or two factors in order, when the op is made.
        TensorError: for fewer than three axes.
    """

    amount: float | Sequence[float] = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        low_to_high(self, "amount", self._factors(), above=0.0)

    def change(self, images: Any) -> Any:
        mean = keras.ops.mean(images, axis=(1, 2), keepdims=True)
        return mean + (images - mean) * self.draw_between(images, *self._factors())

    def _factors(self) -> tuple[float, ...]:
        given: Any = self.amount
        return (1.0 - given, 1.0 + given) if is_number(given) else span(given)


@dataclass(eq=False)
class Gamma(Intensity):
    """Brighten or darken the tones between black and white: `name` [B, H, W, ...] any number, same shape and dtype.

    x^g for x in [0, 1], with log g uniform between the logarithms of `exponents`, so that 1/g is as likely as g.

    >>> import numpy as np
    >>> from experimentator.graph import Chunk, Mode
    >>> chunk = Chunk({"batch_input": np.array([[[0.0, 0.5, 1.0]]])}, mode=Mode.TRAIN)
    >>> Gamma("batch_input", (2.0, 2.0))(chunk)
    >>> np.asarray(chunk["batch_input"]).tolist()
    [[[0.0, 0.25, 1.0]]]

    Raises:
        DeclarationError: for exponents that are not two numbers above 0, in order, when the op is made.
        TensorError: for fewer than three axes.
    """

    exponents: Sequence[float] = (0.8, 1.25)

    def __post_init__(self) -> None:
        super().__post_init__()
        low_to_high(self, "exponents", self.exponents, above=1e-6)

    def change(self, images: Any) -> Any:
        low, high = self.exponents
        exponent = keras.ops.exp(self.draw_between(images, math.log(low), math.log(high)))
        is_black = images <= 0  # there, the gradient of a power below 1 is no number
        powers = keras.ops.power(keras.ops.where(is_black, 1.0, keras.ops.minimum(images, 1.0)), exponent)
        return keras.ops.where(is_black, 0.0, powers)


@dataclass(eq=False)
class Noise(Intensity):
    """Add normal noise to every value: `name` [B, H, W, ...] any number, unchanged in shape and dtype.

    Its standard `deviation` is a share of the range of a pixel.

    >>> import numpy as np
    >>> from experimentator.graph import Chunk, Mode
    >>> chunk = Chunk({"batch_input": np.full([1, 100, 100], 0.5)}, mode=Mode.TRAIN)
    >>> Noise("batch_input", 0.1, seed=1)(chunk)
    >>> round(float(np.asarray(chunk["batch_input"]).std()), 2)
    0.1

    Raises:
        DeclarationError: for a deviation below 0, when the op is made.
        TensorError: for fewer than three axes.
    """

    deviation: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.deviation >= 0, seen=f"its deviation is {self.deviation!r}", write="Give 0 or more.")

    def change(self, images: Any) -> Any:
        shape = keras.ops.shape(images)
        return images + keras.random.normal(shape, stddev=self.deviation, dtype="float32", seed=self.generator)


def low_to_high(op: Intensity, name: str, ends: Any, *, above: float) -> None:
    """Refuse ends that are not (least, largest)."""
    fine = isinstance(ends, Sequence) and len(ends) == 2 and all(map(is_number, ends)) and above <= ends[0] <= ends[1]
    write = "Give the largest change, or (least, largest)." if above < 1e-6 else "Give (least, largest), above 0."
    op.require(fine, seen=f"its {name} is {getattr(op, name)!r}", write=write)
