"""A compiled step at work: the calls of it, their pace, and what it did."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from experimentator.cycle import Pace
from experimentator.flags import check_flags
from experimentator.loading.blocks import Block
from experimentator.running import Marks


@dataclass
class Runner:
    """A compiled step and its pace."""

    step: Any
    pace: Pace
    name: str = ""
    like: str | None = None  # the compiler of training that it was made to follow
    batches: int = 0
    calls: int = 0
    seconds: float = 0.0  # spent in calls of the step, results fetched

    def __post_init__(self) -> None:
        self.marks = Marks(self.step.graph)

    def serves(self, steps: int, like: str | None) -> bool:
        """Whether it can run passes of so many batches, compiled as wanted; shorter ones than it was made for, too."""
        return not self.step.stale and self.like == like and steps <= self.pace.steps

    def run(self, block: Block, *, remaining: int, where: str = "", first: int = 0) -> dict[str, np.ndarray]:
        """Run the batches of a block in one call; the results come back in one sync.

        `where` and `first`, the number of the first batch, are for errors.
        """
        self.step.choose(block.columns, block.index, remaining=remaining)
        start = time.perf_counter()
        self.pace.expect(remaining)
        fixed = self.pace.is_fixed(len(block.index)) if block.fixed is None else block.fixed
        outputs = self.step(block.columns, block.index, fixed=fixed)
        fetched = {name: np.asarray(values) for name, values in outputs.items()}
        seconds = time.perf_counter() - start
        self.calls, self.batches = self.calls + 1, self.batches + len(block.index)
        self.seconds += seconds
        self.pace.saw(len(block.index), seconds)
        check_flags(self.step.graph, fetched, where=where, first=first)
        return self.marks.put(fetched)

    def count(self, totals: dict[str, dict[str, int]]) -> None:
        """Add what it did to the totals of its subset."""
        one = totals.setdefault(self.name, dict.fromkeys(("batches", "calls", "traces"), 0))
        for name, number in (("batches", self.batches), ("calls", self.calls), ("traces", self.step.traces)):
            one[name] += number
