"""An exponential moving average of the weights, for evaluation and prediction, while training goes on without it."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from experimentator.callbacks.callback import Callback, run_folder
from experimentator.callbacks.order import CallbackError
from experimentator.checkpoint import AVERAGED, WEIGHTS
from experimentator.graph import Mode
from experimentator.optimizer_parts import parts_of
from experimentator.scalars import is_number

log = logging.getLogger(__name__)


class ExponentialMovingAverage(Callback):
    """Average the weights over the batches of training; evaluate and predict with the average; train on without it.

    The average begins as the weights after the first batch (of accumulated gradients: after the first update); after
    each later batch it becomes `momentum` times itself plus `1 - momentum` times the weights. It is Keras' own
    (`use_ema` of the optimizer), so it is kept inside the compiled loop, is part of the optimizer's state, and covers
    what is trained and what layers keep, such as the statistics of BatchNormalization; a variable of your own, which a
    callback assigns, stays as it is. Each evaluation and each `exp.predict` swaps the weights and swaps them back;
    `with ema.averaged():` does so for anything else. After `exp.load_weights` the average of the loaded weights begins
    anew with what was loaded; weights that are set otherwise, as by `network.set_weights`, leave the average as it
    was, and with it what an evaluation gives. Weights and average are both saved: the average goes to
    `weights.average.safetensors` in a run folder (or `folder`) at each epoch's end, and beside files of SaveWeights.

    Reads and writes weights; nothing in the state.

    >>> ExponentialMovingAverage(0.99).momentum
    0.99
    """

    before = ("SaveWeights",)

    def __init__(self, momentum: float = 0.999, *, folder: str | os.PathLike[str] | None = None):
        if not is_number(momentum) or not 0 < momentum < 1:
            raise CallbackError(f"momentum must lie between 0 and 1.\nSeen: {momentum!r}.\nWrite 0.99 or 0.999.")
        self.momentum, self.folder = momentum, folder
        self._restore: Callable[[], None] | None = None
        self._depth = 1  # of the evaluation that swapped the weights

    def init(self, exp: Any) -> None:
        """Turn the average on, before the optimizer makes its variables."""
        self.exp = exp
        self.on_train_begin()

    def on_train_begin(self, **_: Any) -> None:
        """Turn it on for an optimizer that took the place of another, too."""
        optimizer = self.exp.optimizer
        parts = parts_of(optimizer)
        if odd := [part for part in parts if not hasattr(part, "use_ema")]:
            wrong = "ExponentialMovingAverage needs an optimizer that averages weights (use_ema)"
            raise CallbackError(f"{wrong}.\nSeen: {odd[0]!r:.80}.\nWrite optimizer = keras.optimizers.Adam(1e-3).")
        if any(part.built and not part.use_ema for part in parts):
            raise CallbackError(
                "ExponentialMovingAverage must be there before the optimizer makes its variables.\n"
                "Seen: an optimizer that has trained already.\n"
                "List it from the start, or give a new one: optimizer = keras.optimizers.Adam(1e-3)."
            )
        for part in parts:
            part.use_ema, part.ema_momentum = True, self.momentum

    on_epoch_begin = on_train_begin  # for one that took its place within a training

    def on_cycle_begin(self, mode: Mode, **_: Any) -> None:
        """Swap in the average for an evaluation."""
        if mode == Mode.TRAIN:
            self._leave()
        elif self._restore is None:
            self._enter()
            self._depth = self.exp.walk.depth

    def on_cycle_end(self, **_: Any) -> None:
        """Swap the weights back, unless this evaluation lies within another, which goes on with the average."""
        if self.exp.walk.depth == self._depth:
            self._leave()

    on_cycle_left = on_cycle_end  # of an evaluation that was cut short

    def on_epoch_end(self, **_: Any) -> None:
        """Save the average beside the weights."""
        if (folder := self.folder or run_folder(self.exp)) is not None:
            with self.averaged():
                self.exp.save_weights(Path(folder, WEIGHTS).with_suffix(AVERAGED))

    def on_train_end(self, **_: Any) -> None:
        """Leave the weights as training made them, whatever ended it."""
        self._leave()

    def state_dict(self) -> dict[str, Any]:
        """While an evaluation is under way: the weights that training goes on with."""
        if self._restore is None:
            return {"trained": None}
        backend = self.exp.backend
        average = backend.snapshot()
        self._restore()
        trained = backend.weights()
        average()
        return {"trained": {key: np.array(array) for key, array in trained.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the weights that training goes on with, in the middle of an evaluation."""
        self._restore = None
        if state["trained"] is not None:
            backend = self.exp.backend
            average = backend.snapshot()
            backend.set_weights(state["trained"])
            self._restore = backend.snapshot()
            average()

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within, the experiment has the averaged weights."""
        outermost = self._restore is None  # an evaluation may be under way
        if outermost:
            self._enter()
        try:
            yield
        finally:
            if outermost and self._restore is not None:
                drawn = self.exp.backend.seeds()
                self._leave()
                self.exp.backend.set_seeds(drawn)  # draws go on: the next call draws others

    def _enter(self) -> None:
        optimizer, walk = self.exp.optimizer, self.exp.walk
        if walk.restore is not None and not walk.trains:
            log.warning(
                "Measured with the trained weights, not their average: the state of the optimizer, which holds it, is "
                "restored only once training goes on. To measure the average, write in another experiment: "
                "exp.load_weights('RUN/weights.average.safetensors')."
            )
            return
        if not optimizer.built or not int(optimizer.iterations):
            return  # nothing was averaged yet
        self._restore = self.exp.backend.snapshot()
        self.exp.backend.take_averages(optimizer)

    def _leave(self) -> None:
        if self._restore is not None:
            self._restore()
            self._restore = None
