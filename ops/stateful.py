"""Metrics of Keras, which accumulate over a cycle on the device.

>>> import numpy as np
>>> from experimentator.graph import Chunk, Mode
>>> auc = KerasMetric(keras.metrics.AUC(), "batch_score", "batch_target")
>>> auc.outputs
('auc',)
>>> for score, target in ([0.9, 0.2], [1, 0]), ([0.3, 0.8], [0, 1]):
...     chunk = Chunk({"batch_score": np.array(score), "batch_target": np.array(target)}, mode=Mode.EVAL)
...     auc(chunk)
>>> round(float(chunk["auc"]), 2)
1.0
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, ClassVar

import keras

from experimentator.graph import Chunk, DeclarationError, Mode
from experimentator.ops.compared import emptied, minded, size_of, spread
from experimentator.ops.errors import TensorError
from experimentator.ops.op import Op, dtype_of, given_as, is_discrete


@dataclass(eq=False)
class KerasMetric(Op):
    """A metric of `keras.metrics` over a whole cycle, for what no average over batches gives, such as AUC.

    `prediction` and `target` are shaped as the metric takes them, [B] is passed as [B, 1] where both may be; without a
    target the metric takes one tensor, as `keras.metrics.Mean` does. `weight` names sample weights [B]; a sample weighs
    nothing if its `mask` [B] is False or, with `nan_is_no_label`, if its target holds NaN. Where a metric has a value
    for each place, both may be [B, T], and every place counts alike, however long the rows of a batch are. Writes []
    float32: the metric over all batches since the cycle began, so that its last value is the cycle's, whatever the size
    of the last batch. `output` is the metric's name unless given.

    The metric's variables stay on the device, are reset when a pass begins, and are not trained. Training and
    evaluation have variables of their own, so that evaluating within a training pass disturbs nothing. Checkpoints hold
    them, so that a training resumed within a pass goes on exactly; files of weights do not. INFER computes the metric
    of the batch.

    >>> import numpy as np
    >>> recall = KerasMetric(keras.metrics.Recall(thresholds=0.5), "batch_score", "batch_target", "hits")
    >>> for score, target in ([0.9, 0.2], [1, 1]), ([0.8, 0.7], [1, 1]):
    ...     chunk = Chunk({"batch_score": np.array(score), "batch_target": np.array(target)}, mode=Mode.EVAL)
    ...     recall(chunk)
    ...     float(chunk["hits"])  # of both batches, after the second
    0.5
    0.75
    >>> recall.reset(Mode.EVAL)  # as a pass begins

    Raises:
        DeclarationError: for what is no metric of Keras, or one that cannot be copied, when the op is made.
        TensorError: for a metric that gives more than one number.
    """

    is_metric: ClassVar[bool] = True
    is_running: ClassVar[bool] = True  # its last value stands for the cycle, not an average
    metric: Any
    prediction: str
    target: str | None = None
    output: str = ""
    weight: str | None = field(default=None, kw_only=True)
    mask: str | None = field(default=None, kw_only=True)
    nan_is_no_label: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        name = getattr(self.metric, "name", "")
        self.output = self.output or _uncounted(name, type(self.metric).__name__)
        super().__post_init__()
        write = "Give an object of keras.metrics, such as keras.metrics.AUC()."
        seen = f"its metric is {self.metric!r:.60}"
        self.require(isinstance(self.metric, keras.metrics.Metric), seen=seen, write=write)
        self._own = {Mode.TRAIN: self.metric, Mode.EVAL: self._copy()}

    @property
    def inputs(self) -> tuple[str, ...]:  # type: ignore[override]  # computed, where the base lets one set it
        return tuple(name for name in (self.prediction, self.target, self.weight, self.mask) if name is not None)

    outputs = given_as("output")
    predicted = given_as("prediction")

    def minds(self, squash: str, width: int | None) -> str:
        """What to write if the metric takes probabilities, and is given logits, or the other way round."""
        return minded(self.metric, squash)

    def reset(self, mode: Mode) -> None:
        """Reset the variables of that mode, as a pass of it begins."""
        self._of(mode).reset_state()

    def __call__(self, chunk: Chunk) -> None:
        metric = self._of(chunk.mode)
        for own in self._own.values():
            for variable in own.variables:
                variable.value  # noqa: B018 - read in every mode, so that all modes own the same weights
        if chunk.mode == Mode.INFER:
            metric.reset_state()
        compared = [_whole(chunk[name]) for name in (self.target, self.prediction) if name is not None]
        compared = _in_columns(compared) if len(compared) == 2 else compared
        weights = None if self.weight is None else keras.ops.cast(chunk[self.weight], "float32")
        labelled = self._labelled(chunk, compared[0])
        if labelled is not None:
            alone = [keras.ops.zeros_like, keras.ops.ones_like]
            fills = [_first if len(t.shape) > len(labelled.shape) else fill for t, fill in zip(compared, alone)]
            compared = [emptied(tensor, labelled, fill) for tensor, fill in zip(compared, fills)]
            weights = _counted(labelled, weights)
        if weights is not None and len(weights.shape) > 1 and isinstance(metric, keras.metrics.Mean):
            long = keras.ops.cast(prod(keras.ops.shape(weights)[1:]), weights.dtype)
            weights *= long  # Keras averages within a row, however long it is
        try:
            metric.update_state(*compared, **({} if weights is None else {"sample_weight": weights}))
        except ValueError as error:
            if len({tuple(one.shape) for one in compared}) > 1:
                takes = f"{type(metric).__name__} may take a number for each target, such as the score of one class."
                error.add_note(f"The prediction has another shape than the target: {takes}{_rows_of(self, compared)}")
            raise
        chunk[self.output] = self._number(metric.result())

    def _labelled(self, chunk: Chunk, target: Any) -> Any:
        """Which samples, or places, have a label, [B] or [B, T] bool; None where all have."""
        labelled = None if self.mask is None else keras.ops.cast(chunk[self.mask], "bool")
        if not self.nan_is_no_label or is_discrete(target):
            return labelled
        missing = keras.ops.isnan(target)
        known = keras.ops.logical_not(keras.ops.any(missing, axis=tuple(range(1, len(target.shape)))))
        return known if labelled is None else keras.ops.logical_and(labelled, spread(known, len(labelled.shape)))

    def _of(self, mode: Mode) -> Any:
        return self._own[Mode.TRAIN if mode == Mode.TRAIN else Mode.EVAL]

    def _copy(self) -> Any:
        try:
            return type(self.metric).from_config(self.metric.get_config())
        except TypeError as error:
            raise DeclarationError(
                repr(self),
                seen=f"its metric cannot be copied: {error}",
                write="Let its get_config return what its __init__ takes.",
            ) from None

    def _number(self, result: Any) -> Any:
        shape = getattr(result, "shape", None)
        if shape is not None and tuple(shape) == (1,):  # as F1Score gives for a single class
            result, shape = result[0], ()
        if shape is None or len(shape):
            tensors = result if isinstance(result, dict) else {self.output: keras.ops.convert_to_tensor(result)}
            write = "Let the metric reduce them, as with average='macro', or list one op for each."
            raise TensorError(self, rule="A metric gives one number", tensors=tensors, write=write)
        return keras.ops.cast(result, "float32")


def _whole(value: Any) -> Any:
    """A tensor, in float32 where it has half of that: some metrics compute in its dtype, and others refuse it."""
    tensor = keras.ops.convert_to_tensor(value)
    return keras.ops.cast(tensor, "float32") if dtype_of(tensor) in ("float16", "bfloat16") else tensor


def _in_columns(tensors: list[Any]) -> list[Any]:
    """Both with the last axis of size 1 that one has, [B, 1] of two [B].

    Keras would take a batch [B] for one sample, and some metrics compare each of [B] with each of [B, 1].
    """
    rank = max(2, *(len(tensor.shape) for tensor in tensors))
    ends = {tensor.shape[-1] for tensor in tensors if len(tensor.shape) == rank}
    fits = ends <= {1} and all(len(tensor.shape) >= rank - 1 for tensor in tensors)
    return [tensor[..., None] if fits and len(tensor.shape) < rank else tensor for tensor in tensors]


def _first(tensor: Any) -> Any:
    """A row of 1 and then zeros: a metric divides neither by a sum of 0 nor by a deviation of 0."""
    places = keras.ops.arange(size_of(tensor), dtype="int32")
    return keras.ops.cast(keras.ops.equal(places, 0), dtype_of(tensor))


def _counted(labelled: Any, weights: Any) -> Any:
    """The weights, 0 where there is no label; [B, T] if one of them is."""
    if weights is None:
        return keras.ops.cast(labelled, "float32")
    rank = max(len(labelled.shape), len(weights.shape))
    return keras.ops.where(spread(labelled, rank), spread(weights, rank), 0.0)


def _uncounted(name: str, kind: str) -> str:
    """A metric's name without the number that Keras appends to names it makes up; a name that was given stays.

    >>> _uncounted("mean_metric_2", "MeanMetric"), _uncounted("iou_2", "IoU"), _uncounted("ece15_1", "ECE15")
    ('mean_metric', 'iou_2', 'ece15')
    """
    own = re.sub(r"(?<=.)[A-Z][a-z]+|(?<=[a-z])[A-Z]", r"_\g<0>", kind).lower()
    return re.sub(r"_\d+$", "", name) if name.startswith(own) and re.fullmatch(r"_\d+", name[len(own) :]) else name


def _rows_of(op: KerasMetric, compared: Sequence[Any]) -> str:
    """The op that makes class ids rows of the prediction's shape, where that is what the two differ by."""
    target, prediction = (tuple(one.shape) for one in compared)
    if len(prediction) != len(target) + 1 or not is_discrete(compared[0]):
        return ""
    return f' Or make ids rows: ops.OneHot("{op.target}", {prediction[-1]}, output="one_hot"), and compare with these.'
