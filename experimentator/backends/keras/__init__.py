"""What every backend on Keras shares: recording, weights, freezing, precision, and the state of the optimizer.

A framework adds how a function is run on abstract tensors, and its compiled loop.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any
from weakref import WeakSet

import keras
import numpy as np

from experimentator.accumulating import SEEDS
from experimentator.backends import Backend, MissingFrameworkError, Shape, Sizes, Watch
from experimentator.backends.keras.averaging import begin_averages, give_averages
from experimentator.backends.keras.context import Forward, InContext
from experimentator.backends.keras.cut import Cut
from experimentator.backends.keras.freezing import frozen
from experimentator.backends.keras.host_draws import HostDraws
from experimentator.backends.keras.memoised import Memoised, deferred
from experimentator.backends.keras.model import Infers, model_of, shapes_of, write
from experimentator.backends.keras.no_gradient import NoGradient, check_built, within_no_gradient
from experimentator.backends.keras.optimizers import Optimizers
from experimentator.backends.keras.precision import is_in_float16, loss_scaled, set_precision
from experimentator.backends.keras.rates import Rates, Table
from experimentator.backends.keras.reach import tell_late
from experimentator.backends.keras.scopes import scope_name, scope_of
from experimentator.backends.keras.shapes import RecordedShapes, dtype_told, shapes_by_running
from experimentator.backends.keras.staleness import Staleness
from experimentator.backends.keras.state import BUILT_FOR, assign, built_for, in_order, keyed, variables_of
from experimentator.backends.keras.step import KerasStep
from experimentator.backends.keras.trace_leaks import TraceLeaks, build_outside
from experimentator.backends.keras.variables import Read, Variables, aside, copied, read_now, trainable_some_day
from experimentator.backends.remat_hook import Way, recomputing
from experimentator.graph import Chunk, Graph, Mode, Node, Ref, record
from experimentator.optimizer_parts import parts_of, unscaled
from experimentator.patches import patched


class KerasBackend(Backend, ABC):
    """Records and builds processors on abstract tensors, owns their variables and the optimizer's state."""

    recomputed: Way
    scope: Callable[[str], AbstractContextManager[Any]]  # within, operations carry a name that profilers show
    watching: Callable[..., AbstractContextManager[Any]] = nullcontext  # takes what makes the framework's own variables
    given = deferred  # makes the arguments with which a processor makes a Keras variable in its call
    rate_table: Callable[[], Any] = Table
    variable_kinds: tuple[type, ...] = (keras.Variable,)
    batch_size = 2

    def __init__(self) -> None:
        running = keras.backend.backend()
        if running != self.name:
            raise MissingFrameworkError(
                f"The {self.name} backend needs Keras to run on {self.name}.\nSeen: Keras runs on {running}.\n"
                f"Set KERAS_BACKEND={self.name} before Keras is imported, or leave experiment_type out."
            )
        self.variables, self.made = Variables(), Memoised(self.watching, self.given)
        self.leaks = TraceLeaks(self.is_traced)
        self.added: list[Any] = []  # losses that layers added since the last batch began
        self.staleness = Staleness()
        self.drawn_once = HostDraws()
        self._steps: WeakSet[Any] = WeakSet()  # still in use, which profiles look into
        self._layers: dict[int, Any] = {}
        self._reads: list[Read] | None = None  # while recording
        self._reader = ""
        self._seen: dict[Mode, RecordedShapes] = {}
        self._held: dict[int, bool] = {}  # by id of a variable that is read: whether no gradient reaches it anywhere
        self._unbuilt: list[Callable[[], Any]] = []
        self._scaled: dict[int, Any] = {}

    @abstractmethod
    def step(self, graph: Graph, specs: Mapping[str, Any], optimizer: Any, **options: Any) -> KerasStep:
        """A step for a graph whose processors are recorded; with an optimizer, a training step on `loss`."""

    @abstractmethod
    def abstract(self, function: Callable[[Any], Any], specs: Mapping[str, Any]) -> Any:
        """The structure that a function of tensors returns on abstract batches of `specs`; nothing is computed."""

    @abstractmethod
    def outside_of_traces(self) -> AbstractContextManager[Any]:
        """Within, tensors are real, even inside a trace."""

    @abstractmethod
    def is_traced(self, value: Any) -> bool:
        """Whether a value stands for one that a trace will compute."""

    def others_touched(self) -> AbstractContextManager[Callable[[], Iterable[Any]]]:
        """Within, notes use of variables that Keras may not know; the function returns them, and which are held."""
        return nullcontext(lambda: ())

    def record(
        self, processors: Sequence[Any], specs: Mapping[str, Any], mode: Mode, known: Mapping[int, Any]
    ) -> tuple[Any, ...]:
        """Run the list once on abstract batches: builds layers, declares callables, notes which variables they read."""
        self._unbuilt.clear()
        recorded: list[tuple[Any, ...]] = []
        reads, kept = list[Read](), set[int]()
        seen = RecordedShapes(self, specs)

        def call(node: Node, chunk: Chunk) -> Any:
            before, self._reader = len(reads), node.name
            with self.others_touched() as others:
                returned = self.call(node, chunk)
            seen.note(node, chunk)
            of_keras = {id(getattr(read.variable, "_value", None)) for read in reads[before:]}
            own = [one for one in others() if one.is_state and id(one.variable) not in of_keras]
            reads.extend(Read(node.name, one.variable, is_held=one.is_held) for one in own)
            kept.update(id(read.variable) for read in reads[before:])  # of a failed call, nothing it made is kept
            return returned

        def run(tensors: Any) -> dict[str, Any]:
            seen.take(tensors)
            with self.leaks.undone(processors):
                recorded.append(record(processors, tensors, mode=mode, known=known, call=call))
            return {}

        with patched(self, _reads=reads), self.settling():  # what layers change themselves when called is not reported
            self.abstract(partial(InContext(run).run, training=mode == Mode.TRAIN), specs)
        self._own(reads, kept)
        seen.processors, self._seen[mode] = recorded[-1], seen
        return recorded[-1]

    def _own(self, reads: Sequence[Read], kept: Collection[int]) -> None:
        """Note which processor owns each variable read, and build networks again that were built in training mode."""
        for node, variable, called, is_held in sorted(reads, key=lambda read: read.is_held):  # trained reads come first
            if id(variable) in kept:
                self._held[id(variable)] = is_held and self._held.get(id(variable), True)
            self.variables.note(node, variable if id(variable) in kept else None, called=called)
        while self._unbuilt:  # inner networks were noted last, and are built first
            self._unbuilt.pop()()
        self.staleness.look(self._layers.values())
        self.staleness.count()
        self.variables.settle()
        self.added.clear()

    def compile(self, graph: Graph, specs: Mapping[str, Any], optimizer: Any = None, **options: Any) -> KerasStep:
        specs = {name: specs[name] for name in graph.inputs}
        if not list(self.variables):
            self.record(graph.processors, specs, graph.mode, {})
        step = self.step(graph, specs, optimizer, **options)
        self._steps.add(step)
        return step

    def shapes(self, graph: Graph, specs: Mapping[str, Any]) -> dict[Ref, Shape]:
        """Shape and dtype of every version in a graph: those that recording saw, else of one abstract run."""
        return self.seen(graph, specs) or shapes_by_running(self, graph, specs)

    def seen(self, graph: Graph, specs: Mapping[str, Any]) -> dict[Ref, Shape] | None:
        """The same as recording saw it; None if it did not."""
        seen = self._seen.get(graph.mode)
        return None if seen is None else seen.find(graph, specs)

    def sizes(self) -> dict[str, tuple[int, int]]:
        return self.variables.sizes(self.is_held)

    def shared(self) -> dict[str, tuple[str, ...]]:
        return self.variables.shared()

    def forget(self) -> None:
        self.variables, self.staleness = Variables(), Staleness()
        for known in (self._layers, self._held, self._seen):
            known.clear()

    def weights(self) -> dict[str, np.ndarray]:
        return {key: np.asarray(variable) for key, variable in self.variables.keyed().items()}

    def set_weights(self, weights: Mapping[str, np.ndarray]) -> None:
        self.variables.assign(weights)

    def seeds(self) -> dict[str, list[int]]:
        return {key: np.asarray(variable).tolist() for key, variable in self._seeds().items()}

    def set_seeds(self, seeds: Mapping[str, Sequence[int]]) -> None:
        own = self._seeds()
        for key, state in seeds.items():
            dtype = keras.backend.standardize_dtype(own[key].dtype)  # 32 bits, which PyTorch takes for signed ones
            own[key].assign(np.asarray(state, np.int64).astype(dtype))

    def optimizer_state(self, optimizer: Any) -> dict[str, np.ndarray]:
        used = self.used(optimizer)
        known = built_for(unscaled(used), in_order(self.variables), trainable_some_day(self._updated().values()))
        return {key: np.asarray(variable) for key, variable in keyed(used).items()} | known

    def set_optimizer_state(self, optimizer: Any, state: Mapping[str, np.ndarray]) -> None:
        places, weights = state.get(BUILT_FOR), in_order(self.variables)
        used = self.used(optimizer, None if places is None else [weights[place] for place in places])
        assign(keyed(used), {key: array for key, array in state.items() if key != BUILT_FOR})

    def snapshot(self, optimizer: Any = None) -> Callable[[], None]:
        """Rates that follow a table are put back, but the table stays."""
        return copied([*self.variables, *variables_of(optimizer and self.used(optimizer))])

    def take_averages(self, optimizer: Any) -> None:
        """Give weights the averages that the optimizer keeps; untrained numbers that no layer owns stay as they are."""
        give_averages(optimizer, trainable_some_day(v for v in self.variables if not self.is_held(v)), self._layers)

    def begin_averages(self, optimizer: Any, keys: Collection[str]) -> None:
        begin_averages(optimizer, [one for key, one in self.variables.keyed().items() if key in keys])

    def freeze(self, keys: Set[str]) -> Callable[[], None]:
        return frozen([one for key, one in self.variables.keyed().items() if key in keys], self._layers.values())

    def rates(self, optimizer: Any) -> Callable[[np.ndarray], None]:
        tables = [Rates.of(part, self.rate_table) for part in parts_of(optimizer)]

        def hold(factors: np.ndarray) -> None:
            for table in tables:
                table.hold(factors)

        return hold

    def spoilt(self, graph: Graph, columns: Mapping[str, Any], rows: np.ndarray) -> tuple[Node, str] | None:
        watch = Watch(self.call, keras.ops.convert_to_numpy)
        batch = {name: keras.ops.take(columns[name], rows, axis=0) for name in graph.inputs}
        self.running(graph, watch).run(batch, training=graph.mode == Mode.TRAIN)
        return watch.found

    def running(self, graph: Graph, call: Callable[[Node, Chunk], Any] | None = None) -> InContext:
        """A layer that runs a graph."""

        def run(tensors: Any) -> dict[str, Any]:
            with self.leaks.undone(graph.processors):
                return graph.run(tensors, call=call or self.call)

        return InContext(run)

    def model(self, graph: Graph, specs: Mapping[str, Any], sizes: Mapping[str, Sizes], name: str) -> Any:
        """A selected graph as a `keras.Model`, which has those of our variables that it reads."""
        held = self.variables.read_by({node.name for node in graph.nodes})
        shapes = shapes_of(self, graph, specs, sizes)
        return model_of(Infers(self.running(graph), shapes, held, scope_name(name)), specs, sizes)

    def export(self, model: Any, path: Path) -> None:
        write(model, path, self.formats[path.suffix])

    def held(self, graph: Graph) -> Callable[[Mapping[str, Any]], Mapping[str, Any]]:
        """A graph as a function within a trace of another's; no gradient reaches its weights, and none is changed."""
        layer = self.running(graph)

        def run(tensors: Mapping[str, Any]) -> Any:
            with NoGradient():
                return layer.run(dict(tensors), training=False)

        return run

    def call(self, node: Node, chunk: Chunk) -> Any:
        """Run a processor under its name, so that compilers and profilers can say which it is; what it returns."""
        since, read = (0, None) if self._reads is None else (len(self._reads), self._note_read)
        with self.scope(scope_of(node)), self.made.within(node, self._note, self.added.append, read), recomputing():
            returned: Any = node.processor(chunk)
            read_now(chunk, self.variable_kinds)
            if self._reads is not None:
                aside(self._reads, since, self._reader)
        return returned

    def used(self, optimizer: Any, weights: Sequence[Any] | None = None) -> Any:
        """The optimizer that updates, built for weights: the one given, or for float16 one that scales the loss."""
        if self.precision == "float16" or is_in_float16(self._layers.values()):
            optimizer = self._scaled.setdefault(id(optimizer), loss_scaled(optimizer))
        optimizer = self._scaled.get(id(optimizer), optimizer)
        if not optimizer.built:
            own = self._updated()
            if isinstance(plain := unscaled(optimizer), Optimizers):
                plain.route(own)
            optimizer.build(trainable_some_day(own.values()) if weights is None else weights)
        self.staleness.look(parts_of(optimizer), made_with=True)
        return optimizer

    def changes(self, *, compiled: bool) -> list[str]:
        """What was changed of layers and optimizers, in words, each once; other weights are found anew."""
        changes = self.staleness.changes() if compiled else []
        if others := self.staleness.others():
            self.forget()
        return [*changes, *others]

    def settings(self, optimizer: Any) -> dict[str, str]:
        flags = {f"{key}: trainable": str(one.trainable) for key, one in self.variables.keyed().items()}
        return flags | self.staleness.settings(parts_of(optimizer))

    def settling(self) -> AbstractContextManager[None]:
        return self.staleness.settling()

    def forward_of(self, graph: Graph, detach: int) -> Forward:
        """A graph as a function of the tensors of a batch; nothing is trained of its first `detach` nodes."""
        cut = Cut(graph, detach, self.variables, self.is_held)

        def call(node: Node, chunk: Chunk) -> None:
            before, met = len(self.added), len(self._layers)
            with self.drawn_once.watched(node, eager=self.eager), recomputing(self.recomputed):
                self.call(node, chunk)
            if len(self._layers) > met:
                tell_late(node, [*self._layers.values()][met:], self.variables)
            if node.index in cut.held:
                del self.added[before:]
                cut(node, chunk)

        run = partial(self.running(graph, call).run, training=graph.mode == Mode.TRAIN)
        return Forward(run, self.added, self.is_held, graph, self.variables)

    def is_held(self, variable: Any) -> bool:
        """Whether it is only read where no gradient reaches it: a weight of an experiment within this one."""
        return self._held.get(id(variable), False)

    def _updated(self) -> dict[str, Any]:
        return {key: one for key, one in self.variables.keyed().items() if not self.is_held(one)}

    def _seeds(self) -> dict[str, Any]:
        return {key: one for key, one in self.variables.keyed().items() if key.endswith(SEEDS)}

    def _note(self, layer: Any) -> None:
        """Note a layer that is called, wherever the call stands: attribute scans would miss a lambda's globals."""
        self._layers.setdefault(id(layer), layer)
        self.leaks.note(layer)
        build_outside(layer, self._building, self._unbuilt)
        set_precision(layer, self.precision)

    def _note_read(self, variable: Any) -> None:
        assert self._reads is not None
        self._reads.append(Read(self._reader, variable, self.made.calling > 0, within_no_gradient()))

    @contextmanager
    def _building(self) -> Iterator[None]:
        check_built()
        with self.outside_of_traces(), self.made.of_a_layer():
            yield

    def shape_of(self, tensor: Any) -> Shape:
        """Sizes of a tensor, where they are known, and its dtype."""
        return tuple(tensor.shape), dtype_told(tensor)
