"""A learning rate that follows a table, one entry for each batch, read inside the compiled loop."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Self

import keras
import numpy as np


class Rates(ABC):
    """Stands where a Keras optimizer keeps its learning rate: `base` times the factor of the batch at hand.

    Keras calls it at every update. Setting the optimizer's rate sets the base, through `assign`. The table is written
    once a pass, so that no batch waits for the host; past its end its last entry holds.
    """

    def __init__(self, optimizer: Any):
        self.optimizer = optimizer
        rate, count = float(np.asarray(optimizer.learning_rate)), optimizer.iterations.dtype
        self.base = keras.Variable(rate, dtype="float32", trainable=False, name="base")
        self.start = keras.Variable(0, dtype=count, trainable=False, name="start")
        self.factors = self.table()

    @staticmethod
    @abstractmethod
    def table() -> Any:
        """A variable of float32 [any] that holds a single 1."""

    @classmethod
    def of(cls, optimizer: Any) -> Self:
        """The table that an optimizer follows, from now on."""
        kept = optimizer._learning_rate
        if isinstance(kept, cls):
            return kept
        if isinstance(kept, keras.optimizers.schedules.LearningRateSchedule):
            raise ValueError(
                "Two schedules would rule one learning rate.\n"
                f"Seen: {type(kept).__name__} in the optimizer, and a callback that sets it.\n"
                "Give the optimizer a number, or take the callback off the list."
            )
        optimizer.learning_rate = rates = cls(optimizer)
        return rates

    def variables(self) -> dict[str, Any]:
        """What it keeps, by name."""
        return {"base": self.base, "factors": self.factors, "start": self.start}

    def hold(self, factors: np.ndarray) -> None:
        """Let `factors` [steps] rule the batches that follow."""
        self.start.assign(self._batches())
        self.factors.assign(np.asarray(factors, np.float32))

    def assign(self, rate: Any) -> None:
        """Set the base, as Keras does when somebody sets the learning rate."""
        self.base.assign(float(rate))

    def __call__(self) -> Any:
        """The rate of the batch at hand."""
        factors = self.entries()
        last = keras.ops.cast(keras.ops.shape(factors)[0] - 1, self.start.dtype)
        place = keras.ops.clip(self._batches() - self.start, 0, last)
        return self.base * keras.ops.take(factors, place)

    def entries(self) -> Any:
        """The table as a tensor [any]."""
        return self.factors

    def _batches(self) -> Any:
        """Batches since the optimizer was made; where gradients are accumulated, it counts updates."""
        updates = keras.ops.convert_to_tensor(self.optimizer.iterations)
        return updates * (self.optimizer.gradient_accumulation_steps or 1)
