"""Several tensors into one, and one into several.

>>> import numpy as np
>>> from experimentator.graph import Chunk, Mode
>>> chunk = Chunk({"batch_head": np.zeros([4, 11])}, mode=Mode.ALL)
>>> NamedOutputs("batch_head", {"batch_logits": 10, "batch_size": 1})(chunk)
>>> tuple(chunk["batch_logits"].shape), tuple(chunk["batch_size"].shape)
((4, 10), (4, 1))
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras

from experimentator.graph import Chunk
from experimentator.ops.errors import TensorError
from experimentator.ops.op import Op, alike, given_as, is_whole


@dataclass(eq=False)
class Joining(Op):
    """An op that makes one tensor of several."""

    names: Sequence[str]
    output: str

    def __post_init__(self) -> None:
        is_list = not isinstance(self.names, str) and bool(self.names)
        self.require(is_list, seen=f"its names are {self.names!r}", write="Give a list of names.")
        super().__post_init__()

    inputs = given_as("names")
    outputs = given_as("output")

    def __call__(self, chunk: Chunk) -> None:
        chunk[self.output] = self.join([keras.ops.convert_to_tensor(chunk[name]) for name in self.names])

    def join(self, tensors: Sequence[Any]) -> Any:
        """The tensor to write, from the tensors read."""
        raise NotImplementedError

    def refuse(self, rule: str, tensors: Sequence[Any], write: str) -> TensorError:
        """The error for tensors that cannot be joined."""
        return TensorError(self, rule=rule, tensors=dict(zip(self.names, tensors)), write=write)


@dataclass(eq=False)
class Stack(Joining):
    """Tensors of one shape along a new axis: N times [B, ...] -> [B, N, ...], or with N at another place.

    >>> import numpy as np
    >>> from experimentator.graph import Chunk, Mode
    >>> chunk = Chunk({"batch_left": np.zeros([2, 8]), "batch_right": np.ones([2, 8])}, mode=Mode.ALL)
    >>> Stack(["batch_left", "batch_right"], "batch_pair")(chunk)
    >>> tuple(chunk["batch_pair"].shape)
    (2, 2, 8)

    Raises:
        DeclarationError: for no names, or one string, when the op is made.
        TensorError: for different shapes, or if they have no such place.
    """

    axis: int = 1

    def join(self, tensors: Sequence[Any]) -> Any:
        rank = len(tensors[0].shape)
        if not _are_alike(tensors, None) or not -rank - 1 <= self.axis <= rank:
            write = f"Give tensors of one shape, and an axis from {-rank - 1} to {rank}."
            raise self.refuse(f"Tensors of one shape are stacked, here along axis {self.axis}", tensors, write)
        return keras.ops.stack(tensors, axis=self.axis)


@dataclass(eq=False)
class Concatenate(Joining):
    """Tensors one after the other along an axis: [B, ..., C], [B, ..., D] -> [B, ..., C + D], or at another axis.

    >>> import numpy as np
    >>> from experimentator.graph import Chunk, Mode
    >>> chunk = Chunk({"batch_left": np.zeros([2, 8]), "batch_right": np.ones([2, 3])}, mode=Mode.ALL)
    >>> Concatenate(["batch_left", "batch_right"], "batch_both")(chunk)
    >>> tuple(chunk["batch_both"].shape)
    (2, 11)

    Raises:
        DeclarationError: for no names, or one string, when the op is made.
        TensorError: for shapes that differ in other axes, too, or if they have no such axis.
    """

    axis: int = -1

    def join(self, tensors: Sequence[Any]) -> Any:
        rank = len(tensors[0].shape)
        if not -rank <= self.axis < rank or not _are_alike(tensors, self.axis % rank):
            write = "Give tensors that are alike in all other axes, or another axis."
            raise self.refuse(f"Tensors are joined along axis {self.axis}", tensors, write)
        return keras.ops.concatenate(tensors, axis=self.axis)


@dataclass(eq=False)
class Split(Op):
    """A tensor in equal parts along an axis, one for each name of `to`: [B, ..., N C] -> N times [B, ..., C].

    It undoes Concatenate of equal parts.

    >>> import numpy as np
    >>> from experimentator.graph import Chunk, Mode
    >>> chunk = Chunk({"batch_both": np.zeros([2, 8, 6])}, mode=Mode.ALL)
    >>> Split("batch_both", ["batch_left", "batch_right"])(chunk)
    >>> tuple(chunk["batch_right"].shape)
    (2, 8, 3)

    Raises:
        DeclarationError: for no names, or one string, when the op is made.
        TensorError: for an axis that is not there, or cannot be divided so.
    """

    name: str
    to: Sequence[str]
    axis: int = -1

    def __post_init__(self) -> None:
        is_list = not isinstance(self.to, str) and bool(self.to)
        self.require(is_list, seen=f"its parts are {self.to!r}", write="Give a list of names.")
        super().__post_init__()

    inputs = given_as("name")
    outputs = given_as("to")

    def __call__(self, chunk: Chunk) -> None:
        tensor = keras.ops.convert_to_tensor(chunk[self.name])
        rank, count = len(tensor.shape), len(self.to)
        size = tensor.shape[self.axis] if -rank <= self.axis < rank else 0
        if size == 0 or (size is not None and size % count):
            rule = f"Axis {self.axis} is cut into {count} equal parts"
            write = "Give other names, or write NamedOutputs."
            raise TensorError(self, rule=rule, tensors={self.name: tensor}, write=write)
        chunk.update(dict(zip(self.to, keras.ops.split(tensor, count, axis=self.axis))))


@dataclass(eq=False)
class NamedOutputs(Op):
    """Slices of the last axis by name, in order: `name` [B, ..., N] -> [B, ..., size] for each name of `sizes`.

    One layer may so compute the outputs of several heads. The sizes add up to N.

    >>> import numpy as np
    >>> from experimentator.graph import Chunk, Mode
    >>> chunk = Chunk({"batch_head": np.array([[1.0, 2.0, 3.0]])}, mode=Mode.ALL)
    >>> NamedOutputs("batch_head", {"batch_logits": 2, "batch_size": 1})(chunk)
    >>> np.asarray(chunk["batch_logits"]).tolist(), np.asarray(chunk["batch_size"]).tolist()
    ([[1.0, 2.0]], [[3.0]])

    Raises:
        DeclarationError: for no sizes, or one that is no whole number above 0, when the op is made.
        TensorError: if the sizes do not add up to the last axis.
    """

    name: str
    sizes: Mapping[str, int]

    def __post_init__(self) -> None:
        given: Any = self.sizes
        fine = isinstance(given, Mapping) and given and all(is_whole(size) and size > 0 for size in given.values())
        write = "Give a dictionary from each name to its number of channels."
        self.require(bool(fine), seen=f"its sizes are {self.sizes!r}", write=write)
        super().__post_init__()

    inputs = given_as("name")
    outputs = given_as("sizes")

    def __call__(self, chunk: Chunk) -> None:
        tensor = keras.ops.convert_to_tensor(chunk[self.name])
        total = sum(self.sizes.values())
        if not len(tensor.shape) or tensor.shape[-1] not in (None, total):
            write = f"Let the layer above write {total} channels, or give sizes that add up to what it writes."
            raise TensorError(self, rule=f"The sizes add up to {total}", tensors={self.name: tensor}, write=write)
        first = 0
        for name, size in self.sizes.items():
            chunk[name] = tensor[..., first : first + size]
            first += size


def _are_alike(tensors: Sequence[Any], but: int | None) -> bool:
    """Whether shapes agree in all axes but axis `but`, as far as their sizes are known."""
    return alike(*([None if axis == but else size for axis, size in enumerate(tensor.shape)] for tensor in tensors))
