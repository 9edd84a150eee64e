"""Pictures of graphs. The only module that uses Graphviz, which runs in a process of its own that can be killed."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from experimentator.checkpoint import write_atomically
from experimentator.graph import (
    Description,
    Graph,
    style_sheet,
    to_dot,
    to_json,
    to_mermaid,
    to_model_explorer,
    tree,
)
from experimentator.graph.folding import folded
from experimentator.page import named, of_graphs

log = logging.getLogger(__name__)

DRAWN = ("svg", "png", "pdf")
TIMEOUT = 60.0
UNFOLDED_TO = 400  # edges; a page holds a larger graph folded only

_MISSING = 87  # the exit status if pygraphviz cannot be imported
# Wheels for Linux hold Graphviz, but not GLib and X11, which the smallest images lack; this brings both, and fonts.
_ITS_LIBRARIES = "apt-get install libpangocairo-1.0-0 (Fedora: dnf install pango)"
_CHILD = f"""
import sys
try:
    from pygraphviz import AGraph
except ImportError as error:
    print(error, file=sys.stderr)
    sys.exit({_MISSING})
try:
    picture = AGraph(string=sys.stdin.buffer.read().decode()).draw(format=sys.argv[1], prog="dot")
except Exception as error:
    sys.exit(str(error))  # Graphviz itself has said more
