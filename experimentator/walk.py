"""The walk through a training: epochs, passes over subsets, calls of the compiled step, and its position."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from threading import Lock
from typing import TYPE_CHECKING, Any

from experimentator.accumulating import sums_in
from experimentator.averages import Averages, check_finite
from experimentator.callbacks.order import CallbackError
from experimentator.diagnosis import (
    first_look,
    idle_averages,
    passed_over,
    spoilt,
    spoilt_error,
    suspicions,
    unheard,
    unknown,
)
from experimentator.graph import Mode
from experimentator.isolation import apart, training_seeds
from experimentator.optimizer_parts import parts_of
from experimentator.patches import patched
from experimentator.position import Position
from experimentator.saving.identity import Noted, changeable
from experimentator.saving.undeclared import not_set_again, otherwise, remember
from experimentator.scalars import as_scalar
from experimentator.settings import is_evaluated, listed, rate_of
from experimentator.signals import HeldSignals

if TYPE_CHECKING:
    from experimentator.experiment import BaseExperiment
    from experimentator.runner import Runner, Runners
    from experimentator.saving.resume import Restored

log = logging.getLogger(__name__)
LATE_RATE = (
    "on_batch_end of a callback changed the learning rate, but is called when all batches of a call have run: those "
    "after its batch had the old one. Write every = 1 into its class: calls then end at each batch."
)
PASSING = ("averages", "block", "results", "runner", "why")  # entries of the state that last for one event only


class Walk:
    """Trains epoch by epoch; between two calls of a step it is at rest, and fires `pause`.

    `batches` counts the batches trained on since the first epoch; `position` is None between epochs. A resumed walk
    begins within an epoch: the begin events of what is under way are fired anew, then `restore` sets everything to what
    the checkpoint has.
    """

    def __init__(self, exp: BaseExperiment):
        self.exp = exp
        self.turn = Lock()  # held from before the graphs are built: another thread may train the same experiment
        self.goal = self.batches = 0
        self.rate: float | None = None  # the learning rate as training began
        self.position: Position | None = None
        self.restore: Restored | None = None
        self.held = HeldSignals()
        self.began = 0.0  # when the epoch began, as if nothing had interrupted it; set as a training begins
        self.noted = Noted()
        self.is_cut_short = self.trains = self.looked = False
        self.acting: Sequence[Any] = ()  # the callbacks that hear events, with those that the library adds
        self.constants: set[str] = set()  # nodes with weights that were NaN when training began
        self.passing = ""  # the name of the subset that the training's own pass goes over
        self.predictions = 0  # since the last pause
        self.depth = 0  # passes under way: a callback may evaluate within a pass

    @property
    def is_under_way(self) -> bool:
        """Whether an epoch of a training is under way."""
        return self.trains and self.position is not None

    @contextmanager
    def alone(self, epochs: int) -> Iterator[None]:
        """Within, a training within this one is refused, by a callback or another thread."""
        if not self.turn.acquire(blocking=False):
            raise CallbackError(
                "A training of this experiment is under way, so it cannot begin another.\n"
                f"Seen: train({epochs}) within it, where {self.exp.epoch} epochs are done.\n"
                "End that one first, state['stop'] = 'the reason'; or train another: build_experiment(...)."
            )
        try:
            yield
        finally:
            self.turn.release()

    def train(self, epochs: int) -> None:
        """Train up to a total of `epochs`."""
        self.goal, self.rate = epochs, rate_of(self.exp.optimizer)
        self.exp.state.pop("stop", None)
        done = self.exp.epoch
        if done >= epochs > 0:
            said = "Nothing to train: %d of %d epochs are done. train(%d) trains one more."
            log.warning(said, done, epochs, done + 1)
        elif self.is_cut_short and self.restore is None:
            log.warning("Epoch %d was cut short. It starts anew, with the weights as they are.", done + 1)
        with HeldSignals() as self.held:
            try:
                self._train()
            finally:
                self._end()

    def _train(self) -> None:
        """Tell that a training begins, and train until its goal, or until somebody stops it."""
        exp, self.trains = self.exp, True
        self.began = time.perf_counter() - (self.position.seconds if self.position else 0.0)
        exp.fire("train_begin", epoch=exp.epoch, epochs=self.goal)
        remember(exp)
        self._warn((*unheard(exp), *idle_averages(exp), *otherwise(exp)))
        self._warn(() if self.looked else first_look(exp))
        self.looked = True
        self._restore(last=self.position is None)
        begun = exp.epoch
        while exp.epoch < self.goal and not exp.state.get("stop"):
            self._epoch(looks=exp.epoch in (begun, self.goal - 1))
        if exp.state.get("stop"):
            log.warning("Training ends after epoch %d: %s", exp.epoch, exp.state["stop"])
        self._pause("end")

    def _end(self) -> None:
        """Tell that the training ends, whether or not it was trained to its goal."""
        if self.restore is None:  # else nothing was trained: the next `train` starts from the checkpoint
            self.position = None
        try:
            self.exp.fire("train_end")
        finally:
            self.trains = False
        self.noted.left = changeable(self.exp)

    def is_whole(self) -> bool:
        """Whether the weights are those of the end of an epoch, and finite."""
        at_rest = not self.is_cut_short and self.position is None and self.restore is None
        return at_rest and not any(spoilt(self.exp.program.lasting(self.exp.backend.weights()), finite=True))

    def look_at_weights(self, where: str) -> None:
        """Raise where weights became NaN: a ReLU behind them may hide it from the loss."""
        weights = self.exp.program.lasting(self.exp.backend.weights())
        bad = next((node for node in spoilt(weights) if node not in self.constants), None)
        if bad is not None:
            raise spoilt_error(self.exp, bad, where=where)

    def _warn(self, sentences: Iterable[str]) -> None:
        for said in sentences:
            self.exp.program.tell(said)

    def cycle(self, subset: Any, mode: Mode, position: Position | None = None) -> dict[str, float]:
        """One pass over a subset; its averages as `<subset>_<name>`. With `position`, a training's, it is resumable."""
        exp = self.exp
        if position is not None:
            self._restore(last=False)  # for begin events of the epoch that changed data
            position.check_batch_size(exp.batch_size)
        if subset.name != self.passing:  # else a pass over it is under way, and reads with its own seed
            self.address(subset, mode)
        feed = exp.program.feed(subset, mode)
        with closing(exp.cycle(feed, exp.batch_size)) as cycle, apart(self, subset):
            runners = exp.program.runners_of(subset, mode, cycle)
            try:
                exp.fire("cycle_begin", cycle_name=subset.name, cycle_type=subset.type, mode=mode, steps=cycle.steps)
                if position is not None:
                    self._restore(last=True)
                    self._mark_order(position, feed.orders.mark)
                seeds = training_seeds(exp.backend, position) if mode == Mode.EVAL else nullcontext()
                passing = subset.name if position is not None else self.passing  # another pass may lie within it
                with seeds, patched(self, passing=passing):
                    averages = self._pass(subset, mode, runners, position)
                self._warn(unknown(averages, subset.name, listed(exp.cfg.get("metrics"))))
                results = {f"{subset.name}_{name}": mean for name, mean in averages.means().items()}
                exp.fire("cycle_end", metrics=results, **results)  # callbacks may add to them
            except BaseException:
                exp.fire("cycle_left")
                raise
        return {name: as_scalar(value) for name, value in results.items()}

    def _mark_order(self, position: Position, mark: int) -> None:
        """Warn where a pass goes on in another order than it began with."""
        if position.batch and position.order not in (0, mark):
            log.warning(
                "Not exact: the pass over %r continues in another order than it began in. What `shuffled_keys` depends "
                "on belongs in the state_dict of a callback, as it was when the epoch began.",
                position.subset,
            )
        position.order = mark

    def address(self, subset: Any, mode: Mode | None = None) -> None:
        """Set the seed and epoch that a subset's order and draws depend on; -1 where a TRAIN subset is evaluated."""
        is_evaluated = mode == Mode.EVAL and subset.is_training
        subset.seed, subset.epoch = self.exp.seed or 0, -1 if is_evaluated else self.exp.epoch

    def _epoch(self, *, looks: bool) -> None:
        exp = self.exp
        exp.program.prepare()  # callbacks may have changed what the lists of the configuration hold
        position = self.position = self.position or Position(row={"epoch": exp.epoch + 1})
        self.began = time.perf_counter() - position.seconds
        exp.state.update(epoch=exp.epoch + 1, epochs=self.goal)
        exp.fire("epoch_begin")
        self._warn((*passed_over(exp.subsets, exp.batch_size), *not_set_again(exp)))
        for subset in self._subsets(position.subset):
            if subset.name != position.subset:
                position.subset, position.batch, position.totals = subset.name, 0, {}
            position.row |= self.cycle(subset, subset.mode, position)
        if looks:
            self.look_at_weights(f"epoch {exp.epoch + 1}")
        exp.epoch += 1
        self.position, self.is_cut_short = None, False
        row = position.row | {"epoch_time": round(time.perf_counter() - self.began, 6)}
        exp.history.append(row)
        exp.fire("epoch_end", **row)
        self._pause("epoch")

    def _subsets(self, first: str) -> list[Any]:
        """The subsets of this epoch, from the one called `first` on."""
        subsets = self.exp.subsets
        begin = next((place for place, subset in enumerate(subsets) if subset.name == first), 0)
        return [s for s in subsets[begin:] if s.mode == Mode.TRAIN or (s.mode == Mode.EVAL and self._evaluates())]

    def _evaluates(self) -> bool:
        return is_evaluated(self.exp.eval_epochs, self.exp.epoch + 1, self.goal)

    def _pass(self, subset: Any, mode: Mode, runners: Runners, training: Position | None) -> Averages:
        """Run every block of a pass, or the rest of a resumed one, and tell callbacks the results."""
        position, cycle = training or Position(), runners.cycle
        begun = position.batch
        averages = Averages(position.totals, sums_in(runners.at(begun).step.graph))
        if begun:
            cycle.skip(begun, left_out=position.left_out)
        if training is not None:
            cycle.meanwhile = self._heed
        remaining = (self.goal - self.exp.epoch) * cycle.steps
        for first, runner, block in runners.blocks(begun):
            if self.exp.listens("batch_begin"):
                self.exp.fire("batch_begin", batch=first, keys=block.keys[0])
            self.is_cut_short |= mode == Mode.TRAIN  # until the epoch ends
            where = f"{subset.name!r}, epoch {self.exp.epoch + 1}"
            with suspicions(self.exp, runner.step.graph, block):
                with self.exp.program.settling(runner):
                    outputs = runner.run(block, remaining=remaining - first, where=where, first=first)
                averages.add(outputs, batch_size=block.index.shape[1])
                try:
                    self._tell(runner, block, outputs, first, averages)
                    check_finite(outputs, where=where, first=first, training=mode == Mode.TRAIN)
                finally:  # even if a callback raises, the weights have changed
                    self.batches += len(block.index) if mode == Mode.TRAIN else 0
            position.batch = first + len(block.index)
            position.batch_size, position.left_out = cycle.batch_size, cycle.left_out
            if training is not None:
                self._pause("step")
        return averages

    def _tell(self, runner: Runner, block: Any, outputs: Mapping[str, Any], first: int, averages: Averages) -> None:
        """Fire `batch_end` for every batch of a call, from its stacked results, then `block_end`."""
        exp = self.exp
        if exp.listens("batch_end"):
            last = len(block.index) - 1
            before = self._rates() if last else ()
            for place in range(len(block.index)):
                if place == last > 0 and before != self._rates():
                    exp.program.tell(LATE_RATE)
                batch = {name: values[place] for name, values in (*block.objects.items(), *outputs.items())}
                exp.fire("batch_end", batch=first + place, keys=block.keys[place], **batch)
        last = first + len(block.index) - 1
        exp.fire("block_end", batch=last, averages=averages, block=block, results=outputs, runner=runner)
        for name in PASSING:  # `block` may be as large as the data
            exp.state.pop(name, None)

    def _rates(self) -> tuple[float | None, ...]:
        """The rates of a training's optimizer."""
        return tuple(map(rate_of, parts_of(self.exp.optimizer))) if self.exp.state["mode"] == Mode.TRAIN else ()

    def _pause(self, why: str) -> None:
        """Between two calls of a step, with all callbacks told: callbacks save, and a signal that waits acts."""
        self.predictions = 0
        self.held.arm()  # before the first call there is nothing to lose, and loading data may take long
        self._rest(why)

    def _heed(self) -> None:
        """Let a signal act while the next block is waited for, which may take long: the experiment is at rest."""
        if self.held.waiting:
            self._rest("signal")

    def _rest(self, why: str) -> None:
        if self.position is not None:
            self.position.seconds, self.position.predictions = time.perf_counter() - self.began, self.predictions
        if self.exp.listens("pause"):
            self.exp.fire("pause", why="signal" if self.held.waiting else why)
            self.exp.state.pop("why", None)
        self.held.deliver()

    def _restore(self, *, last: bool) -> None:
        """Set everything to what the checkpoint has, again: begin events may have changed it; `last` ends that."""
        if self.restore is not None:
            self.restore.again(self.exp)
            self.predictions = self.position.predictions if self.position else 0
            self.restore = None if last else self.restore
            self.is_cut_short |= self.position is not None  # until the epoch ends
