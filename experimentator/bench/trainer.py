"""An experiment that trains to be measured: round by round, leaving no files, its epochs accounted for."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from experimentator.bench.ledger import KINDS, Epoch, Ledger
from experimentator.bench.spread import Spread, spread_of
from experimentator.data.columns import is_columnar
from experimentator.patches import patched
from experimentator.settings import is_evaluated

LONGEST = 2.0  # seconds until an epoch is cut, at most
SHORTEST = 0.5  # and at least
OFTEN = 0.05  # seconds between two looks at the threads of a pass
STEADY = 0.02  # share of an epoch that compiling may take, once the pace is reached


class Trainer:
    """Trains an experiment in rounds.

    `epochs` is how long the configuration would train: what is compiled, and when, depends on it. `evaluations` is how
    often it would evaluate meanwhile; if it would at all, each measured epoch evaluates.
    """

    def __init__(self, exp: Any, epochs: int):
        self.exp, self.epochs = exp, max(1, epochs)
        self.left_out = without_files(exp)
        self.evaluations = evaluations_in(exp.eval_epochs, self.epochs)
        exp.eval_epochs = None if self.evaluations else 0
        self.ledger = Ledger(exp)
        self.start: list[Epoch] = []
        self.rounds: list[Epoch] = []
        self.counted = self.compiled = 0  # epochs of the rounds, and those of them that compiled
        self.wall = self.worked = 0.0  # seconds that the rounds took, and those that threads worked, or would have
        self.work = Work()
        self.ledger.look = self.work.glance

    def warm_up(self, seconds: float) -> None:
        """Train until nothing is compiled any more and calls have their size."""
        end = time.perf_counter() + seconds
        while True:
            self.start += self._train(0.0, cut=seconds / 2)
            last = self.start[-1]
            is_steady = last.spent.get("compile", 0.0) <= STEADY * last.seconds and len(self.start) > 1
            if (is_steady and self._settled()) or time.perf_counter() > end:
                return

    def round(self, seconds: float) -> Epoch:
        """Train at that pace for about so many seconds, an epoch at least."""
        self.settle(seconds)
        wall, worked = time.perf_counter(), self.work()
        done = self._train(seconds, cut=min(LONGEST, max(SHORTEST, 3 * seconds)))
        self.wall += time.perf_counter() - wall
        self.worked += self.work() - worked
        self.counted += len(done)
        self.compiled += sum(one.has_traced for one in done)
        self.rounds.append(_sum(done))
        return self.rounds[-1]

    def settle(self, seconds: float) -> None:
        """Train some epochs that do not count, where epochs are short: other work since then has left caches cold."""
        if self.ledger.epochs[-1].seconds < seconds:
            self._train(seconds / 4, cut=LONGEST)

    @property
    def step_seconds(self) -> list[float]:
        """Seconds for each batch trained, by round."""
        return [one.training / one.batches for one in self.rounds]

    @property
    def steps_per_second(self) -> Spread:
        """Batches trained in a second."""
        return spread_of([1 / seconds for seconds in self.step_seconds])

    @property
    def samples_per_second(self) -> Spread:
        """Items trained in a second."""
        return spread_of([one.samples / one.training for one in self.rounds])

    def pace(self) -> dict[str, float]:
        """Seconds by kind for each batch trained, at the pace; compiling counts as 0, as it belongs to the start."""
        total = _sum(self.rounds)
        return {k: 0.0 if k == "compile" else (total.spent[k] - total.evaluating[k]) / total.batches for k in KINDS}

    def step(self) -> dict[str, float]:
        """The same, with the evaluation that falls to each batch."""
        pace, batches = self.pace(), self.steps * self.epochs
        return {kind: pace[kind] + seconds / batches for kind, seconds in self.evaluating().items()}

    def whole(self) -> dict[str, float]:
        """Seconds by kind of the training as configured: its first epochs as measured, the others at the pace."""
        first, pace, evaluating = self.start[: self.epochs], self.pace(), self.evaluating()
        missing = sum(max(0, self.steps - one.batches) for one in first) + self.steps * (self.epochs - len(first))
        begun, late = _sum(first), _sum(self.rounds).spent["compile"]
        if self.recompiles:
            late *= (self.epochs - len(first)) / self.counted
        trained = {kind: begun.spent[kind] - begun.evaluating[kind] + missing * pace[kind] for kind in KINDS}
        trained["callbacks"] += self.ledger.ending
        return {kind: trained[kind] + evaluating[kind] + late * (kind == "compile") for kind in KINDS}

    @property
    def recompiles(self) -> bool:
        """Whether most epochs compile, as where something that is compiled in changes from one to the next."""
        return self.compiled > self.counted / 2

    def evaluating(self) -> dict[str, float]:
        """Seconds by kind of all evaluations of the training as configured, but for what is compiled."""
        total = _sum(self.rounds)
        return {kind: self.evaluations * total.evaluation[kind] / max(1, total.evaluations) for kind in KINDS}

    def callbacks(self) -> dict[str, float]:
        """Seconds by callback and event of the training as configured, which begins and ends once."""
        ledger, batches = self.ledger, sum(one.batches for one in self.ledger.epochs)
        often = {
            "train": 1 / max(1, ledger.fired["train_begin"]),
            "epoch": self.epochs / len(ledger.epochs),
            "cycle": self.epochs / len(ledger.epochs),
        }
        each = self.steps * self.epochs / max(1, batches)
        by_callback = self.ledger.by_callback.items()
        return {
            name: seconds * often.get(name.rpartition(".on_")[2].partition("_")[0], each)
            for name, seconds in by_callback
        }

    @property
    def steps(self) -> int:
        """Batches of an epoch."""
        return sum(runner.steps for runner in self._runners())

    def _runners(self) -> list[Any]:
        names = {subset.name for subset in self.exp.subsets if subset.is_training}
        return [runner for runner in self.exp.program.runners.values() if runner.name in names]

    def _settled(self) -> bool:
        return all(runner.pace.settled for runner in self._runners())

    def _train(self, seconds: float, *, cut: float) -> list[Epoch]:
        """Train epochs until so many seconds have passed, at least one; each is cut after `cut` seconds."""
        ledger, first = self.ledger, len(self.ledger.epochs)
        ledger.wanted, ledger.longest = seconds, cut
        with _quietly():
            while True:
                for runner in self._runners():
                    runner.step.batches = 0  # so that compiling pays, or not, as in a training of its own
                self.exp.train(self.exp.epoch + self.epochs)
                if ledger.wanted <= 0:
                    return ledger.epochs[first:]


class Work:
    """Seconds that this process and those that it started worked, or would have, had other programs not had the cores.

    What waits for a core is work: else, on a busy machine, work would pass for waiting. Threads that have ended count
    as they were seen last, so one looks before a pass ends its own. On Linux; elsewhere, what this process worked.
    """

    def __init__(self) -> None:
        self.seen: dict[Path, int] = {}  # nanoseconds of each thread
        self.looked = 0.0

    def glance(self) -> None:
        """Look, if the last look is a while ago: each takes half a millisecond, as if the training took it."""
        if time.perf_counter() - self.looked > OFTEN:
            self()

    def __call__(self) -> float:
        tasks = Path("/proc/self/task")
        self._look(tasks, slice(1, 2))  # what it worked stands in `process_time`, also where threads have ended
        for file in tasks.glob("*/children"):
            with suppress(OSError):  # the thread has ended
                for child in file.read_text().split():
                    self._look(Path("/proc", child, "task"), slice(0, 2))
        self.looked = time.perf_counter()
        return time.process_time() + sum(self.seen.values()) / 1e9

    def _look(self, tasks: Path, which: slice) -> None:
        for file in tasks.glob("*/schedstat"):
            with suppress(OSError):
                self.seen[file] = sum(map(int, file.read_text().split()[which]))


def without_files(exp: Any) -> list[str]:
    """Take callbacks that leave files off an experiment, and the progress display; returns the names of the former."""
    exp.update(output_folder=None, hide_progress=True)
    left = [callback for callback in exp.callbacks if getattr(callback, "leaves_files", False)]
    kept = [callback for callback in exp.callbacks if not any(callback is one for one in left)]
    vars(exp)["callbacks"] = kept  # the list itself is left as it is: a subclass may have added to it
    return [type(callback).__name__ for callback in left]


def of_one_size(exp: Any) -> dict[str, str]:
    """Give subsets one bucket that holds all, which loops by hand can be compared with; returns its sizes."""
    bucketed = [subset for subset in exp.subsets if subset.buckets is not None]
    for subset in bucketed:
        subset.buckets = subset.buckets.whole()
    return {subset.name: repr(subset.buckets) for subset in bucketed}


def varies(exp: Any) -> bool:
    """Whether an item of training that is read again, in another epoch, differs."""
    subset = next(one for one in exp.subsets if one.is_training)
    if is_columnar(subset) or subset.has_own_batch:
        return False
    key, first = subset.sample()
    with patched(subset, epoch=subset.epoch + 1):
        again = subset.batch([key])
    return not all(map(_is_same, first.values(), (again[name] for name in first)))


def _is_same(one: Any, other: Any) -> bool:
    holds_nan = np.asarray(one).dtype.kind in "fc"  # which may say that a value is missing
    return np.array_equal(one, other, equal_nan=holds_nan)


def evaluations_in(eval_epochs: Any, epochs: int) -> int:
    """How often a training of so many epochs evaluates.

    >>> [evaluations_in(wanted, 10) for wanted in (None, 4, 0, (1, 10, 20))]
    [10, 3, 0, 2]
    """
    return sum(is_evaluated(eval_epochs, number, epochs) for number in range(1, epochs + 1))


def _sum(epochs: Sequence[Epoch]) -> Epoch:
    def total(of: Callable[[Epoch], Mapping[str, float]]) -> dict[str, float]:
        return {kind: sum(of(one).get(kind, 0.0) for one in epochs) for kind in KINDS}

    return Epoch(
        total(lambda one: one.spent),
        sum(one.batches for one in epochs),
        sum(one.samples for one in epochs),
        total(lambda one: one.evaluating),
        total(lambda one: one.evaluation),
        sum(one.evaluations for one in epochs),
        is_whole=all(one.is_whole for one in epochs),
    )


@contextmanager
def _quietly() -> Iterator[None]:
    """Within, the log does not say that the training ends early: it is meant to."""
    logger = logging.getLogger("experimentator.walk")
    drop = lambda record: not str(record.msg).startswith("Training ends")  # noqa: E731
    logger.addFilter(drop)
    try:
        yield
    finally:
        logger.removeFilter(drop)
