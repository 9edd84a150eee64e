"""The norm of each batch's gradient as a tensor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import keras

from experimentator.graph import Chunk, Mode
from experimentator.ops.op import Op, given_as


@dataclass(eq=False)
class GradientNorm(Op):
    """The L2 norm of the gradient of each batch: [] float32, the root of the sum of all its squares; TRAIN only.

    Of all trained weights, or of those that `only` names, as in `Freeze` and `exp.load_weights`: `"Trunk/*"`,
    `"*/bias"`, or a list. It is the gradient that the optimizer is given, before clipping; there is one for each batch
    even if several make one update. The history has its mean, `training_gradient_norm`. Where float16 overflows, and
    the optimizer skips the batch, it is infinite or NaN, and so is the mean.

    The gradient is known once all processors have run: none may read or write the name.

    >>> GradientNorm(only="Trunk/*", output="trunk_gradient").outputs
    ('trunk_gradient',)

    Raises:
        DeclarationError: for another mode, when the op is made.
        GraphError: for a processor that reads or writes the name.
        WeightsError: if `only` names no weights, when the graph is compiled.
    """

    only: str | Sequence[str] | None = None
    output: str = "gradient_norm"
    mode: Mode = field(default=Mode.TRAIN, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        write = "Leave `mode` out: only TRAIN has gradients."
        self.require(self.mode == Mode.TRAIN, seen=f"its mode is {self.mode}", write=write)

    inputs = ()
    outputs = given_as("output")

    @property
    def norm_of(self) -> dict[str, Any]:
        """`{output: only}`: of which weights the backend writes the norm under that name."""
        return {self.output: self.only}

    def __call__(self, chunk: Chunk) -> None:
        chunk[self.output] = keras.ops.zeros((), "float32")
