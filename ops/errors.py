"""What an op cannot work on; each error says what is wrong, what was seen, and what to write.

TensorError(GraphError)                shapes or dtypes that do not go together
SignatureError(GraphError)             names that do not fit a model's inputs or outputs
NotFiniteError(FloatingPointError)     NaN or infinity where `AssertFinite` stands
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from experimentator.graph import GraphError
from experimentator.graph.errors import sent
from experimentator.graph.text import spell


class TensorError(GraphError):
    """Tensors whose static shapes or dtypes an op cannot work on.

    >>> import numpy as np
    >>> tensors = {"target": np.zeros([4], "float32")}
    >>> raise TensorError("OneHot(name='target')", rule="Class ids are integers", tensors=tensors, write="Cast.")
    Traceback (most recent call last):
    experimentator.ops.errors.TensorError: OneHot(name='target'): Class ids are integers.
    It was given 'target' [4] float32.
    Cast.
    """

    def __init__(self, op: object, *, rule: str, tensors: Mapping[str, Any], write: str):
        self.tensors = {name: spell(tensor) for name, tensor in tensors.items()}
        seen = " and ".join(f"{name!r} {shape}" for name, shape in self.tensors.items())
        super().__init__(f"{op}: {rule}.\nIt was given {seen}.\n{write}")


class SignatureError(GraphError):
    """Tensor names that do not fit what a model takes or returns.

    >>> takes = "Its model takes left, right"
    >>> raise SignatureError("Model(model='net')", takes=takes, given="input", write="Name two.")
    Traceback (most recent call last):
    experimentator.ops.errors.SignatureError: Model(model='net') does not fit its model.
    Its model takes left, right; the processor names input.
    Name two.
    """

    def __init__(self, op: object, *, takes: str, given: str, write: str):
        super().__init__(f"{op} does not fit its model.\n{takes}; the processor names {given}.\n{write}")


class NotFiniteError(FloatingPointError):
    """NaN or infinity in a tensor.

    >>> raise NotFiniteError("AssertFinite(name='loss')", name="loss", seen="[] float32")
    Traceback (most recent call last):
    experimentator.ops.errors.NotFiniteError: AssertFinite(name='loss') found NaN or infinity in 'loss'.
    It was given [] float32.
    Look at the data, lower the learning rate, or put AssertFinite further up to find where it begins.
    """

    def __init__(self, op: object, *, name: str, seen: str):
        self.name = name
        super().__init__(
            f"{op} found NaN or infinity in {name!r}.\nIt was given {seen}.\n"
            "Look at the data, lower the learning rate, or put AssertFinite further up to find where it begins."
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return sent(self)
