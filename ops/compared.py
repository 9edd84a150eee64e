"""What losses and metrics share: a prediction, a target, optional weights, and one number for the batch."""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import keras

from experimentator.graph import Chunk
from experimentator.graph.signatures import signature_of
from experimentator.ops.errors import TensorError
from experimentator.ops.op import Op, alike, are_classes, as_ids, given_as, is_discrete, shares_of, widened

log = logging.getLogger(__name__)
CARRIED = (
    "%r counts every value of %r, which carries a Keras mask (as from Embedding(mask_zero=True)); keras.Model.fit "
    'would leave masked values out. To do the same, pass mask="batch_known" (True where there is a label), and write '
    'it above: ops.Apply(lambda tokens: tokens != 0, inputs="batch_tokens", outputs="batch_known").'
)


@dataclass(eq=False)
class Compared(Op):
    """Compare two tensors value by value and write the mean over the batch: [] float32.

    With `weight`, the name of a tensor w [B] (or [B, T, ...], the first axes of the values), the mean is
    sum(w * value) / sum(w), and 0 if the weights sum to 0; weights are not negative.

    `mask` names a bool tensor of such a shape: False means no label. With `nan_is_no_label` a target of NaN means no
    label, too; class ids may then be floats. Values without a label count as if they were not in the batch: neither in
    the mean nor in the gradients, whatever the prediction is there. Without any label the mean is 0.

    `is_metric` says that the number is reported, averaged over the cycle. With weights, a mask or `nan_is_no_label` the
    sum of the weights is written, too, as `<name>.weight` [] float32, and each batch counts by it: so the average is
    that of all labels of the cycle. Otherwise batches count by their size.
    """

    is_metric: ClassVar[bool] = True
    _is_told = False
    weight: str | None = field(default=None, kw_only=True)
    mask: str | None = field(default=None, kw_only=True)
    nan_is_no_label: bool = field(default=False, kw_only=True)

    @property
    def pair(self) -> tuple[str, ...]:
        """The names of what is compared: the prediction, then the target."""
        raise NotImplementedError

    @property
    def inputs(self) -> tuple[str, ...]:  # type: ignore[override]  # computed, where the base lets one set it
        return (*self.pair, *(name for name in (self.weight, self.mask) if name is not None))

    @property
    def written(self) -> tuple[str, ...]:
        """The names under which the measured numbers are written."""
        raise NotImplementedError

    @property
    def predicted(self) -> tuple[str, ...]:
        """The name of the prediction, of which `minds` judges what it ends in."""
        return self.pair[:1]

    def minds(self, squash: str, width: int | None) -> str:
        """What to write if the prediction ends in a "softmax", "sigmoid" or "linear" of that width; empty if fine."""
        return ""

    @property
    def weights_of(self) -> dict[str, str]:
        """For each number written, the name of its weight: of how much of the batch it is the mean; empty for all."""
        leaves_out = self.weight is not None or self.mask is not None or self.nan_is_no_label
        return {name: f"{name}.weight" for name in self.written} if leaves_out and self.is_metric else {}

    @property
    def outputs(self) -> tuple[str, ...]:  # type: ignore[override]  # the same
        return (*self.written, *self.weights_of.values())

    def __call__(self, chunk: Chunk) -> None:
        self._tell_mask(chunk)
        tensors = [keras.ops.convert_to_tensor(chunk[name]) for name in self.pair]
        labelled = self._labelled(chunk, tensors)
        if labelled is not None:  # else a NaN where there is no label could reach the gradients as 0 * NaN
            tensors = [emptied(tensor, labelled) for tensor in tensors]
        values, labelled = self.measure(tensors, labelled)
        if labelled is not None:
            values = emptied(values, labelled)
        chunk.update(dict(zip(self.outputs, self.summarise(values, self._shares(chunk, tensors, values, labelled)))))

    def measure(self, tensors: Sequence[Any], labelled: Any) -> tuple[Any, Any]:
        """The values, and which of them count (bool, with leading axes of the values) or None for all."""
        return self.compare(*tensors), labelled

    def compare(self, prediction: Any, target: Any) -> Any:
        """One value for each prediction; float32 where values are averaged."""
        raise NotImplementedError

    def importance(self, tensors: Sequence[Any]) -> Any:
        """A weight for each prediction that follows from the tensors compared; None where all weigh the same."""
        return None

    def summarise(self, values: Any, shares: Any) -> tuple[Any, ...]:
        """What is written to `outputs`; `shares` has one weight for each value, None where all weigh the same."""
        if not self.weights_of:
            return (keras.ops.mean(values) if shares is None else weighted_mean(values, shares),)
        shares = keras.ops.ones_like(values, dtype="float32") if shares is None else shares
        return weighted_mean(values, shares), keras.ops.sum(shares)

    def refuse(self, rule: str, prediction: Any, target: Any, write: str) -> TensorError:
        """The error for two tensors that cannot be compared."""
        return TensorError(self, rule=rule, tensors=dict(zip(self.pair, (prediction, target))), write=write)

    def _tell_mask(self, chunk: Chunk) -> None:
        """Warn once if the prediction carries a mask of Keras and the op is given neither mask nor weight."""
        carries = getattr(chunk[self.pair[0]], "_keras_mask", None) is not None
        if carries and self.weight is None and self.mask is None and not (self.nan_is_no_label or self._is_told):
            self._is_told = True
            log.warning(CARRIED, self, self.pair[0])

    def _labelled(self, chunk: Chunk, tensors: Sequence[Any]) -> Any:
        """Where there is a label, bool; None if the op is not told that labels may be missing."""
        found = [self._given_mask(chunk[self.mask], tensors)] if self.mask is not None else []
        if self.nan_is_no_label:
            found += [keras.ops.logical_not(keras.ops.isnan(t)) for t in tensors[1:] if not is_discrete(t)]
        if not found:
            return None
        rank = max(len(labels.shape) for labels in found)
        return functools.reduce(keras.ops.logical_and, [spread(labels, rank) for labels in found])

    def _given_mask(self, mask: Any, tensors: Sequence[Any]) -> Any:
        mask = keras.ops.convert_to_tensor(mask)
        rank = len(mask.shape)
        if not rank or not is_discrete(mask) or not any(_fits(mask, tensor, rank) for tensor in tensors):
            rule = "A mask is bool, [B] or with the leading axes of what it masks"
            tensors_seen = {str(self.mask): mask, **dict(zip(self.pair, tensors))}
            write = (
                f"Write True where there is a label; for NaN as no label, nan_is_no_label=True without {self.mask!r}."
                if is_discrete(mask)
                else f'Write ops.Cast({self.mask!r}, "bool") above it; for numbers that weigh, weight={self.mask!r}.'
            )
            raise TensorError(self, rule=rule, tensors=tensors_seen, write=write)
        return keras.ops.cast(mask, "bool")

    def _shares(self, chunk: Chunk, tensors: Sequence[Any], values: Any, labelled: Any) -> Any:
        given = None if self.weight is None else self._given_weight(chunk[self.weight], values)
        found = [share for share in (given, self.importance(tensors)) if share is not None]
        if not found and labelled is None:
            return None
        shares = keras.ops.ones_like(values, dtype="float32")
        for share in found:
            shares = shares * spread(share, len(values.shape))
        return shares if labelled is None else emptied(shares, labelled)

    def _given_weight(self, weight: Any, values: Any) -> Any:
        weight = keras.ops.convert_to_tensor(weight)
        rank = len(weight.shape)
        if not rank or not _fits(weight, values, rank):
            rule = "Weights are [B], or have the leading axes of what they weigh"
            write = "Give one weight for each sample."
            raise TensorError(self, rule=rule, tensors={str(self.weight): weight, "the values": values}, write=write)
        return keras.ops.cast(weight, "float32")


