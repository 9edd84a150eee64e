"""What compiled steps of all frameworks have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from math import prod
from typing import Any, ClassVar

import numpy as np

from experimentator.backends import Columns, Step
from experimentator.backends.keras.context import Forward

EAGER = "eager"


class KerasStep(Step, ABC):
    """A compiled graph; a framework adds the loop over batches.

    `jit_compile` is the setting; with "auto", a step begins with the compiler of another one that it is to be `like`,
    else by what suits the graph and the device, or is found to be quickest.
    """

    compilers: ClassVar[Mapping[str, Any]]  # ways to run by name, and the `jit_compile` that asks for each

    def __init__(
        self,
        forward: Forward,
        outputs: Columns,
        *,
        jit_compile: Any = "auto",
        like: str | None = None,
        eager: bool = False,
        capacity: int | None = None,
        seed: int = 0,
    ):
        self.forward, self.outputs = forward, outputs
        self.graph, self.weights = forward.graph, list(forward.variables)
        self.auto, self.capacity, self.seed = jit_compile == "auto", capacity, seed
        asked = next((name for name, setting in self.compilers.items() if setting == jit_compile), None)
        self.chosen = EAGER if eager else asked or self._automatic(like)
        self._trained = [variable.trainable for variable in self.weights]

    @property
    def default(self) -> str:
        """The compiler until one is chosen."""
        return next(iter(self.compilers))

    @property
    def compiler(self) -> str:
        return self.chosen or self.default

    @property
    def is_settled(self) -> bool:
        return self.chosen is not None

    @property
    def stale(self) -> bool:
        """Whether a layer was frozen or thawed since, so that the step must be compiled again."""
        return [variable.trainable for variable in self.weights] != self._trained

    def __call__(self, columns: Columns, index: np.ndarray, *, fixed: bool | None = None) -> dict[str, Any]:
        """Every selected name stacked over the batches: {name: [K, ...]}; more than `capacity` are run in parts.

        `fixed` chooses the function with a fixed count, if there is one; unless given, parts of `capacity` use it.
        """
        columns = {name: columns[name] for name in self.graph.inputs}
        index = np.asarray(index, dtype=np.int32)
        self.capacity = self.capacity or len(index)
        parts = []
        for rows in np.split(index, range(self.capacity, len(index), self.capacity)):
            parts.append(self._run(columns, rows, fixed=len(rows) == self.capacity if fixed is None else fixed))
            self.batches += len(rows)
        if len(parts) == 1:
            return parts[0]
        return {name: np.concatenate([np.asarray(part[name]) for part in parts]) for name in parts[0]}

    def result_bytes(self, batch_size: int) -> int:
        return sum(one.dtype.itemsize * prod(one.shape) for one in self.outputs.values())

    @abstractmethod
    def _automatic(self, like: str | None) -> str | None:
        """The compiler where the setting names none, maybe that of another step; None where it is to be found."""

    @abstractmethod
    def _run(self, columns: Columns, index: np.ndarray, *, fixed: bool) -> dict[str, Any]:
        """Run at most `capacity` batches."""


def put_rows(
    columns: Columns, index: np.ndarray, put: Callable[[Columns], Columns], *, tensor: type
) -> tuple[Columns, np.ndarray]:
    """Columns on the device; of host columns only the rows of this call, since each length is compiled."""
    if all(isinstance(column, tensor) for column in columns.values()):
        return columns, index
    rows = {name: np.asarray(column)[index.ravel()] for name, column in columns.items()}
    return put(rows), np.arange(index.size, dtype=np.int32).reshape(index.shape)
