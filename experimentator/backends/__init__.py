"""Backends, which compile a graph into one step for K batches: their protocols; found by name, none imported early."""

from __future__ import annotations

import sys
from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence, Set
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from experimentator.extras import to_type
from experimentator.graph import Chunk, Graph, Mode, Node, Ref, record
from experimentator.loading.memory import free_host_memory
from experimentator.saving.matching import node_of

Columns = Mapping[str, Any]
Sizes = tuple[int | None, ...]  # None: any
Timed = Callable[[Columns, np.ndarray, int], None]  # runs so many batches of columns and index, and waits for them
Shape = tuple[Sizes | None, str]  # no sizes: of any rank; and the dtype's name


class MissingFrameworkError(ImportError):
    """The framework of a backend is not installed; the message holds the command to type."""


class CannotRunError(RuntimeError):
    """A loop that the compiler or the memory of the device does not allow."""


class Step(Protocol):
    """A compiled graph: runs the K batches of `index` [K, B] over `columns` {name: [N, ...]} in one call.

    What has a body or a value here does for a step that is never compiled.
    """

    graph: Graph
    capacity: int | None = None  # the most batches a call runs; longer calls are split
    batches: int = 0  # run so far: `choose` weighs a compilation against these and those ahead
    chosen: str | None = None  # the `compiler`, once one is settled on; may be set until then
    draws_with_state: Mapping[str, str] = {}  # processors whose draws cannot be saved, and by which operation they draw
    traces: int = 0  # how often the graph was traced; constant after the first epoch

    @property
    def is_settled(self) -> bool:
        """Whether `compiler` is final."""
        return True

    @property
    def stale(self) -> bool:
        """Whether what was compiled no longer holds, as after freezing a layer."""
        return False

    @property
    def compiler(self) -> str:
        """How the step runs: one of the backend's `compilers`, or `eager`."""
        return "eager"

    @abstractmethod
    def __call__(self, columns: Columns, index: np.ndarray, *, fixed: bool | None = None) -> dict[str, Any]:
        """Every name of `graph.results` stacked over the batches, {name: [K, ...]}, of what numpy takes for arrays.

        `columns` are as `put` left them; batch k has the rows `index[k]` of those in `graph.inputs`. The last call of
        a pass may have fewer batches, and its batch fewer rows. `fixed` may compile for just this K.
        """

    def result_bytes(self, batch_size: int) -> int:
        """Bytes that come back for each batch, as far as they are known beforehand."""
        return 0

    def choose(self, columns: Columns, index: np.ndarray, *, remaining: int) -> None:
        """Settle what is left open about compilation, before `remaining` batches like these; changes no state."""
        return  # nothing is open


