"""List the ready parts in `docs/parts.md`, from their own docstrings: a table behind each of the page's marks.

Command:  python docs/list.py [PAGE]      (default: parts.md beside this file)
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
    known = {name: getattr(experimentator, name) for name in experimentator.__all__ if not name.startswith("_")}
    known |= {f"ops.{name}": getattr(ops, name) for name in ops.__all__}

    def table(mark: re.Match[str]) -> str:
        rows = [row(name, part) for name, part in known.items() if section(part) == mark[1]]
        return "\n".join([f"<!-- {mark[1]} -->", "| | |", "|---|---|", *rows, ""])

    return re.sub(r"<!-- (\w+) -->\n(?:\|.*\n)*", table, page)


if __name__ == "__main__":
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "parts.md"
    path.write_text(listed(path.read_text("utf-8")), "utf-8")
