"""Steps that can run by several compilers, and find the quickest by timing them."""

from __future__ import annotations

import logging
import time
from abc import abstractmethod
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from experimentator.backends import Columns
from experimentator.backends.keras.step import KerasStep

log = logging.getLogger(__name__)
PROBE_SECONDS = 0.1  # how long each compiler is timed, once compiled; never longer than all batches take
PROBES = 3  # times
CLEARLY = 0.95  # another is taken below this share of the default's time: a toss-up must not change bits between runs
WORTH = 3.0  # a trial is made if the batches take so many times as long
HOPELESS = 2.0  # times as slow as the default: not timed again


class TriedStep(KerasStep):
    """A step whose compiler `choose` finds, where the setting leaves it open; a framework says how it is tried."""

    def __init__(self, *arguments: Any, **options: Any):
        super().__init__(*arguments, **options)
        self.timings: dict[str, float] = {}  # seconds per batch of the compilers that were tried
        self._first_seconds = self._trial_seconds = 0.0
        self._work = 0  # batches done and ahead

    def choose(self, columns: Columns, index: np.ndarray, *, remaining: int) -> None:
        """Settle an open choice of compiler for `remaining` batches, by timing each; changes no state.

        Compilers are tried one by one, each as soon as the batches done and ahead take much longer than its trial.
        """
        self._work = self.batches + remaining
        if self._untried() is None:
            return
        self.capacity = self.capacity or len(index)
        index = np.asarray(index[: self.capacity], dtype=np.int32)
        with self._undone():
            columns, index = self._placed({name: columns[name] for name in self.graph.inputs}, index)
            while compiler := self._untried():
                self._probe(self.default, columns, index)
                if compiler == self.default:
                    self._trial_seconds = self._trial_cost()
                elif self._untried():  # still: threads in one another's way had made a batch seem slow
                    self._try(compiler, columns, index)

    @abstractmethod
    def _undone(self) -> AbstractContextManager[Any]:
        """Within, batches may run: in the end no state has changed."""

    @abstractmethod
    def _placed(self, columns: Columns, index: np.ndarray) -> tuple[Columns, np.ndarray]:
        """Columns and index as all trials can use them."""

    @abstractmethod
    def _finish(self, compiler: str, columns: Columns, index: np.ndarray) -> None:
        """Run batches by a compiler, and wait for their results."""

    @abstractmethod
    def _trial_cost(self) -> float:
        """Seconds that the first trial of another compiler will take, about."""

    def _untried(self) -> str | None:
        """The compiler to try next; None where that would not pay, or nothing is open."""
        if self.is_settled:
            return None
        if self.default not in self.timings:  # it says whether others are worth a trial
            return self.default
        pays = self._work * self.timings[self.default] > WORTH * self._trial_seconds
        return next(name for name in self.compilers if name not in self.timings) if pays else None

    def _try(self, compiler: str, columns: Columns, index: np.ndarray) -> None:
        """Time a compiler and the default by turns, so that a busy machine slows both."""
        start = time.perf_counter()
        for _ in range(PROBES):
            self._probe(compiler, columns, index)
            if self.is_settled or self.timings[compiler] > HOPELESS * self.timings[self.default]:
                break
            self._probe(self.default, columns, index)
        self._trial_seconds = time.perf_counter() - start  # the next one will take about as long
        if not self.is_settled:  # as one is that cannot compile the graph
            self.chosen = self._verdict(compiler)
            log.info("seconds per batch: %s; using %s", self.timings, self.compiler)

    def _verdict(self, tried: str) -> str | None:
        """The compiler to settle on after a trial; None where another one is to be tried."""
        if self.timings[tried] < CLEARLY * self.timings[self.default]:
            return tried
        return None if self.compilers.keys() - self.timings.keys() else self.default

    def _probe(self, compiler: str, columns: Columns, index: np.ndarray) -> None:
        seconds = self._timed(compiler, columns, index)
        self.timings[compiler] = min(self.timings.get(compiler, seconds), seconds)

    def _timed(self, compiler: str, columns: Columns, index: np.ndarray) -> float:
        """Seconds per batch, the best of a few calls of growing length."""
        rows, best, spent, start = index[:1], float("inf"), 0.0, time.perf_counter()
        self._finish(compiler, columns, rows)
        self._first_seconds = self._first_seconds or time.perf_counter() - start
        while spent < min(PROBE_SECONDS, self._work * best):
            if self.is_settled:  # as it is once the compiler has failed
                break
            start = time.perf_counter()
            self._finish(compiler, columns, rows)
            seconds = time.perf_counter() - start
            best, spent = min(best, seconds / len(rows)), spent + seconds
            if seconds < PROBE_SECONDS / 4 and 2 * len(rows) <= (self.capacity or 1):
                rows = np.concatenate([rows, rows])
        return best

    def _go_without(self, compiler: str, reason: str, cause: Exception | None = None) -> None:
        """Warn that a compiler has no form for the graph, which runs by the default then; raise if it was asked for."""
        if not self.auto:
            seen = f"Seen: jit_compile={self.compilers.get(self.compiler)!r}."
            change = "Write jit_compile='auto', or False."
            raise ValueError(f"{compiler} cannot compile this graph: {reason}\n{seen}\n{change}") from cause
        log.warning("%s cannot compile this graph, which runs without it: %s", compiler, reason)
        self.chosen = self.default
