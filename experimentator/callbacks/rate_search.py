"""A search for a learning rate: a few batches with ever larger rates, then everything as it was."""

from __future__ import annotations

import logging
import os
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import closing
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from experimentator.callbacks.callback import Callback, run_folder
from experimentator.callbacks.order import CallbackError
from experimentator.callbacks.picture import curve
from experimentator.checkpoint import write_atomically
from experimentator.graph import Mode
from experimentator.optimizer_parts import required_in, schedule_of
from experimentator.patches import patched
from experimentator.scalars import is_number, is_whole

log = logging.getLogger(__name__)
SMOOTHING = 0.8  # of the losses, which are noisy from batch to batch
WORSE = 4.0  # times the best loss: there the search ends
WINDOWS = 8  # the slope at a rate is taken over the range divided by this
DROP = 0.02  # of the first loss: a smaller fall does not count as learning


class FindLearningRate(Callback):
    """Before the first epoch, train `batches` batches with rates from `low` to `high`, and suggest one.

    The suggestion is the rate at which the loss falls fastest (Smith, 2017). The experiment is left bit for bit as it
    was: weights, optimizer, seeds of random layers, learning rate, epoch; only draws that Keras does not know cannot
    be taken back. It is logged and written into the state as `suggested_learning_rate`; `find(exp)` does the same at
    any other time. The curve goes to `learning_rate.svg` and `.csv` in `folder`, else in the run folder, if any.
    Each batch is a call of its own: a search is short.

    >>> rates = np.geomspace(1e-4, 1.0, 50)
    >>> 0.005 < suggest(rates, 1 / (1 + np.exp(4 * (np.log10(rates) + 2)))) < 0.05
    True
    """

    leaves_files = True

    phase = "record"  # it draws into the run folder, which is made by then
    after = ("LoadWeights", "RunFolder")
    outputs = ("suggested_learning_rate",)

    def __init__(
        self,
        low: float = 1e-6,
        high: float = 1.0,
        *,
        batches: int = 100,
        folder: str | os.PathLike[str] | None = None,
    ):
        if not (is_number(low) and is_number(high) and 0 < low < high and is_whole(batches, least=10)):
            raise CallbackError(
                f"FindLearningRate needs 0 < low < high and at least 10 batches.\n"
                f"Seen: low={low!r}, high={high!r}, batches={batches!r}.\nWrite FindLearningRate(1e-6, 1.0)."
            )
        self.low, self.high, self.batches, self.folder = low, high, batches, folder
        self.rates: list[float] = []
        self.losses: list[float] = []
        self.suggestion: float | None = None

    def on_train_begin(self, state: dict[str, Any], **_: Any) -> None:
        """Search, if nothing was trained yet."""
        if self.exp.epoch == 0 and not self.rates:
            state["suggested_learning_rate"] = self.find(self.exp)

    def state_dict(self) -> dict[str, Any]:
        """What was found."""
        return {"rates": self.rates, "losses": self.losses, "suggestion": self.suggestion}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """A training that goes on does not search again."""
        self.rates, self.losses, self.suggestion = list(state["rates"]), list(state["losses"]), state["suggestion"]

    def find(self, exp: Any) -> float | None:
        """The suggestion for an experiment as it is; None where the loss does not fall at any rate."""
        subset = next((subset for subset in exp.subsets if subset.mode == Mode.TRAIN), None)
        if subset is None:
            raise CallbackError(
                "FindLearningRate needs a TRAIN subset.\nSeen: no TRAIN subset.\nList one in `subsets`."
            )
        self._try(exp, subset)
        self.suggestion = suggest(self.rates, self.losses)
        self._draw(exp)
        reason = "the loss does not fall" if self.rates else "the loss of the first batch is not finite"
        text = f"none: {reason}" if self.suggestion is None else f"{self.suggestion:.2g}"
        last = self.rates[-1] if self.rates else self.low
        log.warning("Suggested learning rate, from %.2g to %.2g: %s.", self.low, last, text)
        return self.suggestion

    def _try(self, exp: Any, subset: Any) -> None:
        """Train with rising rates, then put everything back."""
        optimizer = required_in(exp)
        if (schedule := schedule_of(optimizer)) is not None:
            raise CallbackError(
                "FindLearningRate cannot set the rate of this optimizer.\n"
                f"Seen: {type(schedule).__name__}, a schedule.\nGive the optimizer a number to search."
            )
        rate = exp.get_learning_rate()
        with patched(subset, seed=exp.seed or 0, epoch=exp.epoch), closing(_blocks(exp, subset)) as blocks:
            first = next(blocks)
            restore = exp.backend.snapshot(exp.optimizer)  # the optimizer is built by now
            try:
                self._train(chain([first], blocks), optimizer)
            finally:
                optimizer.learning_rate = rate
                restore()

    def _train(self, blocks: Iterable[Any], optimizer: Any) -> None:
        self.rates, self.losses = [], []
        for rate, (block, step) in zip(np.geomspace(self.low, self.high, self.batches), blocks, strict=False):
            optimizer.learning_rate = float(rate)
            loss = float(np.mean(step(block.columns, block.index, fixed=False)["loss"]))
            if not np.isfinite(loss) or (
                self.losses and loss > WORSE * max(min(self.losses), 1e-12) and len(self.losses) > 5
            ):
                return
            self.rates.append(float(rate))
            self.losses.append(loss)

    def _draw(self, exp: Any) -> None:
        folder = Path(self.folder) if self.folder is not None else run_folder(exp)
        if folder is None:
            return
        rows = [
            "learning_rate,loss",
            *(f"{rate!r},{loss!r}" for rate, loss in zip(self.rates, self.losses, strict=True)),
        ]
        write_atomically(folder / "learning_rate.csv", ("\n".join(rows) + "\n").encode())
        if len(self.rates) > 1:
            write_atomically(folder / "learning_rate.svg", self.svg().encode())

    def svg(self) -> str:
        """The loss over the rate, smoothed, with the suggestion."""
        words = "no suggestion" if self.suggestion is None else f"suggested: {self.suggestion:.2g}"
        labels = ("learning rate", "loss, smoothed")
        return curve(
            self.rates, smooth(self.losses), title=f"Learning rate, {words}", labels=labels, mark=self.suggestion
        )


