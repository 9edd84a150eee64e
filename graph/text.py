"""Graphs as plain text: the aligned table, and the note that goes with a processor's error."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from experimentator.graph.chunk import Chunk
    from experimentator.graph.description import Box, Description
    from experimentator.graph.mode import Mode
    from experimentator.graph.node import Node
    from experimentator.graph.versions import Ref

_PREFIXES = ((0.9995e-3, 1e6, "µs"), (0.9995, 1e3, "ms"))  # for costs below, factor, unit


def table(description: Description) -> str:
    """One row per processor in execution order; an unsound graph is shown in list order, undeclared names as `?`.

    >>> from experimentator.graph import Graph, chunk_processor, describe_graph
    >>> half = chunk_processor(inputs=["x"], outputs=["half"], node="Half")(lambda x: x / 2)
    >>> print(table(describe_graph(Graph([half], provided={"x"}))))
    ALL: 1 processor, x -> half
    #  processor              reads  writes  mode
    0  Half: lambda x: x / 2  x      half    ALL
    """
    rows = [_row(description, box) for box in _unfolded(description.boxes)]
    names = ("", "#", "processor", "reads", "writes", "mode", "group", "parameters", "cost", "status", "why")
    always = ("#", "processor", "reads", "writes", "mode")
    shown = [column for column, name in enumerate(names) if name in always or any(row[column] for row in rows)]
    cells = [[row[column] for column in shown] for row in (names, *rows)]
    return "\n".join([description.headline, *aligned(cells)])


def aligned(rows: Sequence[Sequence[str]], *, numbers: bool = False) -> list[str]:
    """Rows of cells as lines in columns, flush left; where they hold `numbers`, all but the first flush right.

    >>> aligned([["name", "cost"], ["Scale", "1 ms"]], numbers=True)
    ['name   cost', 'Scale  1 ms']
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    flush = [str.ljust, *[str.rjust if numbers else str.ljust] * (len(widths) - 1)]
    lines = [[put(cell, width) for put, cell, width in zip(flush, row, widths, strict=True)] for row in rows]
    return ["  ".join(line).rstrip() for line in lines]


def changes(description: Description) -> str:
    """What a difference or a plan found: a line for each processor it marked, and for inputs and outputs beside these.

    >>> from experimentator.graph import Graph, chunk_processor, describe_graph, difference
    >>> one, two = [chunk_processor(inputs=["x"], outputs=[name])(lambda x: -x) for name in ("y", "z")]
    >>> before, after = [describe_graph(Graph(processors, provided={"x"})) for processors in ([one], [one, two])]
    >>> print(changes(difference(before, after)))
    difference: ALL: 2 processors, x -> y, z
    + #1 lambda x: -x  reads x; writes z
    """
    marked = [box for box in _unfolded(description.boxes) if box.mark]
    lines = [printable(f"{box.mark} #{box.index} {titled(box)}  {_why(description, box)}") for box in marked]
    read = {ref.name for box in marked for ref in box.reads}
    written = {(box.mark, ref.name) for box in marked for ref in box.writes}
    rest = [port for port in description.inputs if port.mark and port.ref.name not in read]  # others by processors
    rest += [port for port in description.outputs if port.mark and (port.mark, port.ref.name) not in written]
    lines += [printable(f"{port.mark} {port.role} {port.name}") for port in rest]
    return "\n".join([description.headline, *(lines or ["Nothing differs."])])


def amount(count: int) -> str:
    """A number of parameters, short.

    >>> amount(950), amount(1_234), amount(12_345_678), amount(999_600)
    ('950', '1.23 k', '12.3 M', '1 M')
    """
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if count >= 0.9995 * size:  # what would be rounded to 1000 of the unit below
            return f"{count / size:.3g}{unit}"
    return str(count)


def weighed(box: Box) -> str:
    """How many parameters a processor has, how many of them are frozen, and whose it uses; empty where it has none.

    >>> from experimentator.graph.description import Box
    >>> weighed(Box("p0", 0, "Trunk", "Model", "Model()", trainable=0, frozen=1_000))
    '1 k frozen'
    """
    parts = [f"{amount(box.trainable)} trainable" if box.frozen else amount(box.trainable)] if box.trainable else []
    parts += [f"{amount(box.frozen)} frozen"] if box.frozen else []
    return ", ".join([*parts, *([f"those of {' and '.join(box.shares)}"] if box.shares else [])])


