"""Folders of runs: makes, names and finds them; `latest` links to the newest."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from itertools import chain, count
from pathlib import Path
from typing import Any

from experimentator.checkpoint import CheckpointError, make_folder, sync_folder
from experimentator.config import ConfigError
from experimentator.records.plainfile import read_json

log = logging.getLogger(__name__)
LATEST = "latest"
MOST_BYTES = 240  # of a name; file systems allow 255, and a temporary link has the prefix `.latest.`
OF_POINTS = "--report", "--parent"  # options in the command line of a sweep's point


def make(project: Path, experiment_id: str | None) -> Path:
    """A new folder, named by the id, else by the time in UTC, with a number if that is taken."""
    stamp = f"{datetime.now(UTC):%Y%m%d-%H%M%S}"
    names = [experiment_id] if experiment_id else chain([stamp], (f"{stamp}-{number}" for number in count(2)))
    for name in names:
        path = project / name
        try:
            make_folder(project)
            path.mkdir()
            sync_folder(project)
            return path
        except FileExistsError:
            if not project.is_dir():
                raise _unusable(path, f"{project} is no folder") from None
        except OSError as error:
            raise _unusable(path, error.strerror or str(error)) from None
    raise CheckpointError(
        f"There is already a run {experiment_id!r}.\nSeen: {project / str(experiment_id)}.\n"
        "Runs are never overwritten: give another experiment_id, or none for the time of day."
    )


def _unusable(path: Path, seen: str) -> CheckpointError:
    wrong, write = f"The run folder {path} cannot be made.", "Set output_folder to a folder where you may write."
    return CheckpointError(f"{wrong}\nSeen: {seen}.\n{write}")


def point(link: Path, target: str) -> None:
    """Let a symbolic link point to the newest run; it is replaced atomically."""
    aside = link.with_name(f".{link.name}.{target}")
    try:
        aside.symlink_to(target, target_is_directory=True)
        os.replace(aside, link)
    except OSError as error:  # no links on this system or file system: only a convenience is missing
        aside.unlink(missing_ok=True)
        log.info("There is no link %s to this run: %s", link, error)


def folder_name(name: Any, *, key: str) -> str:
    """The name, if it can be that of a single folder; else refused."""
    bad = not isinstance(name, str) or not name.isprintable() or not 0 < len(name.encode()) <= MOST_BYTES
    if bad or set(name) & set('/\\:*?"<>|') or name != name.strip(". ") or name == LATEST:
        wrong = f"{key} is no name for a folder."
        taken = "Write another one: this is the link to the newest run."
        write = taken if name == LATEST else f"Use letters, digits, '-' and '_', at most {MOST_BYTES} bytes of them."
        raise ConfigError(wrong, f"Seen: {name!r:.80}.", write)
    return str(name)


def emptied(path: Path) -> Path:
    """The same folder, after its contents were moved into a new one inside: `before-1`, `before-2`, ..."""
    left = [one for one in path.iterdir() if not re.fullmatch(r"before-\d+", one.name)]
    try:
        if left:
            aside = next(one for one in (path / f"before-{number}" for number in count(1)) if not one.exists())
            aside.mkdir()
            for one in left:
                one.rename(aside / one.name)
    except OSError as error:
        raise _unusable(path, error.strerror or str(error)) from None
    return path


def found(project: Path, experiment_id: str | None) -> Path | None:
    """The run with this id, or without an id the newest of the project that is no point of a sweep; or None."""
    if experiment_id:
        path = project / experiment_id
        return path if path.is_dir() else None
    latest = project / LATEST
    if latest.is_symlink() and latest.is_dir() and not _is_point(_described(latest)):
        return project / os.readlink(latest)  # by its name here: the run itself may be a link to another disk
    folders = [path for path in sorted(project.glob("*")) if path != latest]  # a link is a folder in some copies
    runs = {path: _described(path) for path in folders if (path / "status.json").is_file()}
    own = [path for path, described in runs.items() if not _is_point(described)]
    return max(own, key=lambda path: (str(runs[path].get("started", "")), path.name), default=None)


def _described(run: Path) -> Mapping[str, Any]:
    """The values of a run's environment.json; empty for a run that was killed before it had one."""
    try:
        return read_json(run / "environment.json")
    except CheckpointError:
        return {}


def _is_point(described: Mapping[str, Any]) -> bool:
    """Whether a run is a point of a sweep, by the options that a sweep adds to its command line."""
    argv = described.get("argv")
    return isinstance(argv, list) and all(option in argv for option in OF_POINTS)
