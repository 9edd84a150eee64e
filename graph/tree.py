"""Graphs as a tree of text: from each output back to what it needs."""

from __future__ import annotations

from collections.abc import Iterator

from experimentator.graph.description import Box, Description, Edge, Port, edges_into
from experimentator.graph.text import priced, printable, titled

Line = tuple[str, str, str, str]  # prefix of its line, prefix of lines below, name, id of its source


def tree(description: Description) -> str:
    """Every output, and below it what it is computed from; what has been shown above is not repeated, but named.

    >>> from experimentator.graph import Graph, chunk_processor, describe_graph
    >>> scale = chunk_processor(inputs=["x"], outputs=["x"], node="Scale")(lambda x: -x)
    >>> loss = chunk_processor(inputs=["x", "y"], outputs=["loss"], node="Loss")(lambda x, y: x + y)
    >>> print(tree(describe_graph(Graph([scale, loss], provided={"x", "y"}).select("loss"))))
    ALL: 2 processors, x, y -> loss
    loss = Loss: lambda x, y: x + y
    ├─ x@1 = Scale: lambda x: -x
    │  x@0 (input)
    └─ y (input)
    """
    return "\n".join([description.headline, *_Tree(description).lines()])


class _Tree:
    def __init__(self, description: Description):
        self.description = description
        self.made: dict[str, Box | Port] = {made.id: made for made in description.drawn}
        self.into = edges_into(description)
        self.seen: set[str] = set()

    def lines(self) -> Iterator[str]:
        for port in self.description.outputs:
            for edge in self.into[port.id]:
                yield from self._grow(("", "", self._named(edge), edge.source))
        for box in reversed(self.description.boxes):  # those that write nothing, or nothing that is asked for
            if box.id not in self.seen:
                yield from self._grow(("", "", "", box.id))

    def _grow(self, root: Line) -> Iterator[str]:
        stack = [root]
        while stack:
            first, rest, name, source = stack.pop()
            repeated = source in self.seen and bool(self.into[source])
            yield first + self._line(name, source) + (" (above)" if repeated else self._facts(source))
            if not repeated:
                self.seen.add(source)
                stack += reversed(list(self._below(rest, self.into[source])))

    def _below(self, rest: str, edges: list[Edge]) -> Iterator[Line]:
        """A single source stands straight below, so that long chains stay narrow."""
        if len(edges) == 1:
            yield rest, rest, self._named(edges[0]), edges[0].source
            return
        for place, edge in enumerate(edges, start=1):
            here, below = ("└─ ", "   ") if place == len(edges) else ("├─ ", "│  ")
            yield rest + here, rest + below, self._named(edge), edge.source

    def _named(self, edge: Edge) -> str:
        return "after" if edge.ref is None else self.description.told(edge.ref)

    def _line(self, name: str, source: str) -> str:
        made = self.made[source]
        mark = f"{made.mark} " if made.mark else ""
        if isinstance(made, Port):
            return printable(f"{mark}{name} ({made.role})")
        return printable(f"{mark}{name + ' = ' if name else ''}{titled(made)}")

    def _facts(self, source: str) -> str:
        """Cost, status, and what a view notes."""
        made = self.made[source]
        if isinstance(made, Port):
            return ""
        told = "; ".join(filter(None, (priced(made.cost), made.status, *made.notes)))
        return printable(f"  {told}" if told else "")
