"""The reference backend: eager, without training; what a graph means, batch by batch."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence, Set
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from experimentator.backends import Backend, Shape, Sizes, Step, Watch, get_backend
from experimentator.graph import Chunk, Graph, Mode, Node, Ref, record
from experimentator.loading.memory import free_host_memory


class NumpyStep(Step):
    """Runs a graph on numpy rows, one batch after the other."""

    stale = False
    compiler = "eager"
    chosen: str | None = compiler
    is_settled = True

    def __init__(self, graph: Graph):
        self.graph = graph

    def __call__(self, columns: Mapping[str, Any], index: np.ndarray, *, fixed: bool | None = None) -> dict[str, Any]:
        """Every selected name stacked over the batches: {name: [K, ...]}."""
        names = sorted(self.graph.inputs)
        rows = [self.graph.run({name: columns[name][row] for name in names}) for row in np.asarray(index)]
        return {name: np.stack([np.asarray(row[name]) for row in rows]) for name in rows[0]}


class NumpyBackend(Backend):
    """Any processors over numpy arrays; nothing is compiled and nothing is trained.

    >>> from experimentator.graph import chunk_processor
    >>> total = chunk_processor(inputs=["batch_x"], outputs=["total"])(lambda batch_x: batch_x.sum())
    >>> step = NumpyBackend().compile(Graph([total], provided={"batch_x"}).select("total"), {})
    >>> step({"batch_x": np.arange(4)}, np.array([[0, 1], [2, 3]]))
    {'total': array([1, 5])}
    """

    name = "numpy"
    device = "CPU"
    compiles = False
    compilers: Mapping[str, Any] = {"graph": False}
    batch_size = 1

    def record(
        self, processors: Sequence[Any], specs: Mapping[str, Any], mode: Mode, known: Mapping[int, Any]
    ) -> tuple[Any, ...]:
        """Run the list once on a batch of one zero row."""
        zeros = {name: np.zeros((1, *spec.shape[1:]), spec.dtype) for name, spec in specs.items()}
        return record(processors, zeros, mode=mode, known=known)

    def compile(self, graph: Graph, specs: Mapping[str, Any], optimizer: Any = None, **options: Any) -> NumpyStep:
        """An eager step; an optimizer is refused."""
        if optimizer is not None:
            raise ValueError(
                "The numpy backend does not train.\nSeen: an optimizer.\n"
                "Give the experiment a Keras optimizer, whose framework then is the backend; or leave it out to "
                "evaluate and predict."
            )
        return NumpyStep(graph)

    def held(self, graph: Graph) -> Callable[[Mapping[str, Any]], Mapping[str, Any]]:
        """A graph as a function of tensors; layers of Keras in it are not trained."""
        if "keras" not in sys.modules:
            return graph.run
        return get_backend("keras").held(graph)

    def shapes(self, graph: Graph, specs: Mapping[str, Any]) -> dict[Ref, Shape]:
        """Shape and dtype of every version in a graph, from runs on two and on three rows of zeros."""
        two, three = (_shapes(graph, specs, rows) for rows in (2, 3))
        return {ref: (_common(shape, three[ref][0]), dtype) for ref, (shape, dtype) in two.items()}

    def profiled(self, folder: Path, graph: Graph) -> AbstractContextManager[None]:
        raise _lacking("has no profile", "Use a profiler of Python, such as py-spy; or train")

    def by_hand(self, graph: Graph, optimizer: Any = None, **options: Any) -> Callable[..., None]:
        """A loop around a graph as one would write it by hand; nothing is trained here."""

        def timed(columns: Mapping[str, Any], index: np.ndarray, count: int) -> None:
            for place in range(count):
                graph.run({name: columns[name][index[place % len(index)]] for name in graph.inputs})

        return timed

    def fitted(self, graph: Graph, optimizer: Any, data: Any, batch_size: int, **options: Any) -> Callable[[int], None]:
        raise _lacking("cannot be compared with Keras' fit", "Leave --against keras out, or train")

    def model(self, graph: Graph, specs: Mapping[str, Any], sizes: Mapping[str, Sizes], name: str) -> Any:
        raise _lacking("makes no Keras model", "Write them with keras.ops, and train")

    def room(self) -> int:
        return free_host_memory()

    def snapshot(self, optimizer: Any = None) -> Callable[[], None]:
        """Copies of the weights, to put back."""
        return partial(self.set_weights, {name: array.copy() for name, array in self.weights().items()})

    def freeze(self, keys: Set[str]) -> Callable[[], None]:
        raise _lacking("cannot freeze weights", "Train")

    def rates(self, optimizer: Any) -> Callable[[np.ndarray], None]:
        """One rate for a whole pass, that of its first batch, since nothing compiled reads rates here."""
        base = float(optimizer.learning_rate)
        return lambda factors: setattr(optimizer, "learning_rate", base * float(factors[0]))

    def spoilt(self, graph: Graph, columns: Mapping[str, Any], rows: np.ndarray) -> tuple[Node, str] | None:
        watch = Watch()
        graph.run({name: np.asarray(columns[name])[rows] for name in graph.inputs}, call=watch)
        return watch.found


def _lacking(what: str, instead: str) -> ValueError:
    seen = "Seen: processors that run in Python."
    return ValueError(f"The numpy backend {what}.\n{seen}\n{instead} with TensorFlow, JAX or PyTorch.")


def _shapes(graph: Graph, specs: Mapping[str, Any], rows: int) -> dict[Ref, tuple[tuple[int, ...], str]]:
    given = {name: np.zeros((rows, *specs[name].shape[1:]), specs[name].dtype) for name in graph.inputs}
    seen = {Ref(name, 0): (array.shape, array.dtype.name) for name, array in given.items()}

    def call(node: Node, chunk: Chunk) -> None:
        node.processor(chunk)
        for ref in node.writes:
            array = np.asarray(dict.__getitem__(chunk, ref.name))
            seen[ref] = array.shape, array.dtype.name

    graph.run(given, call=call)
    return seen


def _common(one: tuple[int, ...], other: tuple[int, ...]) -> tuple[int | None, ...] | None:
    """Sizes that do not depend on the number of rows; None for those that do."""
    if len(one) != len(other):
        return None
    return tuple(size if size == another else None for size, another in zip(one, other, strict=True))


BACKEND = NumpyBackend
