"""A tracker without dependencies: lines of JSON in a file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experimentator.checkpoint import write_atomically
from experimentator.records.plainfile import json_of, values_of
from experimentator.trackers.tracker import TrackedRun


class JsonLinesTracker:
    """Add a line of JSON for each call: to `filename`, else to `scalars.jsonl` in the run folder or the current one.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     tracker = JsonLinesTracker(Path(folder, "scalars.jsonl"))
    ...     tracker.start(TrackedRun("digits", "first"))
    ...     tracker.scalars({"validation/loss": 0.5}, step=1)
    ...     tracker.finish("finished")
    ...     Path(folder, "scalars.jsonl").read_text().splitlines()[1]
    '{"step": 1, "validation/loss": 0.5}'
    """

    def __init__(self, filename: str | os.PathLike[str] | None = None):
        self.filename = filename
        self.path = Path("scalars.jsonl")

    def start(self, run: TrackedRun) -> None:
        """Write project, name and configuration; after a kill, remove lines that will be told again."""
        self.path = Path(self.filename) if self.filename is not None else (run.folder or Path()) / "scalars.jsonl"
        self._forget(run)
        self._add({"project": run.project, "run": run.name, "config": dict(run.config)})

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """A line for an epoch or a batch; NaN and infinity, which JSON lacks, become null."""
        self._add({"step": step, **values})

    def artifact(self, path: Path) -> None:
        """A line that names the file, which stays where it is."""
        self._add({"artifact": str(path)})

    def finish(self, status: str) -> None:
        """The last line."""
        self._add({"status": status})

    def _add(self, row: dict[str, Any]) -> None:
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(f"{json_of(row)}\n")

    def _forget(self, run: TrackedRun) -> None:
        """Remove this run's lines of steps beyond those done when it starts, and lines that were cut short."""
        lines = self.path.read_bytes().splitlines(keepends=True) if self.path.exists() else []
        is_own = is_always = run.folder is not None and self.filename is None
        kept = []
        for line in lines:
            row = _row(line)
            if {"project", "run"} <= row.keys():
                is_own = is_always or (row["project"], row["run"]) == (run.project, run.name)
            if line.endswith(b"\n") and not (is_own and _is_ahead(row, run)):
                kept.append(line)
        if len(kept) < len(lines):
            write_atomically(self.path, b"".join(kept))


def _row(line: bytes) -> dict[str, Any]:
    """The values of a line; none if it is damaged."""
    try:
        return values_of(line)
    except ValueError:
        return {}


def _is_ahead(row: Mapping[str, Any], run: TrackedRun) -> bool:
    names = row.keys() - {"step"}
    done = run.batches if names and all(name.startswith("batch/") for name in names) else run.epochs
    return isinstance(row.get("step"), int) and row["step"] > done
