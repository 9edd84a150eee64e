"""Lowering the learning rate when nothing improves any more."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np

from experimentator.callbacks.monitored import Monitored, check_patience
from experimentator.callbacks.order import CallbackError
from experimentator.callbacks.rates import Schedule
from experimentator.scalars import is_number

log = logging.getLogger(__name__)


class ReduceLROnPlateau(Schedule):
    """Multiply the learning rate by `factor` each time `metric` has not improved for `patience` epochs.

    `metric`, `min_delta` and `mode` are those of EarlyStopping; epochs in which the metric was not measured do not
    count. The next epoch begins at the new rate, which does not fall below `floor` times the one that was given.
    It multiplies with other schedules, and a training that goes on, or is resumed, goes on at the rate it had.

    Reads the metric from the history; writes the optimizer's rate.

    >>> plateau = ReduceLROnPlateau("validation_loss", factor=0.5, patience=2)
    >>> for epoch, loss in enumerate([0.5, 0.4, 0.45, 0.41, 0.39], start=1):
    ...     plateau.judge(loss, epoch)
    >>> plateau.scale
    0.5
    """

    phase = "act"
    after = ("AverageMetrics", "GatherCycleMetrics")

    def __init__(
        self,
        metric: str | None = None,
        factor: float = 0.1,
        patience: int = 10,
        *,
        min_delta: float = 0.0,
        mode: str | None = None,
        floor: float = 0.0,
    ):
        check_patience(patience)
        for name, value in (("factor", factor), ("floor", floor)):
            if not is_number(value) or not 0 <= value < 1:
                raise CallbackError(
                    f"{name} must lower the rate.\nSeen: {value!r}.\nWrite a number from 0 on, below 1."
                )
        self.watched = Monitored(metric, mode, min_delta=min_delta)
        self.by, self.patience, self.floor = factor, patience, floor
        self.waited, self.scale = 0, 1.0
        self.inputs = (metric,) if metric else ()

    def on_train_begin(self, state: dict[str, Any], **_: Any) -> None:
        """Refuse a metric that nothing produces."""
        self.watched.start(self.exp, asker=self)
        super().on_train_begin(state=state)

    def on_epoch_end(self, epoch: int, state: dict[str, Any], **_: Any) -> None:
        """Look at the epoch, if the metric was measured in it."""
        value = self.watched.read(self.exp, state)
        if value is not None:
            self.judge(value, epoch)

    def judge(self, value: float, epoch: int) -> None:
        """Count an epoch without improvement, and lower the rate when there were too many."""
        self.waited = 0 if self.watched.improves(value, epoch) else self.waited + 1
        if self.waited >= self.patience:
            self.waited, self.scale = 0, max(self.scale * self.by, self.floor)
            log.info("%s did not improve: from now on the rate is multiplied by %.4g.", self.watched.name, self.scale)

    def factor(self, done: np.ndarray, epochs: int) -> np.ndarray:
        return np.full(len(done), self.scale)

    def state_dict(self) -> dict[str, Any]:
        """The best so far, how long ago that was, and how low the rate is."""
        return {**self.watched.state_dict(), "waited": self.waited, "scale": self.scale}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the best value, the count of epochs, and the rate."""
        self.watched.load_state_dict(state)
        self.waited, self.scale = state["waited"], state["scale"]
