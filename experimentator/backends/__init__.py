"""Backends, which compile a graph into one step for K batches: their protocols; found by name, none imported early."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Mapping, Sequence, Set
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from experimentator.extras import to_type
from experimentator.graph import Chunk, Graph, Mode, Node, Ref

Columns = Mapping[str, Any]
Sizes = tuple[int | None, ...]  # None: any
Timed = Callable[[Columns, np.ndarray, int], None]  # runs so many batches of columns and index, and waits for them
Shape = tuple[Sizes | None, str]  # no sizes: of any rank; and the dtype's name


class MissingFrameworkError(ImportError):
    """The framework of a backend is not installed; the message holds the command to type."""


class CannotRunError(RuntimeError):
    """A loop that the compiler or the memory of the device does not allow."""


class Step(Protocol):
    """A compiled graph: runs the K batches of `index` [K, B] over `columns` {name: [N, ...]} in one call."""

    graph: Graph
    capacity: int | None = None  # the most batches a call runs; longer calls are split
    batches: int = 0  # run so far: `choose` weighs a compilation against these and those ahead
    chosen: str | None  # the `compiler`, once one is settled on; may be set until then
    draws_with_state: Mapping[str, str] = {}  # processors whose draws cannot be saved, and by which operation they draw
    traces: int = 0  # how often the graph was traced; constant after the first epoch

    @property
    def is_settled(self) -> bool:
        """Whether `compiler` is final."""

    @property
    def stale(self) -> bool:
        """Whether what was compiled no longer holds, as after freezing a layer."""

    @property
    def compiler(self) -> str:
        """How the step runs: one of the backend's `compilers`, or `eager`."""

    def __call__(self, columns: Columns, index: np.ndarray, *, fixed: bool | None = None) -> dict[str, Any]:
        """Every selected name stacked over the batches: {name: [K, ...]}; `fixed` may compile for just this K."""

    def result_bytes(self, batch_size: int) -> int:
        """Bytes that come back for each batch, as far as they are known beforehand."""
        return 0

    def choose(self, columns: Columns, index: np.ndarray, *, remaining: int) -> None:
        """Settle what is left open about compilation, before `remaining` batches like these; changes no state."""
        return  # nothing is open


class Backend(Protocol):
    """Compiles graphs, and owns the weights of their processors.

    Methods with a body here do for a backend that keeps no weights, and computes on the host.
    """

    name: str
    device: str
    precision: str | None = None
    compiles: bool  # False: runs processors in Python, without training them
    compilers: Mapping[str, Any]  # ways of running a training step by name, and the `jit_compile` that asks for each
    eager: bool = False  # processors run uncompiled, to be stepped through
    batch_size: int  # rows of abstract batches, where a framework knows no batch of any size
    subsets: Sequence[Any] = ()  # their items stand in abstract batches where processors look at values
    formats: Mapping[str, str] = {}  # of exported models, by suffix, as Keras calls them

    def record(
        self, processors: Sequence[Any], specs: Mapping[str, Any], mode: Mode, known: Mapping[int, Any]
    ) -> tuple[Any, ...]:
        """Run the list once on abstract batches: builds layers, and declares undeclared callables."""

    def compile(self, graph: Graph, specs: Mapping[str, Any], optimizer: Any = None, **options: Any) -> Step:
        """One step for a selected graph; with an optimizer, a training step."""

    def held(self, graph: Graph) -> Callable[[Mapping[str, Any]], Mapping[str, Any]]:
        """A graph as a function to be called within another, where its weights are read and not trained."""

    def shapes(self, graph: Graph, specs: Mapping[str, Any]) -> dict[Ref, Shape]:
        """Shape and dtype of every version in a graph that can run on batches of `specs`; nothing is computed."""

    def sizes(self) -> dict[str, tuple[int, int]]:
        """For each node that owns weights: how many numbers are trained, and how many are not."""
        return {}

    def shared(self) -> dict[str, tuple[str, ...]]:
        """For each node that reads weights of others: which nodes own them."""
        return {}

    def profiled(self, folder: Path, graph: Graph) -> AbstractContextManager[None]:
        """Record what runs within into a folder, with the names of the graph's processors."""

    def by_hand(self, graph: Graph, optimizer: Any = None, *, compiler: str, detach: int = 0) -> Timed:
        """The loop as one would write it by hand: runs `count` batches of `columns`, rows `index` in turn, and waits.

        With an optimizer it trains, but for the first `detach` nodes, which keep their weights. A call raises
        CannotRunError where the compiler has no form for the graph, or the device no room.
        """

    def fitted(self, graph: Graph, optimizer: Any, data: Any, batch_size: int, **options: Any) -> Callable[[int], None]:
        """`keras.Model.fit` around a graph: `epoch(steps)`; `data` are columns, or (keys, read, workers)."""

    def model(self, graph: Graph, specs: Mapping[str, Any], sizes: Mapping[str, Sizes], name: str) -> Any:
        """A selected graph, which runs on batches of `specs`, as a `keras.Model` with inputs of these sizes."""

    def export(self, model: Any, path: Path) -> None:
        """Write such a model in the format of a suffix."""

    def peak_memory(self) -> int | None:
        """The most bytes that were taken on the device at once; None where that is the host."""
        return None

    def room(self) -> int:
        """Bytes that are free where columns are placed."""

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
        """Place columns where the step reads them."""
        return columns

    def weights(self) -> dict[str, np.ndarray]:
        """Every weight under a stable key: node, ordinal, variable name."""
        return {}

    def set_weights(self, weights: Mapping[str, np.ndarray]) -> None:
        """Assign weights by key; all of them, or an error and none."""

    def begin_averages(self, optimizer: Any, keys: Collection[str]) -> None:
        """Restart averages that an optimizer keeps of the weights of these keys, from their present values."""

    def seeds(self) -> dict[str, list[int]]:
        """States of the seed generators that processors draw from in the graph, by key of `weights`."""
        return {}

    def set_seeds(self, seeds: Mapping[str, Sequence[int]]) -> None:
        """Set the states of seed generators again."""

    def optimizer_state(self, optimizer: Any) -> dict[str, np.ndarray]:
        """Every variable of an optimizer under its place in it: slots, counters, loss scale, rates that it follows."""
        return {}

    def set_optimizer_state(self, optimizer: Any, state: Mapping[str, np.ndarray]) -> None:
        """Assign them; all of them, or an error and none."""

    def snapshot(self, optimizer: Any = None) -> Callable[[], None]:
        """Copy every variable, those of the optimizer too, where they lie; calling the result puts them back."""

    def take_averages(self, optimizer: Any) -> None:
        """Give weights the averages that an optimizer keeps of them (`use_ema`)."""

    def freeze(self, keys: Set[str]) -> Callable[[], None]:
        """Let training leave the weights of these keys as they are; calling the result thaws them."""

    def rates(self, optimizer: Any) -> Callable[[np.ndarray], None]:
        """A function that sets the factors [steps] of the learning rate for the next batches, one for each."""

    def spoilt(self, graph: Graph, columns: Columns, rows: np.ndarray) -> tuple[Node, str] | None:
        """The first node that makes NaN or infinity of finite values, on one batch, and the name that it writes."""


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
