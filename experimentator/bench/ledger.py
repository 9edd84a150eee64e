"""Where the seconds of a training go: its feeds, steps and callbacks are wrapped, each moment counts as one kind."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from experimentator.graph import Mode

KINDS = ("data", "transfer", "device", "callbacks", "compile", "library")
Spent = defaultdict[str, float]  # seconds by kind
MANY = 12  # blocks of a pass; if so many ran in one that was cut, the first is left out, with the wait for the second
EVALUATING = 0.25  # of the time after which an epoch is cut, for each pass of evaluation
LONG_WAIT = 2.0  # seconds; blocks that take longer to read are made smaller, so that a measurement ends


class Account:
    """Seconds by kind: one kind runs at any moment, so that they add up to all that passed.

    >>> times = iter([0.0, 1.0, 3.0, 6.0])
    >>> account = Account(lambda: next(times))
    >>> with account.spending("data"):
    ...     pass
    >>> dict(account.close())
    {'library': 4.0, 'data': 2.0}
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter):
        self.clock = clock
        self.spent: Spent = defaultdict(float)
        self.kinds = ["library"]
        self.since = clock()

    @contextmanager
    def spending(self, kind: str) -> Iterator[None]:
        """Within, time counts as this kind, but for what a `spending` within it counts."""
        self._charge()
        self.kinds.append(kind)
        try:
            yield
        finally:
            self._charge()
            self.kinds.pop()

    def move(self, seconds: float, source: str, target: str) -> None:
        """Count seconds of one kind as another."""
        self.spent[source] -= seconds
        self.spent[target] += seconds

    def so_far(self) -> Spent:
        """What was spent since the last `close`; the account goes on."""
        self._charge()
        return self.spent.copy()

    def close(self) -> Spent:
        """What was spent since the last `close`; the account begins anew."""
        self._charge()
        spent, self.spent = self.spent, defaultdict(float)
        return spent

    def _charge(self) -> None:
        now = self.clock()
        self.spent[self.kinds[-1]] += now - self.since
        self.since = now


@dataclass(frozen=True)
class Epoch:
    """What one epoch took: seconds by kind, and how many batches it trained.

    Of one that was cut, what is spent once an epoch, whatever its batches, counts by the part of the batches that ran.
    `evaluating` is the part of the seconds that went to evaluation, without compiling for it; `evaluation` is what that
    would have been had none of its passes been cut; `evaluations` is how often it evaluated. One that `has_traced` has
    compiled a step.
    """

    spent: Mapping[str, float]
    batches: int
    samples: int
    evaluating: Mapping[str, float]
    evaluation: Mapping[str, float]
    evaluations: int = 0
    is_whole: bool = True
    has_traced: bool = False

    @property
    def seconds(self) -> float:
        """All of it."""
        return sum(self.spent.values())

    @property
    def training(self) -> float:
        """All but the evaluation and what was compiled."""
        return self.seconds - sum(self.evaluating.values()) - self.spent.get("compile", 0.0)


