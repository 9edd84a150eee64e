"""Descriptions as Mermaid text, which Markdown pages draw."""

from __future__ import annotations

import json
from collections.abc import Iterator

from experimentator.graph.description import Box, Description, Port, bundles
from experimentator.graph.folding import folded
from experimentator.graph.labels import NAMES, arguments, broken, facts, headed
from experimentator.graph.legend import line_of, use_of
from experimentator.graph.palette import colors
from experimentator.graph.text import cut, printable, titled

_SPECIAL = {ord(letter): f"#{ord(letter)};" for letter in '#"<>&`%\\'}  # they would start markup or directives
WIDTH, LINES = 24, 6  # characters in a line; Mermaid breaks longer ones within words, and within an escaped quote


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


def _groups(description: Description, path: str = "", depth: int = 1) -> Iterator[str]:
    """The boxes of a group, then the groups within it, each in a frame."""
    boxes, inner = description.level(path)
    yield from (f"{'  ' * depth}{_box(description, box)}" for box in boxes)
    for group in inner:
        first = next(box for box in description.boxes if f"{box.group}/".startswith(f"{group}/"))
        yield f'{"  " * depth}subgraph g{depth}{first.id}["{_escaped(cut(group.rpartition("/")[2], 60))}"]'
        yield from _groups(description, group, depth + 1)
        yield f"{'  ' * depth}end"


def _box(description: Description, box: Box) -> str:
    named = _marked(box)
    if box.folded:
        named = f"{box.mark} {headed(box)}: {arguments(box)}".strip()
    code = box.code or ""
    if code.startswith("lambda"):  # uncut: a box may have several lines
        named, code = " ".join(filter(None, (box.mark, box.label and f"{box.label}:", code))), ""
    texts = [named, code, *facts(description, box), *box.notes]
    lines = [_escaped(line) for text in texts if text for line in broken(_plain(text, box.code), LINES, WIDTH)]
    use = use_of(box, {})
    return f'{box.id}["{"<br>".join(lines)}"]{"" if use == "processor" else f":::{use}"}'


def _plain(text: str, code: str | None) -> str:
    """Code with single quotes in place of double ones: Mermaid may break a line within the escape of a double one."""
    return text.replace('"', "'") if code else text


def _port(description: Description, port: Port) -> str:
    """The name, its role (Mermaid draws no legend) and its shape."""
    role = "" if port.role == port.name else port.role
    told = f"{role} {'' if port.folded else description.spec(port.ref)}".strip()
    return "<br>".join(_escaped(line) for line in (_marked(port), told) if line)


def _marked(made: Box | Port) -> str:
    named = cut(made.name if isinstance(made, Port) else titled(made).removeprefix(f"{made.group}/"), 120)
    return f"{made.mark} {named}" if made.mark else named


def _edges(description: Description) -> Iterator[str]:
    outputs = {port.id for port in description.outputs}
    for (source, target, state), refs in bundles(description).items():
        few = refs if len(refs) <= NAMES else refs[: NAMES - 1]
        named = [line for ref in few for line in (cut(description.shown(ref), 48), description.spec(ref)) if line]
        named += [f"and {len(refs) - len(few)} more"] if len(refs) > len(few) else []
        arrow = "-.->" if not refs or state in ("removed", "pruned") else "==>" if state == "added" else "-->"
        label = f'|"{"<br>".join(map(_escaped, named))}"|' if refs else "|after|"
        bare = target in outputs and all(description.shown(ref) == ref.name for ref in refs)
        yield f"  {source} {arrow}{'' if bare else label} {target}"


def _classes(description: Description) -> Iterator[str]:
    """Colours of the looks that occur; a plain processor has the page's."""
    shades = colors("light")
    for use in sorted({use_of(made, {}) for made in description.drawn} - {"processor"}):
        dash = ",stroke-dasharray:4" if use in ("removed", "pruned", "missing") else ""
        fill = shades.get(f"{use} fill", shades[use])
        yield f"  classDef {use} fill:{fill},stroke:{line_of(use, shades)},color:{shades['ink']}{dash}"


def _escaped(text: str) -> str:
    return printable(text).translate(_SPECIAL) or " "
