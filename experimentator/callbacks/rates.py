"""Schedules of the learning rate (warm-up, decay, cosine), and a record of it in the history.

A schedule multiplies the rate that the optimizer was given (`exp.learning_rate`) by a factor, a pure function of how
far training is, in epochs. Once a pass its factors for all batches are written to the device, where the compiled loop
reads the one of each batch: every batch has its own rate, no batch waits for the host, calls stay long, and nothing
needs saving. Several schedules multiply. Between trainings the rate is the one given.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from experimentator.callbacks.callback import Callback, nothing_saved
from experimentator.callbacks.order import CallbackError
from experimentator.graph import Mode
from experimentator.optimizer_parts import required_in
from experimentator.scalars import is_number

FACTORS = "learning_rate_factors"  # in the state during a training pass: [steps], the product of all schedules' factors


class Schedule(Callback):
    """A schedule of the learning rate: `factor` gives a factor for each batch."""

    phase = "prepare"
    when = Mode.TRAIN
    before = ("FindLearningRate", "SaveLearningRate")
    state_dict = nothing_saved  # the table that the optimizer follows is saved with it

    def init(self, exp: Any) -> None:
        """Keep the experiment."""
        self.exp, self.steps = exp, 1
        self.hold: Callable[[np.ndarray], None] | None = None
        self.followed: Any = None  # the optimizer that follows the table

    def on_train_begin(self, state: dict[str, Any], **_: Any) -> None:
        """Let the optimizer follow a table of factors."""
        state.pop(FACTORS, None)  # of a pass that was cut short
        if self.hold is None:
            self.exp.program.drop_steps()  # those compiled before read the rate elsewhere
        self._follow()

    def on_cycle_begin(self, steps: int, epoch: int, epochs: int, state: dict[str, Any], **_: Any) -> None:
        """Write the factors of the pass that begins; each TRAIN subset spans its epoch."""
        if self.hold is not None:
            if self.exp.optimizer is not self.followed:  # another took its place, whose steps are not traced yet
                self._follow()
            self.steps = steps
            done = epoch - 1 + np.arange(steps) / steps
            state[FACTORS] = state.get(FACTORS, 1.0) * self.factor(done, epochs)
            self.hold(state[FACTORS])

    def on_cycle_end(self, state: dict[str, Any], **_: Any) -> None:
        """Remove the factors of the pass."""
        state.pop(FACTORS, None)

    def on_train_end(self, **_: Any) -> None:
        """Go back to the rate that was given."""
        if self.hold is not None:
            self.hold(np.ones(self.steps))

    def _follow(self) -> None:
        self.followed = required_in(self.exp)
        self.hold = self.exp.backend.rates(self.followed)

    @abstractmethod
    def factor(self, done: np.ndarray, epochs: int) -> np.ndarray:
        """Factors for batches that begin when `done` epochs are over, of a training of `epochs`."""


class LearningRateWarmUp(Schedule):
    """Raise the learning rate linearly, from `initial` times its value to the whole, over the first `duration` epochs.

    Acts inside the compiled loop, batch by batch: see this module. `duration` may be a fraction of an epoch.
    Reads epoch and steps; writes the optimizer's rate.

    >>> LearningRateWarmUp(duration=2, initial=0.1).factor(np.array([0.0, 1.0, 2.0, 3.0]), epochs=4).tolist()
    [0.1, 0.55, 1.0, 1.0]
    """

    def __init__(self, duration: float = 1.0, *, initial: float = 0.01):
        _check(is_number(duration) and duration > 0, "duration", duration, "a number of epochs above 0")
        _check(is_number(initial) and 0 <= initial <= 1, "initial", initial, "a factor between 0 and 1")
        self.duration, self.initial = duration, initial

    def factor(self, done: np.ndarray, epochs: int) -> np.ndarray:
        return self.initial + (1 - self.initial) * np.clip(done / self.duration, 0, 1)


class LearningRateDecay(Schedule):
    """Multiply the learning rate by `factor`, beginning when `start` epochs are over, geometrically over `duration`.

    `start` may list several epochs, and the rate decays at each of them; `duration=0` makes steps. Acts inside the
    compiled loop, batch by batch: see this module. Reads epoch and steps; writes the optimizer's rate.

    >>> LearningRateDecay(start=[2, 4], duration=1, factor=0.25).factor(np.array([0, 2.5, 3, 5]), epochs=6).tolist()
    [1.0, 0.5, 0.25, 0.0625]
    """

    def __init__(self, start: float | Iterable[float], duration: float = 1.0, factor: float = 0.1):
        starts = list(start) if isinstance(start, Iterable) else [start]
        _check(bool(starts) and all(map(is_number, starts)), "start", start, "a number of epochs, or a list of them")
        self.start = [float(one) for one in starts]
        _check(is_number(duration) and duration >= 0, "duration", duration, "a number of epochs, 0 for steps")
        _check(is_number(factor) and factor > 0, "factor", factor, "a number above 0")
        self.duration, self.by = duration, factor

    def factor(self, done: np.ndarray, epochs: int) -> np.ndarray:
        way = [np.clip((done - s) / self.duration, 0, 1) if self.duration else done >= s for s in self.start]
        return np.asarray(self.by ** np.sum(way, axis=0, dtype=np.float64))


class LearningRateCosine(Schedule):
    """Lower the learning rate along half a cosine to `floor` times its value, from `start` to `epochs` epochs.

    Without `epochs` it ends with the training, so that training on to a larger total changes its course. Acts inside
    the compiled loop, batch by batch: see this module. Reads epoch, epochs and steps; writes the optimizer's rate.
    Usual after a warm-up: `[LearningRateWarmUp(2), LearningRateCosine(start=2)]`.

    >>> LearningRateCosine(floor=0.1).factor(np.array([0.0, 5.0, 10.0]), epochs=10).round(2).tolist()
    [1.0, 0.55, 0.1]
    """

    def __init__(self, epochs: float | None = None, *, start: float = 0.0, floor: float = 0.0):
        _check(is_number(start), "start", start, "a number of epochs")
        _check(
            epochs is None or (is_number(epochs) and epochs > start), "epochs", epochs, f"a number above start, {start}"
        )
        _check(is_number(floor) and 0 <= floor <= 1, "floor", floor, "a factor between 0 and 1")
        self.epochs, self.start, self.floor = epochs, start, floor

    def factor(self, done: np.ndarray, epochs: int) -> np.ndarray:
        length = max((self.epochs or epochs) - self.start, 1e-9)
        way = np.clip((done - self.start) / length, 0, 1)
        return self.floor + (1 - self.floor) * (1 + np.cos(np.pi * way)) / 2


class SaveLearningRate(Callback):
    """Write `learning_rate` into the row of the history: the rate of the epoch's last batch.

    Of a Keras schedule, which counts ahead, it is the rate of the batch to come.

    Reads the optimizer; writes `learning_rate` into the history and the state.

    >>> SaveLearningRate().outputs
    ('learning_rate',)
    """

    before = ("RunFolder", "StateLogger", "PrintLoss")
    outputs = ("learning_rate",)

    def on_epoch_end(self, state: dict[str, Any], **_: Any) -> None:
        """Write the rate."""
        self.exp.history[-1]["learning_rate"] = state["learning_rate"] = self.exp.get_learning_rate()


def _check(fits: bool, name: str, value: Any, write: str) -> None:
    if not fits:
        raise CallbackError(f"{name}={value!r} makes no schedule.\nSeen: {name}={value!r}.\nWrite {write}.")
