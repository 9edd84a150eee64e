"""What each processor of a graph costs, forward and backward: by timing prefixes of the graph, compiled, in turn.

A compiler fuses processors, so that no clock can stand between them. But the graph up to a processor can be compiled
alone (`Graph.select` of the tensors alive there), and so can the training with no gradient before it. What one more
processor adds to the time of a step is its cost. Times are lower quartiles, since a busy machine only ever adds; so
costs add up to the step. A prefix must write the tensors alive at its end, which the whole may never make (XLA reads
only the rows that a crop keeps): so no prefix counts as more than a longer one. Differences carry the noise of both
times: each comes with its quartiles over rounds in which all prefixes were timed in turn.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import accumulate, pairwise
from typing import Any

import numpy as np

from experimentator.backends import CannotRunError
from experimentator.bench.findings import how
from experimentator.bench.spread import Spread, p_value, rounds, seconds_each, spread_of
from experimentator.graph import Description, Graph, GraphError, Mode, Ref, with_costs
from experimentator.graph.text import priced

CALL_SECONDS = 0.02  # a timed call takes this long, beside which the cost of calling is small
MOST_CALL = 1 << 14  # batches
FEW = 8  # processors that are always measured one by one
LEAST_ROUNDS, ROUNDS = 6, 15  # fewer rounds could not settle the sign of a cost
Times = Mapping[tuple[str, int], Sequence[float]]  # seconds a batch, by kind of prefix and its length
SURE = 0.05  # a cost whose sign is less certain than this counts as noise


@dataclass(frozen=True)
class Cost:
    """Seconds a step that a processor, or several in a row, add: forward, and backward with the update of weights.

    If it `is_fused`, the prefix became quicker with it: the compiler fuses it with its neighbours.
    """

    names: tuple[str, ...]
    forward: float
    backward: float
    spread: Spread  # of both together
    is_sure: bool
    is_fused: bool = False

    @property
    def seconds(self) -> float:
        """Forward and backward."""
        return self.forward + self.backward


@dataclass(frozen=True)
class Costs:
    """What the processors of a graph cost, in execution order; `rows` is the gathering of rows and the loop."""

    mode: str
    compiler: str
    batch_size: int
    step: float
    rows: float
    processors: tuple[Cost, ...]
    rounds: int
    trains: bool = True  # whether they were timed in training, too, and not forward alone

    @property
    def dearest(self) -> tuple[str, float]:
        """What certainly costs most, and its share of the step; no name where noise hides all costs."""
        cost = max((one for one in self.processors if one.is_sure), key=lambda one: one.seconds, default=None)
        return ("", 0.0) if cost is None else (" and ".join(cost.names), min(1.0, cost.seconds / self.step))

    def as_dict(self) -> dict[str, Any]:
        """Everything, as plain values."""
        processors = [asdict(cost) | {"spread": cost.spread._asdict()} for cost in self.processors]
        return asdict(self) | {"processors": processors, "by_name": self.by_name()}

    def by_name(self) -> dict[str, float]:
        """Seconds a step of each processor, 0 where noise hides it, for `graph.with_costs`; in a row, equal parts."""
        return {name: c.is_sure * c.seconds / len(c.names) for c in self.processors for name in c.names}


class Prefixes:
    """Compiled prefixes of a graph: `forward(i)` runs the first i nodes, `training(i)` trains all but them."""

    def __init__(self, exp: Any, graph: Graph, *, compiler: str):
        self.exp, self.graph, self.compiler = exp, graph, compiler
        trains = graph.mode == Mode.TRAIN and exp.optimizer is not None and "loss" in graph.outputs
        self.trains = trains and bool(exp.backend.compilers)
        self.known: dict[Any, Callable[..., None]] = {}

    def __len__(self) -> int:
        return len(self.graph.order)

    def forward(self, first: int) -> Callable[..., None]:
        """A function that runs the first nodes only."""
        names = [str(ref) for ref in self._alive(first)]
        return self._once(("forward", first), partial(self.exp.backend.by_hand, self.graph.select(*names)))

    def training(self, first: int) -> Callable[..., None]:
        """The whole training, with no gradient for the first nodes; without a training, the forward pass."""
        if not self.trains or first == len(self):
            return self.forward(len(self))
        build = partial(self.exp.backend.by_hand, self.graph, self.exp.optimizer, detach=first)
        return self._once(("training", first), build)

    def _once(self, key: Any, build: Callable[..., Any]) -> Callable[..., None]:
        if key not in self.known:
            self.known[key] = build(compiler=self.compiler)
        return self.known[key]

    def _alive(self, first: int) -> list[Ref]:
        """The versions at hand after the first nodes that later nodes or the results need."""
        done, rest = self.graph.order[:first], self.graph.order[first:]
        there = {ref for node in done for ref in node.writes} | {Ref(name, 0) for name in self.graph.inputs}
        wanted = [*(ref for node in rest for ref in node.reads), *self.graph.results.values()]
        return [ref for ref in dict.fromkeys(wanted) if ref in there]


def costs_of(
    exp: Any,
    graph: Graph,
    sample: tuple[Mapping[str, Any], np.ndarray],
    *,
    compiler: str,
    seconds: float,
    told: Callable[[str], None] = lambda _: None,
) -> Costs:
    """Time the prefixes of a graph on `sample` (columns and index [R, B]) within about so many seconds.

    Where compiling every prefix would take longer, cheap processors that stand in a row are measured together.
    """
    prefixes = Prefixes(exp, graph, compiler=compiler)
    put_back = exp.backend.snapshot(exp.optimizer)
    try:
        counts = _chosen(prefixes, sample, seconds / 2, told)
        times = _rounds(prefixes, counts, sample, seconds / 2)
    finally:
        put_back()
    seconds_of = bounded(times)
    rows, step = seconds_of["forward", 0], seconds_of["training", 0]
    processors = tuple(_cost(prefixes, times, seconds_of, *ends) for ends in pairwise(counts))
    compiler = compiler if exp.backend.compilers else "eager"
    count, size = len(times["forward", 0]), sample[1].shape[1]
    return Costs(str(graph.mode), compiler, size, step, rows, processors, count, trains=prefixes.trains)


def bounded(times: Times) -> dict[tuple[str, int], float]:
    """Seconds a batch of each prefix, none more than a longer one takes.

    >>> bounded({("forward", 0): [9.0], ("forward", 1): [2.0], ("training", 0): [3.0], ("training", 1): [2.0]})
    {('training', 0): 3.0, ('training', 1): 2.0, ('forward', 1): 2.0, ('forward', 0): 2.0}
    """
    longest_first = sorted(times, key=lambda key: (-1, key[1]) if key[0] == "training" else (0, -key[1]))
    quick = (float(np.percentile(times[key], 25)) for key in longest_first)
    return dict(zip(longest_first, accumulate(quick, min), strict=True))


def with_costs_of(
    exp: Any, description: Description, names: Sequence[str], told: Callable[[str], None], *, seconds: float = 15.0
) -> Description:
    """A description of a mode with the costs of its processors, in the step for `names`, else in the mode's own step.

    Compiled as the setting `jit_compile` says; where that is "auto", with XLA on a GPU and without on a CPU.
    """
    exp.program.prepare()
    mode = Mode.of(description.mode)
    graph = exp.program.whole(mode).select(*names) if names else exp.graph(mode)
    known = exp.backend.compilers
    default = {"torch": "program"}.get(exp.backend.name, "graph" if exp.backend.peak_memory() is None else "xla")
    compiler = next((name for name, setting in known.items() if setting == exp.jit_compile), default)
    if known and compiler not in known:
        compiler = exp.backend.compile(graph, exp.program.specs(mode)).compiler
    costs = costs_of(exp, graph, sample_of(exp, graph), compiler=compiler, seconds=seconds, told=told)
    title = f"a step of {costs.batch_size} takes {priced(costs.step)} {how(costs.compiler)}"
    return replace(with_costs(description, costs.by_name()), title=title)


def sample_of(exp: Any, graph: Graph) -> tuple[Mapping[str, Any], np.ndarray]:
    """Columns of two batches that a graph reads of a subset of its mode, on the device, and their index [2, B]."""
    subset = next((one for one in exp.subsets if one.mode == graph.mode), exp.subsets[0])
    kept, batch = next(subset.batches(2 * exp.batch_size))
    index = np.arange(2 * exp.batch_size, dtype=np.int32) % len(kept)
    return exp.backend.put({name: batch[name] for name in sorted(graph.inputs)}), index.reshape(2, -1)


def _chosen(prefixes: Prefixes, sample: Any, seconds: float, told: Callable[[str], None]) -> dict[int, list[int]]:
    """Where to cut (everywhere, if there is time to compile that; else where most is spent), and batches in a call.

    No cut goes where something is alive that is no dense tensor: a loop cannot carry it from batch to batch.
    """
    end = time.perf_counter() + seconds
    least, _ = _enough(prefixes.training(0), sample)  # a part takes no longer than the whole, whatever noise says
    counts: dict[int, list[int]] = {}
    spent: dict[int, float] = {}
    places = list(range(len(prefixes) + 1))
    middle: int | None = len(prefixes)
    while middle is not None and (len(counts) <= FEW or time.perf_counter() < end):
        for cut in {0, middle} - counts.keys():
            try:
                pairs = [_enough(run, sample) for run in (prefixes.forward(cut), prefixes.training(cut))]
            except (GraphError, CannotRunError):
                if cut in (0, len(prefixes)):
                    raise
                places.remove(cut)
                continue
            counts[cut] = [max(count, least) for count, _ in pairs]
            spent[cut] = pairs[0][1] - pairs[1][1]  # forward up to the cut, less the backward that is left out
        told(f"costs: {len(counts)} of {len(places)} prefixes compiled")
        middle = _next(sorted(counts), places, spent)
    return dict(sorted(counts.items()))


def _next(cuts: Sequence[int], places: Sequence[int], spent: Mapping[int, float]) -> int | None:
    """The middle of the places in the interval between two cuts in which most is spent."""
    inner = {(a, b): [place for place in places if a < place < b] for a, b in pairwise(cuts)}
    wide = [ends for ends, within in inner.items() if within]
    dearest = max(wide, key=lambda ends: spent[ends[1]] - spent[ends[0]], default=None)
    return inner[dearest][(len(inner[dearest]) - 1) // 2] if dearest else None


def _enough(run: Callable[..., None], sample: Any) -> tuple[int, float]:
    """How many batches make a call long enough, and seconds a batch."""
    count = 1
    while (step := _timed(run, sample, count)) * count < CALL_SECONDS / 4 and count < MOST_CALL:
        count *= 4
    return int(min(MOST_CALL, max(1, CALL_SECONDS // step))), step


def _rounds(prefixes: Prefixes, counts: Mapping[int, list[int]], sample: Any, seconds: float) -> Times:
    """Every prefix timed in turn, round by round."""
    run = {("forward", cut): (prefixes.forward(cut), count) for cut, (count, _) in counts.items()}
    last, trained = len(prefixes), counts if prefixes.trains else {}
    run |= {("training", cut): (prefixes.training(cut), counts[cut][1]) for cut in trained if cut != last}
    times: dict[tuple[str, int], list[float]] = {key: [] for key in run}
    for _ in rounds(LEAST_ROUNDS, ROUNDS, seconds=seconds):
        for key, (one, count) in run.items():
            times[key].append(seconds_each(count, one, *sample))
    return {**{("training", cut): times["forward", last] for cut in counts}, **times}


def _timed(run: Callable[..., None], sample: Any, count: int) -> float:
    """Seconds a batch, the best of three calls, once compiled."""
    if count == 1:
        run(*sample, 1)
    return min(seconds_each(count, run, *sample) for _ in range(3))


def _cost(prefixes: Prefixes, times: Times, seconds: Mapping[tuple[str, int], float], first: int, last: int) -> Cost:
    keys = ("forward", last), ("forward", first), ("training", first), ("training", last)
    forward, before, whole, rest = (seconds[key] for key in keys)
    paired = [a - b + c - d for a, b, c, d in zip(*(times[key] for key in keys), strict=True)]
    names = tuple(node.name for node in prefixes.graph.order[first:last])
    spread = spread_of(paired)
    is_clear = p_value(paired) <= SURE
    is_sure = is_clear and spread.median > 0 and forward - before + whole - rest > 0
    return Cost(names, forward - before, whole - rest, spread, is_sure, is_clear and spread.median < 0)
