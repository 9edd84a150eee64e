"""Random changes of images, in TRAIN only unless `mode=` says otherwise; each image draws its own.

Each call of an op draws once, from its `generator`: a `keras.random.SeedGenerator` made from `seed`, which may be
replaced. Two ops with the same number as `seed` make the same draws: so an image and its mask are flipped, cut and
turned together.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any

import keras

from experimentator.graph import Mode
from experimentator.ops.images import check_images, check_size, check_window
from experimentator.ops.op import InPlace, Op, is_number, widened

_AXES = {"horizontal": (2,), "vertical": (1,), "both": (1, 2)}


@dataclass(eq=False)
class Drawing(Op):
    """An op that draws random numbers, in TRAIN only unless `mode=` says otherwise; equal seeds give equal draws."""

    seed: int | keras.random.SeedGenerator | None = field(default=None, kw_only=True)
    mode: Mode = field(default=Mode.TRAIN, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.seed, keras.random.SeedGenerator):
            self._generator = self.seed
            return
        seen = f"its seed is {self.seed!r}"
        write = "Give a whole number from 0 to 2147483647, which every framework takes."
        self.require(self.seed is None or isinstance(self.seed, Integral), seen=seen, write=write)
        try:
            self._generator = keras.random.SeedGenerator(self.seed if self.seed is None else int(self.seed))
        except (ValueError, OverflowError, RuntimeError):  # each framework has bounds and an error of its own
            self.require(False, seen=seen, write=write)

    @property
    def generator(self) -> Any:
        """Where draws come from; may be replaced by another `keras.random.SeedGenerator`."""
        return self._generator

    @generator.setter
    def generator(self, generator: Any) -> None:
        self.seed = self._generator = generator  # a public attribute changes: a compiled graph is traced anew

    def draw(self, tensor: Any, count: int) -> Any:
        """[B, count] float32, uniform in [0, 1)."""
        shape = (keras.ops.shape(tensor)[0], count)
        return keras.random.uniform(shape, dtype="float32", seed=self._generator)


@dataclass(eq=False)
class RandomOp(Drawing, InPlace):
    """An op that draws for one tensor of images: `name` [B, H, W, ...] any dtype."""


@dataclass(eq=False)
class RandomFlip(RandomOp):
    """Mirror some of the images: `name` [B, H, W, ...] any dtype, unchanged in shape and dtype.

    `axis` is "horizontal" (left and right change places), "vertical", or "both", which decides each by itself. An image
    and its mask are flipped together by two ops of the same `seed`: `RandomFlip("batch_mask", seed=7)`.

    >>> import numpy as np
    >>> from experimentator.graph import Chunk
    >>> chunk = Chunk({"batch_input": np.array([[[1, 2, 3]]], "uint8")}, mode=Mode.TRAIN)
    >>> RandomFlip("batch_input", probability=1.0)(chunk)
    >>> np.asarray(chunk["batch_input"]).tolist()
    [[[3, 2, 1]]]

    Raises:
        DeclarationError: for another axis, or a probability outside [0, 1], when the op is made.
        TensorError: for fewer than three axes.
    """

    axis: str = "horizontal"
    probability: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        write = f"Write one of {', '.join(map(repr, _AXES))}."
        self.require(self.axis in _AXES, seen=f"there is no axis {self.axis!r}", write=write)
        seen = f"its probability is {self.probability!r}"
        self.require(0 <= self.probability <= 1, seen=seen, write="Give a share of the images, from 0 to 1.")

    def compute(self, tensor: Any) -> Any:
        check_images(self, self.name, tensor)
        axes = _AXES[self.axis]
        flips = self.draw(tensor, len(axes)) < self.probability
        for place, axis in enumerate(axes):
            chosen = widened(flips[:, place], len(tensor.shape))
            tensor = keras.ops.where(chosen, keras.ops.flip(tensor, axis=axis), tensor)
        return tensor


@dataclass(eq=False)
class RandomCrop(RandomOp):
    """Cut a window from a random place of each image: `name` [B, H, W, ...] -> [B, h, w, ...] with `size` (h, w).

    Images are first surrounded by `padding` rows and columns of zeros. All places are equally likely.

    >>> import numpy as np
    >>> from experimentator.graph import Chunk
    >>> chunk = Chunk({"batch_input": np.ones([2, 8, 8, 3], "uint8")}, mode=Mode.TRAIN)
    >>> RandomCrop("batch_input", (6, 5))(chunk)
    >>> tuple(chunk["batch_input"].shape)
    (2, 6, 5, 3)

    Raises:
        DeclarationError: for a size that is not two numbers above 0, or a padding below 0, when the op is made.
        TensorError: for fewer than three axes, or images smaller than the window.
    """

    size: Sequence[int]
    padding: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_size(self, self.size)
        self.require(self.padding >= 0, seen="its padding is below 0", write="Give a number of pixels.")

    def compute(self, tensor: Any) -> Any:
        check_window(self, self.size, tensor, padding=self.padding, write="Give a smaller size, or more padding.")
        edge = (self.padding, self.padding)
        padded = keras.ops.pad(tensor, ((0, 0), edge, edge, *[(0, 0)] * (len(tensor.shape) - 3))) if edge[0] else tensor
        batch, height, width, *rest = keras.ops.shape(padded)
        draws = self.draw(padded, 2)
        top = _places(draws[:, :1], height - self.size[0])
        left = _places(draws[:, 1:], width - self.size[1])
        rows = counted(batch)[:, None] * height + top + counted(self.size[0])
        columns = left + counted(self.size[1])
        pixels = keras.ops.reshape(padded, (-1, *rest))  # one gather of whole pixels: the quickest of six ways tried
        return keras.ops.take(pixels, rows[:, :, None] * width + columns[:, None, :], axis=0)


def span(given: Any) -> tuple[float, ...]:
    """One number as (-number, number), two as they are; nothing of what is neither."""
    return (-1.0 * given, given) if is_number(given) else tuple(given) if isinstance(given, Iterable) else ()


def counted(size: Any) -> Any:
    """0 to `size` - 1, as int32."""
    return keras.ops.arange(size, dtype="int32")


def _places(draws: Any, last: Any) -> Any:
    """Draws in [0, 1) to whole numbers from 0 to `last`."""
    span = keras.ops.cast(last, "float32") + 1.0
    return keras.ops.minimum(keras.ops.cast(keras.ops.floor(draws * span), "int32"), keras.ops.cast(last, "int32"))
