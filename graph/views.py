"""Views of a graph: the whole list, each mode, and the plan for the names asked for."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from experimentator.graph.describing import describe_graph
from experimentator.graph.description import Box, Description, Port
from experimentator.graph.errors import names_in_short, raise_all
from experimentator.graph.mode import Mode

if TYPE_CHECKING:
    from experimentator.graph.dag import Graph


def whole(graph: Graph, *, mode: Mode | None = None, **facts: Any) -> Description:
    """The list as declared, unpruned: of the graph's mode, or of another.

    >>> from experimentator.graph import Graph, chunk_processor
    >>> one, two = [chunk_processor(inputs=["x"], outputs=[name])(lambda x: -x) for name in ("y", "z")]
    >>> graph = Graph([one, two], provided={"x"}).select("z")
    >>> len(describe_graph(graph).boxes), len(whole(graph).boxes)
    (1, 2)
    """
    unpruned = type(graph)(graph.processors, provided=graph.provided, mode=graph.mode if mode is None else mode)
    return describe_graph(unpruned, **facts)


def plan(graph: Graph, *names: str, **facts: Any) -> Description:
    """What runs for `names` (else for what the graph was selected for), and why each of the others does not.

    A broken graph is drawn as it is; selecting from it tells what is wrong. A name that nobody writes or provides is
    refused.

    >>> from experimentator.graph import Graph, chunk_processor
    >>> one, two = [chunk_processor(inputs=["x"], outputs=[name])(lambda x: -x) for name in ("y", "z")]
    >>> [(box.state, box.notes) for box in plan(Graph([one, two], provided={"x"}), "z").boxes]
    [('pruned', ('not needed for z',)), ('', ())]
    """
    chosen = graph._pruned(names) if names else graph
    raise_all(chosen.report.unknown())
    return _Plan(graph, chosen, facts).description()


class _Plan:
    """The boxes that run; then, greyed, the others of the mode (with its versions), and those of other modes."""

    def __init__(self, graph: Graph, chosen: Graph, facts: Mapping[str, Any]):
        self.chosen = chosen
        self.kept = describe_graph(chosen, **{"title": "plan", **facts})
        self.ports = {port.ref.name: port for port in self.kept.inputs}
        self.boxes = {box.id: box for box in self.kept.boxes}
        self.edges, self.tensors = list(self.kept.edges), {tensor.ref: tensor for tensor in self.kept.tensors}
        self._add(whole(graph, **facts))
        self._add(whole(graph, mode=Mode.ALL, **facts))

    def description(self) -> Description:
        greyed = [box for box in self.boxes.values() if box.state]
        ports = [port for port in self.ports.values() if port.state]
        return replace(
            self.kept,
            boxes=interleaved(self.kept.boxes, greyed),
            inputs=(*self.kept.inputs, *ports),
            edges=tuple(self.edges),
            tensors=tuple(self.tensors.values()),
        )

    def _add(self, others: Description) -> None:
        """Add the boxes that are not there yet, greyed, and the edges that lead to them."""
        new = [box for box in others.boxes if box.id not in self.boxes]
        self.boxes.update((box.id, replace(box, state="pruned", notes=(self._why(box),))) for box in new)
        ids, ports = {box.id for box in new}, {port.id: port for port in others.inputs}
        for edge in others.edges:
            if edge.target in ids:
                source = self._port(ports[edge.source]).id if edge.source in ports else edge.source
                self.edges.append(replace(edge, source=source, state="pruned"))
        refs = {ref for box in new for ref in (*box.reads, *box.writes)}
        for tensor in others.tensors:
            if tensor.ref in refs:
                self.tensors.setdefault(tensor.ref, tensor)

    def _port(self, port: Port) -> Port:
        return self.ports.setdefault(port.ref.name, replace(port, id=f"{port.id}_{len(self.ports)}", state="pruned"))

    def _why(self, box: Box) -> str:
        modes = [Mode.of(name) for name in box.mode.split("|")]
        if not any(int(mode) & int(self.chosen.mode) for mode in modes):
            return f"{box.mode} only, and this is {self.chosen.mode}"
        if not box.declared:
            return "what it reads and writes is not known"
        if all(node.index != box.index for node in self.chosen._unpruned):
            return f"cannot run here: {names_in_short([ref.name for ref in box.writes], 3)} taken as given"
        for name in [ref.name for ref in box.writes if ref.name in self.chosen.results]:
            later = self.chosen.writers.get(self.chosen.results[name])
            if later is not None and later.index > box.index:
                return f"{later.name} overwrites {name} before a processor that runs reads it"
        return f"not needed for {names_in_short(list(self.chosen.results), 3)}"


def interleaved(boxes: Iterable[Box], others: Iterable[Box]) -> tuple[Box, ...]:
    """All boxes, each of `others` behind the one of `boxes` that stands nearest above it in the list."""
    kept = list(boxes)
    places = sorted((box.index, place) for place, box in enumerate(kept))
    behind: defaultdict[int, list[Box]] = defaultdict(list)
    for other in sorted(others, key=lambda box: box.index):
        above = bisect_left(places, (other.index, 0))
        behind[places[above - 1][1] if above else -1].append(other)
    return (*behind[-1], *(one for place, box in enumerate(kept) for one in (box, *behind[place])))
