"""Base classes of all ops: `mode=`, `node=` and `after=`, and one tensor in, one out; and checks of their arguments.

An op works eagerly on numpy arrays and tensors, inside a compiled function, and with a batch size that is not known.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, fields
from numbers import Integral, Real
from typing import Any

import keras
import numpy as np

from experimentator.graph import Chunk, ChunkProcessor, DeclarationError, Mode
from experimentator.ops.errors import TensorError

log = logging.getLogger(__name__)


def given_as(*arguments: str) -> Any:
    """The property `inputs` or `outputs` of an op that is given the names of its tensors as these arguments.

    Each holds one name, or several, as a list or as the keys of a dictionary.
    """

    def names(op: Any) -> tuple[Any, ...]:
        given = (getattr(op, argument) for argument in arguments)
        several = (one if isinstance(one, Collection) and not isinstance(one, str) else (one,) for one in given)
        return tuple(name for some in several for name in some)

    return property(names)


@dataclass(eq=False)
class Op(ChunkProcessor):
    """A declared chunk processor with a label and a mode; two equal ops are two nodes.

    An argument that is annotated as a number and is none is refused, before an op checks its range.

    >>> from experimentator.ops import Cast
    >>> Cast("batch_input", mode="train", node="To float").mode
    <Mode.TRAIN: 1>
    """

    mode: Mode = field(default=Mode.ALL, kw_only=True)
    node: str | None = field(default=None, kw_only=True)
    after: Sequence[Any] = field(default=(), kw_only=True)

    def __post_init__(self) -> None:
        self.mode = Mode.of(self.mode)
        reads, writes = tuple(self.inputs or ()), tuple(self.outputs or ())
        for name in reads + writes:
            self.require(
                isinstance(name, str), seen=f"{name!r} is no tensor name", write="Write one string per tensor."
            )
        seen = f"its outputs are {', '.join(writes)}"
        self.require(len(set(writes)) == len(writes), seen=seen, write="Name every output differently.")
        for argument in fields(self):
            self._require_number(argument.name, str(argument.type).split(" | "))

    def require(self, claim: bool, *, seen: str, write: str) -> None:
        """Raise DeclarationError unless the claim holds."""
        if not claim:
            raise DeclarationError(repr(self), seen=seen, write=write)

    def refuse_metric(self, called: Any) -> None:
        """Refuse a metric of Keras where a function is called: nothing would reset it when a pass begins.

        Of metrics with a value for each call, as torchmetrics' have, warn that the history shows the mean over batches.
        """
        adds_up = getattr(called, "__name__", "__call__") in ("__call__", "update_state", "result")
        is_metric = adds_up and isinstance(getattr(called, "__self__", called), keras.metrics.Metric)
        seen = f"what it calls, {called!r:.60}, is a metric, whose state would not be reset between passes"
        self.require(not is_metric, seen=seen, write='Write ops.KerasMetric(metric, "batch_logits", "batch_target").')
        if all(callable(getattr(called, name, None)) for name in ("update", "compute", "reset")):
            log.warning(
                "%s: the history shows the mean of the values of %.60r per batch, which is its value of the whole "
                "pass for accuracies, but not for AUROC, F1 and the like. For these, write "
                'ops.KerasMetric(keras.metrics.AUC(), "batch_scores", "batch_target").',
                type(self).__name__, called,
            )  # fmt: skip

    def _require_number(self, name: str, kinds: Sequence[str]) -> None:
        """Refuse an argument that is nothing its annotation names, where that is a number or a choice with one."""
        if {"int", "float"} & set(kinds) and set(kinds) <= set(_KINDS):
            value = getattr(self, name)
            fine = any(_KINDS[kind][1](value) for kind in kinds)
            write = f"Give {' or '.join(_KINDS[kind][0] for kind in kinds)}."
            if isinstance(value, str) and getattr(self, "output", value) is None:  # a second name by position
                write = f"Write output={value!r} for a name. {write}"
            self.require(fine, seen=f"its {name} is {value!r}", write=write)


@dataclass(eq=False)
class InPlace(Op):
    """One tensor in, one out: under the same name, or under `output=` if given.

    >>> from experimentator.ops import Softmax
    >>> Softmax("batch_logits", output="batch_scores").outputs
    ('batch_scores',)
    """

    name: str
    output: str | None = field(default=None, kw_only=True)

    inputs = given_as("name")

    @property
    def outputs(self) -> tuple[str, ...]:  # type: ignore[override]  # computed, where the base lets one set it
        return (self.name if self.output is None else self.output,)

    def __call__(self, chunk: Chunk) -> None:
        chunk[self.outputs[0]] = self.compute(keras.ops.convert_to_tensor(chunk[self.name]))

    def compute(self, tensor: Any) -> Any:
        """The tensor to write, from the tensor read."""
        raise NotImplementedError

    def refuse(self, rule: str, tensor: Any, write: str) -> TensorError:
        """The error for a tensor that the op cannot work on."""
        return TensorError(self, rule=rule, tensors={self.name: tensor}, write=write)


def as_names(given: Any) -> tuple[Any, ...]:
    """Names that were given in a list, or one by itself; what is neither is refused as a name."""
    return tuple(given) if isinstance(given, Iterable) and not isinstance(given, str) else (given,)


def is_whole(value: Any) -> bool:
    """Whether it is one whole number, of Python or numpy; True and False are none."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether it is one number: of Python or numpy, or a tensor or variable []."""
    return isinstance(value, Real) or getattr(value, "shape", None) == ()


