"""From a map of features to one vector for each image.

>>> import numpy as np
>>> from experimentator.graph import Chunk, Mode
>>> chunk = Chunk({"batch_features": np.ones([2, 7, 7, 64], "float32")}, mode=Mode.ALL)
>>> GlobalAveragePool("batch_features")(chunk)
>>> tuple(chunk["batch_features"].shape)
(2, 64)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras

from experimentator.ops.op import InPlace, as_float, dtype_of, largest


@dataclass(eq=False)
class GlobalAveragePool(InPlace):
    """The mean of each channel: `name` [B, ..., C] any number -> [B, C] float, such as [B, H, W, C] or [B, T, C].

    Integers become float32, floats keep their dtype; sums are float32.

    >>> import numpy as np
    >>> from experimentator.graph import Chunk, Mode
    >>> chunk = Chunk({"batch_features": np.array([[[1, 5], [3, 5]]])}, mode=Mode.ALL)
    >>> GlobalAveragePool("batch_features")(chunk)
    >>> np.asarray(chunk["batch_features"]).tolist()
    [[2.0, 5.0]]

    Raises:
        TensorError: for fewer than three axes.
    """

    def compute(self, tensor: Any) -> Any:
        mean = keras.ops.mean(keras.ops.cast(tensor, "float32"), axis=_places(self, tensor))
        return keras.ops.cast(mean, dtype_of(as_float(tensor)))


@dataclass(eq=False)
class GlobalMaxPool(InPlace):
    """The largest of each channel: `name` [B, ..., C] any number -> [B, C], such as [B, H, W, C] or [B, T, C].

    >>> import numpy as np
    >>> from experimentator.graph import Chunk, Mode
    >>> chunk = Chunk({"batch_features": np.array([[[1, 5], [3, 5]]])}, mode=Mode.ALL)
    >>> GlobalMaxPool("batch_features")(chunk)
    >>> np.asarray(chunk["batch_features"]).tolist()
    [[3, 5]]

    Raises:
        TensorError: for fewer than three axes.
    """

    def compute(self, tensor: Any) -> Any:
        return largest(tensor, _places(self, tensor))


def _places(op: InPlace, tensor: Any) -> tuple[int, ...]:
    """The axes between batch and channels."""
    rank = len(tensor.shape)
    if rank < 3:
        raise op.refuse("Pooling is over places", tensor, "Give [B, H, W, C] or [B, T, C].")
    return tuple(range(1, rank - 1))
