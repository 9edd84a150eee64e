"""Losses: each a mean over the batch, [] float32, computed in float32 whatever the dtypes of its inputs.

With `weight=` naming per-sample weights w [B], the mean is sum(w * loss) / sum(w), and 0 if they sum to 0. With
`class_weights=` each sample weighs as much as its class, times its own weight if there is one.

Values without a label are left out, as if they were not in the batch: where the tensor named by `mask=` is False, and
with `nan_is_no_label=True` where the target is NaN. A cycle's figure is the mean over all labels of the cycle, with
their weights; for a sum of losses (`CombineLosses`) it is the sum of its parts' figures, where these are measured.

>>> import numpy as np
>>> from experimentator.graph import Chunk, Mode
>>> tensors = {"batch_score": np.array([[1.0], [4.0]]), "batch_target": np.array([1, 1])}
>>> chunk = Chunk({**tensors, "batch_weight": np.array([1, 0])}, mode=Mode.TRAIN)
>>> MeanSquaredError("batch_score", "batch_target", weight="batch_weight")(chunk)
>>> float(chunk["loss"])
0.0
>>> chunk = Chunk({"batch_score": np.array([1.0, 4.0]), "batch_target": np.array([3.0, np.nan])}, mode=Mode.TRAIN)
>>> MeanSquaredError("batch_score", "batch_target", nan_is_no_label=True)(chunk)
>>> float(chunk["loss"])
4.0
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras

from experimentator.ops.compared import FromLogits, FromPrediction, align, class_ids, class_rows, size_of
from experimentator.ops.op import is_number, plain


@dataclass(eq=False)
class ClassWeighted(FromLogits):
    """A loss that may weigh each sample by its class: `class_weights` has one number for each class.

    They are a list, or a dictionary by class 0 ... K - 1. A target that is a row of shares q weighs sum_k q_k w_k.

    >>> ClassWeighted("batch_logits", "batch_target", class_weights=[1.0, -1.0])
    Traceback (most recent call last):
    experimentator.graph.errors.DeclarationError: ClassWeighted(...) is not declared properly: its class_weights are ...
    Give one number for each class, 0 or above: a list, or a dictionary that names each from 0 on.
    """

    class_weights: Sequence[float] | Mapping[int, float] | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        weights = self._weights()
        fine = weights is None or (len(weights) > 1 and all(is_number(w) and 0 <= w < math.inf for w in weights))
        write = "Give one number for each class, 0 or above: a list, or a dictionary that names each from 0 on."
        self.require(fine, seen=f"its class_weights are {self.class_weights!r}", write=write)

    @property
    def weights_of(self) -> dict[str, str]:
        return super().weights_of or ({} if self.class_weights is None else {self.output: f"{self.output}.weight"})

    def importance(self, tensors: Sequence[Any]) -> Any:
        weights = self._weights()
        if weights is None:
            return None
        prediction, target = tensors
        rows = self.shares_of_classes(prediction, target)
        if rows.shape[-1] not in (None, len(weights)):
            write = f"Give {rows.shape[-1]} class_weights."
            raise self.refuse(f"There are {len(weights)} class_weights", prediction, target, write)
        return keras.ops.sum(rows * keras.ops.convert_to_tensor(weights, dtype="float32"), axis=-1)

    def _weights(self) -> list[Any] | None:
        """Weights of classes 0, 1, ...; None for a class that a dictionary lacks, an empty list for what is no list."""
        given: Any = plain(self.class_weights)
        if isinstance(given, Mapping):
            return [given.get(place) for place in range(len(given))]
        return None if given is None else list(given) if isinstance(given, Iterable) else []

    def shares_of_classes(self, prediction: Any, target: Any) -> Any:
        """[..., K] float32: the share of each class in each target."""
        return class_rows(self, prediction, target)


@dataclass(eq=False)
class SoftmaxCrossEntropy(ClassWeighted):
    """Cross entropy of softmax(logits): `logits` [B, ..., K], `target` ids [B, ...] integer or rows [B, ..., K].

    -sum_k q_k log softmax(logits)_k, where q is the target's row; with `label_smoothing` a, (1 - a) q + a / K
    (Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", 2016, section 7). Ids may also
    have a last axis of size 1. An id that is no class makes the loss NaN, on every backend. With `class_weights` w the
    mean is sum_i w_i l_i / sum_i w_i, as PyTorch's is; Keras' `class_weight` divides by the number of samples.

    >>> import numpy as np
    >>> from experimentator.graph import Chunk, Mode
    >>> chunk = Chunk({"batch_logits": np.zeros([2, 4]), "batch_target": np.array([1, 3])}, mode=Mode.TRAIN)
    >>> SoftmaxCrossEntropy("batch_logits", "batch_target")(chunk)
    >>> round(float(chunk["loss"]), 4)  # log 4
    1.3863

    Raises:
        DeclarationError: for a smoothing outside [0, 1], when the op is made.
        TensorError: for shapes that do not fit, ids that are not integers, or a single class.
    """

    label_smoothing: float = field(default=0.0, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        seen = f"its label_smoothing is {self.label_smoothing!r}"
        self.require(0 <= self.label_smoothing <= 1, seen=seen, write="Give a share from 0 to 1.")

    def compare(self, logits: Any, target: Any) -> Any:
        if len(logits.shape) < 2 or logits.shape[-1] == 1:
            write = "Give [B, ..., K] with two classes or more, or write ops.SigmoidCrossEntropy."
            raise self.refuse("A softmax is over classes", logits, target, write)
        found = None if self.label_smoothing else class_ids(self, logits, target)
        if found is not None:
            ids, is_class = found
            losses = self._of_ids(ids, keras.ops.cast(logits, "float32"))
            return keras.ops.where(is_class, losses, float("nan"))
        rows = self._smooth(class_rows(self, logits, target), size_of(logits))
        log_scores = keras.ops.log_softmax(keras.ops.cast(logits, "float32"), axis=-1)
        terms = keras.ops.where(rows == 0, 0.0, rows * log_scores)  # a class ruled out by a logit of -inf counts 0
        return -keras.ops.sum(terms, axis=-1)

    def _of_ids(self, ids: Any, logits: Any) -> Any:
        """Losses of class ids, for which frameworks have one operation; Keras' on JAX takes no logit of -inf."""
        if keras.backend.backend() in ("tensorflow", "torch"):
            if keras.backend.backend() == "tensorflow":
                logits = keras.ops.copy(logits)  # Keras on TensorFlow would take what a softmax was given in its place
            return keras.ops.sparse_categorical_crossentropy(ids, logits, from_logits=True)
        log_scores = keras.ops.log_softmax(logits, axis=-1)
        return -keras.ops.take_along_axis(log_scores, keras.ops.expand_dims(ids, -1), axis=-1)[..., 0]

    def _smooth(self, rows: Any, classes: Any) -> Any:
        a = self.label_smoothing
        return rows * (1 - a) + a / keras.ops.cast(classes, "float32") if a else rows


@dataclass(eq=False)
class SigmoidCrossEntropy(ClassWeighted):
    """Cross entropy of yes-no questions, of sigmoid(logits): `logits` and `target` [B, ...], targets in [0, 1].

    -t log s - (1 - t) log(1 - s) with s = sigmoid(z), computed as max(z, 0) - z t + log(1 + exp(-|z|)), which
    neither overflows nor loses small values; the mean is over questions, too. [B, 1] may be compared with [B]. The
    two `class_weights` are for no and for yes.

    >>> import numpy as np
    >>> from experimentator.graph import Chunk, Mode
    >>> chunk = Chunk({"batch_logit": np.zeros([2, 1]), "batch_same": np.array([True, False])}, mode=Mode.TRAIN)
    >>> SigmoidCrossEntropy("batch_logit", "batch_same", "same_loss")(chunk)
    >>> round(float(chunk["same_loss"]), 4)  # log 2
    0.6931

    Raises:
        TensorError: for two shapes that differ by more than a last axis of size 1.
    """

    def compare(self, logits: Any, target: Any) -> Any:
        z, t = align(self, logits, target)
        positive = z >= 0  # rather than abs and maximum, whose gradients at 0 are not that of the formula
        small = keras.ops.where(positive, -z, z)
        return keras.ops.where(positive, z, 0.0) - z * t + keras.ops.log1p(keras.ops.exp(small))

    def shares_of_classes(self, prediction: Any, target: Any) -> Any:
        _, yes = align(self, prediction, target)
        return keras.ops.stack([1.0 - yes, yes], axis=-1)


@dataclass(eq=False)
class MeanSquaredError(FromPrediction):
    """The mean of (prediction - target)^2: both [B, ...] any number; [B, 1] may be compared with [B].

    >>> import numpy as np
    >>> from experimentator.graph import Chunk, Mode
    >>> chunk = Chunk({"batch_score": np.array([1.0, 5.0]), "batch_target": np.array([1, 3])}, mode=Mode.TRAIN)
    >>> MeanSquaredError("batch_score", "batch_target")(chunk)
    >>> float(chunk["loss"])
    2.0

    Raises:
        TensorError: for two shapes that differ by more than a last axis of size 1.
    """

    def compare(self, prediction: Any, target: Any) -> Any:
        prediction, target = align(self, prediction, target)
        return keras.ops.square(prediction - target)


@dataclass(eq=False)
class Huber(FromPrediction):
    """Squared for small errors, linear for outliers: `prediction` and `target` [B, ...] any number.

    e^2 / 2 where |e| <= delta, else delta (|e| - delta / 2) (Huber, "Robust Estimation of a Location Parameter",
    1964). [B, 1] may be compared with [B].

    >>> import numpy as np
    >>> from experimentator.graph import Chunk, Mode
    >>> chunk = Chunk({"batch_score": np.array([1.0, 5.0]), "batch_target": np.array([0, 1])}, mode=Mode.TRAIN)
    >>> Huber("batch_score", "batch_target")(chunk)
    >>> float(chunk["loss"])  # (0.5 + 3.5) / 2
    2.0

    Raises:
        DeclarationError: for a delta that is not above 0, or infinite, when the op is made.
        TensorError: for two shapes that differ by more than a last axis of size 1.
    """

    delta: float = field(default=1.0, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(
            0 < self.delta < math.inf,
            seen=f"its delta is {self.delta!r}",
            write="Give the largest usual error, above 0.",
        )

    def compare(self, prediction: Any, target: Any) -> Any:
        prediction, target = align(self, prediction, target)
        error = keras.ops.absolute(prediction - target)
        inner = keras.ops.minimum(error, self.delta)
        return 0.5 * inner * inner + self.delta * (error - inner)