sys.stdout.buffer.write(picture)
"""


class DiagramError(RuntimeError):
    """A picture that cannot be made: what is wrong, what was seen, what to write."""

    def __init__(self, wrong: str, seen: str, write: str):
        super().__init__(f"{wrong}\nSeen: {seen}.\n{write}")


def draw(dot: str, format: str, *, timeout: float = TIMEOUT) -> bytes:
    """The picture of a DOT text, as `svg`, `png` or `pdf`; no `dot` command is needed.

    >>> draw("digraph { a -> b }", "pdf")[:4]
    b'%PDF'

    Raises:
        DiagramError: when Graphviz is not installed, fails, or takes longer than `timeout` seconds.
    """
    if format not in DRAWN:
        raise DiagramError("There is no such picture format.", repr(format), f"Write one of: {', '.join(DRAWN)}.")
    command = [sys.executable, "-P", "-c", _CHILD, format]  # -P: ignore a pygraphviz.py in the current folder
    try:
        done = subprocess.run(command, input=dot.encode(), capture_output=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        raise _too_slow(dot, timeout) from None
    said = done.stderr.decode(errors="replace").strip()
    if done.returncode:
        raise _failed(done.returncode, said)
    if said:
        log.debug("Graphviz said: %s", said)
    return done.stdout


def picture(
    drawn: Graph | Description,
    format: str = "svg",
    *,
    timeout: float = TIMEOUT,
    theme: str = "auto",
    fold: bool | None = None,
) -> bytes:
    """The picture of a graph, or of a view of one; an SVG has tooltips.

    `theme` is light, dark or auto: then an SVG follows the reader's colour scheme, and other formats are light. `fold`
    draws chains and rows of equal processors as one box each; by default where there are many processors.

    >>> from experimentator.graph import chunk_processor
    >>> graph = Graph([chunk_processor(inputs=["x"], outputs=["loss"])(lambda x: x)], provided={"x"})
    >>> b"prefers-color-scheme" in picture(graph)
    True
    """
    data = draw(_dot(_described(drawn), theme, fold), format, timeout=timeout)
    return _finished(data.decode(), styled=theme == "auto").encode() if format == "svg" else data


def page(
    views: Mapping[str, Graph | Description],
    *,
    timeout: float = TIMEOUT,
    theme: str = "auto",
    fold: bool | None = None,
) -> str:
    """The text of an HTML page of graphs, or views of them; keys are the labels of the buttons that show them.

    A click on a box highlights what it depends on and what depends on it, and shows its details. The page needs no
    other file and no network. A folded graph can be unfolded there, unless it is very large.

    >>> from experimentator.graph import chunk_processor
    >>> graph = Graph([chunk_processor(inputs=["x"], outputs=["loss"])(lambda x: x)], provided={"x"})
    >>> page({"training": graph}).count('data-box="p0"')
    1
    """
    if not views:
        raise DiagramError("A page needs something to show.", "no views", 'Write page({"training": graph}).')

    def drawing(description: Description) -> tuple[Description, str]:
        svg = named(draw(_dot(description, theme, fold=False), "svg", timeout=timeout).decode())
        return description, _finished(svg, styled=theme == "auto")

    drawings = {}
    for label, drawn in views.items():
        whole = _described(drawn)
        shown = [folded(whole, fold)]
        if shown[0] != whole and len(whole.edges) <= UNFOLDED_TO:
            shown.append(whole)
        drawings[label] = [drawing(one) for one in shown]
    return of_graphs(drawings, theme=theme)


def save(
    drawn: Graph | Description,
    path: str | os.PathLike[str],
    *,
    timeout: float = TIMEOUT,
    theme: str = "auto",
    fold: bool | None = None,
) -> None:
    """Write a graph, or a view of one, in the format of the file's suffix.

    svg, png and pdf are drawn, html is an interactive page; dot, gv, mmd (Mermaid), md (Mermaid for a Markdown
    page), txt, json (`from_json` reads it back) and model-explorer.json (for Google's Model Explorer) are text.

    >>> import tempfile
    >>> from experimentator.graph import chunk_processor
    >>> graph = Graph([chunk_processor(inputs=["x"], outputs=["loss"])(lambda x: x)], provided={"x"})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(graph, f"{folder}/graph.mmd")
    ...     print(Path(folder, "graph.mmd").read_text().splitlines()[1])
    title: "ALL: 1 processor, x -> loss"
    """
    format, description = check_suffix(path), _described(drawn)
    if format in DRAWN:
        data = picture(description, format, timeout=timeout, theme=theme, fold=fold)
    elif format == "html":
        data = page({description.mode: description}, timeout=timeout, theme=theme, fold=fold).encode()
    elif format in ("dot", "gv"):
        data = _dot(description, theme, fold).encode()
    elif format in ("mmd", "md"):
        text = to_mermaid(description, fold=fold)
        data = (text if format == "mmd" else f"```mermaid\n{text}```\n").encode()
    else:
        data = WRITTEN[format](description).encode()
    write_atomically(Path(path), data)


def check_suffix(path: str | os.PathLike[str]) -> str:
    """The format that a file's suffix asks for.

    >>> check_suffix("pipeline.SVG"), check_suffix("pipeline.model-explorer.json")
    ('svg', 'model-explorer.json')
    """
    name = Path(path).name.lower()
    format = next((known for known in _KNOWN if name.endswith(f".{known}") and name != f".{known}"), None)
    if format is None:
        suffix = Path(path).suffix
        raise DiagramError(
            f"No diagram format belongs to the suffix of {os.fspath(path)!r}.",
            repr(suffix) if suffix else "no suffix",
            f"End the file's name in one of: {', '.join(f'.{known}' for known in _KNOWN)}.",
        )
    return format


def _described(drawn: Graph | Description) -> Description:
    return drawn if isinstance(drawn, Description) else drawn.described()


def _dot(description: Description, theme: str, fold: bool | None) -> str:
    """The DOT text; light where `theme` is auto, since only an SVG can follow the reader's colour scheme."""
    return to_dot(description, theme="light" if theme == "auto" else theme, fold=fold)


def _text(description: Description) -> str:
    """The table, and the same as a tree."""
    return f"{description}\n\n{tree(description).partition(chr(10))[2]}\n"


WRITTEN: Mapping[str, Callable[[Description], str]] = {
    "txt": _text,
    "model-explorer.json": to_model_explorer,
    "json": to_json,
}
_KNOWN = (*DRAWN, "html", "dot", "gv", "mmd", "md", *WRITTEN)


def _finished(svg: str, *, styled: bool) -> str:
    """Graphviz' SVG, adapted to browsers.

    Tooltips become titles, which every browser shows (Graphviz writes links that lead nowhere, and ids). If `styled`,
    colours follow the reader's colour scheme. Lines of text in boxes are anchored at their middle: Graphviz computes
    their start for the fonts of this machine only.
    """
    svg = re.sub(r'(<g id="(?:node|edge|clust)\d+" class="\w+">)\n<title>.*?</title>', r"\1", svg)
    svg = re.sub(r'<a xlink:title="([^"]*)">', r"<g><title>\1</title>", svg.replace("</a>", "</g>"))
    svg = svg.replace("<title> </title>", "").replace("<g><title>&#160;</title>", "<g>")
    svg = re.sub(r"<text [^>]*>\s*</text>\n", "", svg)
    svg = re.sub(r'<g id="node\d+" class="node"[^>]*>.*?\n</g>\n(?=<|$)', _centred, svg, flags=re.DOTALL)
    return re.sub(r"(<svg[^>]*>)", rf"\1\n<style>{style_sheet()}</style>", svg, count=1) if styled else svg


def _centred(node: re.Match[str]) -> str:
    """The SVG of a box or ellipse, with its lines of text centered."""
    outline = re.search(r' d="([^"]*)"', node[0])
    ellipse = re.search(r' cx="([^"]*)"', node[0])
    if outline:
        across = [float(pair.partition(",")[0]) for pair in re.findall(r"-?[\d.]+,-?[\d.]+", outline[1])]
        middle = f"{(min(across) + max(across)) / 2:.2f}"
    elif ellipse:
        middle = ellipse[1]
    else:
        return node[0]
    return re.sub(r'text-anchor="start" x="[^"]*"', f'text-anchor="middle" x="{middle}"', node[0])


def _too_slow(dot: str, timeout: float) -> DiagramError:
    edges = dot.count(" -> ")
    return DiagramError(
        f"Graphviz did not finish this picture within {timeout:g} s.",
        f"a graph of {edges} edges",
        "Draw less of it (graph.select(name), on the command line --for name), or write .txt, .dot or .mmd instead.",
    )


def _failed(status: int, said: str) -> DiagramError:
    seen = "; ".join(said.splitlines()[-3:]).rstrip(".") or "no message"
    if status == _MISSING:
        command = _ITS_LIBRARIES if "shared object file" in seen else 'pip install "pygraphviz>=2"'
        write = f"Type: {command}. Or write .txt, .dot or .mmd, which need nothing."
        return DiagramError("Pictures need pygraphviz, which cannot be imported.", seen, write)
    ended = f"{seen} (exit status {status})"
    return DiagramError("Graphviz cannot draw this graph.", ended, "Write .dot and look at the line it names.")
