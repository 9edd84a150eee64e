"""A learning rate that follows a table, one entry for each batch, read inside the compiled loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np


class Rates:
    """Takes the place of a Keras optimizer's learning rate: `base` times the factor of the current batch.

    Keras calls it at every update. Setting the optimizer's rate sets the base, through `assign`. The table is written
    once a pass, so that no batch waits for the host; past its end its last entry holds. `table` makes a variable of
    float32 [any] that holds a single 1.
    """

    def __init__(self, optimizer: Any, table: Callable[[], Any]):
        self.optimizer = optimizer
        rate, count = float(np.asarray(optimizer.learning_rate)), optimizer.iterations.dtype
        self.base = keras.Variable(rate, dtype="float32", trainable=False, name="base")
        self.start = keras.Variable(0, dtype=count, trainable=False, name="start")
        self.factors = table()

    @classmethod
    def of(cls, optimizer: Any, table: Callable[[], Any]) -> Rates:
        """The table that an optimizer follows, from now on."""
        kept = optimizer._learning_rate
        if isinstance(kept, cls):
            return kept
        if isinstance(kept, keras.optimizers.schedules.LearningRateSchedule):
            raise ValueError(
                "Two schedules would set one learning rate.\n"
                f"Seen: {type(kept).__name__} in the optimizer, and a callback that sets it.\n"
                "Give the optimizer a number, or take the callback off the list."
            )
        optimizer.learning_rate = rates = cls(optimizer, table)
        return rates

    def hold(self, factors: np.ndarray) -> None:
        """Use `factors` [steps] for the next batches."""
        self.start.assign(self._batches())
        self.factors.assign(np.asarray(factors, np.float32))

    def assign(self, rate: Any) -> None:
        """Set the base, as Keras does when somebody sets the learning rate."""
        self.base.assign(float(rate))

    def __call__(self) -> Any:
        """The rate of the current batch."""
        factors = self.factors.value if isinstance(self.factors, Table) else self.factors
        last = keras.ops.cast(keras.ops.shape(factors)[0] - 1, self.start.dtype)
        place = keras.ops.clip(self._batches() - self.start, 0, last)
        return self.base * keras.ops.take(factors, place)

    def _batches(self) -> Any:
        """Batches since the optimizer was made, also those that only accumulate gradients."""
        seen = getattr(self.optimizer, "_batches_seen", None)  # set if it updates in every N-th batch only
        count = keras.ops.convert_to_tensor(self.optimizer._iterations) if seen is None else seen()
        return keras.ops.copy(count)  # JAX donates every buffer, once


class Table:
    """Float32 [any], as a variable that may change its length; a trace may put a value of its own in its place.

    It is filled up to a power of two with its last entry, which holds past its end anyway: so a function is compiled
    for few lengths.
    """

    shape = (None,)

    def __init__(self) -> None:
        self.value = keras.ops.ones(1, "float32")

    def assign(self, values: Any) -> None:
        """Hold `values` [any]."""
        values = np.asarray(values, np.float32)
        size = 1 << (len(values) - 1).bit_length()
        self.value = keras.ops.convert_to_tensor(np.pad(values, (0, size - len(values)), mode="edge"))

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return np.array(keras.ops.convert_to_numpy(self.value), dtype=dtype)


def kept_by(rate: Any) -> dict[str, Any]:
    """What a learning rate reads, by name: of a table all of it, of a schedule its attributes that are variables."""
    if isinstance(rate, Rates):
        return {"base": rate.base, "factors": rate.factors, "start": rate.start}
    own = vars(rate).items() if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule) else ()
    return {name: one for name, one in own if isinstance(one, keras.Variable)}
