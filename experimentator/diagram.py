"""Pictures of graphs; the only room that knows Graphviz, which runs in a process of its own that can be killed."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from experimentator.checkpoint import write_atomically

if TYPE_CHECKING:
    from experimentator.graph import Graph

log = logging.getLogger(__name__)

DRAWN = ("svg", "png", "pdf")
WRITTEN = ("dot", "mmd", "txt")
TIMEOUT = 60.0

_MISSING = 87  # the exit status that says pygraphviz is not there, or does not load
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


def svg(dot: str, *, timeout: float = TIMEOUT) -> str:
    """The picture of a DOT text, as SVG text.

    >>> svg("digraph { a -> b }").count('class="node"')
    2
    """
    return draw(dot, "svg", timeout=timeout).decode()


def draw(dot: str, format: str, *, timeout: float = TIMEOUT) -> bytes:
    """The picture of a DOT text, as `svg`, `png` or `pdf`; no `dot` command is needed.

    >>> draw("digraph { a -> b }", "pdf")[:4]
    b'%PDF'

    Raises:
        DiagramError: when Graphviz is not installed, fails, or takes longer than `timeout` seconds.
    """
    if format not in DRAWN:
        raise DiagramError("There is no such picture format.", repr(format), f"Write one of: {', '.join(DRAWN)}.")
    command = [sys.executable, "-P", "-c", _CHILD, format]  # -P: no pygraphviz.py of the current folder
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


def save(graph: Graph, path: str | os.PathLike[str], *, timeout: float = TIMEOUT) -> None:
    """Write a graph as its file's suffix says: drawn (svg, png, pdf) or as text (dot, mmd for Mermaid, txt).

    >>> import tempfile
    >>> from experimentator.graph import Graph, chunk_processor
    >>> graph = Graph([chunk_processor(inputs=["x"], outputs=["loss"])(lambda x: x)], provided={"x"})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(graph, f"{folder}/graph.mmd")
    ...     print(Path(folder, "graph.mmd").read_text().splitlines()[0])
    flowchart TD
    """
    format = check_suffix(path)
    if format in DRAWN:
        data = draw(graph.to_dot(), format, timeout=timeout)
    else:
        data = _text(graph, format).encode()
    write_atomically(Path(path), data)


def check_suffix(path: str | os.PathLike[str]) -> str:
    """The format that a file's suffix asks for.

    >>> check_suffix("pipeline.SVG")
    'svg'
    """
    format = Path(path).suffix.removeprefix(".").lower()
    if format not in (*DRAWN, *WRITTEN):
        raise DiagramError(
            f"No diagram format belongs to the suffix of {os.fspath(path)!r}.",
            repr(Path(path).suffix) if format else "no suffix",
            f"End the file's name in one of: {', '.join(f'.{known}' for known in (*DRAWN, *WRITTEN))}.",
        )
    return format


def _text(graph: Graph, format: str) -> str:
    return {"dot": graph.to_dot, "mmd": graph.to_mermaid}.get(format, lambda: f"{graph}\n")()


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
        return DiagramError(
            "Pictures need pygraphviz, which cannot be imported.",
            seen,
            'Type: pip install "pygraphviz>=2". Or write .txt, .dot or .mmd, which need nothing.',
        )
    ended = f"{seen} (exit status {status})"
    return DiagramError("Graphviz cannot draw this graph.", ended, "Write .dot and look at the line it names.")
