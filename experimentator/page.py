"""Pages for the browser: one HTML file each, which needs no other file and no network.

The templates and their scripts lie in `pages/`; here they are filled with drawings, and values as JSON.
"""

from __future__ import annotations

import json
import re
import webbrowser
from collections.abc import Callable, Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from experimentator.graph import Description, to_json
from experimentator.graph.palette import colors

_PART = re.compile(r"<!-- (head|title|colors|drawings) -->|/\* (data) \*/\[\]")
_NODE = re.compile(r'(<g id="node\d+" class="node")>\n<title>([a-z]+\d+)(?:_\w+)?</title>')
_EDGE = re.compile(r'(<g id="edge\d+" class="edge")>\n<title>([a-z]+\d+)(?:_\w+)?&#45;&gt;([a-z]+\d+)</title>')

Drawing = tuple[Description, str]  # a description, and its SVG as `named` made it


def filled(name: str, *, title: str, data: Any, drawings: str = "", theme: str = "auto") -> str:
    """The page of that name: `data` are JSON values that its script reads; they are escaped, so none becomes markup.

    >>> "<title>a &lt; b</title>" in filled("runs", title="a < b", data={"runs": [], "charts": []})
    True
    """
    parts = {
        "title": escape(title),
        "colors": _colors(theme),
        "drawings": drawings,
        "data": json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", r"\u003c"),
    }

    def put(name: str) -> str:
        text = files("experimentator").joinpath("pages", f"{name}.html").read_text(encoding="utf-8")
        return _PART.sub(lambda part: parts[part[1] or part[2]], text)

    parts["head"] = put("head")
    return put(name)


def named(svg: str) -> str:
    """Graphviz' SVG, with the ids of boxes and edges as `data-` attributes for scripts."""
    return _EDGE.sub(r'\1 data-source="\2" data-target="\3">', _NODE.sub(r'\1 data-box="\2">', svg))


def of_graphs(views: Mapping[str, Sequence[Drawing]], *, theme: str = "auto") -> str:
    """The page of graphs, by the labels of their buttons: each has one drawing, or a folded and an unfolded one."""
    title = " ".join(next(iter(views.values()))[0][0].headline.split())
    listed = [
        {"label": label, "drawings": [json.loads(to_json(description)) for description, _ in drawings]}
        for label, drawings in views.items()
    ]
    places = [
        f'<div class="drawing" data-view="{view}" data-drawing="{number}">\n{svg[svg.index("<svg") :]}</div>'
        for view, drawings in enumerate(views.values())
        for number, (_, svg) in enumerate(drawings)
    ]
    return filled("graph", title=title, data=listed, drawings="\n".join(places), theme=theme)


def look_at(path: str, told: Callable[[str], Any]) -> None:
    """Open a file in a browser; if there is none, `told` is called with what to do."""
    if not webbrowser.open(Path(path).resolve().as_uri()):
        told(f"No browser could be started here. Open it in yours: {path}")


def _colors(theme: str) -> str:
    """The palette as CSS variables."""

    def rule(name: str) -> str:
        each = [f"--{use.replace(' ', '-')}: {color};" for use, color in colors(name).items()]
        return f":root {{ color-scheme: {name}; {' '.join(each)} }}"

    if theme != "auto":
        return rule(theme)
    return f"{rule('light')}\n@media (prefers-color-scheme: dark) {{ {rule('dark')} }}"
