"""The looks of boxes and ports (colours, outlines), and the legend that explains the looks that occur."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import inf
from typing import TYPE_CHECKING

from experimentator.graph.labels import escaped
from experimentator.graph.palette import HEATS
from experimentator.graph.text import priced

if TYPE_CHECKING:
    from experimentator.graph.description import Box, Description, Port

    Colors = Mapping[str, str]

_LINES = {"failed": "removed", "warning": "code line", "rewired": "changed"}
_WORDS = {
    "input": "input",
    "missing": "missing",
    "output": "output",
    "loss": "loss",
    "metric": "metric",
    "layer": "has parameters",
    "code": "code",
    "added": "+ added",
    "removed": "- removed",
    "changed": "~ changed or rewired",
    "pruned": "not run",
    "failed": "✗ failed",
    "warning": "! look here",
}
_IN_A_ROW = 6


def use_of(made: Box | Port, heats: Mapping[str, str]) -> str:
    """The use of a box or port, which names its colour: the most urgent thing known about it."""
    if made.state:
        return "changed" if made.state == "rewired" else made.state
    health = getattr(made, "health", "")
    if health in ("failed", "warning", "idle"):
        return "pruned" if health == "idle" else health
    if made.id in heats:
        return heats[made.id]
    if made.role != "processor":
        return made.role
    if getattr(made, "trainable", 0) or getattr(made, "frozen", 0) or getattr(made, "shares", ()):
        return "layer"
    return "code" if getattr(made, "code", None) else "processor"


def look(use: str, colors: Colors, *, shape: str = "box", dashed: bool = False, stacked: bool = False) -> str:
    """The DOT attributes of a box or port."""
    style = ["filled"] if shape == "ellipse" else ["rounded", "filled"]
    style += ["dotted"] if use == "pruned" else ["dashed"] if dashed or use in ("removed", "missing") else []
    width = 2.2 if use in ("added", "changed", "failed") else 1.6 if dashed else 1
    ink = f', fontcolor="{colors["pruned ink"]}"' if use == "pruned" else ""
    kind = "" if shape == "box" else f"shape={shape}, "
    extra = ", peripheries=2" if stacked else ""
    fill, line = colors.get(f"{use} fill") or colors[use], line_of(use, colors)
    return f'{kind}style="{",".join(style)}", fillcolor="{fill}", color="{line}", penwidth={width}{ink}{extra}'


def faint(use: str, colors: Colors) -> str:
    """The colour of small print, which must stand out from a strong fill."""
    strong = use in ("failed", "warning", "heat 2", "heat 3", "heat 4")
    return colors["ink" if strong else "pruned ink" if use == "pruned" else "faint"]


def line_of(use: str, colors: Colors) -> str:
    """The colour of the outline."""
    plain = colors["line"] if use == "processor" or use.startswith("heat") else colors[_LINES.get(use, use)]
    return colors.get(f"{use} line", plain)


def heat(description: Description) -> Mapping[str, str]:
    """The heat of each box with a cost, by its share of the highest."""
    costs = {box.id: box.cost for box in description.boxes if box.cost is not None and 0 <= box.cost < inf}
    top = max(costs.values(), default=0)
    return {name: f"heat {min(HEATS - 1, int(HEATS * cost / top))}" for name, cost in costs.items()} if top > 0 else {}


def legend(description: Description, colors: Colors) -> str:
    """Title, and a square with words for each look that occurs, as an HTML-like label."""
    entries = [f'<FONT COLOR="{color}">■</FONT> {escaped(words)}' for color, words in _squares(description, colors)]
    entries += _scale(description, colors)
    entries += [escaped(words) for words in _lines(description)]
    rows = ["&#160;&#160;&#160;".join(entries[at : at + _IN_A_ROW]) for at in range(0, len(entries), _IN_A_ROW)]
    small = "".join(f'<FONT POINT-SIZE="10">{row}</FONT><BR ALIGN="LEFT"/>' for row in rows)
    return f'<<B>{escaped(description.headline)}</B><BR ALIGN="LEFT"/>{small}>'


def _squares(description: Description, colors: Colors) -> Iterator[tuple[str, str]]:
    heats = heat(description)
    used = {use_of(made, heats) for made in description.drawn}
    for use, words in _WORDS.items():
        if use in used:
            yield line_of(use, colors), words


def _scale(description: Description, colors: Colors) -> Iterator[str]:
    """The colours from no cost to the highest one."""
    if heat(description):
        top = max(box.cost for box in description.boxes if box.cost is not None and box.cost < inf)
        squares = [f'<FONT COLOR="{colors[f"heat {step}"]}">■</FONT>' for step in range(1, HEATS)]
        yield f"0 {''.join(squares)} {escaped(priced(top))}"


def _lines(description: Description) -> Iterator[str]:
    if any(box.mode != "ALL" for box in description.boxes):
        yield "- - - not in every mode"
    if any(box.folded for box in description.boxes):
        yield "▣ several as one"
