"""Reads run folders without running code: how each run ended, what it measured, with which settings."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from experimentator.callbacks.weights import BEST
from experimentator.checkpoint import CheckpointError
from experimentator.records.history import read_history
from experimentator.records.measures import best_of, loss_of, numbers_in
from experimentator.records.plainfile import read_json, refusal
from experimentator.runs import STATUS
from experimentator.scalars import is_scalar

DEEPEST = 4  # levels of folders that are searched
FILES = (STATUS, "environment.json", "config.json", BEST)
SIGNS = (STATUS, "history.jsonl", "environment.json")  # any of these makes a folder a run


@dataclass(frozen=True)
class Run:
    """One run, as its folder has it.

    `status` is running, finished, interrupted or failed; lost, if it says running but its process is gone; damaged, if
    the folder cannot be read, with the reason in `problem`. `best` is the row of the epoch that `best.json` names, else
    the one with the smallest validation loss; `measure` is the name that it is best by. `history` has a row for each
    epoch.
    """

    folder: Path
    status: str
    epochs: int = 0
    started: str = ""
    measure: str = ""
    best: Mapping[str, Any] = field(default_factory=dict)
    overrides: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    problem: str = ""
    history: Sequence[Mapping[str, Any]] = field(default=(), repr=False)

    @property
    def name(self) -> str:
        """Project and experiment id."""
        return "/".join(self.folder.parts[-2:])

    @cached_property
    def values(self) -> dict[str, Any]:
        """What runs are listed by, by name: fields of their own, what was set, and what the best epoch measured.

        A number that was set comes first: `learning_rate` is not the last rate of a schedule, which the history has.
        """
        own: dict[str, Any] = {"run": self.name, "status": self.status, "epochs": self.epochs, "started": self.started}
        own |= {"project": self.folder.parent.name, "id": self.folder.name}
        numbers = {name: value for name, value in self.config.items() if is_scalar(value)}
        parts = (own, self.overrides, numbers, self.best, self.config)
        names = dict.fromkeys(name for part in parts for name in part)
        return {name: next((p[name] for p in parts if p.get(name) is not None), None) for name in names}


def find_runs(folder: str | os.PathLike[str]) -> list[Run]:
    """The runs in a folder and the folders below it, oldest first; links are not followed.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Path(folder, "digits", "first").mkdir(parents=True)
    ...     _ = Path(folder, "digits", "first", "status.json").write_text('{"status": "finished"}')
    ...     [(run.name, run.status) for run in find_runs(folder)]
    [('digits/first', 'finished')]

    Raises:
        CheckpointError: where there is no such folder.
    """
    place = Path(folder)
    if not os.path.isdir(place):
        raise CheckpointError(f"There is no folder {str(place)!r}.\nSeen: nothing.\nName one that holds run folders.")
    runs = list(_found(place.resolve(), DEEPEST))
    return sorted(runs, key=lambda run: (run.started, run.folder))


def read_run(folder: str | os.PathLike[str]) -> Run:
    """One run.

    Raises:
        CheckpointError: naming the file that cannot be read.
    """
    place = Path(folder)
    found = {name: read_json(place / name) for name in FILES if os.path.lexists(place / name)}
    status, environment = found.get(STATUS, {}), found.get("environment.json", {})
    history = read_history(place) if os.path.lexists(place / "history.jsonl") else []
    measure, best = _best(history, found.get(BEST, {}))
    return Run(
        place,
        _status(status),
        len(history),
        _text(environment.get("started")),
        measure,
        best,
        _values(environment.get("overrides")),
        found.get("config.json", {}),
        _text(status.get("error")),
        history,
    )


def is_run(folder: Path) -> bool:
    """Whether a folder looks like a run's."""
    return any(os.path.lexists(folder / sign) for sign in SIGNS)


def _read(folder: Path) -> Run:
    try:
        return read_run(folder)
    except CheckpointError as error:
        return Run(folder, "damaged", problem=str(error))


def _found(place: Path, depth: int) -> Iterator[Run]:
    """The runs in a folder; a folder within it that cannot be read is damaged, and hides no others."""
    if is_run(place):
        yield _read(place)
        return
    try:
        with os.scandir(place) as entries:
            inside = sorted(entry.path for entry in entries if entry.is_dir(follow_symlinks=False))
    except FileNotFoundError:  # removed meanwhile
        return
    except OSError as error:
        problem = refusal(place, error.strerror or str(error))
        if depth == DEEPEST:
            raise problem from None
        yield Run(place, "damaged", problem=str(problem))
        return
    for path in inside if depth else ():
        yield from _found(Path(path), depth - 1)


def _status(written: Mapping[str, Any]) -> str:
    """The status in the file; lost, if it is running on this machine and the process is gone."""
    told, process, host = _text(written.get("status")), written.get("process"), written.get("host")
    if (
        told != "running"
        or os.name == "nt"
        or host != platform.node()
        or type(process) is not int
        or not 0 < process < 1 << 31
    ):
        return told or "unknown"
    try:
        os.kill(process, 0)  # signal 0 only checks; on Windows it would kill
    except ProcessLookupError:
        return "lost"
    except OSError:  # another user's process has that number
        return told
    return "lost" if _has_ended(process) else told


def _has_ended(process: int) -> bool:
    """Whether a process is a zombie, as orphans stay in a container without an init."""
    try:
        return Path(f"/proc/{process}/stat").read_bytes().rpartition(b")")[2].split()[:1] == [b"Z"]
    except OSError:  # not Linux
        return False


def _best(history: list[dict[str, Any]], told: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The name that a run is best by, and the row of its best epoch; "" and the last row if unknown."""
    rows = [numbers_in(row) for row in history]
    measure, epoch = told.get("metric"), told.get("epoch")
    chosen = next((row for row in rows if row.get("epoch") == epoch and epoch is not None), None)
    if chosen is None and len(rows) < (epoch if type(epoch) is int else 0):  # the process died before it wrote the line
        chosen = numbers_in({"epoch": epoch, str(measure): told.get("value")})
    if chosen is not None and isinstance(measure, str):
        return measure, chosen
    if (place := best_of(rows)) is None:
        return "", rows[-1] if rows else {}
    return loss_of(name for row in rows for name in row), rows[place]


def _values(told: Any) -> dict[str, Any]:
    """A dictionary as it is; empty for anything else."""
    return dict(told) if isinstance(told, dict) else {}


def _text(told: Any) -> str:
    return told if isinstance(told, str) else ""