def _blocks(exp: Any, subset: Any) -> Generator[tuple[Any, Any], None, None]:
    """Batches of a subset one by one, pass after pass, and the step that trains on each."""
    feed = exp.program.feed(subset, Mode.TRAIN)
    while True:
        with closing(exp.cycle(feed, exp.batch_size)) as cycle:
            runners = exp.program.runners_of(subset, Mode.TRAIN, cycle)
            done = 0
            while (block := cycle.take(lambda done: 1)) is not None:
                yield block, runners.at(done).step
                done += 1


def suggest(rates: Sequence[float], losses: Sequence[float]) -> float | None:
    """The rate around which the loss falls fastest; None where it does not fall.

    The slope at a rate is the median of those between the losses around it (Theil, 1950), so that a single batch that
    is hard or easy, the first one above all, is not taken for learning.
    """
    smoothed, half = smooth(losses), max(2, len(losses) // WINDOWS // 2)
    until = int(np.argmin(smoothed)) + 1 if smoothed else 0
    if until < 2 * half + 1 or smoothed[half] - min(smoothed) < DROP * abs(smoothed[half]):
        return None
    along, places = np.log(rates), range(half, until - half)
    windows = [slice(place - half, place + half + 1) for place in places]
    slopes = [_slope(along[one], np.asarray(losses)[one]) for one in windows]
    return float(rates[places[int(np.argmin(slopes))]])


def _slope(x: np.ndarray, y: np.ndarray) -> float:
    """The median of the slopes between any two points."""
    one, other = np.triu_indices(len(x), k=1)
    return float(np.median((y[other] - y[one]) / (x[other] - x[one])))


def smooth(losses: Sequence[float]) -> list[float]:
    """An exponential average, free of the bias of its start.

    >>> smooth([1.0, 1.0])
    [1.0, 1.0]
    """
    average, result = 0.0, []
    for count, loss in enumerate(losses, start=1):
        average = SMOOTHING * average + (1 - SMOOTHING) * loss
        result.append(round(average / (1 - SMOOTHING**count), 12))
    return result
