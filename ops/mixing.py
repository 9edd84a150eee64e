"""Images and targets of a batch, mixed in pairs, in TRAIN only unless `mode=` says otherwise.

Input and target change together; targets become shares of classes, [B, K] float32, which SoftmaxCrossEntropy takes.
Those of an id that is no class are NaN, as the loss of one is.

>>> import numpy as np
>>> from experimentator.graph import Chunk, Mode
>>> chunk = Chunk({"batch_input": np.zeros([4, 8, 8, 3]), "batch_target": np.array([0, 1, 2, 1])}, mode=Mode.TRAIN)
>>> CutMix("batch_input", "batch_target", num_classes=3)(chunk)
>>> tuple(chunk["batch_target"].shape), np.asarray(chunk["batch_target"]).sum(-1).round(5).tolist()
((4, 3), [1.0, 1.0, 1.0, 1.0])
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from experimentator.graph import Chunk
from experimentator.ops.augment import Drawing
from experimentator.ops.errors import TensorError
from experimentator.ops.images import check_images
from experimentator.ops.op import as_ids, dtype_of, given_as, is_discrete, rounded, shares_of, widened

_TABLE = 512  # quantiles of the beta distribution in a table, dense enough for
_LARGEST = 10  # an alpha up to this one


@dataclass(eq=False)
class Mixing(Drawing):
    """Mix every sample with another of the batch, and their targets in the same proportion."""

    input: str
    target: str
    num_classes: int | None = field(default=None, kw_only=True)
    alpha: float = field(default=1.0, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        write = f"Give a number above 0, at most {_LARGEST}."
        self.require(0 < self.alpha <= _LARGEST, seen=f"its alpha is {self.alpha!r}", write=write)
        self._table = _beta_table(self.alpha)

    inputs = outputs = given_as("input", "target")

    def __call__(self, chunk: Chunk) -> None:
        images, target = (keras.ops.convert_to_tensor(chunk[name]) for name in self.inputs)
        check_images(self, self.input, images)
        rows = self._rows(images, target)
        draws = self.draw(images, 4)
        partner = keras.ops.argsort(draws[:, 0])  # a random order, in which each sample is partner once
        mixed, kept = self.mix(images, keras.ops.take(images, partner, axis=0), draws[:, 1:])
        kept = widened(kept, len(rows.shape))
        chunk[self.input] = mixed
        chunk[self.target] = kept * rows + (1.0 - kept) * keras.ops.take(rows, partner, axis=0)

    def mix(self, images: Any, others: Any, draws: Any) -> tuple[Any, Any]:
        """The mixed images, and the share [B] of each that is its own; `draws` [B, 3] are uniform in [0, 1)."""
        raise NotImplementedError

    def beta(self, draws: Any) -> Any:
        """Uniform draws to draws from a symmetric beta distribution, by a table: samplers of it have no XLA form."""
        table = keras.ops.convert_to_tensor(self._table)
        place = (1.0 - keras.ops.absolute(2.0 * draws - 1.0)) * (_TABLE - 1)
        lower = keras.ops.clip(keras.ops.floor(place), 0, _TABLE - 2)
        first = keras.ops.cast(lower, "int32")
        low, high = keras.ops.take(table, first), keras.ops.take(table, first + 1)
        half = 0.5 * keras.ops.power(low + (high - low) * (place - lower), 1.0 / self.alpha)
        return keras.ops.where(draws < 0.5, half, 1.0 - half)

    def _rows(self, images: Any, target: Any) -> Any:
        """The target as float32: shares of classes, or numbers."""
        is_ids = is_discrete(target) and (len(target.shape) == 1 or tuple(target.shape)[1:] == (1,))
        if not is_ids:
            return keras.ops.cast(target, "float32")
        if self.num_classes is None:
            write = "Write num_classes=..., or OneHot above; Cast to float32 where they are yes and no."
            seen = {self.input: images, self.target: target}
            raise TensorError(self, rule="Class ids cannot be mixed", tensors=seen, write=write)
        return shares_of(as_ids(keras.ops.reshape(target, (-1,))), self.num_classes)


@dataclass(eq=False)
class MixUp(Mixing):
    """Blend each image with another: `input` [B, H, W, ...] any number, `target` ids [B] or shares [B, K] -> [B, K].

    l x + (1 - l) x' for both, with l from the beta distribution with both parameters `alpha`, for each image by
    itself (Zhang et al., "mixup: Beyond Empirical Risk Minimization", 2018, equation 1; they draw one l a batch).
    Ids need `num_classes`. Input keeps its dtype, integers are rounded; targets become float32. Targets that are
    floats, numbers of a regression too, are blended as they are.

    >>> import numpy as np
    >>> from experimentator.graph import Chunk, Mode
    >>> tensors = {"batch_input": np.zeros([2, 4, 4]), "batch_target": np.array([[1.0, 0.0], [1.0, 0.0]])}
    >>> chunk = Chunk(tensors, mode=Mode.TRAIN)
    >>> MixUp("batch_input", "batch_target")(chunk)
    >>> np.asarray(chunk["batch_target"]).tolist()
    [[1.0, 0.0], [1.0, 0.0]]

    Raises:
        DeclarationError: for an alpha that is not above 0 and at most 10, when the op is made.
        TensorError: for fewer than three axes, or ids without num_classes.
    """

    alpha: float = field(default=0.2, kw_only=True)

    def mix(self, images: Any, others: Any, draws: Any) -> tuple[Any, Any]:
        kept = self.beta(draws[:, 0])
        share = widened(kept, len(images.shape))
        own, other = (keras.ops.cast(tensor, "float32") for tensor in (images, others))
        return rounded(share * own + (1.0 - share) * other, dtype_of(images)), kept


@dataclass(eq=False)
class CutMix(Mixing):
    """Paste a window of another image: `input` [B, H, W, ...] any dtype, `target` ids [B] or shares [B, K] -> [B, K].

    The window has height H sqrt(1 - l) and width W sqrt(1 - l) with l from the beta distribution with both
    parameters `alpha`, its middle anywhere, cut off at the edges; the target keeps the share of pixels that the
    image keeps (Yun et al., "CutMix", 2019, section 3.1; they draw one window a batch, here each image has its own).
    Ids need `num_classes`. Targets become float32.

    >>> import numpy as np
    >>> from experimentator.graph import Chunk, Mode
    >>> images = np.stack([np.zeros([4, 4]), np.ones([4, 4])])
    >>> chunk = Chunk({"batch_input": images, "batch_target": np.array([0, 1])}, mode=Mode.TRAIN)
    >>> CutMix("batch_input", "batch_target", num_classes=2)(chunk)
    >>> images, targets = map(np.asarray, (chunk["batch_input"], chunk["batch_target"]))
    >>> bool(np.allclose(images.mean(axis=(1, 2)), targets[:, 1]))
    True

    Raises:
        DeclarationError: for an alpha that is not above 0 and at most 10, when the op is made.
        TensorError: for fewer than three axes, or ids without num_classes.
    """

    def mix(self, images: Any, others: Any, draws: Any) -> tuple[Any, Any]:
        side = keras.ops.sqrt(1.0 - self.beta(draws[:, 0]))
        height, width = keras.ops.shape(images)[1:3]
        inside = _between(height, draws[:, 1], side)[:, :, None] & _between(width, draws[:, 2], side)[:, None, :]
        kept = 1.0 - keras.ops.mean(keras.ops.cast(inside, "float32"), axis=(1, 2))
        return keras.ops.where(widened(inside, len(images.shape)), others, images), kept


def _between(size: Any, place: Any, side: Any) -> Any:
    """[B, size] bool: which rows lie within a window around `place`; both are shares of the whole."""
    rows = (keras.ops.cast(keras.ops.arange(size, dtype="int32"), "float32") + 0.5) / keras.ops.cast(size, "float32")
    return keras.ops.absolute(rows[None, :] - place[:, None]) < 0.5 * side[:, None]


def _beta_table(alpha: float) -> Any:
    """(2 x)^alpha for quantiles x of the lower half of the beta distribution: nearly a straight line."""
    powers = np.linspace(0.0, 1.0, 64 * _TABLE)
    density = (1.0 - 0.5 * powers ** (1.0 / alpha)) ** (alpha - 1.0)  # in x it is (x (1 - x))^(alpha - 1)
    below = np.concatenate([[0.0], np.cumsum(density[1:] + density[:-1])])
    return np.interp(np.linspace(0.0, 1.0, _TABLE), below / below[-1], powers).astype("float32")