class Backend(Protocol):
    """Compiles graphs, and owns the weights of their processors.

    A framework of your own needs `name`, `compile`, and weights and optimizer state as arrays; it finds the weights in
    `record`. All else here does for one that runs processors in Python, on what `put` makes of arrays, or says what is
    missing when somebody asks for it.
    """

    name: str
    device: str = "CPU"
    compilers: Mapping[str, Any] = {}  # ways to compile a training step, and the `jit_compile` that asks for each
    formats: Mapping[str, str] = {}  # of exported models, by suffix, as Keras calls them
    # Set by the experiment before it records:
    precision: str | None = None
    eager: bool = False  # processors run uncompiled, to be stepped through
    batch_size: int = 1  # rows of abstract batches, where a framework knows no batch of any size
    subsets: Sequence[Any] = ()  # their items stand in abstract batches where processors look at values

    def record(
        self, processors: Sequence[Any], specs: Mapping[str, Any], mode: Mode, known: Mapping[int, Any]
    ) -> tuple[Any, ...]:
        """The list with undeclared callables declared, by running it once where it has any; here on a row of zeros.

        Called once for each mode, TRAIN first, and before anything is compiled: the place to build layers and to find
        weights. `specs` have shape and dtype of the batches by name; `known` is for `graph.record`. The nodes and
        their names are those of `Graph(recorded, provided=specs, mode=mode)`.
        """
        return record(processors, self._zeros(specs, 1), mode=mode, known=known)

    @abstractmethod
    def compile(self, graph: Graph, specs: Mapping[str, Any], optimizer: Any = None, **options: Any) -> Step:
        """One step for a selected graph; with an optimizer, one that lowers `loss` by a change of weights per batch.

        The optimizer is the configuration's: anything with a `learning_rate`, which may be set between calls. `options`
        are `jit_compile`, `eager`, `seed` and `like`, the compiler to begin with; what compiles nothing ignores them.
        """

    @abstractmethod
    def weights(self) -> dict[str, np.ndarray]:
        """Every weight under a stable key, `node/place/name`, in arrays that no later step writes into."""

    @abstractmethod
    def set_weights(self, weights: Mapping[str, np.ndarray]) -> None:
        """Assign weights by key; all of them, or an error and none."""

    @abstractmethod
    def optimizer_state(self, optimizer: Any) -> dict[str, np.ndarray]:
        """All that an optimizer carries from batch to batch, by a stable key: slots, counters, rates that it follows.

        Without it a resumed training would go on otherwise; `learning_rate` itself is saved by the experiment.
        """

    @abstractmethod
    def set_optimizer_state(self, optimizer: Any, state: Mapping[str, np.ndarray]) -> None:
        """Assign them; all of them, or an error and none. The optimizer may be new, and have no slots yet."""

    def held(self, graph: Graph) -> Callable[[Mapping[str, Any]], Mapping[str, Any]]:
        """A graph as a function to be called within another, where its weights are read and not trained."""
        raise self._lacking("held", "cannot run an experiment within another's graph")

    def shapes(self, graph: Graph, specs: Mapping[str, Any]) -> dict[Ref, Shape]:
        """Shape and dtype of every version in a graph that can run on batches of `specs`; here from runs on zeros."""
        two, three = (_seen(graph, self._zeros(specs, rows)) for rows in (2, 3))
        return {ref: (_common(shape, three[ref][0]), dtype) for ref, (shape, dtype) in two.items()}

    def sizes(self) -> dict[str, tuple[int, int]]:
        """For each node that owns weights: how many numbers are trained, and how many are not; here all are."""
        found: dict[str, tuple[int, int]] = {}
        for key, array in self.weights().items():
            found[node_of(key)] = found.get(node_of(key), (0, 0))[0] + array.size, 0
        return found

    def shared(self) -> dict[str, tuple[str, ...]]:
        """For each node that reads weights of others: which nodes own them."""
        return {}

    def profiled(self, folder: Path, graph: Graph) -> AbstractContextManager[None]:
        """Record what runs within into a folder, with the names of the graph's processors."""
        raise self._lacking("profiled", "has no profile", "Use a profiler of Python, such as py-spy; or train")

    def by_hand(self, graph: Graph, optimizer: Any = None, *, compiler: str, detach: int = 0) -> Timed:
        """The loop as one would write it by hand: runs `count` batches of `columns`, rows `index` in turn, and waits.

        With an optimizer it trains, but for the first `detach` nodes, which keep their weights. A call raises
        CannotRunError where the compiler has no form for the graph, or the device no room.
        """
        if optimizer is not None:
            raise CannotRunError(f"the {self.name} backend has no `by_hand` that trains")

        def timed(columns: Columns, index: np.ndarray, count: int) -> None:
            for place in range(count):
                graph.run({name: columns[name][index[place % len(index)]] for name in graph.inputs})

        return timed

    def fitted(self, graph: Graph, optimizer: Any, data: Any, batch_size: int, **options: Any) -> Callable[[int], None]:
        """`keras.Model.fit` around a graph: `epoch(steps)`; `data` are columns, or (keys, read, workers)."""
        raise self._lacking("fitted", "cannot be compared with Keras' fit", "Leave --against keras out, or train")

    def model(self, graph: Graph, specs: Mapping[str, Any], sizes: Mapping[str, Sizes], name: str) -> Any:
        """A selected graph, which runs on batches of `specs`, as a `keras.Model` with inputs of these sizes."""
        raise self._lacking("model", "makes no Keras model", "Write processors with keras.ops, and train")

    def export(self, model: Any, path: Path) -> None:
        """Write such a model in the format of a suffix, one of `formats`."""

    def peak_memory(self) -> int | None:
        """The most bytes that were taken on the device at once; None where that is the host."""
        return None

    def room(self) -> int:
        """Bytes that are free where columns are placed."""
        return free_host_memory()

    def forget(self) -> None:
        """Forget the weights, after the processors changed: the next recording finds them anew."""

    def changes(self, *, compiled: bool) -> list[str]:
        """What was changed of layers and optimizers since they were `compiled`, in words, each once.

        Where nothing is compiled, only layers that have other weights now, which must be recorded.
        """
        return []

    def settings(self, optimizer: Any) -> dict[str, str]:
        """Numbers and texts of layers and the optimizer, and whether each weight is trainable, by a stable name."""
        return {}

    def settling(self) -> AbstractContextManager[None]:
        """Within, a step is called: what layers and optimizers change of themselves is not reported by `changes`."""
        return nullcontext()

    def put(self, columns: Columns) -> Columns:
        """Place columns, arrays {name: [N, ...]}, where the step reads them, as what processors are to be handed."""
        return columns

    def begin_averages(self, optimizer: Any, keys: Collection[str]) -> None:
        """Restart averages that an optimizer keeps of the weights of these keys, from their present values."""

    def seeds(self) -> dict[str, list[int]]:
        """States of the seed generators that processors draw from in the graph, by key of `weights`."""
        return {}

    def set_seeds(self, seeds: Mapping[str, Sequence[int]]) -> None:
        """Set the states of seed generators again."""

    def snapshot(self, optimizer: Any = None) -> Callable[[], None]:
        """Copy every variable, those of the optimizer too, where they lie; calling the result puts them back."""
        weights = {key: array.copy() for key, array in self.weights().items()}
        state = {} if optimizer is None else self.optimizer_state(optimizer)
        state = {key: array.copy() for key, array in state.items()}

        def put_back() -> None:
            self.set_weights(weights)
            if optimizer is not None:
                self.set_optimizer_state(optimizer, state)

        return put_back

    def take_averages(self, optimizer: Any) -> None:
        """Give weights the averages that an optimizer keeps of them (`use_ema`)."""

    def freeze(self, keys: Set[str]) -> Callable[[], None]:
        """Let training leave the weights of these keys as they are; calling the result thaws them."""
        raise self._lacking("freeze", "cannot freeze weights")

    def rates(self, optimizer: Any) -> Callable[[np.ndarray], None]:
        """A function that sets the factors [steps] of the learning rate for the next batches, one for each.

        They multiply `learning_rate`, which may be set meanwhile; the last one holds past the end. They, and how many
        batches have passed, belong to `optimizer_state`: a resumed pass goes on with them.
        """
        raise self._lacking("rates", "cannot change the learning rate from batch to batch")

    def spoilt(self, graph: Graph, columns: Columns, rows: np.ndarray) -> tuple[Node, str] | None:
        """The first node that makes NaN or infinity of finite values, on one batch, and the name that it writes."""
        watch = Watch()
        graph.run({name: columns[name][rows] for name in graph.inputs}, call=watch)
        return watch.found

    def _zeros(self, specs: Mapping[str, Any], rows: int) -> Columns:
        return self.put({name: np.zeros((rows, *spec.shape[1:]), spec.dtype) for name, spec in specs.items()})

    def _lacking(self, method: str, what: str, instead: str = "Train") -> ValueError:
        seen = f"Seen: no `{method}` in {type(self).__name__}, which a backend of your own may define."
        return ValueError(f"The {self.name} backend {what}.\n{seen}\n{instead} with TensorFlow, JAX or PyTorch.")


