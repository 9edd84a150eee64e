"""The history of a run, `history.jsonl`: a line of JSON for each epoch, appended to."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, SupportsIndex, overload

from experimentator.checkpoint import CheckpointError, add_lines
from experimentator.records.environment import json_value
from experimentator.records.plainfile import read_bytes, values_of


class History(list[dict[str, float]]):
    """A row for each epoch; by a name, what every epoch has of it, NaN where it was not measured.

    >>> history = History([{"epoch": 1, "training_loss": 0.5}, {"epoch": 2, "training_loss": 0.25}])
    >>> history[-1]["training_loss"], history["training_loss"]
    (0.25, [0.5, 0.25])
    """

    @overload
    def __getitem__(self, at: SupportsIndex, /) -> dict[str, float]: ...
    @overload
    def __getitem__(self, at: slice, /) -> list[dict[str, float]]: ...
    @overload
    def __getitem__(self, at: str, /) -> list[float]: ...
    def __getitem__(self, at: SupportsIndex | slice | str, /) -> Any:
        if not isinstance(at, str):
            return super().__getitem__(at)
        if not any(at in row for row in self):
            known = ", ".join(dict.fromkeys(name for row in self for name in row))
            raise KeyError(f"{at} is not in the history, which has {known or 'no epoch'}.")
        return [row.get(at, math.nan) for row in self]


def read_history(folder: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The epochs of a run, one dictionary each; an incomplete last line, left by a crash, is ignored.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     append(Path(folder, "history.jsonl"), {"epoch": 1, "training_loss": float("nan")})
    ...     read_history(folder)
    [{'epoch': 1, 'training_loss': nan}]
    """
    path = Path(folder) / "history.jsonl"
    lines = read_bytes(path).splitlines(keepends=True)
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append({name: math.nan if value is None else value for name, value in values_of(line).items()})
        except ValueError:
            if number == len(lines) and not line.endswith(b"\n"):
                break
            wrong = f"{path} is damaged in line {number}."
            raise CheckpointError(f"{wrong}\nSeen: {line[:60]!r}.\nRemove that line to read the others.") from None
    return rows


def append(path: Path, *rows: Mapping[str, Any]) -> None:
    """Add lines of JSON to a file and force them to disk; NaN and infinity, which JSON lacks, become null."""
    add_lines(path, "".join(map(as_line, rows)))


def as_line(row: Mapping[str, Any]) -> str:
    """A row as a line of JSON."""
    return json.dumps({name: json_value(value) for name, value in row.items()}, allow_nan=False) + "\n"
