"""What stands in a box and on an edge, as Graphviz's HTML-like labels; and in full, where the mouse rests on it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from textwrap import wrap
from typing import TYPE_CHECKING

from experimentator.graph.description import MARKS
from experimentator.graph.text import cut, priced, printable, weighed

if TYPE_CHECKING:
    from experimentator.graph.description import Box, Description, Port
    from experimentator.graph.versions import Ref

WIDTH, SMALL = 30, 38  # letters in a line
LINES = 3  # of arguments, code or notes
NAMES = 4  # tensors on one edge
LISTED = 8  # members of a folded box
_PIECE = re.compile(r"[^\s(\[{=,/]*[(\[{=,/]*\s*")


def box_label(description: Description, box: Box, faint: str) -> str:
    """Name, arguments, code, what is known and what a view found."""
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
    """What tells the box from others of its kind, less the name that stands above it."""
    if box.folded:
        names = [within(member, box.group) for member in box.members]
        return ", ".join(names if len(names) <= LISTED else [*names[: LISTED // 2], "...", *names[-LISTED // 2 :]])
    if box.code and box.code.startswith("lambda"):
        return ""
    name = headed(box).partition("#")[0]
    if box.text.startswith(f"{name}(") and box.text.endswith(")"):
        return box.text[len(name) + 1 : -1]
    return "" if box.text == name else box.text.removesuffix("()")


def within(box: Box, group: str | None) -> str:
    """The name, less the group that is plain from where it stands."""
    return printable(box.name.removeprefix(f"{group}/").strip() or box.name)


def facts(description: Description, box: Box) -> Iterator[str]:
    """Modes, parameters, cost and status."""
    if box.mode != "ALL" and not any(note.startswith(box.mode) for note in box.notes):  # which says so too
        yield f"{box.mode} only"
    if box.deletes:
        yield f"deletes {', '.join(box.deletes)}"
    if box.trainable or box.frozen:
        yield f"{weighed(box)} parameters"
    if box.cost is not None:
        yield priced(box.cost, description.cost_unit)
    if box.status:
        yield {"ok": "✓ ", "failed": "✗ ", "warning": "! "}.get(box.health, "") + box.status


def box_tooltip(description: Description, box: Box) -> str:
    """All that is known, uncut."""
    lines = [f"#{box.index} {box.described}", *(f"{name} = {value}" for name, value in box.arguments)]
    lines += filter(None, [box.code, box.source])
    lines += [f"reads {', '.join(_named(description, box.reads))}"] if box.reads else []
    lines += [f"writes {', '.join(_named(description, box.writes))}"] if box.writes else []
    lines += [*facts(description, box), *box.notes]
    lines += [f"#{member.index} {member.described}" for member in box.members] if box.folded else []
    return "\n".join(map(printable, lines))


def edge_label(description: Description, refs: Sequence[Ref], faint: str, *, state: str = "") -> str:
    """Names, each with its shape below; what does not run has no versions."""
    few = refs if len(refs) <= NAMES else refs[: NAMES - 1]
    lines: list[str] = []
    for ref in few:
        name = ref.name if state == "pruned" else f"{MARKS.get(state, '')} {description.shown(ref)}".lstrip()
        lines.append(escaped(cut(name, 48)))
        if state != "pruned" and (spec := description.spec(ref)):
            lines.append(_font(escaped(spec), faint, size=8))
    lines += [f"and {len(refs) - len(few)} more"] if len(refs) > len(few) else []
    return f"<{'<BR/>'.join(f'&#160;{line}&#160;' for line in lines)}>"


def port_label(description: Description, port: Port, colors: Mapping[str, str]) -> str:
    """The name, and for what comes in its shape."""
    lines = _lines(f"{port.mark} {port.name}".strip() or " ", 4)
    if port.role == "missing":
        lines.append(_font("missing", colors["missing line"]))
    if spec := "" if port.folded else description.spec(port.ref):
        lines.append(_font(escaped(spec), colors["faint"]))
    return f"<{'<BR/>'.join(lines)}>"


def escaped(text: str) -> str:
    """Text within an HTML-like label; one of blanks alone keeps its place.

    >>> escaped("a<b & c")
    'a&lt;b &amp; c'
    """
    text = printable(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")
    return text if text.strip() else "&#160;"


def quoted(text: str) -> str:
    r"""A DOT string; `&` would start an entity, `\` an escape, and line ends stand as `\n`."""
    lines = [printable(line).replace("\\", "\\\\") for line in text.split("\n")]
    return '"' + "\\n".join(lines).replace('"', '\\"').replace("&", "&amp;") + '"'


def _named(description: Description, refs: Iterable[Ref]) -> list[str]:
    return [f"{description.shown(ref)} {description.spec(ref)}".rstrip() for ref in refs]


def _lines(text: str, most: int, width: int = WIDTH) -> list[str]:
    """Broken at blanks and behind brackets, commas and the like; what is left over is cut."""
    lines = [""]
    for piece in _PIECE.findall(printable(text)):
        for part in wrap(piece, width, drop_whitespace=False) or [piece]:
            if len(lines[-1] + part.rstrip()) > width:
                lines.append("")
            lines[-1] += part
    if len(lines) > most:
        lines = [*lines[: most - 1], cut(f"{lines[most - 1].rstrip()} ...", width)]
    return [escaped(line.strip()) for line in lines if line]


def _font(text: str, color: str, *, size: int = 9, face: str = "") -> str:
    named = f' FACE="{face}"' if face else ""
    return f'<FONT POINT-SIZE="{size}" COLOR="{color}"{named}>{text}</FONT>'
