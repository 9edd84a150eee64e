"""What every benchmark shares: the machine it ran on, and the history it appends to."""

from __future__ import annotations

import json
import math
import os
import platform
import re
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from shutil import which
from typing import Any
from xml.sax.saxutils import escape

HISTORY = Path(__file__).with_name("history.jsonl")
PACKAGES = ("tensorflow", "tensorflow-cpu", "keras", "networkx", "numpy", "torch", "lightning", "jax", "optax")


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


def device() -> str:
    """What the benchmark ran on: the first GPU, else the processor and its cores."""
    found = subprocess.run(
        ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True, check=False
    ) if which("nvidia-smi") else None  # fmt: skip
    if found and found.returncode == 0:
        return found.stdout.splitlines()[0]
    return f"{_processor()}, {os.cpu_count()} cores"


def write(name: str, text: str) -> None:
    """A file under benchmarks/results/, in a folder named after the device."""
    folder = HISTORY.with_name("results") / re.sub(r"\W+", "-", device()).strip("-").lower()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text, "utf-8")


def chart(name: str, values: dict[str, float], *, title: str, highlight: str) -> None:
    """Horizontal bars on a logarithmic axis, longest first, as SVG."""
    width, row = 460, 22
    ordered = sorted(values.items(), key=lambda item: -item[1])
    low, high = math.log10(min(values.values()) / 2), math.log10(max(values.values()))
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="760" height="{len(ordered) * row + 40}" '
        'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="#fefefd"/>',
        f'<text x="10" y="20" font-weight="bold">{escape(title)} (logarithmic)</text>',
    ]
    for place, (who, value) in enumerate(ordered):
        top, length = 34 + place * row, width * (math.log10(value) - low) / (high - low)
        fill = "#0072b2" if who == highlight else "#b8c4ce"
        lines.append(f'<text x="190" y="{top + 12}" text-anchor="end">{escape(who)}</text>')
        lines.append(f'<rect x="198" y="{top}" width="{length:.0f}" height="16" fill="{fill}"/>')
        lines.append(f'<text x="{length + 204:.0f}" y="{top + 12}">{value:,.0f}</text>')
    write(name, "\n".join([*lines, "</svg>"]) + "\n")


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
