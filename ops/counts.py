"""Counts of right and wrong answers: confusion matrix, precision and recall.

>>> import numpy as np
>>> from experimentator.graph import Chunk, Mode
>>> chunk = Chunk({"batch_class": np.array([2, 0, 2]), "batch_target": np.array([2, 2, 2])}, mode=Mode.EVAL)
>>> ConfusionMatrix("batch_class", "batch_target", num_classes=3)(chunk)
>>> np.asarray(chunk["confusion_matrix"])[2].tolist()  # of the three of class 2
[1.0, 0.0, 2.0]
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import keras

from experimentator.ops.compared import Compared, FromPrediction, align, class_rows
from experimentator.ops.op import as_ids, given_as, is_discrete, shares_of


@dataclass(eq=False)
class ConfusionMatrix(FromPrediction):
    """How often each true class (row) is predicted as which class (column): [K, K] float32.

    `prediction` is [B, ..., K] logits or scores, or [B, ...] integers such as ArgMax writes; `target` ids [B, ...]
    or rows [B, ..., K]. K is `num_classes`. The matrix is that of one batch: add them up over a cycle. With `weight`
    each prediction counts as much as it weighs. NaN and ids that are no class are not counted.

    >>> import numpy as np
    >>> from experimentator.graph import Chunk, Mode
    >>> chunk = Chunk({"batch_logits": np.eye(2), "batch_target": np.array([0, 0])}, mode=Mode.EVAL)
    >>> ConfusionMatrix("batch_logits", "batch_target", num_classes=2)(chunk)
    >>> np.asarray(chunk["confusion_matrix"]).tolist()
    [[1.0, 1.0], [0.0, 0.0]]

    Raises:
        DeclarationError: for fewer than two classes, when the op is made.
        TensorError: for shapes that do not fit, or class ids that are not integers.
    """

    is_metric: ClassVar[bool] = False  # a matrix has no average
    output: str = "confusion_matrix"
    num_classes: int = field(kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.num_classes > 1, seen=f"it has {self.num_classes} classes", write="Give 2 or more.")

    def compare(self, prediction: Any, target: Any) -> Any:
        scores = self._scores(prediction)
        if scores.shape[-1] not in (None, self.num_classes):
            write = f"Write num_classes={scores.shape[-1]}."
            raise self.refuse(f"There are {self.num_classes} classes", prediction, target, write)
        rows = class_rows(self, scores, target)
        cell = self.num_classes * keras.ops.argmax(rows, axis=-1) + keras.ops.argmax(scores, axis=-1)
        bad = keras.ops.any(keras.ops.isnan(rows + keras.ops.cast(scores, "float32")), axis=-1)
        return keras.ops.where(bad, self.num_classes**2, keras.ops.cast(cell, "int32"))

    def summarise(self, values: Any, shares: Any) -> tuple[Any, ...]:
        size = self.num_classes
        counts = _counted(self, values, shares, size * size + 1)[: size * size]
        return (keras.ops.reshape(counts, (size, size)),)

    def _scores(self, prediction: Any) -> Any:
        """Predicted ids as one-hot rows; an id that is no class becomes a row of NaN."""
        return shares_of(as_ids(prediction), self.num_classes) if is_discrete(prediction) else prediction


@dataclass(eq=False)
class PrecisionRecall(Compared):
    """Precision, the share of yes answers that are right, and recall, the share of true ones that are found.

    `prediction` and `target` are [B, ...], alike but for a last axis of size 1. Answers above `threshold` are yes (0.0
    fits logits, 0.5 probabilities), and so are targets above 0.5. Writes [] float32 under the names `precision` and
    `recall`, each 0 where its denominator is 0. The denominators are written, too, as `precision.weight` and
    `recall.weight`, so that the averages over a cycle are the cycle's precision and recall.

    >>> import numpy as np
    >>> from experimentator.graph import Chunk, Mode
    >>> tensors = {"batch_logit": np.array([3.0, 1.0, -2.0]), "batch_target": np.array([1, 0, 0])}
    >>> chunk = Chunk(tensors, mode=Mode.EVAL)
    >>> PrecisionRecall("batch_logit", "batch_target")(chunk)
    >>> float(chunk["precision"]), float(chunk["recall"])
    (0.5, 1.0)

    Raises:
        TensorError: for two shapes that differ by more than a last axis of size 1.
    """

    prediction: str
    target: str
    precision: str = "precision"
    recall: str = "recall"
    threshold: float = field(default=0.0, kw_only=True)

    pair = given_as("prediction", "target")
    written = given_as("precision", "recall")

    def minds(self, squash: str, width: int | None) -> str:
        return "Write threshold=0.5." if squash == "sigmoid" and not self.threshold else ""

    @property
    def weights_of(self) -> dict[str, str]:
        return {name: f"{name}.weight" for name in self.written}  # how many answers were yes, and how many true

    def compare(self, prediction: Any, target: Any) -> Any:
        score, answer = align(self, prediction, target)
        yes, true = (keras.ops.cast(claim, "int32") for claim in (score > self.threshold, answer > 0.5))
        return 2 * true + yes

    def summarise(self, values: Any, shares: Any) -> tuple[Any, ...]:
        _, false_yes, missed, found = keras.ops.unstack(_counted(self, values, shares, 4), 4)
        said, true = found + false_yes, found + missed
        return _share(found, said), _share(found, true), said, true


def _counted(op: Compared, cells: Any, shares: Any, count: int) -> Any:
    """How often each number below `count` occurs, each cell counted by its share: [count] float32."""
    dtype = "int32" if op.weight is None else "float32"  # which stays at 2^24 when 1 is added
    shares = keras.ops.ones_like(cells, dtype=dtype) if shares is None else keras.ops.cast(shares, dtype)
    cells, shares = keras.ops.reshape(cells, (-1, 1)), keras.ops.reshape(shares, (-1,))
    counts = keras.ops.scatter_update(keras.ops.zeros(count, dtype), cells, shares, reduction="add")
    return keras.ops.cast(counts, "float32")


def _share(part: Any, whole: Any) -> Any:
    return keras.ops.where(whole == 0, 0.0, part / keras.ops.where(whole == 0, 1.0, whole))
