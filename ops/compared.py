"""What losses and metrics share: a prediction, a target, optional weights, and one number for the batch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import keras

from experimentator.graph import Chunk
from experimentator.ops.errors import TensorError
from experimentator.ops.op import Op, is_discrete


@dataclass(eq=False)
class Compared(Op):
    """Compare two tensors value by value and write the mean over the batch: [] float32.

    With `weight`, naming tensor w [B] (or [B, T, ...], as many leading axes of the values as it has), the mean is
    sum(w * value) / sum(w), and 0 if the weights sum to 0; weights are not negative. `is_metric` says that the
    number is reported, averaged over the cycle weighted by batch size.
    """

    is_metric: ClassVar[bool] = True
    weight: str | None = field(default=None, kw_only=True)

    @property
    def pair(self) -> tuple[str, str]:
        """The names of prediction and target."""
        raise NotImplementedError

    @property
    def inputs(self) -> tuple[str, ...]:  # type: ignore[override]  # computed, where the base lets one set it
        return self.pair if self.weight is None else (*self.pair, self.weight)

    @property
    def outputs(self) -> tuple[str, ...]:  # type: ignore[override]  # the same
        raise NotImplementedError

    def __call__(self, chunk: Chunk) -> None:
        values = self.compare(*(keras.ops.convert_to_tensor(chunk[name]) for name in self.pair))
        plain = self.weight is None
        chunk[self.outputs[0]] = keras.ops.mean(values) if plain else self._weighted(values, chunk[str(self.weight)])

    def compare(self, prediction: Any, target: Any) -> Any:
        """One float32 value for each thing predicted."""
        raise NotImplementedError

    def refuse(self, rule: str, prediction: Any, target: Any, write: str) -> TensorError:
        """The error for two tensors that cannot be compared."""
        return TensorError(self, rule=rule, tensors=dict(zip(self.pair, (prediction, target))), write=write)

    def _weighted(self, values: Any, weight: Any) -> Any:
        weight = keras.ops.convert_to_tensor(weight)
        rank = len(weight.shape)
        if not rank or not _fits(weight, values, rank):
            rule = "Weights are [B], or have the leading axes of what they weigh"
            write = "Give one weight for each sample."
            raise TensorError(self, rule=rule, tensors={str(self.weight): weight, "the values": values}, write=write)
        weight = keras.ops.cast(weight, "float32")
        if inner := tuple(range(rank, len(values.shape))):
            values = keras.ops.mean(values, axis=inner)
        total = keras.ops.sum(weight)
        return keras.ops.sum(weight * values) / keras.ops.where(total == 0, 1.0, total)


@dataclass(eq=False)
class FromLogits(Compared):
    """Compare logits, before any sigmoid or softmax, with a target."""

    logits: str
    target: str
    output: str = "loss"

    @property
    def pair(self) -> tuple[str, str]:
        return self.logits, self.target

    @property
    def outputs(self) -> tuple[str, ...]:  # type: ignore[override]  # the same
        return (self.output,)


@dataclass(eq=False)
class FromPrediction(Compared):
    """Compare a prediction with a target."""

    prediction: str
    target: str
    output: str = "loss"

    @property
    def pair(self) -> tuple[str, str]:
        return self.prediction, self.target

    @property
    def outputs(self) -> tuple[str, ...]:  # type: ignore[override]  # the same
        return (self.output,)


def align(op: Compared, prediction: Any, target: Any) -> tuple[Any, Any]:
    """Both as float32 and in one shape: an axis of size 1 that only one of them has at its end is dropped."""
    first, second = prediction, target
    if len(first.shape) == len(second.shape) + 1 and first.shape[-1] == 1:
        first = keras.ops.squeeze(first, axis=-1)
    elif len(second.shape) == len(first.shape) + 1 and second.shape[-1] == 1:
        second = keras.ops.squeeze(second, axis=-1)
    if len(first.shape) != len(second.shape) or not _fits(first, second, len(first.shape)):
        write = "Give both the same shape, for instance with OneHot, ExpandDims or Apply above."
        raise op.refuse("Prediction and target have the same shape", prediction, target, write)
    return keras.ops.cast(first, "float32"), keras.ops.cast(second, "float32")


def class_rows(op: Compared, prediction: Any, target: Any) -> Any:
    """The target as rows [B, ..., K] float32: one-hot for class ids, NaN for an id that is no class."""
    target, is_ids = _targets(op, prediction, target)
    if not is_ids:
        return keras.ops.cast(target, "float32")
    ids = keras.ops.cast(target, "int32")[..., None]
    classes = keras.ops.shape(prediction)[-1]
    rows = keras.ops.cast(keras.ops.equal(ids, keras.ops.arange(classes, dtype="int32")), "float32")
    is_class = keras.ops.logical_and(ids >= 0, ids < classes)
    return keras.ops.where(is_class, rows, float("nan"))


def _targets(op: Compared, prediction: Any, target: Any) -> tuple[Any, bool]:
    """The target without a last axis of size 1, and whether it holds class ids."""
    given, rank, classes = target, len(prediction.shape), prediction.shape[-1]
    if len(target.shape) == rank and target.shape[-1] == 1 and classes != 1 and is_discrete(target):
        target = keras.ops.squeeze(target, axis=-1)
    is_ids = len(target.shape) == rank - 1
    if not is_ids and len(target.shape) != rank:
        rule = "Targets are class ids, one axis fewer than the classes, or one-hot rows of the same shape"
        write = f"Give {op.pair[1]!r} one of these shapes."
        raise op.refuse(rule, prediction, given, write)
    if not _fits(prediction, target, len(target.shape)):
        write = f"Write OneHot({op.pair[1]!r}, {classes}), or give as many predictions as there are targets."
        raise op.refuse("Sizes differ between prediction and target", prediction, given, write)
    if is_ids and not is_discrete(target):
        write = f"Write Cast({op.pair[1]!r}, 'int32') above it."
        raise op.refuse("Class ids are integers", prediction, given, write)
    return target, is_ids


def _fits(first: Any, second: Any, axes: int) -> bool:
    """Whether the leading axes agree, as far as their sizes are known."""
    sizes = tuple(first.shape)[:axes], tuple(second.shape)[:axes]
    known = [(a, b) for a, b in zip(*sizes) if a is not None and b is not None]
    return len(sizes[0]) == len(sizes[1]) and all(a == b for a, b in known)
