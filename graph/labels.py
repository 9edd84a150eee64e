"""Labels of boxes, edges and ports in Graphviz's HTML-like markup, and the full text of tooltips."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from textwrap import wrap
from typing import TYPE_CHECKING

from experimentator.graph.description import MARKS
from experimentator.graph.text import cut, priced, printable, weighed

if TYPE_CHECKING:
    from experimentator.graph.description import Box, Description, Port
    from experimentator.graph.versions import Ref

WIDTH, SMALL = 30, 38  # characters in a line
LINES = 3  # of arguments, code or notes
NAMES = 4  # tensors on one edge
LISTED = 8  # members of a folded box
TOLD = 40  # the same in a tooltip
TIP = 4000  # characters of a tooltip; Graphviz reads no string of 16,384
_PIECE = re.compile(r"[^\s(\[{=,/]*[(\[{=,/]*\s*")


def box_label(description: Description, box: Box, faint: str) -> str:
    """Name, arguments, code, facts (parameters, cost, status) and a view's notes."""
    head = f"{box.mark} {headed(box) or 'lambda'}" if box.mark else headed(box)
    lines = [f"<B>{line}</B>" for line in _lines(head, 2)]
    lines += [f'<FONT POINT-SIZE="10">{line}</FONT>' for line in _lines(arguments(box), LINES)]
    lines += [_font(line, faint, face="Courier") for line in _lines(box.code or "", LINES, SMALL)]
    lines += [_font(line, faint) for fact in facts(description, box) for line in _lines(fact, LINES, SMALL)]
    lines += [_font(line, faint) for note in box.notes for line in _lines(note, LINES, SMALL)]
    return f"<{'<BR/>'.join(lines)}>"


def headed(box: Box) -> str:
    """The name without its group, or what a folded box stands for; nothing for a lambda, whose code says all."""
    if box.folded:
        count = len(box.members)
        return f"{box.label + ': ' if box.label else ''}{count} processor{'s' * (count > 1)}"
    return "" if box.code and box.code.startswith("lambda") and not box.label else within(box, box.group)


def arguments(box: Box) -> str:
    """The arguments without the name, which stands above them; for a folded box, its members."""
    if box.folded:
        around = "/".join(filter(None, (box.group, box.label)))
        names = [within(member, around) for member in box.members]
        if len(names) <= LISTED:
            return ", ".join(names)
        kinds = Counter([member.kind for member in box.members]).most_common()
        counted = [f"{count}×{kind}" for kind, count in kinds[:LISTED]]
        return f"{cut(names[0], WIDTH)} ... {cut(names[-1], WIDTH)}: {', '.join(counted)}"
    if box.code and box.code.startswith("lambda"):
        return ""
    name = headed(box).partition("#")[0]
    if box.text.startswith(f"{name}(") and box.text.endswith(")"):
        return box.text[len(name) + 1 : -1]
    return "" if box.text == name else box.text.removesuffix("()")


def within(box: Box, group: str | None) -> str:
    """The name, less the group in whose frame it stands."""
    return printable(box.name.removeprefix(f"{group}/").strip() or box.name)


def facts(description: Description, box: Box) -> Iterator[str]:
    """Modes, parameters, cost and status."""
    if box.mode != "ALL" and not any(note.startswith(box.mode) for note in box.notes):  # a note says so already
        yield f"{box.mode} only"
    if box.deletes:
        yield f"deletes {', '.join(box.deletes)}"
    if box.trainable or box.frozen:
        own = weighed(replace(box, shares=()))
        count = (box.trainable or 0) + (box.frozen or 0)
        yield own if box.trainable and box.frozen else f"{own} parameter{'s' * (count != 1)}"
    if box.shares:
        yield f"parameters of {' and '.join(box.shares)}"
    if box.cost is not None:
        yield priced(box.cost)
    if box.status:
        yield {"ok": "✓ ", "failed": "✗ ", "warning": "! "}.get(box.health, "") + box.status