def get_backend(name: str) -> Backend:
    """A new backend by its name; `keras` means that of the framework Keras runs on, and `dummy` computes nothing.

    >>> get_backend("numpy").name
    'numpy'
    """
    known = ("tensorflow", "jax", "torch", "numpy", "dummy")
    try:
        name = framework() if name == "keras" else name
        if name not in known:
            hint = " (what Keras runs on: set KERAS_BACKEND)" if "keras" in sys.modules else ""
            raise ValueError(f"There is no backend {name!r}{hint}. Write one of: {', '.join(known)}.")
        backend: Backend = import_module(f"{__name__}.{name}").BACKEND()
    except ModuleNotFoundError as error:
        if not (command := to_type(error.name)):
            raise
        missing = f"The {name} backend needs {error.name}, which is not installed."
        raise MissingFrameworkError(f"{missing}\n{command}") from None
    return backend


def framework() -> str:
    """The framework that Keras runs on, by KERAS_BACKEND or its settings: `tensorflow`, `jax`, ...; imports it."""
    return str(import_module("keras").backend.backend())


class Watch:
    """Wraps the processors of one eager run, and notes the first that makes NaN or infinity of finite values.

    NaN may mean "no label", so a node that was handed such a value is not blamed for passing it on.
    """

    def __init__(
        self,
        call: Callable[[Node, Chunk], None] | None = None,
        to_numpy: Callable[[Any], np.ndarray] = np.asarray,
    ) -> None:
        self.run = call or (lambda node, chunk: node.processor(chunk))
        self.to_numpy = to_numpy
        self.found: tuple[Node, str] | None = None

    def __call__(self, node: Node, chunk: Chunk) -> None:
        """Run a node, and look at what it wrote."""
        sane = all(self._is_finite(chunk[name]) for name in node.inputs if name in chunk)
        self.run(node, chunk)
        if self.found is None and sane:
            bad = [ref.name for ref in node.writes if not self._is_finite(dict.__getitem__(chunk, ref.name))]
            self.found = (node, bad[0]) if bad else None

    def _is_finite(self, values: Any) -> bool:
        """Whether every number is finite; what holds no floating numbers is."""
        array = self.to_numpy(values)
        if array.dtype.kind not in "fc" and "float" not in array.dtype.name:
            return True
        return bool(np.isfinite(array.astype(np.float64)).all())


def _seen(graph: Graph, tensors: Mapping[str, Any]) -> dict[Ref, tuple[tuple[int, ...], str]]:
    """Shape and dtype of every version in a run of a graph."""
    arrays = {Ref(name, 0): np.asarray(tensors[name]) for name in graph.inputs}

    def call(node: Node, chunk: Chunk) -> None:
        node.processor(chunk)
        arrays.update({ref: np.asarray(dict.__getitem__(chunk, ref.name)) for ref in node.writes})

    graph.run({name: tensors[name] for name in graph.inputs}, call=call)
    return {ref: (array.shape, array.dtype.name) for ref, array in arrays.items()}


def _common(one: tuple[int, ...], other: tuple[int, ...]) -> tuple[int | None, ...] | None:
    """Sizes that do not depend on the number of rows; None for those that do."""
    if len(one) != len(other):
        return None
    return tuple(size if size == another else None for size, another in zip(one, other, strict=True))
