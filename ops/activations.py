"""From logits to scores and classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras

from experimentator.ops.op import InPlace, as_float, is_discrete, largest


@dataclass(eq=False)
class Sigmoid(InPlace):
    """Logits to probabilities, one by one: `name` [...] -> 1 / (1 + exp(-x)), float.

    >>> from experimentator.graph import Chunk, Mode
    >>> chunk = Chunk({"batch_logits": [0.0, 100.0]}, mode=Mode.INFER)
    >>> Sigmoid("batch_logits", output="batch_scores")(chunk)
    >>> [float(score) for score in chunk["batch_scores"]]
    [0.5, 1.0]
    """

    @property
    def ends_in(self) -> dict[str, tuple[str, int | None]]:
        """The activation and width of what is written, `{name: ("sigmoid", None)}`; None means any width."""
        return dict.fromkeys(self.outputs, ("sigmoid", None))

    def compute(self, tensor: Any) -> Any:
        return keras.ops.sigmoid(as_float(tensor))


@dataclass(eq=False)
class Softmax(InPlace):
    """Logits to probabilities that sum to 1 along `axis`: `name` [B, ..., K] -> exp(x) / sum(exp(x)), float.

    >>> from experimentator.graph import Chunk, Mode
    >>> chunk = Chunk({"batch_logits": [[7.0, 7.0]]}, mode=Mode.INFER)
    >>> Softmax("batch_logits")(chunk)
    >>> [float(score) for score in chunk["batch_logits"][0]]
    [0.5, 0.5]
    """

    axis: int = -1

    @property
    def ends_in(self) -> dict[str, tuple[str, int | None]]:
        """The activation and width of what is written, `{name: ("softmax", None)}`; None means any width."""
        return dict.fromkeys(self.outputs, ("softmax", None))

    def compute(self, tensor: Any) -> Any:
        return keras.ops.softmax(as_float(tensor), axis=self.axis)


@dataclass(eq=False)
class ArgMax(InPlace):
    """The place of the largest value along `axis`, the first of equals: `name` [B, ..., K] -> [B, ...] int32.

    >>> from experimentator.graph import Chunk, Mode
    >>> chunk = Chunk({"batch_logits": [[0.1, 0.7, 0.2]]}, mode=Mode.INFER)
    >>> ArgMax("batch_logits", output="batch_class")(chunk)
    >>> int(chunk["batch_class"][0])
    1
    """

    axis: int = -1

    def compute(self, tensor: Any) -> Any:
        if not is_discrete(tensor):  # Keras' own has no form in ONNX and LiteRT
            is_largest = tensor == largest(tensor, self.axis, keepdims=True)
            is_nan = keras.ops.not_equal(tensor, tensor)  # as in numpy, NaN is larger than any number
            tensor = keras.ops.cast(keras.ops.logical_or(is_largest, is_nan), "int32")
        return keras.ops.cast(keras.ops.argmax(tensor, axis=self.axis), "int32")