def box_tooltip(description: Description, box: Box) -> str:
    """All that is known, uncut."""
    lines = [f"#{box.index} {box.described}", *(f"{name} = {value}" for name, value in box.arguments)]
    lines += filter(None, [box.code, box.source])
    lines += [f"reads {', '.join(map(description.told, box.reads))}"] if box.reads else []
    lines += [f"writes {', '.join(map(description.told, box.writes))}"] if box.writes else []
    lines += [*facts(description, box), *box.notes]
    lines += [f"#{member.index} {member.described}" for member in box.members[:TOLD]] if box.folded else []
    lines += [f"and {len(box.members) - TOLD} more"] if len(box.members) > TOLD else []
    return cut("\n".join(map(printable, lines)), TIP)


def edge_label(description: Description, refs: Sequence[Ref], faint: str, *, state: str = "") -> str:
    """Names, each with its shape below; names alone where the edge is pruned.

    Lines are aligned left, beside the edge: how wide they are depends on the fonts of the reader who opens an SVG.
    """
    few = refs if len(refs) <= NAMES else refs[: NAMES - 1]
    lines: list[str] = []
    for ref in few:
        name = ref.name if state == "pruned" else f"{MARKS.get(state, '')} {description.shown(ref)}".lstrip()
        lines.append(f"&#160;{escaped(cut(name, 48))}&#160;")
        if state != "pruned" and (spec := description.spec(ref)):
            lines.append(_font(f"&#160;{escaped(cut(spec, 48))}", faint, size=8))
    lines += [f"&#160;and {len(refs) - len(few)} more&#160;"] if len(refs) > len(few) else []
    left = '<BR ALIGN="LEFT"/>'
    return f"<{left.join([*lines, '']) if len(lines) > 1 else lines[0]}>"


def port_label(description: Description, port: Port, colors: Mapping[str, str]) -> str:
    """The name, and its shape."""
    lines = _lines(f"{port.mark} {port.name}".strip() or " ", 4)
    if port.role == "missing":
        lines.append(_font("missing", colors["missing line"]))
    if spec := "" if port.folded else description.spec(port.ref):
        lines.append(_font(escaped(cut(spec, SMALL)), colors["pruned ink" if port.state == "pruned" else "faint"]))
    return f"<{'<BR/>'.join(lines)}>"


def escaped(text: str) -> str:
    """Text for an HTML-like label; a blank text becomes a space that keeps its place.

    >>> escaped("a<b & c")
    'a&lt;b &amp; c'
    """
    text = printable(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")
    return text if text.strip() else "&#160;"


def quoted(text: str) -> str:
    r"""A DOT string; `&` would start an entity, `\` an escape, and line ends stand as `\n`."""
    lines = [printable(line).replace("\\", "\\\\") for line in text.split("\n")]
    return '"' + "\\n".join(lines).replace('"', '\\"').replace("&", "&amp;") + '"'


def broken(text: str, most: int, width: int = WIDTH) -> list[str]:
    """Text in at most `most` lines, broken at blanks and behind brackets, commas, `=` and `/`; the rest is cut off.

    >>> broken("Scale(scale=255.0, output='scaled')", 3, 18)
    ['Scale(scale=255.0,', "output='scaled')"]
    """
    lines = [""]
    for piece in _PIECE.findall(printable(text)):
        for part in wrap(piece, width, drop_whitespace=False) or [piece]:
            if len(lines[-1] + part.rstrip()) > width:
                lines.append("")
            lines[-1] += part
    if len(lines) > most:
        lines = [*lines[: most - 1], cut(f"{lines[most - 1].rstrip()} ...", width)]
    return [line.strip() for line in lines if line]


def _lines(text: str, most: int, width: int = WIDTH) -> list[str]:
    return [escaped(line) for line in broken(text, most, width)]


def _font(text: str, color: str, *, size: int = 9, face: str = "") -> str:
    """Small print, with a higher blank behind it: Graphviz would let it touch the line above."""
    named = f' FACE="{face}"' if face else ""
    air = f'<FONT POINT-SIZE="{size + 2}">&#160;</FONT>'
    return f'<FONT POINT-SIZE="{size}" COLOR="{color}"{named}>{text}</FONT>{air}'