def plain(value: Any) -> Any:
    """Arrays and scalars of numpy as lists and numbers; all else unchanged."""
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value


_FLOAT16 = 65504  # its largest number
_KINDS = {  # by annotation of an argument: in words, and whether a value is one
    "int": ("a whole number", is_whole),
    "float": ("a number", is_number),
    "str": ("a name", lambda value: isinstance(value, str)),
    "None": ("None", lambda value: value is None),
}


def as_float(tensor: Any) -> Any:
    """Integers and booleans become float32; floats stay what they are."""
    return tensor if keras.backend.is_float_dtype(dtype_of(tensor)) else keras.ops.cast(tensor, "float32")


def dtype_of(tensor: Any) -> str:
    """The dtype's name, the same on every backend."""
    return str(keras.backend.standardize_dtype(tensor.dtype))


def checked_dtype(op: Op, dtype: Any) -> str:
    """The name of a dtype that an op is given; refuses what is none."""
    try:
        return str(keras.backend.standardize_dtype(dtype))
    except ValueError:
        seen = f"{dtype!r} is no dtype"
        write = "Write 'float32', 'float16', 'int32', 'uint8', 'bool' or the like."
        raise DeclarationError(repr(op), seen=seen, write=write) from None


def is_discrete(tensor: Any) -> bool:
    """Whether the values are integers or booleans."""
    return dtype_of(tensor).startswith(("int", "uint", "bool"))


def as_ids(tensor: Any) -> Any:
    """Integers as int32; -1 for those that it cannot hold."""
    ids, dtype = keras.ops.cast(tensor, "int32"), dtype_of(tensor)
    return keras.ops.where(keras.ops.cast(ids, dtype) == tensor, ids, -1) if dtype.endswith("int64") else ids


def one_hot(ids: Any, classes: Any, dtype: str = "float32") -> Any:
    """Class ids [...] int32 as rows [..., K]: 1 at the class; Keras' own refuses ids that are no class on PyTorch."""
    return keras.ops.cast(keras.ops.equal(ids[..., None], keras.ops.arange(classes, dtype="int32")), dtype)


def shares_of(ids: Any, classes: Any) -> Any:
    """Class ids [...] int32 as rows [..., K] float32: 1 at the class, NaN in all places for an id that is none."""
    return keras.ops.where(are_classes(ids, classes)[..., None], one_hot(ids, classes), float("nan"))


def are_classes(ids: Any, classes: Any) -> Any:
    """Which ids are those of a class."""
    return keras.ops.logical_and(ids >= 0, ids < classes)


def widened(tensor: Any, rank: int) -> Any:
    """The tensor with axes of size 1 at its end, so that it has so many: to be broadcast against another."""
    return tensor[(..., *[None] * (rank - len(tensor.shape)))]


def largest(tensor: Any, axis: int | tuple[int, ...], *, keepdims: bool = False) -> Any:
    """The largest along axes; 0 of nothing, such as a batch without rows, of which Keras takes no maximum."""
    reduce = keras.ops.sum if 0 in tuple(tensor.shape) else keras.ops.max
    return keras.ops.cast(reduce(tensor, axis=axis, keepdims=keepdims), dtype_of(tensor))


def alike(*shapes: Sequence[int | None]) -> bool:
    """Whether shapes agree, as far as their sizes are known.

    >>> alike((None, 3), (2, 3)), alike((2, 3), (2, 3, 1)), alike((2, None), (2, 3), (2, 4))
    (True, False, False)
    """
    known = ([size for size in sizes if size is not None] for sizes in zip(*shapes))
    return len({len(shape) for shape in shapes}) == 1 and all(size == sizes[0] for sizes in known for size in sizes)


def limits(dtype: str) -> tuple[int, int]:
    """The least and the largest number of a bool or integer dtype."""
    if dtype == "bool":
        return 0, 1
    known = np.iinfo(dtype)
    return known.min, known.max


def holding(number: Any, tensor: Any, *, op: Op, name: str) -> Any:
    """The tensor in a dtype that holds `number`, too: integers become float32 for one that is not whole.

    Raises:
        TensorError: for a number out of the range of the dtype; infinity is a float of any.
    """
    if is_discrete(tensor) and not float(number).is_integer():
        return as_float(tensor)
    dtype = dtype_of(tensor)
    low, high = limits(dtype) if is_discrete(tensor) else (-_FLOAT16, _FLOAT16)
    wide = not is_discrete(tensor) and (dtype != "float16" or not math.isfinite(number))
    if not (wide or low <= number <= high):
        rule, write = f"{number:g} is no {dtype}, which is {low} to {high}", f"Write ops.Cast({name!r}, ...) above it."
        raise TensorError(op, rule=rule, tensors={name: tensor}, write=write)
    return tensor


def rounded(values: Any, dtype: str) -> Any:
    """float32 values as `dtype`; integers and booleans are the nearest (of two the even one) that it can hold."""
    if not dtype.startswith(("int", "uint", "bool")):
        return keras.ops.cast(values, dtype)
    low, high = limits(dtype)
    end = high + 1 - 2.0 ** max(0, high.bit_length() - 24)  # the largest that float32 can hold
    return keras.ops.cast(keras.ops.clip(keras.ops.round(values), float(low), end), dtype)