class Ledger:
    """Wraps the feeds, steps, callbacks and compilations of an experiment, and keeps an account of each epoch.

    An epoch is cut after `longest` seconds, not counting compilation. If many blocks ran by then, the first one is left
    out: readers that begin a pass are no measure of their pace. Each pass of evaluation may take `EVALUATING` of that
    at least. The training stops after an epoch, once `wanted` seconds have passed. `block` is the last one of training,
    `fired` counts events, `ending` are the seconds that callbacks take once it ends.
    """

    def __init__(self, exp: Any):
        self.exp, self.account = exp, Account()
        self.main = threading.get_ident()
        self.epochs: list[Epoch] = []
        self.by_callback: Spent = defaultdict(float)
        self.fired: Counter[str] = Counter()
        self.ending = 0.0
        self.look: Callable[[], Any] = lambda: None  # at the threads of a pass, which end with it
        self.block: Any = None
        self.longest = self.until = math.inf
        self.wanted, self.most = 0.0, 1 << 30
        self.copies: list[tuple[float, float]] = []  # when another thread placed data
        self.first: tuple[Mapping[str, float], int, int]
        self.began: Spent
        self.steps = self.batches = self.samples = self.block_of_pass = 0
        self._begin()
        _stand(self, exp)

    def fire(self, inner: Any, event: str, **state: Any) -> None:
        """Tell callbacks; an epoch is accounted for from its first event to its last."""
        if event == "epoch_begin":
            self._begin()
        self.fired[event] += 1
        start = time.perf_counter()
        with self.account.spending("callbacks"):
            inner(event, **state)
        if event == "train_end":
            self.ending = time.perf_counter() - start
        if event == "cycle_end" and self.exp.state["mode"] == Mode.EVAL:
            self._evaluated()
        if event == "epoch_end":
            self._end()

    def passing(self, inner: Any, feed: Any, batch_size: int) -> TimedCycle:
        """Begin a pass, whose blocks are waited for on this clock."""
        self.began = self.account.so_far()
        if feed.mode != Mode.TRAIN:
            self.until = max(self.until, self.worked() + EVALUATING * self.longest)
        with self.account.spending("data"):
            self.cycle = TimedCycle(inner(feed, batch_size), self, feed)
        self.steps += self.cycle.steps * self.cycle.is_training
        return self.cycle

    def took(self, block: Any, start: float) -> None:
        """Note the arrival of a block; time in which another thread copied data counts as transfer, not as waiting."""
        end = time.perf_counter()
        copying = sum(max(0.0, min(end, b) - max(start, a)) for a, b in self.copies)
        self.copies.clear()
        self.account.move(copying, "data", "transfer")
        if end - start > LONG_WAIT:
            self.most = max(1, len(block.index) // 2)

    def trained(self, block: Any) -> None:
        """Count a block of training; where a pass is cut, only the second and those after it may count."""
        if self.block_of_pass == 1:
            self.first = self._training(self.looping), self.batches, self.samples
        self.block_of_pass += 1
        self.block, self.batches, self.samples = block, self.batches + len(block.index), self.samples + block.index.size

    def enter(self) -> None:
        """Note that the loop over the blocks of a pass of training begins."""
        self.looping = self._training()

    def leave(self) -> None:
        """Note that it is over."""
        for kind, seconds in self._training(self.looping).items():
            self.looped[kind] += seconds

    def placed(self, put: Any, columns: Any) -> Any:
        """Place columns on the device, on the clock."""
        if threading.get_ident() == self.main:
            with self.account.spending("transfer"):
                return put(columns)
        start = time.perf_counter()
        try:
            return put(columns)
        finally:
            self.copies.append((start, time.perf_counter()))

    def ran(self, runner: Any, run: Any, block: Any, **options: Any) -> Any:
        """Run a call; one that traces counts as compilation, less what its batches take at their pace."""
        before, traces = self.account.spent["device"], runner.step.traces
        pace = runner.pace.step_seconds if math.isfinite(runner.pace.step_seconds) else 0.0  # this call may set it
        with self.account.spending("device"):
            outputs = run(block, **options)
        if runner.step.traces > traces:
            self.has_traced = True
            took = self.account.spent["device"] - before
            self.account.move(max(0.0, took - pace * len(block.index)), "device", "compile")
        return outputs

    def predicted(self, predictor: Any, predict: Any, *given: Any) -> Any:
        """Predict, as callbacks do; what compiles first counts as compilation."""
        before, traces = self.account.so_far(), predictor.traces
        results = predict(*given)
        if predictor.traces > traces:
            self.account.move(self.account.so_far()["callbacks"] - before["callbacks"], "callbacks", "compile")
        return results

    def told(self, listener: Any, call: Any, event: str, state: Any) -> None:
        """Call one callback, and count its time, but for what it compiles."""
        start, compiled = time.perf_counter(), self.account.spent["compile"]
        call(event, state)
        if listener.hears(event):
            compiled = self.account.spent["compile"] - compiled
            self.by_callback[f"{listener.name}.on_{event}"] += time.perf_counter() - start - compiled

    def worked(self) -> float:
        """The time of day in seconds, less what the epoch has compiled: an epoch is not cut for that."""
        return time.perf_counter() - self.account.spent["compile"]

    def _begin(self) -> None:
        self.before = self.account.close()  # what prepares a training comes before its first epoch
        self.until = self.worked() + self.longest
        self.began = defaultdict(float)
        self.evaluating: Spent = defaultdict(float)
        self.evaluation: Spent = defaultdict(float)
        self.looped: Spent = defaultdict(float)  # in loops over blocks of training
        self.steps = self.batches = self.samples = self.block_of_pass = 0
        self.was_cut = self.has_traced = False
        self.first = {}, 0, 0

    def _training(self, before: Mapping[str, float] = {}) -> dict[str, float]:
        """What the epoch has spent so far, less what it had `before`, but for compiling and evaluating."""
        spent = self.account.so_far().items()
        return {k: v - self.evaluating[k] - before.get(k, 0.0) for k, v in spent if k != "compile"}

    def _evaluated(self) -> None:
        """Account for a pass of evaluation; the rest of one that was cut would have gone on as it began."""
        for kind, seconds in self.account.so_far().items():
            if kind != "compile":
                self.evaluating[kind] += seconds - self.began[kind]
                self.evaluation[kind] += (seconds - self.began[kind]) * self.cycle.steps / max(1, self.cycle.taken)

    def _end(self) -> None:
        once = self._training(self.looped)
        spent, batches, samples = self.account.close(), self.batches, self.samples
        self.wanted -= sum(spent.values())
        if self.was_cut:
            if self.block_of_pass >= MANY:
                for kind, seconds in self.first[0].items():
                    spent[kind] -= seconds
                batches, samples = batches - self.first[1], samples - self.first[2]
            for kind, seconds in once.items():
                spent[kind] -= seconds * (1 - batches / max(batches, self.steps))
        if not self.epochs:
            for kind, seconds in self.before.items():
                spent[kind] += seconds
        evaluated = dict(self.evaluating), dict(self.evaluation), int(bool(self.evaluation))
        epoch = Epoch(dict(spent), batches, samples, *evaluated, is_whole=not self.was_cut, has_traced=self.has_traced)
        self.epochs.append(epoch)
        if self.wanted <= 0:
            self.exp.state["stop"] = "enough was measured"


class TimedCycle:
    """A cycle, with the waiting for its blocks on the ledger's clock."""

    def __init__(self, cycle: Any, ledger: Ledger, feed: Any):
        self.cycle, self.ledger, self.is_training = cycle, ledger, feed.mode == Mode.TRAIN
        self.is_read = feed.place == "streamed"
        self.steps, self.batch_size, self.buckets = cycle.steps, cycle.batch_size, cycle.buckets
        self.taken = 0  # batches

    def take(self, ahead: Callable[[int], int]) -> Any:
        """The next block, unless time is up."""
        ledger, start = self.ledger, time.perf_counter()
        if self.is_read:
            ledger.look()
        if self.is_training and not self.taken:
            ledger.enter()
        if self.taken and ledger.worked() > ledger.until:
            ledger.was_cut |= self.is_training
            self._left()
            self.close()
            return None
        with ledger.account.spending("data"):
            block = self.cycle.take(lambda done: min(ahead(done), ledger.most))
        if block is not None:
            self.taken, self.left_out = self.taken + len(block.index), self.cycle.left_out
            ledger.took(block, start)
            if self.is_training:
                ledger.trained(block)
        else:
            self._left()
        return block

    def _left(self) -> None:
        if self.is_training:
            self.ledger.leave()

    def close(self) -> None:
        """Stop reading ahead."""
        self.cycle.close()


def _stand(ledger: Ledger, exp: Any) -> None:
    """Wrap the methods of an experiment that a ledger times."""
    program, backend = exp.program, exp.backend
    for owner, name, kind in (
        (program, "prepare", "compile"),
        (program, "graph", "compile"),
        (program, "feed", "data"),
    ):
        setattr(owner, name, _spending(ledger, kind, getattr(owner, name)))
    exp.fire = partial(ledger.fire, exp.fire)
    exp.cycle = partial(ledger.passing, exp.cycle)
    backend.put = partial(ledger.placed, backend.put)
    program.runner = partial(_runner, ledger, program.runner)
    program.predictor.predict = partial(ledger.predicted, program.predictor, program.predictor.predict)
    for listener in getattr(exp, "listeners", ()):
        listener.call = partial(ledger.told, listener, listener.call)


def _runner(ledger: Ledger, inner: Any, *given: Any, **options: Any) -> Any:
    before = ledger.account.so_far()["compile"]
    with ledger.account.spending("compile"):
        runner = inner(*given, **options)
    if "run" in vars(runner):  # one that is known: it was looked up, once a pass, and nothing was compiled
        ledger.account.move(ledger.account.so_far()["compile"] - before, "compile", "library")
    else:
        runner.run = partial(ledger.ran, runner, runner.run)
        runner.step.choose = _spending(ledger, "compile", runner.step.choose)
    return runner


def _spending(ledger: Ledger, kind: str, inner: Any) -> Any:
    def spending(*given: Any, **options: Any) -> Any:
        with ledger.account.spending(kind):
            return inner(*given, **options)

    return spending
