"""Graphs as Graphviz DOT text; needs no Graphviz to write."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from experimentator.graph.processor import describe
from experimentator.graph.text import headline, in_order, printable, version

if TYPE_CHECKING:
    from experimentator.graph.dag import Graph
    from experimentator.graph.node import Node
    from experimentator.graph.versions import Ref

REPEAT_ABOVE = 4  # readers; one input fanned out to many makes Graphviz hang, so it is drawn beside each of them

_STYLE = """\
  rankdir=TB; nslimit=2; nslimit1=2; mclimit=0.5; fontname="Helvetica"; fontsize=11; labelloc=t;
  node [fontname="Helvetica", fontsize=11, shape=box, style="rounded,filled", fillcolor="#f4f6f8", color="#5b6770"];
  edge [fontname="Helvetica", fontsize=9, color="#5b6770", fontcolor="#333333", arrowsize=0.7];"""
_INPUT = 'shape=ellipse, style=filled, fillcolor="#cfe3f5", color="#0072b2"'
_OUTPUT = 'shape=ellipse, style=filled, fillcolor="#fbe3c0", color="#d55e00"'


def to_dot(graph: Graph) -> str:
    """Boxes for processors, ellipses for what goes in and comes out, names on the edges."""
    order, sources = in_order(graph), _Sources(graph)
    lines = [f"digraph {_quoted(str(graph.mode))} {{", _STYLE, f"  label={_quoted(headline(graph))};"]
    lines += sources.shared()
    lines += [f"  p{node.index} [label={_quoted(*_label(node))}{_mark(node)}];" for node in order]
    lines += [line for node in order for line in _edges(graph, node, sources)]
    lines += _outputs(graph, sources)
    return "\n".join([*lines, "}"]) + "\n"


class _Sources:
    """The ellipses of the names that go in: one each, or one beside each reader where these are many."""

    def __init__(self, graph: Graph):
        self.ids = {name: f"in{place}" for place, name in enumerate(sorted(graph.inputs))}
        readers = Counter(ref.name for node in graph.nodes for ref in node.reads if ref not in graph.writers)
        passed = {ref.name for ref in graph.results.values() if ref not in graph.writers}
        self.repeated = {name for name in self.ids if readers[name] > REPEAT_ABOVE and name not in passed}

    def shared(self) -> Iterator[str]:
        for name in self.ids:
            if name not in self.repeated:
                yield self._ellipse(self.ids[name], name)

    def edge(self, name: str, node: Node, label: str) -> Iterator[str]:
        source = self.ids[name]
        if name in self.repeated:
            source = f"{source}_{node.index}"
            yield self._ellipse(source, name)
        yield f"  {source} -> p{node.index} [label={_quoted(label)}];"

    def _ellipse(self, source: str, name: str) -> str:
        return f"  {source} [label={_quoted(name)}, {_INPUT}];"


def _edges(graph: Graph, node: Node, sources: _Sources) -> Iterator[str]:
    for ref in node.reads:
        label = version(graph, ref)
        if writer := graph.writers.get(ref):
            yield f"  p{writer.index} -> p{node.index} [label={_quoted(label)}];"
        else:
            yield from sources.edge(ref.name, node, label)
    for earlier in graph.waits(node):
        yield f"  p{earlier.index} -> p{node.index} [style=dashed, label=after];"


def _outputs(graph: Graph, sources: _Sources) -> Iterator[str]:
    for place, (name, ref) in enumerate(sorted(graph.results.items())):
        writer = graph.writers.get(ref)
        source = f"p{writer.index}" if writer else sources.ids[ref.name]
        yield f"  out{place} [label={_quoted(name)}, {_OUTPUT}];"
        yield f"  {source} -> out{place} [label={_quoted(_shifted(graph, ref))}];"


def _shifted(graph: Graph, ref: Ref) -> str:
    return str(ref) if graph.overwritten(ref.name) else ""


def _mark(node: Node) -> str:
    return "" if node.mode & 7 == 7 else ', penwidth=1.6, style="rounded,filled,dashed"'


def _label(node: Node) -> list[str]:
    described = describe(node.processor)
    named = [] if described.startswith(node.name.partition("#")[0]) else [node.name]
    return [*named, described, *([] if node.mode & 7 == 7 else [f"{node.mode} only"])]


def _quoted(*lines: str) -> str:
    r"""A DOT string; `&` would start an entity in a label, `\` an escape."""
    escaped = [printable(line).replace("\\", "\\\\").replace('"', '\\"').replace("&", "&amp;") for line in lines]
    return '"' + "\\n".join(escaped) + '"'
