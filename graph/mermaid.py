"""Graphs as Mermaid text, which Markdown pages draw."""

from __future__ import annotations

from typing import TYPE_CHECKING

from experimentator.graph.text import in_order, printable, version

if TYPE_CHECKING:
    from experimentator.graph.dag import Graph

_SPECIAL = {ord(letter): f"#{ord(letter)};" for letter in '#"<>&`%\\'}  # they would start markup or directives


def to_mermaid(graph: Graph) -> str:
    """A flowchart with rounded inputs and outputs, a box per processor, names on the edges."""
    order = in_order(graph)
    sources = {name: f"in{place}" for place, name in enumerate(sorted(graph.inputs))}
    lines = ["flowchart TD", *(f"  {source}([{_text(name)}])" for name, source in sources.items())]
    lines += [f"  p{node.index}[{_text(node.described)}]" for node in order]
    for node in order:
        for ref in node.reads:
            writer = graph.writers.get(ref)
            tail = f"p{writer.index}" if writer else sources[ref.name]
            lines.append(f"  {tail} -->|{_text(version(graph, ref))}| p{node.index}")
        lines += [f"  p{earlier.index} -.->|after| p{node.index}" for earlier in graph.waits(node)]
    for place, (name, ref) in enumerate(sorted(graph.results.items())):
        writer = graph.writers.get(ref)
        lines.append(f"  {f'p{writer.index}' if writer else sources[ref.name]} --> out{place}([{_text(name)}])")
    return "\n".join(lines) + "\n"


def _text(text: str) -> str:
    return f'"{printable(text).translate(_SPECIAL) or " "}"'
