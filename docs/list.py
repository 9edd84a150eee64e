"""List what is public: in `docs/parts.md`, from docstrings, a table behind each of the page's marks; and for editors.

Editors and type checkers cannot see names that are loaded when first used: `experimentator/__init__.pyi` tells them.

Command:  python docs/list.py [PAGE STUB]      (default: those two files)
"""

from __future__ import annotations

import inspect
import os
import re
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import experimentator
from experimentator import ops

HERE = Path(__file__).resolve().parent
HOMES = {
    "experimentator.ops": "ops",
    "experimentator.callbacks": "callbacks",
    "experimentator.data": "data",
    "experimentator.subset": "data",
    "experimentator.trackers": "trackers",
}


def section(part: Any) -> str:
    """Where a part is listed."""
    if inspect.isclass(part) and issubclass(part, Exception):
        return "errors"
    return next((name for start, name in HOMES.items() if part.__module__.startswith(start)), "experiments")


def row(name: str, part: Any) -> str:
    """Its name, and the first paragraph of its docstring; of a second name, which is the first."""
    if part.__name__ != name.removeprefix("ops."):
        return f"| `{name}` | `{part.__name__}`, as earlier versions called it. |"
    text = " ".join((inspect.getdoc(part) or "").split("\n\n")[0].split())
    return f"| `{name}` | {text.replace('|', chr(92) + '|')} |"


def listed(page: str) -> str:
    """The page, with what is public now."""
    known = {name: getattr(experimentator, name) for name in sorted(experimentator._HOME) if not name.startswith("_")}
    known |= {f"ops.{name}": getattr(ops, name) for name in ops.__all__}

    def table(mark: re.Match[str]) -> str:
        rows = [row(name, part) for name, part in known.items() if section(part) == mark[1]]
        return "\n".join([f"<!-- {mark[1]} -->", "| | |", "|---|---|", *rows, ""])

    return re.sub(r"<!-- (\w+) -->\n(?:\|.*\n)*", table, page)


def stub() -> str:
    """The top-level names and where they live, as imports that editors and type checkers read."""
    lines = ['"""For editors and type checkers: written by docs/list.py from __init__.py."""', ""]
    lines += ["from experimentator import graph as graph", "from experimentator import ops as ops"]
    homes = sorted((home, name) for name, home in experimentator._HOME.items())
    lines += [f"from {home} import {name} as {name}" for home, name in homes]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    given = [Path(path) for path in sys.argv[1:]]
    parts, typed = given or [HERE / "parts.md", HERE.parent / "experimentator" / "__init__.pyi"]
    parts.write_text(listed(parts.read_text("utf-8")), "utf-8")
    typed.write_text(stub(), "utf-8")
