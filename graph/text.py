"""Graphs as plain text: the aligned table, and the note that goes with a processor's error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from experimentator.graph.errors import names_in_short

if TYPE_CHECKING:
    from experimentator.graph.chunk import Chunk
    from experimentator.graph.dag import Graph
    from experimentator.graph.mode import Mode
    from experimentator.graph.node import Node
    from experimentator.graph.versions import Ref


def table(graph: Graph) -> str:
    """One row per node in execution order; an unsound graph is shown in list order, undeclared names as `?`."""
    rows = [["#", "processor", "reads", "writes", "mode"]]
    for node in in_order(graph):
        names = [" ".join(version(graph, ref) for ref in refs) for refs in (node.reads, node.writes)]
        if not node.declared:
            names = ["?", "?"]
        rows.append([printable(cell) for cell in (str(node.index), node.described, *names, str(node.mode))])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    return "\n".join([headline(graph), *lines])


def headline(graph: Graph) -> str:
    """Mode, size, and what goes in and comes out."""
    total, kept = len(graph._all), len(graph.nodes)
    size = f"{total} processor{'s' * (total != 1)}"
    ends = [names_in_short(sorted(names), 8) for names in (graph.inputs, graph.outputs)]
    return printable(f"{graph.mode}: {'' if kept == total else f'{kept} of '}{size}, {' -> '.join(ends)}")


def in_order(graph: Graph) -> Sequence[Node]:
    """Execution order where there is one, else list order: a picture of a broken graph is still a picture."""
    try:
        return graph.order
    except ValueError:
        return graph.nodes


def version(graph: Graph, ref: Ref) -> str:
    """`name`, or `name@version` where the graph has several versions of it."""
    return str(ref) if graph.overwritten(ref.name) else ref.name


def printable(text: str) -> str:
    """One line that every terminal and file can take: line ends, control characters and the like as escapes.

    >>> print(printable("two\\nlines"))
    two\\nlines
    """
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def where(node: Node, mode: Mode, chunk: Chunk) -> str:
    """The note added to an error that a processor raises."""
    seen = [f"{name} {_shape(tensor)}" for name, tensor in dict.items(chunk)]
    place = f", {node.source}" if node.source else ""
    return f"In chunk processor {node} [{mode}]{place}. Its chunk: {', '.join(seen) or 'empty'}."


def _shape(tensor: Any) -> str:
    try:
        sizes = ", ".join("?" if size is None else str(size) for size in tensor.shape)
        return f"[{sizes}] {getattr(tensor.dtype, 'name', tensor.dtype)}"
    except Exception:  # not a tensor, or one of unknown rank; the processor's own error must get through
        return type(tensor).__name__
