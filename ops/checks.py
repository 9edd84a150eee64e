"""Watching over tensors while they pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras

from experimentator.graph import Chunk
from experimentator.ops.errors import NotFiniteError, spell
from experimentator.ops.op import Op, as_float


@dataclass(eq=False)
class AssertFinite(Op):
    """Watch for NaN and infinity: `name` [...] passes unchanged, `<name>_is_finite` [] float32 is 1.0 or 0.0.

    Where values are at hand (eager), a 0.0 raises at once. Compiled code cannot raise, so there it only writes the
    flag, which costs one reduction and is pruned if nobody asks for it: ask for the names in `checks`, and raise
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
    Lower the learning rate, or put AssertFinite further up to find where it begins.

    Raises:
        NotFiniteError: a FloatingPointError, where values are at hand.
    """

    name: str

    @property
    def checks(self) -> tuple[str, ...]:
        """Names of flags that an engine fetches: 0.0 means that the check failed."""
        return (f"{self.name}_is_finite",)

    @property
    def inputs(self) -> tuple[str, ...]:  # type: ignore[override]  # computed, where the base lets one set it
        return (self.name,)

    @property
    def outputs(self) -> tuple[str, ...]:  # type: ignore[override]  # the same
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


def _known(finite: Any) -> bool | None:
    try:
        return bool(finite)
    except TypeError:  # a tensor being traced has no value yet; every backend says so with a TypeError
        return None