def priced(cost: float | None) -> str:
    """A cost in seconds, with its unit; 0 is one that a measurement cannot tell from nothing.

    >>> priced(0.0021), priced(1600.0), priced(0.0)
    ('2.1 ms', '1,600 s', 'about 0')
    """
    if cost is None:
        return ""
    if cost == 0:
        return "about 0"
    if cost >= 100:
        return f"{cost:,.0f} s"
    return next((f"{cost * times:.3g} {short}" for below, times, short in _PREFIXES if cost < below), f"{cost:.3g} s")


def titled(box: Box) -> str:
    """A processor in one line; a lambda by its source text.

    >>> from experimentator.graph.description import Box
    >>> titled(Box("p0", 0, "Half", "lambda", "lambda (a.py:3)", label="Half", code="lambda chunk: chunk.update(y=1)"))
    'Half: lambda chunk: chunk.update(y=1)'
    """
    if box.code and box.code.startswith("lambda"):
        return f"{box.label + ': ' if box.label else ''}{cut(box.code, 60)}"
    return box.described


def cut(text: str, most: int) -> str:
    """Text of at most `most` characters.

    >>> cut("abcdefgh", 6)
    'abc...'
    """
    return text if len(text) <= most else f"{text[: most - 3]}..."


def printable(text: str) -> str:
    """One line that every terminal and file can take: line ends, control characters and the like as escapes.

    >>> print(printable("two\\nlines"))
    two\\nlines
    """
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def failed_in(node: Node, mode: Mode) -> str:
    """The note added to an error that is of a processor."""
    return f"In chunk processor {node} [{mode}]{f', {node.source}' if node.source else ''}."


def where(node: Node, mode: Mode, chunk: Chunk) -> str:
    """The note added to an error that a processor raises."""
    seen = [f"{name} {_shape(tensor)}" for name, tensor in dict.items(chunk)]
    return f"{failed_in(node, mode)} Its chunk: {', '.join(seen) or 'empty'}."


def _unfolded(boxes: Iterable[Box]) -> Iterator[Box]:
    return (member for box in boxes for member in box.members)


def _row(description: Description, box: Box) -> list[str]:
    reads, writes = (_refs(description, box, refs) for refs in (box.reads, box.writes)) if box.declared else "??"
    cost = priced(box.cost)
    why = "; ".join(box.notes)
    facts = (box.group or "", weighed(box), cost, box.status or "", why)
    return [printable(cell) for cell in (box.mark, str(box.index), titled(box), reads, writes, box.mode, *facts)]


def _refs(description: Description, box: Box, refs: Iterable[Ref]) -> str:
    """Names and versions, with shapes where they first occur (then separated by commas); names alone if pruned."""
    if box.state == "pruned":
        return " ".join(ref.name for ref in refs)
    first = (*box.writes, *description.given)
    named = [description.told(ref) if ref in first else description.shown(ref) for ref in refs]
    return (", " if any(ref in first and description.spec(ref) for ref in refs) else " ").join(named)


def _why(description: Description, box: Box) -> str:
    if box.notes:
        return "; ".join(box.notes)
    ends = [("reads", box.reads), ("writes", box.writes)]
    named = [f"{verb} {', '.join(map(description.shown, refs))}" for verb, refs in ends if refs]
    return "; ".join(named) or "reads and writes nothing"


def dtype_name(tensor: Any) -> str:
    """Name of the dtype of a tensor of any framework."""
    return str(getattr(tensor.dtype, "name", tensor.dtype)).removeprefix("torch.")


def spelled(shape: Iterable[int | None], dtype: str) -> str:
    """Shape and dtype as documentation writes them: unknown sizes are `B` in front and `?` elsewhere.

    >>> spelled((None, 10), "float32"), spelled((), "")
    ('[B, 10] float32', '[]')
    """
    sizes = ["B?"[place > 0] if size is None else str(size) for place, size in enumerate(shape)]
    return f"[{', '.join(sizes)}] {dtype}".rstrip()


def spell(tensor: Any) -> str:
    """Shape and dtype of a tensor of any framework."""
    return spelled(tensor.shape, dtype_name(tensor))


def _shape(tensor: Any) -> str:
    try:
        return spell(tensor)
    except Exception:  # not a tensor, or one of unknown rank; the processor's own error must get through
        return type(tensor).__name__
