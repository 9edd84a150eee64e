"""Everything that is wrong with a graph, found without running it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from experimentator.graph.errors import (
    AmbiguousWriteError,
    CycleError,
    GraphError,
    MissingTensorError,
    UnknownNodeError,
)
from experimentator.graph.node import Node
from experimentator.graph.processor import kind_of, label_of
from experimentator.graph.versions import Ref

if TYPE_CHECKING:
    import networkx as nx

    from experimentator.graph.dag import Graph


class Report:
    """Finds the problems of `graph` on demand; building one costs nothing."""

    def __init__(self, graph: Graph):
        self.graph = graph

    def problems(self) -> Iterator[GraphError]:
        """What is wrong with the nodes of the graph: missing names, ambiguous writes, bad `after`, cycles."""
        for node in self.graph._unpruned:
            if node.failed is not None:
                yield self._missing(node.failed, reader=node)
        for node in self.graph.nodes:
            for name, ref in zip(node.inputs, node.reads, strict=True):
                if ref not in self.graph.writers and not self._given(ref) and node.failed is None:
                    yield self._unread(node, name, ref)
        yield from self._bad_afters()
        yield from self.cycles()

    def unknown(self) -> Iterator[GraphError]:
        """What is wrong with the names asked for."""
        for name, ref in self.graph.results.items():
            if ref not in self.graph.writers and not self._given(ref):
                yield self._missing(name, reader=None)

    def cycles(self) -> Iterator[GraphError]:
        """One error for each group of processors that wait on each other, with one cycle as its path."""
        if self.graph._sorted is not None:
            return
        import networkx as nx

        dag = self.graph.dag
        on_themselves = set(nx.nodes_with_selfloops(dag))
        knots = [knot for knot in nx.strongly_connected_components(dag) if len(knot) > 1 or knot <= on_themselves]
        for knot in sorted(
            [sorted(knot, key=lambda node: node.index) for knot in knots], key=lambda knot: knot[0].index
        ):
            yield _cycle(dag, knot)

    def afters(self, node: Node) -> Iterator[Node]:
        """The nodes of the graph that `node.after` points at: by label, by class, or by the processor itself."""
        for target in node.after:
            for earlier in self._by_target.get(target if isinstance(target, str) else id(target), ()):
                if earlier is not node:  # `after` a processor's own class means the others of that class
                    yield earlier

    @cached_property
    def computable(self) -> frozenset[Node]:
        """The nodes that can run on what is provided."""
        waiting: dict[Node, int] = {}
        readers: defaultdict[Node, list[Node]] = defaultdict(list)
        for node in self.graph._unpruned:
            written = [ref for ref in node.reads if ref in self.graph.writers]
            if node.failed is None and all(ref in self.graph.writers or self._given(ref) for ref in node.reads):
                waiting[node] = len(written)
                for ref in written:
                    readers[self.graph.writers[ref]].append(node)
        ready = [node for node, count in waiting.items() if not count]
        for node in ready:  # grows while it is read
            for reader in readers[node]:
                waiting[reader] -= 1
                if not waiting[reader]:
                    ready.append(reader)
        return frozenset(ready)

    def shadowing(self) -> frozenset[int]:
        """Places of nodes that cannot run, but write a provided name without depending on it."""
        provided = self.graph.provided
        return frozenset(
            node.index
            for node in self.graph._unpruned
            if not provided.isdisjoint(node.outputs) and node not in self.computable
            for name in node.outputs
            if name in provided and not self._builds_on(node, Ref(name, 0))
        )

    # How

    def _given(self, ref: Ref) -> bool:
        return not ref.version and ref.name in self.graph.provided

    def _unread(self, node: Node, name: str, ref: Ref) -> GraphError:
        writers = [writer for writer in self.graph._unpruned if name in writer.outputs]
        if ref.version or len(writers) < 2 or all(self._builds_on(writer, ref) for writer in writers):
            return self._missing(name, reader=node)
        return AmbiguousWriteError(name=name, reader=node, writers=writers, mode=self.graph.mode)

    def _missing(self, name: str, *, reader: Node | None) -> GraphError:
        elsewhere = self.graph.written_in(name)
        known = self._known - {name}
        if (asked := Ref.of(name)) and asked.name in known:
            known |= {str(ref) for ref in self.graph.writers if ref.name == asked.name}
        return MissingTensorError(
            name=name,
            reader=reader,
            mode=self.graph.mode,
            known=known,
            elsewhere=None if not elsewhere or elsewhere & self.graph.mode else elsewhere,
            also=self._known_elsewhere,
            removed_by=self._remover(name, reader),
        )

    @cached_property
    def _known(self) -> frozenset[str]:
        return self.graph.provided.union(*[node.outputs for node in self.graph._unpruned])

    @cached_property
    def _known_elsewhere(self) -> frozenset[str]:
        return frozenset([name for node in self.graph._of_all_modes for name in node.outputs]) - self._known

    def _remover(self, name: str, reader: Node | None) -> Node | None:
        above = [node for node in self.graph._unpruned if reader is None or node.index < reader.index]
        touched = [node for node in above if name in node.deletes or name in node.outputs]
        return touched[-1] if touched and name in touched[-1].deletes else None

    @cached_property
    def _by_target(self) -> Mapping[str | int, list[Node]]:
        """The nodes that an entry of `after` stands for; classes and processors by identity."""
        found: defaultdict[str | int, list[Node]] = defaultdict(list)
        for node in self.graph.nodes:
            for target in _targets(node):
                found[target].append(node)
        return found

    def _bad_afters(self) -> Iterator[GraphError]:
        if not any(node.after for node in self.graph.nodes):
            return
        known = {target for node in self.graph._of_all_modes for target in _targets(node) if isinstance(target, str)}
        for node in self.graph.nodes:
            for target in node.after:
                if isinstance(target, str) and target not in known:
                    yield UnknownNodeError(node, target=target, known=sorted(known))

    def _builds_on(self, node: Node, ref: Ref) -> bool:
        return any(ref in one.reads for one in (node, *self.graph._ancestors(node.reads)))


def _targets(node: Node) -> set[str | int]:
    """What may stand for a node in `after`: its name, label, classes, function, itself."""
    processor = node.listed
    classes = [kind for kind in type(processor).__mro__ if kind is not object]
    themselves = (node.processor, processor, getattr(processor, "function", processor), *classes)
    return {node.name, label_of(processor), kind_of(processor), *map(id, themselves)}


def _cycle(dag: nx.DiGraph[Node], knot: Sequence[Node]) -> CycleError:
    import networkx as nx

    inside = set(knot)
    loop = nx.DiGraph([edge for edge in dag.edges(knot) if edge[1] in inside])
    hops = nx.find_cycle(loop, knot[0])
    names = [", ".join(ref.name for ref in dag.edges[hop]["refs"]) or "after" for hop in hops]
    return CycleError(path=[tail for tail, _ in hops], names=names)
