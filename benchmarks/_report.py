"""What every benchmark shares: the machine it ran on, the history it appends to, and the page it is on."""

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

PACKAGES = (
    *("tensorflow", "tensorflow-cpu", "keras", "networkx", "numpy", "mlworkflow", "torch", "lightning", "jax", "optax"),
    *("grain", "pipefunc", "sf-hamilton", "tensordict"),
)
TRIAL = "EXPERIMENTATOR_RESULTS"  # in the environment: another folder for history and results, which keeps nothing here


def publish(name: str, results: dict[str, Any], text: str, *, bars: dict[str, dict[str, float]], quick: bool) -> None:
    """Print a table; and unless this was a quick check, add a line of history, and the table and a chart to the page.

    `bars` holds numbers by name for each chart, by its title. A trial run has a page of quick checks, too.
    """
    print(f"\n{text}", flush=True)
    if quick and TRIAL not in os.environ:
        return
    append(name, results)
    folder = results_folder()
    pictures = []
    for title, values in bars.items():
        if not values:
            continue
        file = f"{re.sub(r'[^a-z0-9]+', '-', title.lower()).strip('-')}.svg"
        (folder / file).write_text(chart(values, title=title), "utf-8")
        pictures.append(f"![{title}]({file})\n")
    text += f"\nMeasured on {datetime.now(UTC).date()}{_busy()}.\n"
    (folder / f"{name}.md").write_text("\n".join([text, "", *pictures]), "utf-8")
    join(folder)


def append(benchmark: str, results: dict[str, Any]) -> None:
    """One line of history: what was measured, on what, when, with which versions."""
    line = {
        "benchmark": benchmark,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": gpu() or _processor(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "versions": dict(filter(None, map(_version, PACKAGES))),
        "commit": _commit(),
        "results": results,
    }
    with (_place() / "history.jsonl").open("a") as history:
        history.write(json.dumps(line) + "\n")


def latest() -> dict[str, dict[str, Any]]:
    """The newest line of history of each benchmark on this device."""
    history = _place() / "history.jsonl"
    lines = history.read_text("utf-8").splitlines() if history.exists() else []
    found = map(json.loads, lines)
    return {line["benchmark"]: line for line in found if line["device"] == (gpu() or _processor())}


def table(rows: list[dict[str, Any]]) -> str:
    """Rows as a Markdown table."""
    head = list(rows[0])
    lines = [head, ["---"] * len(head), *([str(row[name]) for name in head] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def gpu() -> str | None:
    """The first GPU by name; None without one."""
    return next(iter(_nvidia("--query-gpu=name", "--format=csv,noheader")), None)


def gpu_memory() -> dict[int, dict[str, int]]:
    """MiB of a GPU that each process holds, by process id: allocators keep what they once took."""
    lines = _nvidia("--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits")
    pairs = (line.replace(" ", "").split(",") for line in lines)
    return {int(pid): {"gpu_mib": int(used)} for pid, used in pairs if pid.isdigit() and used.isdigit()}


def gpu_details() -> str:
    """Memory, driver, and the CUDA that it knows, of the first GPU."""
    found = _nvidia("--query-gpu=memory.total,driver_version", "--format=csv,noheader")
    if not found:
        return ""
    memory, _, driver = found[0].partition(", ")
    cuda = re.search(r"CUDA[^:]*Version: *([0-9.]+)", "\n".join(_nvidia()))
    return f" ({memory}, driver {driver}{f', CUDA {cuda[1]}' if cuda else ''})"


def _nvidia(*words: str) -> list[str]:
    """The lines that nvidia-smi prints; none where it is missing or finds no GPU."""
    if not which("nvidia-smi"):
        return []
    found = subprocess.run(["nvidia-smi", *words], capture_output=True, text=True, check=False)
    return [line.strip() for line in found.stdout.splitlines() if line.strip()] if found.returncode == 0 else []


def device() -> str:
    """What the benchmark ran on: the first GPU, else the processor and its cores."""
    return gpu() or f"{_processor()}, {os.cpu_count()} cores"


def results_folder() -> Path:
    """Where the page of this machine is: benchmarks/results/, in a folder named after the device."""
    folder = _place() / "results" / re.sub(r"\W+", "-", device()).strip("-").lower()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def machine() -> str:
    """The machine and the versions, in Markdown."""
    versions = ", ".join(f"{name} {number}" for name, number in filter(None, map(_version, PACKAGES)))
    return f"{device()}{gpu_details()}, Python {platform.python_version()}, {versions}, commit {_commit()}."


def chart(values: dict[str, float], *, title: str) -> str:
    """Horizontal bars on a logarithmic axis, longest first, as SVG; ours are blue."""
    width, row, left = 460, 22, max(190, 10 + 13 * max(map(len, values)) // 2)
    ordered = sorted(values.items(), key=lambda item: -item[1])
    low, high = math.log10(min(values.values()) / 2), math.log10(max(values.values()))
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + 570}" height="{len(ordered) * row + 40}" '
        'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="#fefefd"/>',
        f'<text x="10" y="20" font-weight="bold">{escape(title)} (logarithmic)</text>',
    ]
    for place, (who, value) in enumerate(ordered):
        top, length = 34 + place * row, width * (math.log10(value) - low) / (high - low)
        fill = "#0072b2" if who.startswith("experimentator") else "#b8c4ce"
        lines.append(f'<text x="{left}" y="{top + 12}" text-anchor="end">{escape(who)}</text>')
        lines.append(f'<rect x="{left + 8}" y="{top}" width="{length:.0f}" height="16" fill="{fill}"/>')
        shown = f"{value:,.0f}" if value >= 10 else f"{value:.2f}"
        lines.append(f'<text x="{left + 14 + length:.0f}" y="{top + 12}">{shown}</text>')
    return "\n".join([*lines, "</svg>"]) + "\n"


def _busy() -> str:
    """What else the machine was doing: figures of a busy one are to be taken with salt, ratios less so."""
    load, cores = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0, os.cpu_count() or 1
    return f" on a busy machine, of load {load:.0f} on {cores} cores" if load > 2 * cores else ""


def _place() -> Path:
    """Where history and results are; a trial run, whose figures are not kept, names another folder."""
    place = Path(os.environ.get(TRIAL) or Path(__file__).parent)
    place.mkdir(parents=True, exist_ok=True)
    return place


def join(folder: Path) -> None:
    """One page of all tables and charts; what was asked comes first."""
    files = sorted(folder.glob("*.md"), key=lambda path: (path.stem != "asked", path.name))
    parts = [path.read_text("utf-8") for path in files if path.name != "README.md"]
    (folder / "README.md").write_text("\n".join([f"# {device()}", "", machine(), "", *parts]), "utf-8")


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
    """The commit of the checkout; a copy that git does not know is told by EXPERIMENTATOR_COMMIT."""
    if not which("git"):
        return os.environ.get("EXPERIMENTATOR_COMMIT")
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return os.environ.get("EXPERIMENTATOR_COMMIT") or found.stdout.strip() or None
