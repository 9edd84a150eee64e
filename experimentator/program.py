"""The compiled side of an experiment: graphs by mode, steps by subset and mode, each made when first needed."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from experimentator.accumulating import lasting, with_weights
from experimentator.attributes import OFTEN, Attributes
from experimentator.backends import Step
from experimentator.embedded import Embedded
from experimentator.feed import Fed, fed
from experimentator.flags import with_flags
from experimentator.graph import Graph, Mode
from experimentator.legacy import shown_of, task_properties
from experimentator.loading.blocks import BLOCK_BYTES, Placing, Spec, batch_bytes, specs_of
from experimentator.loading.feeds import Feed
from experimentator.loading.workers import Workers
from experimentator.optimizer_parts import required_in
from experimentator.pace import Pace
from experimentator.predictor import Predictor
from experimentator.runner import Runner, Runners, label_of
from experimentator.selection import Selection, check_items, explaining_objects
from experimentator.slips import look, shared_names, tell, unknown_metrics
from experimentator.subset import refuse_twins

if TYPE_CHECKING:
    from experimentator.experiment import BaseExperiment

log = logging.getLogger(__name__)


class Program:
    """Graphs and steps of an experiment, kept until a setting they depend on changes."""

    def __init__(self, exp: BaseExperiment):
        self.exp = exp
        self.recorded: dict[Mode, tuple[Any, ...]] = {}
        self.attributes: Attributes | None = None
        self.noticed = 0  # how often attributes were found changed
        self.has_recorded = False  # whether there are layers that may change
        self.slips: set[tuple[str, str]] = set()  # those that were warned of, until the processors change
        self.graphs: dict[Mode, Graph] = {}
        self.predicting: dict[tuple[frozenset[str], tuple[str, ...]], Graph] = {}  # INFER, by names given and asked for
        self.is_built = False  # whether the graphs of all subsets' modes are known to be sound
        self.runners: dict[Any, Runner] = {}
        self.predictor = Predictor(self)
        self.feeds: dict[int, Fed] = {}
        self.retired: dict[str, dict[str, int]] = {}
        self.samples: dict[int, tuple[Any, Any, dict[str, Spec]]] = {}
        self.chosen: dict[str, tuple[str, bool]] = {}  # `choices` as a checkpoint has them
        self.kept: dict[str, tuple[str, bool]] = {}  # those of steps that were dropped for a change of an attribute
        self.told: set[str] = set()

    @cached_property
    def selection(self) -> Selection:
        """The names that each mode computes."""
        return Selection(self.exp, task_properties(self.exp))

    @cached_property
    def processors(self) -> tuple[Any, ...]:
        """The listed processors, and behind them the properties of a task class that read the chunk."""
        return (*self.exp.chunk_processors, *self.selection.task.values())

    def prepare(self) -> None:
        """Take in changes of settings and processors, and build the graphs: unsound ones fail before anything runs."""
        self.prepare_to_infer()
        self.build()

    def prepare_to_infer(self) -> None:
        """Take in changes, without building graphs: modes other than INFER need not be sound."""
        self.exp._notice()
        self.notice()
        refuse_twins(self.exp.subsets)  # one may have been renamed

    def build(self) -> None:
        """Record and select the graphs of all modes that subsets have, and check items and `outputs`, once."""
        if self.is_built:
            return
        for mode in Mode:
            for subset in self.exp.subsets:
                if subset.mode == mode:
                    check_items(subset, self.specs_of(subset), self.graph(mode))
        self.selection.check_outputs(self.wholes(), self.whole(Mode.INFER))
        tell(shared_names(self.exp), told=self.slips)
        self.is_built = True

    def keep(self, subsets: Sequence[Any]) -> None:
        """Drop data and steps of all other subsets."""
        ids = {id(subset) for subset in subsets}
        self.feeds = {key: feed for key, feed in self.feeds.items() if key in ids}
        self.samples = {key: sample for key, sample in self.samples.items() if key in ids}
        self._retire([key for key in self.runners if key[0] not in ids])

    def drop_feeds(self) -> bool:
        """Drop data that were placed; returns whether there were any, as do the others below."""
        found = bool(self.feeds)
        self.feeds.clear()
        self.samples.clear()
        return found

    def drop_steps(self) -> bool:
        """Drop compiled steps."""
        found = self.predictor.clear() or bool(self.runners)
        self._retire(list(self.runners))
        self.kept = {}
        return found

    def drop_graphs(self) -> bool:
        """Drop recordings, graphs and compiled steps."""
        found = self.drop_steps() or bool(self.graphs)
        for known in (self.recorded, self.graphs, self.predicting):
            known.clear()
        self.is_built, self.attributes, self.slips = False, None, set()
        for name in ("processors", "selection"):
            vars(self).pop(name, None)
        return found

    def graph(self, mode: Mode) -> Graph:
        """The graph of a mode, selected to what that mode computes."""
        if mode not in self.graphs:
            whole = self.whole(mode)
            if mode == Mode.INFER and self.selection.outputs(whole):  # names without a writer are given to `predict`
                given = {name for name in self._free(mode) if not whole.written_in(name)}
                whole = Graph(whole.processors, provided={*whole.provided, *given}, mode=mode)
            tell(unknown_metrics(self.exp, whole), told=self.slips)
            with explaining_objects(mode, self.exp.subsets, self.selection.metrics):
                self.graphs[mode] = with_weights(with_flags(whole, self.selection.wanted(whole)))
            look(self.exp, whole, self.graphs[mode], told=self.slips)
        return self.graphs[mode]

    def graph_for(self, subset: Any, outputs: Sequence[str]) -> Graph:
        """The graph of INFER that computes these names, of whatever a subset's items have."""
        given = self.specs_of(subset)
        if (key := (frozenset(given), tuple(outputs))) not in self.predicting:
            with explaining_objects(Mode.INFER, [subset]):
                self.predicting[key] = with_flags(self.whole(Mode.INFER, given), outputs)
        return self.predicting[key]

    def whole(self, mode: Mode, given: Mapping[str, Spec] | None = None) -> Graph:
        """The graph of a mode before pruning, from recorded processors; of its own batches, or of what is `given`."""
        provided = (self.specs(mode) or self._free(mode)) if given is None else given
        return Graph(self.record(mode, given), provided=provided, mode=mode)

    def wholes(self) -> list[Graph]:
        """The unpruned graphs of all modes that a subset has."""
        return [self.whole(mode) for mode in {subset.mode for subset in self.exp.subsets}]

    def lasting(self, weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Weights without the state of a pass (accumulated metrics, counts of draws)."""
        return lasting(weights, self.wholes())

    def specs(self, mode: Mode) -> dict[str, Spec]:
        """Names, shapes and dtypes of a mode's batches: of its first subset, else of the first subset of any mode."""
        subsets = sorted(self.exp.subsets, key=lambda subset: subset.mode != mode)
        return self.specs_of(subsets[0]) if subsets else {}

    def specs_of(self, subset: Any) -> dict[str, Spec]:
        """Names, shapes and dtypes of a subset's batches; taken from its first item until its data are placed."""
        if id(subset) in self.feeds:
            return dict(self.feed(subset).specs)
        kept = self.samples.get(id(subset))
        if kept is None or kept[0] is not subset.dataset or kept[1] is not subset.buckets:
            kept = (subset.dataset, subset.buckets, specs_of(subset.sample()[1]))
            self.samples[id(subset)] = kept
        return dict(kept[2])

    def runners_of(self, subset: Any, mode: Mode, cycle: Any, outputs: Sequence[str] = ()) -> Runners:
        """The runners of one pass, `cycle`; in INFER, of these outputs instead of those that are set."""
        return Runners(self, subset, mode, cycle, outputs=tuple(outputs))

    def runner(
        self, subset: Any, mode: Mode, *, steps: int, bucket: int | None = None, outputs: tuple[str, ...] = ()
    ) -> Runner:
        """The runner for passes of `steps` batches over a subset, or over one bucket of it; compiled if needed."""
        self.notice()
        exp, feed = self.exp, self.feed(subset, mode)
        part, batch_size, own, sizes = feed.part(bucket, exp.batch_size)
        graph = self.graph_for(subset, outputs) if outputs else self.graph(mode)
        check_items(subset, self.specs_of(subset), graph)  # its dataset may have been replaced
        key, like = (id(subset), mode, outputs, batch_size, own), self._compiler(label_of(subset.name, sizes), mode)
        batch = {name: part.specs[name] for name in graph.inputs}
        if (runner := self.runners.get(key)) is None or not runner.serves(steps, like, batch):
            room = steps if runner is None else runner.room(steps)
            known = [None] if bucket is None else subset.buckets.each()
            self._retire([key, *(old for old in self.runners if old[0] == id(subset) and old[-1] not in known)])
            step = self.compiled(graph, batch, jit_compile=self._jit_compile(mode), like=like)
            travelling = 0 if feed.resident else batch_bytes(batch) * batch_size
            most = max(1, BLOCK_BYTES // max(1, travelling, step.result_bytes(batch_size)))
            pace = Pace(room, fixed=self._batches_per_call(mode), most=most, stride=exp.call_limit(mode))
            step.capacity = pace.capacity
            runner = self.runners[key] = Runner(step, pace, subset.name, like, sizes, batch)
        if not feed.resident:
            pace, names = runner.pace, sorted(graph.inputs)
            part.placing = Placing(names, pace.capacity * batch_size, exp.backend.put, pace.is_fixed)
        return runner

    def compiled(self, graph: Graph, specs: Mapping[str, Spec], **options: Any) -> Step:
        """A step for a graph; in TRAIN it updates the weights."""
        exp, optimizer = self.exp, required_in(self.exp) if graph.mode == Mode.TRAIN else None
        return exp.backend.compile(graph, specs, optimizer, eager=bool(exp.eager), seed=exp.seed or 0, **options)

    def counts(self) -> dict[str, dict[str, int]]:
        """For every subset that ran: batches, calls of the compiled step (one host sync each), and traces."""
        totals = {name: dict(counts) for name, counts in self.retired.items()}
        for runner in self.runners.values():
            runner.count(totals)
        return totals

    def _retire(self, keys: Iterable[Any]) -> None:
        """Drop runners; their counts are kept."""
        for key in keys:
            if key in self.runners:
                self.runners.pop(key).count(self.retired)

    def compilers(self) -> dict[str, str]:
        """The compiler of each subset that ran: one of the backend's `compilers`, or `eager`."""
        return {runner.label: runner.step.compiler for runner in self.runners.values()}

    def feed(self, subset: Any, mode: Mode | None = None) -> Feed:
        """The feed of a subset for passes of a mode, by default its own; its data are placed once."""
        exp, workers = self.exp, Workers.of(self.exp.workers)  # by default one thread: a dataset may not allow more
        options = {"residency": exp.residency, "put": exp.backend.put, "room": exp.backend.room}
        threads = 1 if workers is None or workers.are_processes else workers.count
        return fed(self.feeds, subset, mode or subset.mode, threads=threads, **options)

    def record(self, mode: Mode, given: Mapping[str, Spec] | None = None) -> tuple[Any, ...]:
        """The recorded processors of a mode, for its own batches or for what is `given`."""
        exp = self.exp
        if given is not None or exp.subsets:  # without data, nothing is recorded and no framework is needed
            backend = exp.backend
            backend.precision, backend.batch_size, backend.eager = exp.precision, exp.batch_size, bool(exp.eager)
            backend.subsets = exp.subsets
        self.recorded = self.recorded or self._recorded_for_all()
        recorded = self.recorded.get(mode, self.processors)
        if given is None or (recorded and self.specs(mode).keys() == given.keys()):
            return recorded
        return self._noted(self.processors, given, mode, _signatures(self.processors, recorded))

    def _recorded_for_all(self) -> dict[Mode, tuple[Any, ...]]:
        """The recorded processors of all modes; TRAIN comes first, so that weights are always made in one order."""
        found: dict[Mode, tuple[Any, ...]] = {}
        known: dict[int, Any] = {}
        for mode in Mode:
            if specs := self.specs(mode):
                found[mode] = self._noted(self.processors, specs, mode, known)
                known = _signatures(self.processors, found[mode]) | known
        return found

    def _noted(
        self, processors: Sequence[Any], specs: Mapping[str, Spec], mode: Mode, known: Mapping[int, Any]
    ) -> tuple[Any, ...]:
        """Record processors, and note their attributes: changes are reported from now on."""
        within = (other for one in processors if isinstance(one, Embedded) for other in one.within)
        self.attributes = self.attributes or Attributes([*processors, *within], self.tell)
        shown = shown_of(specs, self.exp.batch_inputs_names, processors)
        self.has_recorded = True
        with self.attributes.settling(compiled=self.compiles, recording=True):
            return tuple(self.exp.backend.record(processors, shown, mode, known))

    def notice(self) -> None:
        """Look for changes of processors and layers since they were recorded: warn, and drop what was compiled."""
        if not self.has_recorded:
            return
        choices = self.choices()
        if self.attributes and (changes := self.attributes.changes(compiled=self.compiles)):
            log.warning("Changed after first use: %s. Layers that were already made are kept.", "; ".join(changes))
            self.noticed += 1
            if self.noticed == 3:
                log.warning(OFTEN)
            self.exp._changed("chunk_processors", None, None)
        if changes := self.exp.backend.changes(compiled=self.compiles):
            told = "Compiled" if self.compiles else "Recorded"
            log.warning("Changed after first use: %s. %s again at the next call.", "; ".join(changes), told)
            self.drop_graphs()
        self.kept = choices

    @property
    def compiles(self) -> bool:
        """Whether the code of processors runs while it is traced alone."""
        return not self.exp.eager and bool(self.exp.backend.compilers)

    @contextmanager
    def settling(self, runner: Runner) -> Iterator[None]:
        """Around a call of a step: in the first two, processors, layers and optimizers may change attributes."""
        if self.attributes is None or runner.calls > 1:
            yield
            return
        with self.attributes.settling(compiled=self.compiles), self.exp.backend.settling():
            yield

    def _batches_per_call(self, mode: Mode) -> int | None:
        """The fixed number of batches for every call; None to find it by measuring."""
        if self.exp.call_limit(mode) == 1:
            self.tell("A callback acts at every batch (on_batch_begin, or every=1), so every call runs one batch only.")
            return 1
        wanted = self.exp.steps_per_call
        return None if wanted in (None, "auto") else int(wanted)

    def choices(self) -> dict[str, tuple[str, bool]]:
        """For each training subset, its compiler, and whether that choice is settled."""
        runners = (runner for key, runner in self.runners.items() if key[1] == Mode.TRAIN)
        return self.chosen | self.kept | {one.label: (one.step.compiler, one.step.is_settled) for one in runners}

    def _compiler(self, label: str, mode: Mode) -> str | None:
        """The compiler a step begins with: in TRAIN a checkpoint's settled choice, in EVAL training's."""
        if self.exp.jit_compile != "auto":
            return None
        if mode == Mode.TRAIN:
            compiler, is_settled = (self.chosen | self.kept).get(label, (None, False))
            return compiler if is_settled else None
        choices = sorted(self.choices().values(), key=lambda choice: choice[1])  # settled ones last
        return next((compiler for compiler, _ in reversed(choices)), None)

    def _jit_compile(self, mode: Mode) -> Any:
        """The setting, or "auto" where this backend has no such compiler, with a warning in TRAIN."""
        wanted, known = self.exp.jit_compile, self.exp.backend.compilers.values()
        if wanted == "auto" or wanted in known or not known:
            return wanted
        there = ", ".join(map(repr, ("auto", *dict.fromkeys(known))))
        if mode == Mode.TRAIN:
            self.tell("jit_compile=%r is ignored: on %s, the choices are %s.", wanted, self.exp.backend.name, there)
        return "auto"

    def tell(self, said: str, *values: Any) -> None:
        """Warn, once for each text `said`."""
        if said not in self.told:
            self.told.add(said)
            log.warning(said, *values)

    def _free(self, mode: Mode) -> set[str]:
        """Names with a read that no write serves, even if something writes them: without data, the dataset's."""
        graph = Graph(self.processors, provided=(), mode=mode)
        return {ref.name for node in graph.nodes for ref in node.reads if ref not in graph.writers}


def _signatures(listed: Sequence[Any], recorded: Sequence[Any]) -> dict[int, Any]:
    """The records made of undeclared callables, by place in the list."""
    pairs = enumerate(zip(listed, recorded, strict=False))
    return {place: new for place, (old, new) in pairs if new is not old and not new.failed}
