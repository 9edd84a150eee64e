"""Points as heat maps, and heat maps as points; points are (row, column), in pixels from the middle of the first.

>>> import numpy as np
>>> from experimentator.graph import Chunk, Mode
>>> chunk = Chunk({"batch_points": np.array([[[3.0, 5.0], [np.nan, np.nan]]])}, mode=Mode.ALL)
>>> Heatmap("batch_points", (8, 8), merged=True, output="batch_heatmap")(chunk)
>>> TopKPeaks("batch_heatmap", k=1)(chunk)
>>> np.asarray(chunk["batch_positions"]).tolist(), np.asarray(chunk["batch_values"]).tolist()
([[[3.0, 5.0]]], [[1.0]])
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import keras

from experimentator.graph import Chunk
from experimentator.ops.errors import TensorError
from experimentator.ops.images import check_size
from experimentator.ops.op import InPlace, Op, given_as, largest

_NONE = float("-inf")


@dataclass(eq=False)
class Heatmap(InPlace):
    """A bell around each point: `name` [B, N, 2] any number -> [B, H, W, N] float32 with `size` (H, W).

    exp(-d^2 / (2 sigma^2)) at distance d from the point (row, column), 1 at the point itself (Tompson et al., "Joint
    Training of a Convolutional Network and a Graphical Model for Human Pose Estimation", 2014). A point with NaN is
    no point: its channel is 0. With `merged`, [B, H, W]: the largest of all points (Zhou et al., "Objects as
    Points", 2019, section 3), 0 where there are none. Points may lie outside.

    >>> import numpy as np
    >>> from experimentator.graph import Chunk, Mode
    >>> chunk = Chunk({"batch_points": np.array([[[0, 1]]])}, mode=Mode.ALL)
    >>> Heatmap("batch_points", (1, 3), sigma=1.0)(chunk)
    >>> np.asarray(chunk["batch_points"])[0, 0, :, 0].round(4)
    array([0.6065, 1.    , 0.6065], dtype=float32)

    Raises:
        DeclarationError: for a size that is not two numbers above 0, or a sigma that is not above 0.
        TensorError: for points that are not [B, N, 2].
    """

    size: Sequence[int]
    sigma: float = 2.0
    merged: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_size(self, self.size)
        self.require(self.sigma > 0, seen=f"its sigma is {self.sigma!r}", write="Give a number of pixels above 0.")

    def compute(self, tensor: Any) -> Any:
        if len(tensor.shape) != 3 or tensor.shape[-1] not in (None, 2):
            write = "Write ops.ExpandDims or ops.Apply above."
            raise self.refuse("Points are [B, N, 2], (row, column) each", tensor, write)
        points = keras.ops.cast(tensor, "float32")
        rows = self._bells(points[:, None, :, 0], self.size[0])
        columns = self._bells(points[:, None, :, 1], self.size[1])
        maps = rows[:, :, None, :] * columns[:, None, :, :]
        return largest(maps, -1) if self.merged else maps

    def _bells(self, centres: Any, size: int) -> Any:
        """[B, size, N] from [B, 1, N], with 0 for NaN; the product along rows and columns is the bell in the plane."""
        places = keras.ops.arange(size, dtype="float32")[None, :, None]
        missing = keras.ops.isnan(centres)
        known = keras.ops.where(missing, 0.0, centres)  # or the gradient of a point that is none would be NaN
        bells = keras.ops.exp(-keras.ops.square(places - known) / (2.0 * self.sigma**2))
        return keras.ops.where(missing, 0.0, bells)


@dataclass(eq=False)
class TopKPeaks(Op):
    """The strongest local maxima of `name` [B, H, W] or [B, H, W, C] any number, strongest first.

    Writes `positions` [B, K, 2] float32 (row, column) and `values` [B, K] float32, NaN where an image has fewer than
    K = `k` peaks. A peak is no smaller than any pixel up to `radius` rows and columns away; of equal ones the first
    counts, and NaN is less than any number. Each channel has peaks of its own, and the strongest of all channels are
    written: `channels` names a tensor [B, K] int32 for the channels they are of, -1 for none. For the peaks of one
    channel, list Select above.

    >>> import numpy as np
    >>> from experimentator.graph import Chunk, Mode
    >>> chunk = Chunk({"batch_heatmap": np.array([[[1, 9, 1, 1, 7, 8]]])}, mode=Mode.INFER)
    >>> TopKPeaks("batch_heatmap", k=2)(chunk)
    >>> np.asarray(chunk["batch_positions"]).tolist(), np.asarray(chunk["batch_values"]).tolist()
    ([[[0.0, 1.0], [0.0, 5.0]]], [[9.0, 8.0]])

    Raises:
        DeclarationError: for a k or a radius below 1, when the op is made.
        TensorError: for other numbers of axes, or fewer than k pixels.
    """

    name: str
    positions: str = "batch_positions"
    values: str = "batch_values"
    k: int = field(kw_only=True)
    channels: str | None = field(default=None, kw_only=True)
    radius: int = field(default=1, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.k > 0, seen=f"its k is {self.k!r}", write="Give the number of peaks.")
        self.require(self.radius > 0, seen=f"its radius is {self.radius!r}", write="Give a number of pixels above 0.")

    inputs = given_as("name")

    @property
    def outputs(self) -> tuple[str, ...]:  # type: ignore[override]  # computed, where the base lets one set it
        return (self.positions, self.values, *(() if self.channels is None else (self.channels,)))

    def __call__(self, chunk: Chunk) -> None:
        maps = self._checked(keras.ops.convert_to_tensor(chunk[self.name]))
        _, height, width, count = keras.ops.shape(maps)
        peaks = keras.ops.where(_is_peak(maps, self.radius), maps, _NONE)
        values, places = keras.ops.top_k(keras.ops.reshape(peaks, (-1, height * width * count)), self.k)
        places, found = keras.ops.cast(places, "int32"), values > _NONE
        positions = keras.ops.stack([places // (width * count), places // count % width], axis=-1)
        missing = keras.ops.logical_not(found)
        chunk[self.positions] = keras.ops.where(missing[..., None], float("nan"), keras.ops.cast(positions, "float32"))
        chunk[self.values] = keras.ops.where(missing, float("nan"), values)
        if self.channels is not None:
            chunk[self.channels] = keras.ops.where(found, places % count, -1)

    def _checked(self, tensor: Any) -> Any:
        """The maps as [B, H, W, C] float32, without NaN."""
        shape = tuple(tensor.shape)
        sizes = [1 if size is None else size for size in shape[1:]]
        if len(shape) not in (3, 4) or (None not in shape[1:] and math.prod(sizes) < self.k):
            rule = f"The best {self.k} are chosen among as many pixels or more"
            write = "Give [B, H, W] or [B, H, W, C]."
            raise TensorError(self, rule=rule, tensors={self.name: tensor}, write=write)
        maps = keras.ops.cast(tensor[..., None] if len(shape) == 3 else tensor, "float32")
        return keras.ops.where(keras.ops.isnan(maps), _NONE, maps)  # beside NaN, frameworks differ in what is largest


def _is_peak(maps: Any, radius: int) -> Any:
    """Where no pixel of the window is larger, and none before it in reading order is equal."""
    edge = (radius, radius)
    around = keras.ops.pad(maps, ((0, 0), edge, edge, (0, 0)), constant_values=_NONE)
    inner, side = slice(radius, -radius), (radius, 2 * radius + 1)
    above, below = _largest(around[:, : -radius - 1], side), _largest(around[:, radius + 1 :], side)
    left = _largest(around[:, inner, : -radius - 1], (1, radius))
    right = _largest(around[:, inner, radius + 1 :], (1, radius))
    first = keras.ops.logical_and(maps > above, maps > left)
    return keras.ops.logical_and(first, keras.ops.logical_and(maps >= below, maps >= right))


def _largest(maps: Any, window: tuple[int, int]) -> Any:
    return keras.ops.max_pool(maps, window, strides=1, padding="valid", data_format="channels_last")
