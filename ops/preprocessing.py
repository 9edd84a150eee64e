"""From what a dataset stores to what a network reads: dtypes, ranges, axes.

>>> import numpy as np
>>> from experimentator.graph import Chunk, Mode
>>> chunk = Chunk({"batch_input": np.array([[0, 255]], "uint8")}, mode=Mode.ALL)
>>> Scale("batch_input")(chunk)
>>> np.asarray(chunk["batch_input"]).tolist()
[[0.0, 1.0]]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from experimentator.ops.op import InPlace, as_float, as_ids, checked_dtype, dtype_of, is_discrete, one_hot


@dataclass(eq=False)
class Cast(InPlace):
    """Change the dtype: `name` [...] any number -> `dtype`.

    >>> import numpy as np
    >>> from experimentator.graph import Chunk, Mode
    >>> chunk = Chunk({"batch_target": np.array([3.0, 1.0])}, mode=Mode.ALL)
    >>> Cast("batch_target", "int32")(chunk)
    >>> np.asarray(chunk["batch_target"])
    array([3, 1], dtype=int32)

    Raises:
        DeclarationError: for a dtype that does not exist, when the op is made.
    """

    dtype: str = "float32"

    def __post_init__(self) -> None:
        self.dtype = checked_dtype(self, self.dtype)
        super().__post_init__()

    def compute(self, tensor: Any) -> Any:
        return keras.ops.cast(tensor, self.dtype)


@dataclass(eq=False)
class Scale(InPlace):
    """Divide by a number: `name` [...] any number -> float; [0, scale] becomes [0, 1].

    Integers become float32, floats keep their dtype.

    >>> import numpy as np
    >>> from experimentator.graph import Chunk, Mode
    >>> chunk = Chunk({"batch_input": np.array([[0, 50]], "uint8")}, mode=Mode.ALL)
    >>> Scale("batch_input", 100.0)(chunk)
    >>> np.asarray(chunk["batch_input"]).tolist()
    [[0.0, 0.5]]

    Raises:
        DeclarationError: for a scale of 0, when the op is made.
    """

    scale: float = 255.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.scale != 0, seen="it divides by 0", write="Give the largest value that is read.")

    def compute(self, tensor: Any) -> Any:
        return as_float(tensor) / float(self.scale)


@dataclass(eq=False)
class Standardize(InPlace):
    """Mean 0 and deviation 1: `name` [B, ..., C] any number -> float of the same shape.

    Without `mean` and `std` each image by itself, over all axes but the batch: (x - mean) / sqrt(var + epsilon),
    computed in float32; an image of one colour becomes 0. With both, (x - mean) / std, where each is a number or
    one for each channel of the last axis. Integers become float32, floats keep their dtype.

    >>> import numpy as np
    >>> from experimentator.graph import Chunk, Mode
    >>> chunk = Chunk({"batch_input": np.array([[0, 10], [7, 7]], "uint8")}, mode=Mode.ALL)
    >>> Standardize("batch_input")(chunk)
    >>> np.asarray(chunk["batch_input"]).round(3).tolist()
    [[-1.0, 1.0], [0.0, 0.0]]
    >>> chunk = Chunk({"batch_input": np.array([[[1.0, 6.0]]])}, mode=Mode.ALL)
    >>> Standardize("batch_input", mean=[1, 2], std=[4, 8])(chunk)
    >>> np.asarray(chunk["batch_input"]).tolist()
    [[[0.0, 0.5]]]

    Raises:
        DeclarationError: for one of mean and std without the other, or a std of 0, when the op is made.
        TensorError: if the last axis has not one channel for each given mean and std, or there are no axes but the
            batch to take the mean over.
    """

    mean: float | Sequence[float] | None = None
    std: float | Sequence[float] | None = None
    epsilon: float = 1e-7

    def __post_init__(self) -> None:
        super().__post_init__()
        alike = (self.mean is None) == (self.std is None)
        self.require(alike, seen="it has one of mean and std", write="Give both, or none.")
        positive = self.std is None or bool(np.all(np.asarray(self.std) > 0))
        self.require(
            positive,
            seen=f"its std is {self.std!r}",
            write="Give a std above 0; of what never varies, np.where(std > 0, std, 1.0).",
        )

    def compute(self, tensor: Any) -> Any:
        self._check(tensor)
        return self._by_image(tensor) if self.mean is None else self._by_given(as_float(tensor))

    def _by_image(self, tensor: Any) -> Any:
        wide = keras.ops.cast(tensor, "float32")
        axes = tuple(range(1, len(tensor.shape)))
        centred = wide - keras.ops.mean(wide, axis=axes, keepdims=True)
        variance = keras.ops.mean(keras.ops.square(centred), axis=axes, keepdims=True)
        scaled = centred * keras.ops.rsqrt(variance + self.epsilon)
        return keras.ops.cast(scaled, dtype_of(as_float(tensor)))

    def _by_given(self, tensor: Any) -> Any:
        mean, std = (keras.ops.convert_to_tensor(value, dtype=dtype_of(tensor)) for value in (self.mean, self.std))
        return (tensor - mean) / std

    def _check(self, tensor: Any) -> None:
        if self.mean is None and len(tensor.shape) < 2:
            raise self.refuse("Each image needs axes besides the batch", tensor, "Give mean and std.")
        channels = tensor.shape[-1] if len(tensor.shape) else None
        shapes = [np.shape(value) for value in (self.mean, self.std) if value is not None]
        if any(len(shape) > 1 or (shape and channels not in (None, *shape)) for shape in shapes):
            write = f"Give {channels} of each."
            raise self.refuse("Mean and std are one number, or one for each channel", tensor, write)


@dataclass(eq=False)
class ExpandDims(InPlace):
    """Add an axis of size 1: `name` [B, H, W] -> [B, H, W, 1], or at another place.

    >>> import numpy as np
    >>> from experimentator.graph import Chunk, Mode
    >>> chunk = Chunk({"batch_input": np.zeros([2, 8, 8])}, mode=Mode.ALL)
    >>> ExpandDims("batch_input")(chunk)
    >>> tuple(chunk["batch_input"].shape)
    (2, 8, 8, 1)

    Raises:
        TensorError: if the tensor has no such place.
    """

    axis: int = -1

    def compute(self, tensor: Any) -> Any:
        rank = len(tensor.shape)
        if not -rank - 1 <= self.axis <= rank:
            raise self.refuse(f"There is no place {self.axis}", tensor, f"Give an axis from {-rank - 1} to {rank}.")
        return keras.ops.expand_dims(tensor, axis=self.axis)


@dataclass(eq=False)
class OneHot(InPlace):
    """Class ids to rows: `name` [B, ...] integer -> [B, ..., num_classes] `dtype`, 1 at the class and 0 elsewhere.

    An id outside 0..num_classes-1 becomes a row of zeros.

    >>> import numpy as np
    >>> from experimentator.graph import Chunk, Mode
    >>> chunk = Chunk({"batch_target": np.array([2, 0])}, mode=Mode.ALL)
    >>> OneHot("batch_target", 3)(chunk)
    >>> np.asarray(chunk["batch_target"]).tolist()
    [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]

    Raises:
        DeclarationError: for a number of classes below 1 or a dtype that does not exist, when the op is made.
        TensorError: if the ids are not integers.
    """

    num_classes: int
    dtype: str = "float32"

    def __post_init__(self) -> None:
        self.dtype = checked_dtype(self, self.dtype)
        super().__post_init__()
        self.require(self.num_classes >= 1, seen="it has no classes", write="Give the number of classes.")

    def compute(self, tensor: Any) -> Any:
        if not is_discrete(tensor):
            write = f"Write ops.Cast({self.name!r}, 'int32') above it."
            raise self.refuse("Class ids are integers", tensor, write)
        return one_hot(as_ids(tensor), self.num_classes, self.dtype)
