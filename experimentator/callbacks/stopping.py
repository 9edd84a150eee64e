"""Ending a training when nothing improves any more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from experimentator.callbacks.callback import Callback
from experimentator.callbacks.monitored import Monitored, check_patience


class EarlyStopping(Callback):
    """End the training once `metric` has not improved for `patience` epochs in which it was measured.

    `metric` is `<subset>_<name>`, without one the loss of the first EVAL subset. It improves by more than `min_delta`;
    `mode` is "min" or "max", needed unless the name ends in a known word such as loss, error, accuracy, recall or f1.
    NaN is no improvement. The training ends as if its epochs were over; the reason is logged, stands in
    `state["stop"]`, and in the `status.json` of a run folder. `SaveWeights("best", metric)` keeps the weights of the
    best epoch. Training on afterwards goes on counting, so the next epoch without an improvement ends it again.

    Reads the metric from the history; writes `stop` into the state.

    >>> stopping, state = EarlyStopping("validation_loss", patience=2), {}
    >>> for epoch, loss in enumerate([0.5, 0.4, 0.45, 0.41], start=1):
    ...     stopping.judge(loss, epoch, state)
    >>> state["stop"]
    'validation_loss did not improve for 2 epochs; its best was 0.4, in epoch 2.'
    """

    after = ("AverageMetrics", "GatherCycleMetrics")

    def __init__(
        self, metric: str | None = None, patience: int = 10, *, min_delta: float = 0.0, mode: str | None = None
    ):
        check_patience(patience)
        self.watched = Monitored(metric, mode, min_delta=min_delta)
        self.patience, self.waited = patience, 0
        self.inputs = (metric,) if metric else ()

    def on_train_begin(self, **_: Any) -> None:
        """Refuse a metric that nothing produces."""
        self.watched.start(self.exp, asker=self)

    def on_epoch_end(self, epoch: int, state: dict[str, Any], **_: Any) -> None:
        """Look at the epoch, if the metric was measured in it."""
        value = self.watched.read(self.exp, state)
        if value is not None:
            self.judge(value, epoch, state)

    def judge(self, value: float, epoch: int, state: dict[str, Any]) -> None:
        """Count an epoch without improvement, and write the reason when there were too many."""
        self.waited = 0 if self.watched.improves(value, epoch) else self.waited + 1
        if self.waited >= self.patience:
            best = self.watched.best
            known = (
                "it was never a number" if best is None else f"its best was {best:.4g}, in epoch {self.watched.epoch}"
            )
            times = f"{self.waited} epoch{'s' * (self.waited > 1)}"
            state["stop"] = f"{self.watched.name} did not improve for {times}; {known}."

    def state_dict(self) -> dict[str, Any]:
        """The best so far, and how long ago that was."""
        return {**self.watched.state_dict(), "waited": self.waited}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the best value and the count of epochs."""
        self.watched.load_state_dict(state)
        self.waited = state["waited"]
