"""Descriptions as Mermaid text, which Markdown pages draw."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING

from experimentator.graph.description import Port
from experimentator.graph.folding import folded
from experimentator.graph.labels import arguments, facts, headed
from experimentator.graph.legend import line_of, use_of
from experimentator.graph.palette import colors
from experimentator.graph.text import cut, printable, titled

if TYPE_CHECKING:
    from experimentator.graph.description import Box, Description, Edge

_SPECIAL = {ord(letter): f"#{ord(letter)};" for letter in '#"<>&`%\\'}  # they would start markup or directives
_NAMES = 4  # tensors on one edge


def to_mermaid(description: Description, *, fold: bool | None = None) -> str:
    """A flowchart with rounded inputs and outputs, a box per processor, names on the edges, and a title.

    >>> from experimentator.graph import Graph, chunk_processor, describe_graph
    >>> graph = Graph([chunk_processor(inputs=["x"], outputs=["y"])(lambda x: -x)], provided={"x"})
    >>> print(to_mermaid(describe_graph(graph)), end="")
    ---
    title: "ALL: 1 processor, x -> y"
    ---
    flowchart TD
      in0(["x<br>input"]):::input
      out0(["y<br>output"]):::output
      p0["lambda x: -x"]:::code
      in0 -->|"x"| p0
      p0 --> out0
      classDef code fill:#faf5c8,stroke:#8a7d00,color:#1d2125
      classDef input fill:#d5e9f7,stroke:#0072b2,color:#1d2125
      classDef output fill:#fdecc8,stroke:#a86f00,color:#1d2125
    """
    description = folded(description, fold)
    ports = (*description.inputs, *description.outputs)
    lines = ["---", f"title: {json.dumps(description.headline)}", "---", "flowchart TD"]
    lines += [f'  {port.id}(["{_port(description, port)}"]):::{use_of(port, {})}' for port in ports]
    lines += _groups(description)
    lines += _edges(description)
    lines += _classes(description)
    return "\n".join(lines) + "\n"


def _groups(description: Description) -> Iterator[str]:
    """Boxes without a group, then one subgraph for each group."""
    members: dict[str, list[Box]] = {"": []}
    for box in description.boxes:
        members.setdefault(box.group or "", []).append(box)
    for place, (group, boxes) in enumerate(members.items()):
        if group:
            yield f"  subgraph g{place}[{_text(group)}]"
        yield from (f"  {'  ' if group else ''}{_box(description, box)}" for box in boxes)
        if group:
            yield "  end"


def _box(description: Description, box: Box) -> str:
    named = _marked(box)
    if box.folded:
        named = f"{box.mark} {headed(box)}: {arguments(box)}".strip()
    shown = "<br>".join(_escaped(line) for line in (named, *facts(description, box), *box.notes))
    use = use_of(box, {})
    return f'{box.id}["{shown}"]{"" if use == "processor" else f":::{use}"}'


def _port(description: Description, port: Port) -> str:
    """The name; what it is, as there is no legend; and its shape."""
    role = "" if port.role == port.name else port.role
    told = f"{role} {'' if port.folded else description.spec(port.ref)}".strip()
    return "<br>".join(_escaped(line) for line in (_marked(port), told) if line)


def _marked(made: Box | Port) -> str:
    named = cut(made.name if isinstance(made, Port) else titled(made).removeprefix(f"{made.group}/"), 80)
    return f"{made.mark} {named}" if made.mark else named


def _edges(description: Description) -> Iterator[str]:
    outputs = {port.id for port in description.outputs}
    joined: defaultdict[tuple[str, str, str], list[Edge]] = defaultdict(list)
    for edge in description.edges:
        joined[edge.source, edge.target, edge.state].append(edge)
    for (source, target, state), edges in joined.items():
        refs = [edge.ref for edge in edges if edge.ref is not None]
        few = refs if len(refs) <= _NAMES else refs[: _NAMES - 1]
        named = [line for ref in few for line in (description.shown(ref), description.spec(ref)) if line]
        named += [f"and {len(refs) - len(few)} more"] if len(refs) > len(few) else []
        arrow = "-.->" if not refs or state in ("removed", "pruned") else "==>" if state == "added" else "-->"
        label = "<br>".join(map(_escaped, named)) if refs else "after"
        bare = target in outputs and all(description.shown(ref) == ref.name for ref in refs)
        yield f"  {source} {arrow}{'' if bare else f'|{chr(34)}{label}{chr(34)}|' if refs else '|after|'} {target}"


def _classes(description: Description) -> Iterator[str]:
    """The colours of what occurs, a plain processor's left to the page."""
    shades = colors("light")
    for use in sorted({use_of(made, {}) for made in description.drawn} - {"processor"}):
        dash = ",stroke-dasharray:4" if use in ("removed", "pruned", "missing") else ""
        fill = shades.get(f"{use} fill", shades[use])
        yield f"  classDef {use} fill:{fill},stroke:{line_of(use, shades)},color:{shades['ink']}{dash}"


def _text(text: str) -> str:
    return f'"{_escaped(text)}"'


def _escaped(text: str) -> str:
    return printable(text).translate(_SPECIAL) or " "
