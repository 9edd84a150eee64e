"""Descriptions as Graphviz DOT text; needs no Graphviz to write."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

from experimentator.graph.description import Box, Description, Port, bundles
from experimentator.graph.folding import folded
from experimentator.graph.labels import NAMES, TIP, box_label, box_tooltip, edge_label, port_label, quoted
from experimentator.graph.legend import faint, heat, legend, line_of, look, use_of
from experimentator.graph.palette import colors
from experimentator.graph.rows import rows
from experimentator.graph.text import cut
from experimentator.graph.versions import Ref

REPEAT_ABOVE = 4  # readers; one input fanned out to many makes Graphviz hang, so it is drawn beside each of them
_EFFORTS = ((400, "nslimit=2; nslimit1=2; mclimit=0.5"), (1500, "nslimit=0.2; nslimit1=0.2; mclimit=0.2"))  # by edges
_HURRIED = "nslimit=0.2; nslimit1=0.2; mclimit=0.1; splines=line"  # beyond: seconds where the others take minutes


def to_dot(description: Description, *, theme: str = "light", fold: bool | None = None) -> str:
    """Graphviz DOT: boxes for processors, ellipses for inputs and outputs, tensor names on the edges.

    `fold` draws long chains and rows as one box each; by default where there are more than 40 processors.

    >>> from experimentator.graph import Graph, chunk_processor, describe_graph
    >>> graph = Graph([chunk_processor(inputs=["x"], outputs=["y"])(lambda x: -x)], provided={"x"})
    >>> print(to_dot(describe_graph(graph)).splitlines()[0])
    digraph "ALL" {
    """
    return "\n".join(_Drawing(folded(description, fold), theme).lines()) + "\n"


class _Drawing:
    """The text of one picture."""

    def __init__(self, description: Description, theme: str):
        self.description, self.colors = description, colors(theme)
        self.heats = heat(description)
        self.repeated = _repeated(description)
        self.ends = {port.id for port in description.outputs}

    def lines(self) -> Iterator[str]:
        yield f"digraph {quoted(self.description.mode)} {{"
        yield self._style()
        yield f"  label={legend(self.description, self.colors)};"
        yield from self._ports()
        yield from self._groups("", 1)
        yield from self._edges()
        yield from self._invisible()
        yield "}"

    def _style(self) -> str:
        used = self.colors
        text = f'fontname="Helvetica", fontcolor="{used["ink"]}"'
        effort = next((effort for most, effort in _EFFORTS if len(self.description.edges) <= most), _HURRIED)
        return f"""\
  rankdir=TB; {effort}; labelloc=t; labeljust=l; compound=true; ranksep=0.4; nodesep=0.3;
  bgcolor="{used["page"]}"; fontname="Helvetica"; fontsize=11; fontcolor="{used["ink"]}"; tooltip=" ";
  node [{text}, fontsize=11, shape=box, margin="0.12,0.06", height=0.3];
  edge [{text}, fontsize=9, color="{used["edge"]}", arrowsize=0.6, tooltip=" "];"""

    def _ports(self) -> Iterator[str]:
        for port in (*self.description.inputs, *self.description.outputs):
            if port.id not in self.repeated:
                yield self._port(port.id, port)

    def _port(self, name: str, port: Port) -> str:
        label = port_label(self.description, port, self.colors)
        lines = " peripheries=2," if port.role == "loss" else ""
        tip = cut(", ".join(port.folded or (port.name,)), TIP)
        style = look(use_of(port, {}), self.colors, shape="ellipse")
        return f"  {name} [label={label},{lines} {style}, tooltip={quoted(tip)}];"

    def _groups(self, path: str, depth: int) -> Iterator[str]:
        """The boxes of a group, then the groups within it, each in a frame."""
        boxes, inner = self.description.level(path)
        yield from (f"{'  ' * depth}{self._box(box)}" for box in boxes)
        for group in inner:
            yield f"{'  ' * depth}subgraph {quoted(cut(f'cluster {group}', TIP))} {{"
            yield f"{'  ' * depth}  {self._frame(group.rpartition('/')[2])}"
            yield from self._groups(group, depth + 1)
            yield f"{'  ' * depth}}}"

    def _frame(self, label: str) -> str:
        fill, line, ink = self.colors["group"], self.colors["group line"], self.colors["faint"]
        style = f'style="rounded,filled"; fillcolor="{fill}"; color="{line}"; fontcolor="{ink}"; fontsize=11'
        text = quoted(cut(label, 60))
        return f"label={text}; labeljust=l; {style}; margin=10; tooltip={quoted(cut(label, TIP))};"

    def _box(self, box: Box) -> str:
        use = use_of(box, self.heats)
        label, tip = box_label(self.description, box, faint(use, self.colors)), box_tooltip(self.description, box)
        style = look(use, self.colors, dashed=box.mode != "ALL", stacked=bool(box.folded))
        return f"{box.id} [label={label}, {style}, tooltip={quoted(tip)}];"

    def _edges(self) -> Iterator[str]:
        ports = {port.id: port for port in self.description.inputs}
        joined = bundles(self.description)
        ending = {source for source, target, _ in joined if target in self.ends} - ports.keys()
        for (source, target, state), refs in joined.items():
            if source in self.repeated:
                port = ports[source]  # greyed if its reader is
                yield self._port(f"{source}_{target}", replace(port, state=state) if state == "pruned" else port)
                source = f"{source}_{target}"
            straight = ["weight=4"] if source in ending and target not in self.ends else []  # what goes on goes down
            yield f"  {source} -> {target} [{', '.join([*self._edge(refs, state, target), *straight])}];"

    def _edge(self, refs: Sequence[Ref], state: str, target: str) -> Iterator[str]:
        if not refs:
            yield f'style=dashed, label=<after>, fontcolor="{self.colors["faint"]}"'
        elif target not in self.ends or any(self.description.shown(ref) != ref.name for ref in refs):
            yield f"label={edge_label(self.description, refs, self.colors['faint'], state=state)}"
        if len(refs) > NAMES:
            yield f"tooltip={quoted(cut(', '.join(map(str, refs)), TIP))}"
        if state:
            drawn = {"added": "bold", "removed": "dashed"}.get(state, "dotted")
            line = line_of(state, self.colors)
            ink = self.colors["pruned ink"] if state == "pruned" else line
            yield f'style={drawn}, color="{line}", fontcolor="{ink}"'

    def _invisible(self) -> Iterator[str]:
        """Invisible edges that hold rows below each other, along with inputs and outputs that are theirs alone."""
        tops = {
            edge.target: f"{edge.source}_{edge.target}"
            for edge in self.description.edges
            if edge.source in self.repeated
        }
        bottoms = {edge.source: edge.target for edge in self.description.edges if edge.target in self.ends}
        for upper, lower in rows(self.description):
            yield f"  {bottoms.get(upper, upper)} -> {tops.get(lower, lower)} [style=invis];"


def _repeated(description: Description) -> set[str]:
    """Inputs with many readers, which are drawn once per reader; not those that are also outputs."""
    inputs = {port.id for port in description.inputs}
    outputs = {port.id for port in description.outputs}
    pairs = {(edge.source, edge.target) for edge in description.edges if edge.source in inputs}
    readers = Counter([source for source, _ in pairs])
    passed = {source for source, target in pairs if target in outputs}
    return {name for name, count in readers.items() if count > REPEAT_ABOVE and name not in passed}
