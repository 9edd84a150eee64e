"""Metrics: each a mean over the batch, [] float32, reported as its average over the cycle.

With `weight=` naming per-sample weights w [B], the mean is sum(w * hit) / sum(w), and 0 if they sum to 0. `mask=`
and `nan_is_no_label=True` leave out values without a label, as in losses, from the figure of a batch and of a cycle.

>>> import numpy as np
>>> from experimentator.graph import Chunk, Mode
>>> chunk = Chunk({"batch_logits": np.eye(4)[[1, 3, 0]], "batch_target": np.array([1, 3, 2])}, mode=Mode.EVAL)
>>> Accuracy("batch_logits", "batch_target")(chunk)
>>> round(float(chunk["accuracy"]), 4)
0.6667
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import keras

from experimentator.ops.compared import FromPrediction, align, class_ids, class_rows, in_one_shape, size_of
from experimentator.ops.op import is_discrete


@dataclass(eq=False)
class Accuracy(FromPrediction):
    """The share of right answers: `prediction` [B, ..., K] logits or scores, `target` ids [B, ...] or rows [B, ..., K].

    Without an axis of classes ([B], or a last axis of size 1) answers are yes above `threshold`: 0.0 fits logits,
    0.5 probabilities; targets are yes above 0.5. Integers, such as what ArgMax writes, are compared with targets of
    the same shape as they are. Of equal scores the first counts. NaN is larger than any number, as in ArgMax, and
    wrong, and so are ids that are no class. Rows in which any number of labels are 1 are compared label by label by
    `KerasMetric(keras.metrics.BinaryAccuracy(), "batch_scores", "batch_labels")`.

    >>> import numpy as np
    >>> from experimentator.graph import Chunk, Mode
    >>> chunk = Chunk({"batch_logit": np.array([[2.0], [-1.0]]), "batch_same": np.array([1, 1])}, mode=Mode.EVAL)
    >>> Accuracy("batch_logit", "batch_same", "same_accuracy")(chunk)
    >>> float(chunk["same_accuracy"])
    0.5

    Raises:
        TensorError: for shapes that do not fit, or class ids that are not integers.
    """

    output: str = "accuracy"
    threshold: float = field(default=0.0, kw_only=True)

    def minds(self, squash: str, width: int | None) -> str:  # of several classes the largest wins
        return "Write threshold=0.5." if squash == "sigmoid" and width == 1 and not self.threshold else ""

    def compare(self, prediction: Any, target: Any) -> Any:
        if is_discrete(prediction):
            return keras.ops.cast(keras.ops.equal(*in_one_shape(self, prediction, target)), "float32")
        if len(prediction.shape) < 2 or prediction.shape[-1] == 1:
            score, answer = align(self, prediction, target)
            right = keras.ops.equal(score > self.threshold, answer > 0.5)
            known = keras.ops.logical_and(score == score, answer == answer)  # NaN differs from itself
            return keras.ops.cast(keras.ops.logical_and(right, known), "float32")
        return _hits(self, prediction, target, 1)


@dataclass(eq=False)
class TopKAccuracy(FromPrediction):
    """The share of true classes among the k best: `prediction` [B, ..., K], `target` ids [B, ...] or rows [B, ..., K].

    `output` is `top<k>_accuracy` unless given. With k=1 it is Accuracy: of equal scores the first count, NaN is larger
    than any number, and wrong, and so are ids that are no class.

    >>> import numpy as np
    >>> from experimentator.graph import Chunk, Mode
    >>> logits = np.array([[0.1, 0.3, 0.2], [0.1, 0.3, 0.2]])
    >>> chunk = Chunk({"batch_logits": logits, "batch_target": np.array([2, 0])}, mode=Mode.EVAL)
    >>> TopKAccuracy("batch_logits", "batch_target", k=2)(chunk)
    >>> float(chunk["top2_accuracy"])
    0.5

    Raises:
        DeclarationError: for a k below 1, when the op is made.
        TensorError: for shapes that do not fit, class ids that are not integers, or fewer than k classes.
    """

    output: str = ""
    k: int = field(default=5, kw_only=True)

    def __post_init__(self) -> None:
        self.output = self.output or f"top{self.k}_accuracy"
        super().__post_init__()
        self.require(self.k > 0, seen=f"its k is {self.k}", write="Give the number of guesses.")

    def compare(self, prediction: Any, target: Any) -> Any:
        classes = prediction.shape[-1] if len(prediction.shape) > 1 else 0
        if classes is not None and classes < self.k:
            rule = f"The best {self.k} are chosen among as many classes or more"
            raise self.refuse(rule, prediction, target, "Give a smaller k, or write Accuracy.")
        return _hits(self, prediction, target, self.k)


@dataclass(eq=False)
class MeanAbsoluteError(FromPrediction):
    """The mean of |prediction - target|: both [B, ...] any number; [B, 1] may be compared with [B].

    It may be a loss, too: its gradient is the error's sign, and 0 where there is no error.

    >>> import numpy as np
    >>> from experimentator.graph import Chunk, Mode
    >>> chunk = Chunk({"batch_score": np.array([1.0, 5.0]), "batch_target": np.array([1, 3])}, mode=Mode.EVAL)
    >>> MeanAbsoluteError("batch_score", "batch_target")(chunk)
    >>> float(chunk["mean_absolute_error"])
    1.0

    Raises:
        TensorError: for two shapes that differ by more than a last axis of size 1.
    """

    output: str = "mean_absolute_error"

    def compare(self, prediction: Any, target: Any) -> Any:
        prediction, target = align(self, prediction, target)
        error = prediction - target
        return error * keras.ops.stop_gradient(keras.ops.sign(error))  # the gradient of JAX' absolute value at 0 is 1


def _hits(op: FromPrediction, prediction: Any, target: Any, k: int) -> Any:
    """1.0 where the true class is among the k largest predictions; counting costs less than sorting."""
    scores, found = keras.ops.cast(prediction, "float32"), class_ids(op, prediction, target)
    true, is_class = found or _largest(class_rows(op, prediction, target))
    true, places = keras.ops.expand_dims(true, -1), keras.ops.arange(size_of(scores), dtype="int32")
    score = keras.ops.sum(keras.ops.where(places == true, scores, 0.0), axis=-1, keepdims=True)
    behind = keras.ops.where(places < true, scores < score, scores <= score)  # never by NaN, nor NaN itself
    is_near = keras.ops.sum(keras.ops.cast(keras.ops.logical_not(behind), "int32"), axis=-1) < k
    return keras.ops.cast(keras.ops.logical_and(is_near, is_class), "float32")


def _largest(rows: Any) -> tuple[Any, Any]:
    """The class with the largest share of each row [B, ..., K], [B, ...] int32, and which rows hold no NaN."""
    total = keras.ops.sum(rows, axis=-1)
    return keras.ops.cast(keras.ops.argmax(rows, axis=-1), "int32"), total == total
