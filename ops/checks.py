"""Ops that check or show tensors while they pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from experimentator.graph import Chunk
from experimentator.graph.text import spell
from experimentator.ops.errors import NotFiniteError, TensorError
from experimentator.ops.op import Op, as_float, checked_dtype, dtype_of, given_as


@dataclass(eq=False)
class AssertFinite(Op):
    """Watch for NaN and infinity: `name` [...] passes unchanged, `<name>_is_finite` [] float32 is 1.0 or 0.0.

    Where values are known (eager), a failed check raises at once. Compiled code cannot raise: there the op only writes
    the flag, which costs one reduction and is pruned if nobody asks for it. Ask for the names in `checks`, and raise
    `failure(...)` when one of them is 0.0. `name` is both read and written, to keep the op in the dataflow.

    >>> from experimentator.graph import Mode
    >>> check = AssertFinite("batch_logits")
    >>> chunk = Chunk({"batch_logits": [0.0, 1.0]}, mode=Mode.TRAIN)
    >>> check(chunk)
    >>> check.checks, float(chunk["batch_logits_is_finite"])
    (('batch_logits_is_finite',), 1.0)
    >>> check(Chunk({"batch_logits": [0.0, float("nan")]}, mode=Mode.TRAIN))
    Traceback (most recent call last):
    experimentator.ops.errors.NotFiniteError: AssertFinite(name='batch_logits') found NaN or infinity in 'batch_logits'.
    It was given [2] float32.
    Look at the data, lower the learning rate, or put AssertFinite further up to find where it begins.

    Raises:
        NotFiniteError: a FloatingPointError, where values are known.
    """

    name: str

    @property
    def checks(self) -> tuple[str, ...]:
        """Names of flags that are fetched with the results of a batch: 0.0 means that the check failed."""
        return (f"{self.name}_is_finite",)

    inputs = given_as("name")

    @property
    def outputs(self) -> tuple[str, ...]:  # type: ignore[override]  # computed, where the base lets one set it
        return (self.name, *self.checks)

    def __call__(self, chunk: Chunk) -> None:
        tensor = keras.ops.convert_to_tensor(chunk[self.name])
        finite = keras.ops.all(keras.ops.isfinite(as_float(tensor)))
        if _known(finite) is False:
            raise self.failure(spell(tensor))
        chunk[self.name] = tensor
        chunk[self.checks[0]] = keras.ops.cast(finite, "float32")

    def failure(self, seen: str = "values inside compiled code") -> NotFiniteError:
        """The error to raise for a flag of 0.0."""
        return NotFiniteError(self.node or repr(self), name=self.name, seen=seen)


@dataclass(eq=False)
class AssertShape(Op):
    """Refuse a tensor of another shape or dtype: `name` [...] passes unchanged, nothing is written.

    `shape` has one entry for each axis: its size, None for any, or a letter, which stands for one size wherever it
    occurs. Compiled code is checked once, while it is traced; sizes that are not known then are not checked. The op
    runs wherever the tensor it reads is computed anyway.

    >>> import numpy as np
    >>> from experimentator.graph import Mode
    >>> check = AssertShape("batch_input", ["B", "H", "H", 3], dtype="uint8")
    >>> check(Chunk({"batch_input": np.zeros([2, 8, 8, 3], "uint8")}, mode=Mode.TRAIN))
    >>> check(Chunk({"batch_input": np.zeros([2, 8, 9, 3], "uint8")}, mode=Mode.TRAIN))
    Traceback (most recent call last):
    experimentator.ops.errors.TensorError: AssertShape(...): The shape is [B, H, H, 3] uint8.
    It was given 'batch_input' [2, 8, 9, 3] uint8.
    Change what writes 'batch_input', or what is asserted.

    Raises:
        DeclarationError: for a shape that is no list of such entries, or what is no dtype, when the op is made.
        TensorError: for another shape or dtype.
    """

    name: str
    shape: Sequence[int | str | None]
    dtype: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        is_list = isinstance(self.shape, (list, tuple)) and all(
            n is None or isinstance(n, (int, str)) for n in self.shape
        )
        write = 'Give one entry for each axis: ["B", 28, 28, None].'
        self.require(is_list, seen=f"its shape is {self.shape!r}", write=write)
        self.dtype = None if self.dtype is None else checked_dtype(self, self.dtype)

    inputs = given_as("name")
    outputs = ()

    def __call__(self, chunk: Chunk) -> None:
        tensor = keras.ops.convert_to_tensor(chunk[self.name])
        if not self._fits(tuple(tensor.shape)) or self.dtype not in (None, dtype_of(tensor)):
            axes = ", ".join("?" if size is None else str(size) for size in self.shape)
            rule = f"The shape is [{axes}]{f' {self.dtype}' if self.dtype else ''}"
            write = f"Change what writes {self.name!r}, or what is asserted."
            raise TensorError(self, rule=rule, tensors={self.name: tensor}, write=write)

    def _fits(self, sizes: Sequence[int | None]) -> bool:
        known: dict[str, int] = {}
        for asked, size in zip(self.shape, sizes):
            if size is not None and asked is not None:
                if size != (known.setdefault(asked, size) if isinstance(asked, str) else asked):
                    return False
        return len(self.shape) == len(sizes)


@dataclass(eq=False)
class Print(Op):
    """Show tensors as they pass: shapes and dtypes of `names`, and values where they are known; nothing is written.

    Compiled code shows a shape once, the first time it is traced: `eager=True` of an experiment shows all batches.
    Lines go to `to`, a function of text such as a logger's method. It runs where all it reads is computed anyway.

    >>> import numpy as np
    >>> from experimentator.graph import Mode
    >>> Print("batch_target")(Chunk({"batch_target": np.array([3, 1])}, mode=Mode.TRAIN))
    batch_target [2] int64: [3 1]
    >>> Print(["batch_input"])(Chunk({"batch_input": np.arange(100.0)}, mode=Mode.TRAIN))
    batch_input [100] float64: 0 to 99, mean 49.5
    """

    names: str | Sequence[str]
    to: Callable[[str], object] = field(default=print, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._traced: set[Any] = set()  # shown already: recording, each mode and each number of batches trace anew

    inputs = given_as("names")
    outputs = ()

    def __call__(self, chunk: Chunk) -> None:
        for name in self.inputs:
            value = chunk[name]
            if _has_values(value):
                self.to(f"{name} {_shown(value)}")
            elif (traced := (name, *value.shape[1:], dtype_of(value))) not in self._traced:
                self._traced.add(traced)
                self.to(f"{name} {spell(value)}: values are not known while code is compiled")


def _has_values(value: Any) -> bool:
    if not hasattr(value, "shape"):
        return True
    tensor = keras.ops.convert_to_tensor(value)
    return _known(keras.ops.all(tensor == tensor)) is not None


def _shown(value: Any) -> str:
    if not hasattr(value, "shape"):
        return repr(value)
    # Where a gradient is taken by a tensor, JAX has its values only behind a stop of gradients.
    tensor = keras.ops.stop_gradient(keras.ops.convert_to_tensor(value))
    array = np.asarray(keras.ops.convert_to_numpy(tensor))
    if array.size <= 10:
        return f"{spell(value)}: {' '.join(str(array).split())}"
    return f"{spell(value)}: {array.min():.4g} to {array.max():.4g}, mean {array.mean():.4g}"


def _known(finite: Any) -> bool | None:
    try:
        return bool(finite)
    except Exception:  # a tensor being traced has no value yet; frameworks have errors of their own for that
        return None
