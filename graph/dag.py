"""Order chunk processors by the tensors they exchange."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any

from experimentator.graph.chunk import DeclaredChunk
from experimentator.graph.describing import describe_graph
from experimentator.graph.description import Description
from experimentator.graph.dot import to_dot
from experimentator.graph.errors import (
    DeclarationError,
    GraphError,
    MissingTensorError,
    UndeclaredProcessorError,
    UnwrittenOutputError,
    brief,
    raise_all,
)
from experimentator.graph.mermaid import to_mermaid
from experimentator.graph.mode import Mode
from experimentator.graph.node import Node, nodes_of
from experimentator.graph.processor import names_of
from experimentator.graph.record import Call, record
from experimentator.graph.report import Report
from experimentator.graph.text import where
from experimentator.graph.versions import Ref, bind

if TYPE_CHECKING:
    import networkx as nx

    # A slot is the place of a version in the list of a run's values. A Program: names of the inputs, number of slots,
    # for each node the slots it reads and writes, and the slots of the results.
    Slots = tuple[tuple[str, int], ...]
    Program = tuple[tuple[str, ...], int, list[tuple[Node, Any, Slots, Slots]], Slots]


class Graph:
    """The dataflow of a list of chunk processors, for one mode.

    `provided` are the names the dataset has. Where a name is overwritten, list order says which version is read; a name
    written once may have its writer anywhere. Binding names to versions never fails; `select` raises every problem at
    once.

    `known(graph)` returns what else pictures may show, as keyword arguments of `describe_graph`; an experiment sets it.

    >>> from experimentator.graph import chunk_processor
    >>> double = chunk_processor(inputs=["x"], outputs=["x"])(lambda x: 2 * x)
    >>> total = chunk_processor(inputs=["x", "y"], outputs=["loss"])(lambda x, y: x + y)
    >>> graph = Graph([double, total], provided={"x", "y"}).select("loss", "x@0")
    >>> graph.run({"x": 3, "y": 1})
    {'loss': 7, 'x@0': 3}
    """

    known: Callable[[Graph], Mapping[str, Any]] | None = None

    def __init__(self, processors: Iterable[Any], *, provided: Collection[str], mode: Mode = Mode.ALL):
        if isinstance(processors, str) or not isinstance(processors, Iterable):
            raise DeclarationError(brief(processors), seen="it is not a list", write="List the chunk processors.")
        given: Any = provided
        if given is None:
            write = 'Give the names that the dataset has: provided={"batch_input"}; () for none.'
            raise DeclarationError("'provided'", seen="it is None", write=write)
        self.mode = Mode.of(mode)
        self.provided = frozenset(names_of(given, of="provided"))
        self.processors = tuple(processors)
        self._of_all_modes = nodes_of(self.processors)
        self._bind()

    # What it is made of; `nodes` holds the nodes in list order

    @cached_property
    def writers(self) -> Mapping[Ref, Node]:
        """The node that writes each version."""
        return {ref: node for node in self._unpruned for ref in node.writes}

    @cached_property
    def dag(self) -> nx.DiGraph[Node]:
        """The nodes as a networkx graph; an edge's `refs` are the versions it moves (none: order alone)."""
        import networkx as nx  # a fifth of a second, for graphs that are not listed in order

        self._require_declared()
        edges: dict[tuple[Node, Node], tuple[Ref, ...]] = {}
        for reader in self.nodes:
            for ref in dict.fromkeys(reader.reads):
                if writer := self.writers.get(ref):
                    edges[writer, reader] = (*edges.get((writer, reader), ()), ref)
            for earlier in self.report.afters(reader):
                edges.setdefault((earlier, reader), ())
        dag: nx.DiGraph[Node] = nx.DiGraph()
        dag.add_nodes_from(self.nodes)
        dag.add_edges_from((*ends, {"refs": refs}) for ends, refs in edges.items())
        return dag

    @cached_property
    def order(self) -> tuple[Node, ...]:
        """Execution order; list order breaks ties, so that two runs trace the same graph."""
        self._require_declared()
        raise_all(self.report.cycles())
        return self._sorted or ()

    @cached_property
    def inputs(self) -> frozenset[str]:
        """Names the dataset must provide."""
        read = {ref for node in self.nodes for ref in node.reads}
        return frozenset([ref.name for ref in (*read, *self.results.values()) if ref not in self.writers])

    @cached_property
    def outputs(self) -> frozenset[str]:
        """Names that `run` returns."""
        return frozenset(self.results)

    @property
    def results(self) -> Mapping[str, Ref]:
        """The version that each returned name stands for."""
        return self._last if self._wanted is None else self._wanted

    @cached_property
    def computable(self) -> tuple[str, ...]:
        """Names written here that can be computed from what is provided, in list order."""
        self._require_declared()
        graph = self._without_shadowing_writers()
        able = graph.report.computable
        return tuple(name for name, ref in graph._last.items() if graph.writers[ref] in able)

    @cached_property
    def report(self) -> Report:
        """Finds what is wrong with the graph, on demand."""
        return Report(self)

    # What it does

    def select(self, *outputs: str | Sequence[str]) -> Graph:
        """Prune to what `outputs` need: `name` is its last version, `name@1` an older one; a list may hold them.

        A node that writes nothing stays if all it reads is computed anyway. A provided name whose writer lacks an
        input is taken as it is provided (not in TRAIN and EVAL, where that would hide a mistake).

        Raises:
            GraphError: once, with every missing name, ambiguous write and cycle among what is kept.
        """
        names = _selected(outputs)
        self._require_declared()
        graph = self._pruned(names)
        raise_all(chain(graph.report.unknown(), graph.report.problems()))
        return graph

    def record(self, tensors: Mapping[str, Any]) -> Graph:
        """The same graph with the names of undeclared callables recorded, by running the list once on `tensors`."""
        return Graph(record(self.processors, tensors, mode=self.mode), provided=self.provided, mode=self.mode)

    def run(self, tensors: Mapping[str, Any], *, call: Call | None = None) -> dict[str, Any]:
        """Run the processors in order on `tensors`; returns the selected names (else all that are written).

        `call(node, chunk)`, if given, is called in place of `node.processor(chunk)`, and calls it.

        Raises:
            GraphError: for an unsound graph, a missing input, or a processor that breaks its declaration.
        """
        if not self._declared:
            return self.record(tensors).run(tensors, call=call)
        inputs, size, steps, results = self._program
        raise_all([self._not_given(name, tensors) for name in inputs if name not in tensors])
        values = [tensors[name] for name in inputs] + [None] * (size - len(inputs))
        mode = self.mode
        for node, processor, reads, writes in steps:
            chunk = DeclaredChunk([(name, values[slot]) for name, slot in reads])
            chunk.mode, chunk.node, chunk.unwritten = mode, node, set(node.outputs)
            try:
                processor(chunk) if call is None else call(node, chunk)
                if chunk.unwritten:
                    raise UnwrittenOutputError(node, missing=[name for name in node.outputs if name in chunk.unwritten])
            except Exception as error:
                error.add_note(where(node, mode, chunk))
                raise
            for name, slot in writes:
                values[slot] = chunk[name]
        return {name: values[slot] for name, slot in results}

    def waits(self, node: Node) -> tuple[Node, ...]:
        """The nodes that `node` runs after because of its `after` alone: it reads no tensor of theirs."""
        writers = [self.writers.get(ref) for ref in node.reads]
        return tuple(earlier for earlier in dict.fromkeys(self.report.afters(node)) if earlier not in writers)

    def described(self) -> Description:
        """What pictures show of the graph: with what is `known`, if anything is."""
        return describe_graph(self, **(self.known(self) if self.known else {}))

    def to_dot(self) -> str:
        """Graphviz DOT text: deterministic, and made without touching a device."""
        return to_dot(self.described())

    def to_mermaid(self) -> str:
        """Mermaid text, to paste into Markdown."""
        return to_mermaid(self.described())

    def __str__(self) -> str:
        return str(self.described())

    def __repr__(self) -> str:
        return f"<Graph {describe_graph(self).headline}>"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return self.described()._repr_mimebundle_()

    def _repr_svg_(self) -> str | None:
        return self.described()._repr_svg_()

    def written_in(self, name: str) -> Mode:
        """The modes in which some processor writes a name, whichever mode this graph is of."""
        found = Mode(0)
        for node in self._of_all_modes:
            found |= node.mode if name in node.outputs else Mode(0)
        return found

    # How

    def _bind(self, without: Collection[int] = ()) -> None:
        nodes = [node for node in self._of_all_modes if node.runs_in(self.mode) and node.index not in without]
        bound = bind([node.signature for node in nodes], provided=self.provided)
        for node, (reads, writes) in zip(nodes, bound, strict=True):
            node.reads, node.writes = reads, writes
        self._unpruned = self.nodes = tuple(nodes)
        self._wanted: dict[str, Ref] | None = None

    @cached_property
    def _last(self) -> dict[str, Ref]:
        """The last version of every name that is written and not deleted since, in order of first write."""
        return {ref.name: ref for node in self._unpruned for ref in node.writes if ref.name not in self._deleted}

    @cached_property
    def _deleted(self) -> Mapping[str, int]:
        """Names that end up deleted, with the number of their writes and deletions."""
        touched = [(name, name in node.deletes) for node in self._unpruned for name in (*node.outputs, *node.deletes)]
        counts = Counter([name for name, _ in touched])
        return {name: counts[name] for name, deleted in dict(touched).items() if deleted}

    @cached_property
    def _declared(self) -> bool:
        return all(node.declared for node in self.nodes)

    @cached_property
    def _program(self) -> Program:
        if self._wanted is None:
            raise_all(self.report.problems())
        inputs = tuple(sorted(self.inputs))
        slots = {Ref(name, 0): slot for slot, name in enumerate(inputs)}
        steps = []
        for node in self.order:
            reads = tuple([(name, slots[ref]) for name, ref in zip(node.inputs, node.reads, strict=True)])
            writes = tuple([(ref.name, slots.setdefault(ref, len(slots))) for ref in node.writes])
            steps.append((node, node.processor, reads, writes))
        return inputs, len(slots), steps, tuple((name, slots[ref]) for name, ref in self.results.items())

    @cached_property
    def _sorted(self) -> tuple[Node, ...] | None:
        """The execution order; None where there are cycles."""
        if self._in_order():
            return self.nodes
        import networkx as nx

        try:
            return tuple(nx.lexicographical_topological_sort(self.dag, key=lambda node: node.index))
        except nx.NetworkXUnfeasible:
            return None

    def _in_order(self) -> bool:
        """Whether list order is an execution order; it is then what sorting the DAG would give, without building it."""
        writers, afters = self.writers, self.report.afters
        for node in self.nodes:
            for ref in node.reads:
                if ref in writers and writers[ref].index >= node.index:
                    return False
            if node.after and any(earlier.index > node.index for earlier in afters(node)):
                return False
        return True

    def _find(self, name: str) -> Ref:
        """The version that a selected name stands for; it may have no writer."""
        if name in self._deleted:
            return Ref(name, self._deleted[name])
        given = Ref(name, 0) if name in self.provided else Ref.of(name)
        return self._last.get(name) or given or Ref(name, 0)

    def _ancestors(self, refs: Iterable[Ref]) -> set[Node]:
        """The nodes that `refs` depend on, and nodes without outputs whose reads are all available anyway."""
        writers = self.writers
        kept: set[Node] = set()
        frontier = list(refs)
        available = set(frontier)
        while frontier:
            node = writers.get(frontier.pop())
            if node is not None and node not in kept:
                kept.add(node)
                frontier += node.reads
                available.update(node.reads, node.writes)
        idle = [node for node in self._unpruned if not node.writes and node.reads and not node.deletes]
        return kept.union(node for node in idle if available.issuperset(node.reads))

    def _pruned(self, names: Iterable[str]) -> Graph:
        """The graph that the names need, whether or not it is sound."""
        base = self._without_shadowing_writers()
        wanted = {name: base._find(name) for name in names}
        kept = base._ancestors(wanted.values())
        graph = base._bare()
        graph._unpruned, graph._wanted, graph.writers = base._unpruned, wanted, base.writers
        graph.nodes = tuple([node for node in base._unpruned if node in kept])
        return graph

    def _without_shadowing_writers(self) -> Graph:
        """The graph without those writers of provided names that cannot run: these names are taken as provided."""
        if self.mode in (Mode.TRAIN, Mode.EVAL) or self._wanted is not None:
            return self
        graph, without = self, frozenset[int]()
        while shadowing := graph.report.shadowing():
            without |= shadowing
            graph = self._bare()
            graph._of_all_modes = nodes_of(self.processors)  # bound anew
            graph._bind(without)
        return graph

    def _bare(self) -> Graph:
        graph = Graph.__new__(Graph)
        graph.mode, graph.provided, graph.processors = self.mode, self.provided, self.processors
        graph._of_all_modes = self._of_all_modes
        return graph

    def _require_declared(self) -> None:
        if not self._declared:
            raise UndeclaredProcessorError([node for node in self.nodes if not node.declared])

    def _not_given(self, name: str, tensors: Mapping[str, Any]) -> GraphError:
        reader: Any = next((node for node in self.order if Ref(name, 0) in node.reads), None)
        return MissingTensorError(name=name, reader=reader, mode=self.mode, known=tuple(tensors))


def _selected(outputs: tuple[Any, ...]) -> tuple[str, ...]:
    """The selected names, given one by one or as one list, without duplicates."""
    listed = tuple(outputs[0]) if len(outputs) == 1 and isinstance(outputs[0], (list, tuple)) else outputs
    for name in listed:
        if not isinstance(name, str):
            raise GraphError(
                f"select takes names of tensors.\nSeen: {brief(name)}, which is {type(name).__name__}.\n"
                'Write select("loss"), or several: select("loss", "scores").'
            )
    return tuple(dict.fromkeys(listed))
