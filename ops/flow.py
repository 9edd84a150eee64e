"""What reaches whom, values unchanged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras

from experimentator.graph import Chunk
from experimentator.ops.op import InPlace, Op


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
    def inputs(self) -> tuple[str, ...]:  # type: ignore[override]  # computed, where the base lets one set it
        return (self.name,)

    @property
    def outputs(self) -> tuple[str, ...]:  # type: ignore[override]  # the same
        return (self.to,)

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
