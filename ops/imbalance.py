"""Losses for what is rare: a few true answers among many, a small object in a large image.

Weights, `mask` and `nan_is_no_label` work as in every loss.

>>> import numpy as np
>>> from experimentator.graph import Chunk, Mode
>>> tensors = {"batch_logits": np.zeros([1, 2, 2]), "batch_target": np.array([[[1.0, np.nan], [0.0, np.nan]]])}
>>> chunk = Chunk(tensors, mode=Mode.TRAIN)
>>> Dice("batch_logits", "batch_target", smooth=0.0, nan_is_no_label=True)(chunk)
>>> round(float(chunk["loss"]), 4)  # of two pixels: 1 - 2 * 0.5 / (0.25 + 0.25 + 1)
0.3333
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import keras

from experimentator.ops.compared import FromLogits, align, class_rows, spread


@dataclass(eq=False)
class Focal(FromLogits):
    """Cross entropy of yes-no questions in which easy ones count less: `logits` [B, ...], `target` alike in [0, 1].

    -a_t (1 - p_t)^gamma log p_t, with p_t the probability of the true answer, and a_t = `alpha` for yes, 1 - alpha
    for no, 1 for both where alpha is None (Lin et al., "Focal Loss for Dense Object Detection", 2017, equation 5).
    A target between no and yes counts as so much of each. Class ids [B, ...] with logits [B, ..., K] are K questions
    each, as in the paper. The mean is over questions, too; the paper divides the sum by the number of objects, so that
    the two differ by a factor.

    >>> import numpy as np
    >>> from experimentator.graph import Chunk, Mode
    >>> chunk = Chunk({"batch_logit": np.zeros([2]), "batch_target": np.array([1, 0])}, mode=Mode.TRAIN)
    >>> Focal("batch_logit", "batch_target", alpha=None)(chunk)
    >>> round(float(chunk["loss"]), 4)  # 0.5 ** 2 * log 2
    0.1733

    Raises:
        DeclarationError: for a gamma below 0 or an alpha outside [0, 1], when the op is made.
        TensorError: for shapes that do not fit, or class ids that are not integers.
    """

    gamma: float = field(default=2.0, kw_only=True)
    alpha: float | None = field(default=0.25, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.gamma >= 0, seen=f"its gamma is {self.gamma!r}", write="Give 0 or more.")
        share = self.alpha is None or 0 <= self.alpha <= 1
        self.require(share, seen=f"its alpha is {self.alpha!r}", write="Give a share from 0 to 1, or None.")

    def compare(self, logits: Any, target: Any) -> Any:
        z, yes = _questions(self, logits, target)
        weights = (1.0, 1.0) if self.alpha is None else (self.alpha, 1.0 - self.alpha)
        return weights[0] * yes * self._surprise(z) + weights[1] * (1.0 - yes) * self._surprise(-z)

    def _surprise(self, z: Any) -> Any:
        """(1 - p)^gamma (-log p) with p = sigmoid(z), from logarithms of p and 1 - p: exact where p is near 0 or 1."""
        return keras.ops.exp(-self.gamma * keras.ops.softplus(z)) * keras.ops.softplus(-z)


@dataclass(eq=False)
class Dice(FromLogits):
    """How little prediction and target overlap, for each image: `logits` [B, ...], `target` alike in [0, 1].

    1 - (2 sum(p t) + s) / (sum(p^2) + sum(t^2) + s), with p = sigmoid(logits), sums over all axes but the batch, and
    s = `smooth`, with which two empty images overlap (Milletari et al., "V-Net", 2016, section 3, without s). Class
    ids [B, ...] with logits [B, ..., K] exclude each other: p = softmax(logits), and the mean is over classes.
    Weights are [B]; a mask [B], or for pixels.

    >>> import numpy as np
    >>> from experimentator.graph import Chunk, Mode
    >>> tensors = {"batch_logits": np.full([1, 8, 8, 1], 50.0), "batch_target": np.ones([1, 8, 8])}
    >>> chunk = Chunk(tensors, mode=Mode.TRAIN)
    >>> Dice("batch_logits", "batch_target")(chunk)
    >>> float(chunk["loss"])
    0.0

    Raises:
        DeclarationError: for a smooth below 0, when the op is made.
        TensorError: for shapes that do not fit, class ids that are not integers, or no axes but the batch.
    """

    smooth: float = field(default=1.0, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.smooth >= 0, seen=f"its smooth is {self.smooth!r}", write="Give 0 or more.")

    def measure(self, tensors: Sequence[Any], labelled: Any) -> tuple[Any, Any]:
        logits, target = tensors
        if len(logits.shape) < 2:
            raise self.refuse("Overlaps are of images", logits, target, "Give [B, H, W], or write Focal.")
        z, answers = _questions(self, logits, target)
        of_classes = _is_of_classes(logits, target)
        scores = keras.ops.softmax(z, axis=-1) if of_classes else keras.ops.sigmoid(z)
        if labelled is not None:
            inside = spread(labelled, len(scores.shape))
            scores, answers = (keras.ops.where(inside, tensor, 0.0) for tensor in (scores, answers))
            labelled = keras.ops.any(labelled, axis=tuple(range(1, len(labelled.shape))))
        return self._apart(scores, answers, of_classes), labelled

    def _apart(self, scores: Any, answers: Any, of_classes: bool) -> Any:
        axes = tuple(range(1, len(scores.shape) - of_classes))
        both = keras.ops.sum(scores * answers, axis=axes)
        each = keras.ops.sum(keras.ops.square(scores) + keras.ops.square(answers), axis=axes)
        total = each + self.smooth
        return 1.0 - (2.0 * both + self.smooth) / keras.ops.where(total == 0, 1.0, total)


def _questions(op: FromLogits, logits: Any, target: Any) -> tuple[Any, Any]:
    """Logits and answers in one shape, float32."""
    if _is_of_classes(logits, target):
        return keras.ops.cast(logits, "float32"), class_rows(op, logits, target)
    return align(op, logits, target)


def _is_of_classes(logits: Any, target: Any) -> bool:
    """Whether the target holds class ids: one axis fewer than logits of several classes, or a last axis of size 1."""
    classes, rank = logits.shape[-1] if len(logits.shape) else 1, len(logits.shape)
    return classes != 1 and (len(target.shape) == rank - 1 or (len(target.shape) == rank and target.shape[-1] == 1))
