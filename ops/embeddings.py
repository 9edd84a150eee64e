"""Losses that place embeddings: what belongs together near, the rest apart.

Weights and masks work as in every loss; a row that a mask leaves out is no negative of another row, either.

>>> import numpy as np
>>> from experimentator.graph import Chunk, Mode
>>> tensors = {"batch_a": np.eye(3), "batch_b": np.eye(3), "batch_valid": np.array([True, False, False])}
>>> chunk = Chunk(tensors, mode=Mode.TRAIN)
>>> Contrastive("batch_a", "batch_b", mask="batch_valid")(chunk)
>>> float(chunk["loss"])  # nothing to be apart from
0.0
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import keras

from experimentator.ops.compared import Compared, spread
from experimentator.ops.errors import TensorError
from experimentator.ops.op import alike, given_as

_NEVER = -1e9  # as good as minus infinity for exp(), but with gradients where a row has nothing else


@dataclass(eq=False)
class Contrastive(Compared):
    """Tell each pair of views from all other rows: `first` and `second` [B, D], two views of B things.

    NT-Xent: for each of the 2 B views i with partner j, -log(exp(s_ij / t) / sum_{k != i} exp(s_ik / t)), where s is
    the cosine of two embeddings and t the `temperature` (Chen et al., "A Simple Framework for Contrastive Learning
    of Visual Representations", 2020, equation 1). The value of a pair is the mean of its two.

    >>> import numpy as np
    >>> from experimentator.graph import Chunk, Mode
    >>> chunk = Chunk({"batch_a": np.ones([2, 8]), "batch_b": np.ones([2, 8])}, mode=Mode.TRAIN)
    >>> Contrastive("batch_a", "batch_b")(chunk)
    >>> round(float(chunk["loss"]), 4)  # all alike: log 3
    1.0986

    Raises:
        DeclarationError: for a temperature that is not above 0, when the op is made.
        TensorError: unless both are [B, D].
    """

    first: str
    second: str
    output: str = "loss"
    temperature: float = field(default=0.5, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        seen = f"its temperature is {self.temperature!r}"
        self.require(self.temperature > 0, seen=seen, write="Give a number above 0.")

    pair = given_as("first", "second")
    written = given_as("output")

    def measure(self, tensors: Sequence[Any], labelled: Any) -> tuple[Any, Any]:
        check_rows(self, tensors)
        counted = None if labelled is None else spread(labelled, 1)
        views = _of_length_one(keras.ops.concatenate([keras.ops.cast(t, "float32") for t in tensors], axis=0))
        cosines = keras.ops.matmul(views, keras.ops.transpose(views)) / self.temperature
        batch = keras.ops.shape(tensors[0])[0]
        surprise = keras.ops.logsumexp(_of_others(cosines, counted), axis=-1) - _of_partners(views) / self.temperature
        return 0.5 * (surprise[:batch] + surprise[batch:]), counted


@dataclass(eq=False)
class Triplet(Compared):
    """The positive nearer than the negative, by a margin: `anchor`, `positive`, `negative` [B, D].

    max(0, |a - p|^2 - |a - n|^2 + margin) (Schroff et al., "FaceNet", 2015, equation 3, there with embeddings of
    length 1). Which triplets to show is the dataset's choice.

    >>> import numpy as np
    >>> from experimentator.graph import Chunk, Mode
    >>> tensors = {"batch_a": np.array([[0.0, 0.0]]), "batch_p": np.array([[1.0, 0.0]]), "batch_n": np.ones([1, 2])}
    >>> chunk = Chunk(tensors, mode=Mode.TRAIN)
    >>> Triplet("batch_a", "batch_p", "batch_n", margin=1.5)(chunk)
    >>> float(chunk["loss"])  # 1 - 2 + 1.5
    0.5

    Raises:
        DeclarationError: for a margin below 0, when the op is made.
        TensorError: unless all three are [B, D].
    """

    anchor: str
    positive: str
    negative: str
    output: str = "loss"
    margin: float = field(default=0.2, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.margin >= 0, seen=f"its margin is {self.margin!r}", write="Give 0 or more.")

    pair = given_as("anchor", "positive", "negative")
    written = given_as("output")

    def measure(self, tensors: Sequence[Any], labelled: Any) -> tuple[Any, Any]:
        check_rows(self, tensors)
        anchor, positive, negative = (keras.ops.cast(tensor, "float32") for tensor in tensors)
        excess = _distances(anchor, positive) - _distances(anchor, negative) + self.margin
        return keras.ops.relu(excess), labelled


def check_rows(op: Compared, tensors: Sequence[Any]) -> None:
    """Refuse tensors that are not all [B, D], of one shape."""
    shapes = [tuple(tensor.shape) for tensor in tensors]
    if len(shapes[0]) != 2 or not alike(*shapes):
        write = "Write GlobalAveragePool or Apply above, so that each row is one embedding."
        rule = "Embeddings are [B, D], alike in all of them"
        raise TensorError(op, rule=rule, tensors=dict(zip(op.pair, tensors)), write=write)


def _of_length_one(rows: Any) -> Any:
    squares = keras.ops.sum(keras.ops.square(rows), axis=-1, keepdims=True)
    return rows * keras.ops.rsqrt(keras.ops.maximum(squares, 1e-12))


def _of_partners(views: Any) -> Any:
    """The cosine of each view and its partner, [2 B]."""
    first, second = keras.ops.split(views, 2, axis=0)
    cosines = keras.ops.sum(first * second, axis=-1)
    return keras.ops.concatenate([cosines, cosines], axis=0)


def _of_others(cosines: Any, counted: Any) -> Any:
    """The cosines [2 B, 2 B], _NEVER where they do not count: of a view with itself, and with rows left out."""
    places = keras.ops.arange(keras.ops.shape(cosines)[0], dtype="int32")
    others = places[:, None] != places[None, :]
    if counted is not None:
        others = keras.ops.logical_and(others, keras.ops.concatenate([counted, counted], axis=0)[None, :])
    return keras.ops.where(others, cosines, _NEVER)


def _distances(first: Any, second: Any) -> Any:
    return keras.ops.sum(keras.ops.square(first - second), axis=-1)