@dataclass(eq=False)
class FromLogits(Compared):
    """Compare logits, before any sigmoid or softmax, with a target."""

    logits: str
    target: str
    output: str = "loss"

    pair = given_as("logits", "target")
    written = given_as("output")

    def minds(self, squash: str, width: int | None) -> str:
        write = "Leave it out; ops.Softmax and ops.Sigmoid write probabilities beside the logits."
        return write if squash in ("softmax", "sigmoid") else ""


@dataclass(eq=False)
class FromPrediction(Compared):
    """Compare a prediction with a target."""

    prediction: str
    target: str
    output: str = "loss"

    pair = given_as("prediction", "target")
    written = given_as("output")


def minded(called: Any, squash: str) -> str:
    """What to write if a loss, metric or function of Keras is given probabilities for logits, or logits for them.

    >>> minded(keras.losses.BinaryCrossentropy(), "linear"), minded(keras.losses.MeanSquaredError(), "linear")
    ('Write from_logits=True.', '')
    """
    takes_logits = getattr(called, "from_logits", getattr(called, "_from_logits", None))
    if takes_logits is None and inspect.isfunction(called):
        parameter = signature_of(called).parameters.get("from_logits")
        takes_logits = parameter and parameter.default
    if takes_logits is False and squash == "linear":
        return "Write from_logits=True."
    return "Write from_logits=False." if takes_logits is True and squash in ("softmax", "sigmoid") else ""


def weighted_mean(values: Any, shares: Any) -> Any:
    """sum(share * value) / sum(share), and 0 if the shares sum to 0."""
    total = keras.ops.sum(shares)
    return keras.ops.sum(shares * values) / keras.ops.where(total == 0, 1.0, total)


