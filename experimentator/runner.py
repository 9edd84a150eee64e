"""Runners: they call a compiled step block by block, and count batches, calls and seconds."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from experimentator.accumulating import Marks, reset
from experimentator.backends import Step
from experimentator.flags import check_flags
from experimentator.graph import Mode
from experimentator.loading.blocks import Block, Spec
from experimentator.loading.bucket_order import RUN, longest_runs
from experimentator.pace import Pace

log = logging.getLogger(__name__)


@dataclass
class Runner:
    """A compiled step and its pace."""

    step: Any
    pace: Pace
    name: str = ""
    like: str | None = None  # the compiler of training that it was made to follow
    bucket: str = ""  # the sizes of the bucket whose batches it runs
    batch: Mapping[str, Spec] = field(default_factory=dict)  # what the step was compiled for
    share: float = 1.0  # its part of the batches of a pass
    steps: int = 0  # the number of batches it runs in a pass
    decider: Runner | None = None  # the runner of another bucket, whose choice of compiler this one follows
    batches: int = 0
    calls: int = 0
    seconds: float = 0.0  # spent in calls of the step, results fetched

    def __post_init__(self) -> None:
        self.marks = Marks(self.step.graph)

    @property
    def label(self) -> str:
        """The name of the subset, with the sizes of the bucket if there is one."""
        return label_of(self.name, self.bucket)

    def serves(self, steps: int, like: str | None, batch: Mapping[str, Spec]) -> bool:
        """Whether it can run passes of `steps` batches, at most those it was made for, compiled like `like`.

        One that is compiled so already, since it evaluated before the training began, stays so. Batches of other
        dtypes, of data that were replaced, need another step: results have the dtypes that a step was compiled for.
        """
        pairs = [(name, self.batch[name].dtype, spec.dtype) for name, spec in batch.items() if name in self.batch]
        if told := [f"{name} was {old}, is {new}" for name, old, new in pairs if old != new]:
            log.warning("Compiled again for subset %r: %s.", self.name, "; ".join(told))
            return False
        if like == self.step.compiler:
            self.like = self.step.chosen = like
        return not self.step.stale and self.like == like and steps <= self.pace.steps

    def room(self, steps: int) -> int:
        """The number of batches to make this one's successor for: a power of two, if the subset has grown."""
        return 1 << (steps - 1).bit_length() if steps > self.pace.steps else steps

    def run(self, block: Block, *, remaining: int, where: str = "", first: int = 0) -> dict[str, np.ndarray]:
        """Run the batches of a block in one call; the results come back in one sync.

        `where` and `first`, the number of the first batch, are for errors.
        """
        remaining, began = int(remaining * self.share), time.perf_counter()
        if self.decider is None:
            self.step.choose(block.columns, block.index, remaining=remaining)
        elif self.decider.step.is_settled and not self.step.is_settled:
            self.step.chosen = self.decider.step.compiler
        start, traces = time.perf_counter(), self.step.traces
        self.pace.expect(remaining)
        fixed = self.pace.is_fixed(len(block.index)) if block.fixed is None else block.fixed
        outputs = fetched(self.step, self.step(block.columns, block.index, fixed=fixed), batches=len(block.index))
        seconds = time.perf_counter() - start
        self.calls, self.batches = self.calls + 1, self.batches + len(block.index)
        self.seconds += seconds
        # choosing a compiler compiles, too, so the first call is timed from before it
        took = seconds if self.pace.compiled else time.perf_counter() - began
        self.pace.saw(len(block.index), took, traced=self.step.traces > traces)
        check_flags(self.step.graph, outputs, where=where, first=first)
        return self.marks.put(outputs)

    def count(self, totals: dict[str, dict[str, int]]) -> None:
        """Add its counts to the totals of its subset."""
        one = totals.setdefault(self.name, dict.fromkeys(("batches", "calls", "traces"), 0))
        for name, number in (("batches", self.batches), ("calls", self.calls), ("traces", self.step.traces)):
            one[name] += number


def fetched(step: Step, outputs: Mapping[str, Any], *, batches: int) -> dict[str, np.ndarray]:
    """What a call of a step returned, as arrays on the host; refused if a name or a batch is missing.

    >>> from experimentator.backends import get_backend
    >>> from experimentator.graph import Graph
    >>> step = get_backend("numpy").compile(Graph([], provided={"batch_x"}).select("batch_x"), {})
    >>> fetched(step, {"batch_x": [1.0]}, batches=2)
    Traceback (most recent call last):
    TypeError: NumpyStep returned no values of batch_x for each of 2 batches.
    Seen: batch_x [1].
    Return {name: [batches, ...]}, with every name of graph.results.
    """
    results = {name: np.asarray(values) for name, values in (outputs or {}).items()}
    if wrong := [name for name in step.graph.results if name not in results or results[name].shape[:1] != (batches,)]:
        raise TypeError(
            f"{type(step).__name__} returned no values of {', '.join(wrong)} for each of {batches} batches.\n"
            f"Seen: {', '.join(f'{name} {list(array.shape)}' for name, array in results.items()) or 'nothing'}.\n"
            "Return {name: [batches, ...]}, with every name of graph.results."
        )
    return results


def label_of(subset: str, bucket: str) -> str:
    """The name of a subset, with the sizes of a bucket if there is one."""
    return f"{subset} ({bucket})" if bucket else subset


class Runners:
    """The runners of one pass, `cycle`: a single one, or one for each bucket; `options` are of `Program.runner`."""

    def __init__(self, program: Any, subset: Any, mode: Mode, cycle: Any, **options: Any):
        self.cycle = cycle
        self.buckets: np.ndarray | None = cycle.buckets
        if self.buckets is None:
            runner: Runner = program.runner(subset, mode, steps=cycle.steps, **options)
            runner.steps = cycle.steps
            self.runners = {0: runner}
        else:
            self.runners = _by_bucket(program, subset, mode, self.buckets, **options)
        reset(self.at(0).step.graph)

    def at(self, batch: int) -> Runner:
        """The runner of batch number `batch`; past the end, the last batch's."""
        if self.buckets is None:
            return self.runners[0]
        return self.runners[int(self.buckets[min(batch, len(self.buckets) - 1)])]

    def blocks(self, first: int = 0) -> Iterator[tuple[int, Runner, Block]]:
        """The blocks of the pass from batch `first` on: the number of each one's first batch, its runner, the block."""
        while (block := self.cycle.take(lambda done: self.at(done).pace.ahead(done))) is not None:
            yield first, self.at(first), block
            first += len(block.index)


def _by_bucket(program: Any, subset: Any, mode: Mode, buckets: np.ndarray, **options: Any) -> dict[int, Runner]:
    """A runner for each bucket; `buckets` [steps] int has the bucket of each batch."""
    runners: dict[int, Runner] = {}
    runs = longest_runs(buckets)
    for number in sorted(runs, reverse=True):  # the largest is compiled first
        steps = RUN if mode == Mode.TRAIN and len(runs) > 1 else runs[number]  # alike in every epoch
        runner = program.runner(subset, mode, steps=steps, bucket=number, **options)
        runner.steps = int(np.sum(buckets == number))
        runner.share = runner.steps / len(buckets)
        runners[number] = runner
    batch_size = program.exp.batch_size
    most = max(runners, key=lambda number: runners[number].steps * subset.buckets.work(number, batch_size))
    for number, runner in runners.items():
        runner.decider = None if number == most else runners[most]
    return runners
