"""A tracker that needs nothing: lines of JSON in a file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experimentator.records.plainfile import finite
from experimentator.trackers.tracker import TrackedRun


class JsonLinesTracker:
    """Add a line of JSON for each thing that is told: to `filename`, else to `scalars.jsonl` in the run folder or here.

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
        """The first line: project, name and configuration."""
        self.path = Path(self.filename) if self.filename is not None else (run.folder or Path()) / "scalars.jsonl"
        self._add({"project": run.project, "run": run.name, "config": dict(run.config)})

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """A line for an epoch; NaN and infinity, which JSON lacks, become null."""
        self._add({"step": step, **values})

    def artifact(self, path: Path) -> None:
        """A line that names the file, which stays where it is."""
        self._add({"artifact": str(path)})

    def finish(self, status: str) -> None:
        """The last line."""
        self._add({"status": status})

    def _add(self, row: dict[str, Any]) -> None:
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(finite(row), allow_nan=False) + "\n")
