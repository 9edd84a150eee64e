"""What every benchmark shares: the machine it ran on, and the history it appends to."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

HISTORY = Path(__file__).with_name("history.jsonl")
PACKAGES = ("tensorflow", "tensorflow-cpu", "keras", "networkx", "numpy")


def append(benchmark: str, results: dict[str, Any], *, device: str | None = None) -> None:
    """One line of history: what was measured, on what, when, with which versions."""
    line = {
        "benchmark": benchmark,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": device or _processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": dict(filter(None, map(_version, PACKAGES))),
        "commit": _commit(),
        "results": results,
    }
    with HISTORY.open("a") as history:
        history.write(json.dumps(line) + "\n")


def table(rows: list[dict[str, Any]]) -> str:
    """Rows as a Markdown table."""
    head = list(rows[0])
    lines = [head, ["---"] * len(head), *([str(row[name]) for name in head] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _version(package: str) -> tuple[str, str] | None:
    try:
        return package, version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    command = ["git", "-C", str(HISTORY.parent), "rev-parse", "--short", "HEAD"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return found.stdout.strip() or None
