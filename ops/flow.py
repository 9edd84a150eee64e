"""Ops that pass values on: under other names, without gradients, or chosen from several tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

import keras

from experimentator.graph import Chunk
from experimentator.ops.errors import TensorError
from experimentator.ops.op import InPlace, Op, alike, given_as, holding, is_discrete, widened


@dataclass(eq=False)
class Rename(Op):
    """Write what `name` holds under the name `to`: any tensor, unchanged; `name` stays readable.

    >>> from experimentator.graph import Mode
    >>> chunk = Chunk({"batch_image": 3}, mode=Mode.ALL)
    >>> Rename("batch_image", "batch_input")(chunk)
    >>> chunk["batch_input"]
    3
    """

    name: str
    to: str

    @property
    def sums_of(self) -> dict[str, dict[str, float]]:
        """The figure of a pass under the new name is that under the old one."""
        return {self.to: {self.name: 1.0}}

    inputs = given_as("name")
    outputs = given_as("to")

    def __call__(self, chunk: Chunk) -> None:
        chunk[self.to] = chunk[self.name]


@dataclass(eq=False)
class StopGradient(InPlace):
    """Let no gradient pass: `name` [...] unchanged, but a constant to everything above.

    >>> from experimentator.graph import Mode
    >>> chunk = Chunk({"batch_features": [1.0]}, mode=Mode.TRAIN)
    >>> StopGradient("batch_features", output="batch_anchor")(chunk)
    >>> float(chunk["batch_anchor"][0])
    1.0
    """

    def compute(self, tensor: Any) -> Any:
        return keras.ops.stop_gradient(tensor)


@dataclass(eq=False)
class Where(Op):
    """Choose value by value: `output` is `yes` where `condition` holds, else `no`.

    `condition` is bool or integer (0 does not hold), [B] or with as many leading axes of the values as it has; `yes`
    and `no` name tensors [B, ...] alike, or one of them is a number: if it is not whole, integers become float32.

    >>> from experimentator.graph import Mode
    >>> chunk = Chunk({"batch_has_size": [True, False], "batch_size": [[3.0], [7.0]]}, mode=Mode.TRAIN)
    >>> Where("batch_has_size", "batch_size", float("nan"), "batch_size_target")(chunk)
    >>> [float(value) for value in chunk["batch_size_target"][:, 0]]
    [3.0, nan]

    Raises:
        DeclarationError: if both are numbers, when the op is made.
        TensorError: for a condition that is float, shapes that do not go together, or a number that the dtype of the
            tensor cannot hold.
    """

    condition: str
    yes: str | float
    no: str | float
    output: str

    def __post_init__(self) -> None:
        super().__post_init__()
        named = isinstance(self.yes, str) or isinstance(self.no, str)
        self.require(named, seen="it chooses between two numbers", write="Name a tensor.")

    @property
    def inputs(self) -> tuple[str, ...]:  # type: ignore[override]  # computed, where the base lets one set it
        return (self.condition, *(name for name in (self.yes, self.no) if isinstance(name, str)))

    outputs = given_as("output")

    def __call__(self, chunk: Chunk) -> None:
        values = {
            name: keras.ops.convert_to_tensor(chunk[name]) for name in (self.yes, self.no) if isinstance(name, str)
        }
        condition = _claim(self, self.condition, chunk[self.condition], values)
        yes, no = (values[side] if isinstance(side, str) else side for side in (self.yes, self.no))
        chunk[self.output] = _chosen(condition, yes, no, op=self, name=self.inputs[-1])


@dataclass(eq=False)
class Mask(InPlace):
    """Keep values where `mask` holds, put `fill` elsewhere: `name` [B, ...] any number, in place or to `output`.

    `mask` is bool or integer (0 does not hold), [B] or with as many leading axes of `name` as it has. The dtype stays,
    but integers become float32 for a fill that is not whole, such as NaN, which losses may take for no label.

    >>> from experimentator.graph import Mode
    >>> chunk = Chunk({"batch_digit": [3, 7], "batch_known": [True, False]}, mode=Mode.TRAIN)
    >>> Mask("batch_digit", "batch_known", float("nan"))(chunk)
    >>> [float(value) for value in chunk["batch_digit"]]
    [3.0, nan]

    Raises:
        TensorError: for a mask that is float, shapes that do not go together, or a fill that the dtype cannot hold.
    """

    mask: str
    fill: float = 0.0

    inputs = given_as("name", "mask")

    def __call__(self, chunk: Chunk) -> None:
        tensor = keras.ops.convert_to_tensor(chunk[self.name])
        mask = _claim(self, self.mask, chunk[self.mask], {self.name: tensor})
        chunk[self.outputs[0]] = _chosen(mask, tensor, self.fill, op=self, name=self.name)


def _claim(op: Op, name: str, condition: Any, values: Mapping[str, Any]) -> Any:
    """The condition as bool, with axes of size 1 at its end, to be broadcast against the values."""
    condition = keras.ops.convert_to_tensor(condition)
    shapes = [tuple(tensor.shape) for tensor in values.values()]
    leading = alike(*shapes) and alike(tuple(condition.shape), *(shape[: len(condition.shape)] for shape in shapes))
    if not is_discrete(condition) or not leading:
        rule = "A condition is bool or integer, [B] or with the leading axes of the values, which have one shape"
        write = f"Compare with Apply above, which writes {name!r}, or give these shapes."
        raise TensorError(op, rule=rule, tensors={name: condition, **values}, write=write)
    return widened(keras.ops.cast(condition, "bool"), len(shapes[0]))


def _chosen(condition: Any, yes: Any, no: Any, *, op: Op, name: str) -> Any:
    """`where` of two tensors, or of the one called `name` and a number, in a dtype that holds both."""
    if isinstance(yes, Real):
        no = holding(yes, no, op=op, name=name)
        yes = keras.ops.full_like(no, yes)
    elif isinstance(no, Real):
        yes = holding(no, yes, op=op, name=name)
        no = keras.ops.full_like(yes, no)
    return keras.ops.where(condition, yes, no)
