"""A learning rate that follows a table, one entry for each batch, read inside the compiled loop."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf


class Rates:
    """Stands where a Keras optimizer keeps its learning rate: `base` times the factor of the batch at hand.

    Keras calls it at every update. Setting the optimizer's rate sets the base, through `assign`. The table is written
    once a pass, so that no batch waits for the host; past its end its last entry holds.
    """

    def __init__(self, optimizer: Any):
        self.optimizer = optimizer
        self.base = tf.Variable(float(np.asarray(optimizer.learning_rate)), dtype=tf.float32, trainable=False)
        self.factors = tf.Variable(np.ones(1, np.float32), shape=[None], trainable=False)
        self.start = tf.Variable(0, dtype=tf.int64, trainable=False)

    @classmethod
    def of(cls, optimizer: Any) -> Rates:
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

    def hold(self, factors: np.ndarray) -> None:
        """Let `factors` [steps] rule the batches that follow."""
        self.start.assign(self._batches())
        self.factors.assign(np.asarray(factors, np.float32))

    def assign(self, rate: Any) -> None:
        """Set the base, as Keras does when somebody sets the learning rate."""
        self.base.assign(float(rate))

    def __call__(self) -> Any:
        """The rate of the batch at hand."""
        last = tf.shape(self.factors, out_type=tf.int64)[0] - 1
        place = tf.clip_by_value(self._batches() - self.start, 0, last)
        return self.base * tf.gather(self.factors, place)

    def _batches(self) -> Any:
        """Batches since the optimizer was made; where gradients are accumulated, it counts updates."""
        updates = tf.cast(tf.convert_to_tensor(self.optimizer.iterations), tf.int64)
        return updates * (self.optimizer.gradient_accumulation_steps or 1)