def align(op: Compared, prediction: Any, target: Any) -> tuple[Any, Any]:
    """Both as float32 and in one shape: an axis of size 1 that only one of them has at its end is dropped."""
    first, second = in_one_shape(op, prediction, target)
    return keras.ops.cast(first, "float32"), keras.ops.cast(second, "float32")


def in_one_shape(op: Compared, prediction: Any, target: Any) -> tuple[Any, Any]:
    """Both without an axis of size 1 that only one of them has at its end."""
    first, second = prediction, target
    if len(first.shape) == len(second.shape) + 1 and first.shape[-1] == 1:
        first = keras.ops.squeeze(first, axis=-1)
    elif len(second.shape) == len(first.shape) + 1 and second.shape[-1] == 1:
        second = keras.ops.squeeze(second, axis=-1)
    if len(first.shape) != len(second.shape) or not _fits(first, second, len(first.shape)):
        write = "Give both the same shape, for instance with ops.OneHot, ops.ExpandDims or ops.Apply above."
        raise op.refuse("Prediction and target have the same shape", prediction, target, write)
    return first, second


def class_rows(op: Compared, prediction: Any, target: Any) -> Any:
    """The target as rows [B, ..., K] float32: one-hot for class ids, NaN for an id that is no class."""
    target, is_ids = _targets(op, prediction, target)
    if not is_ids:
        return keras.ops.cast(target, "float32")
    return shares_of(_whole(target), size_of(prediction))


def class_ids(op: Compared, prediction: Any, target: Any) -> tuple[Any, Any] | None:
    """The target as ids [B, ...] int32 (0 if no class), and which of them are classes; None where it holds rows."""
    target, is_ids = _targets(op, prediction, target)
    if not is_ids:
        return None
    ids = _whole(target)
    is_class = are_classes(ids, size_of(prediction))
    return keras.ops.where(is_class, ids, 0), is_class


def _targets(op: Compared, prediction: Any, target: Any) -> tuple[Any, bool]:
    """The target without a last axis of size 1, and whether it holds class ids."""
    given, rank, classes = target, len(prediction.shape), prediction.shape[-1]
    may_be_ids = is_discrete(target) or op.nan_is_no_label
    if len(target.shape) == rank and target.shape[-1] == 1 and classes != 1 and may_be_ids:
        target = keras.ops.squeeze(target, axis=-1)
    is_ids = len(target.shape) == rank - 1
    if not is_ids and len(target.shape) != rank:
        rule = "Targets are class ids, one axis fewer than the classes, or one-hot rows of the same shape"
        write = f"Give {op.pair[1]!r} one of these shapes."
        raise op.refuse(rule, prediction, given, write)
    if not _fits(prediction, target, len(target.shape)):
        write = f"Write ops.OneHot({op.pair[1]!r}, {classes}), or give as many predictions as there are targets."
        raise op.refuse("Sizes differ between prediction and target", prediction, given, write)
    if is_ids and not may_be_ids:
        write = f"Write ops.Cast({op.pair[1]!r}, 'int32') above it."
        raise op.refuse("Class ids are integers", prediction, given, write)
    return target, is_ids


def _whole(ids: Any) -> Any:
    """Class ids as int32; -1 for a float between two ids."""
    if is_discrete(ids):
        return as_ids(ids)
    return keras.ops.cast(keras.ops.where(ids == keras.ops.floor(ids), ids, -1.0), "int32")


def size_of(tensor: Any) -> Any:
    """The size of the last axis: a number where it is known, which costs a graph nothing, else a tensor."""
    size = tensor.shape[-1]
    return keras.ops.shape(tensor)[-1] if size is None else size


def spread(tensor: Any, rank: int) -> Any:
    """The tensor at this rank: axes of size 1 are added at the end; surplus last axes are reduced by `all`."""
    size = len(tensor.shape)
    if size > rank:
        return keras.ops.all(tensor, axis=tuple(range(rank, size)))
    return widened(tensor, rank)


def emptied(tensor: Any, labelled: Any, fill: Any = keras.ops.zeros_like) -> Any:
    """The tensor, with 0 (or what `fill` makes of it) where there is no label.

    Unchanged if the shapes do not fit, which `compare` reports.
    """
    labelled = spread(labelled, len(tensor.shape))
    sizes = zip(tuple(labelled.shape), tuple(tensor.shape))
    fits = all(None in (has, size) or has in (1, size) for has, size in sizes)
    return keras.ops.where(labelled, tensor, fill(tensor)) if fits else tensor


def _fits(first: Any, second: Any, axes: int) -> bool:
    """Whether the leading axes agree, as far as their sizes are known."""
    return alike(tuple(first.shape)[:axes], tuple(second.shape)[:axes])
