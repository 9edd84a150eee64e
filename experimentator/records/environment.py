"""environment.json: what a run depends on besides its configuration, as versions, device, git commit, overrides."""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import subprocess
import sys
from collections.abc import Collection, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from experimentator.config import Config, ConfigError, resolved
from experimentator.records.local_modules import home, neighbours
from experimentator.records.plainfile import finite, read_json
from experimentator.saving.identity import versions

log = logging.getLogger(__name__)
OF_ITS_OWN = ("output_folder", "project_name", "experiment_id", "hide_progress")  # overrides of one run alone
GIT_SECONDS = 3.0  # a training waits no longer than this for git


def environment(exp: Any, overrides: Mapping[str, Any] = {}) -> dict[str, Any]:
    """The plain values of `environment.json`.

    `config_sha256` is that of the configuration's text, `config_folder` the folder of its file, `modules` the SHA-256
    of each module in it that was imported. `not_stored` names the `overrides` that JSON cannot hold exactly.
    """
    stored = resolved(overrides)
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "argv": sys.argv,
        "seed": json_value(exp.seed),
        "backend": exp.backend.name,
        "device": exp.backend.device,
        "platform": platform.platform(),
        "versions": versions(),
        **_of_config(exp.source),
        "overrides": stored,
        "not_stored": [n for n, value in overrides.items() if n not in stored or not _is_same(stored[n], value)],
    }


def overrides_of(source: Any, given: Collection[str] = ()) -> dict[str, Any]:
    """The overrides that a run was built with, where `source` is the path of its folder, or of `config.py` in it.

    Overrides of its folder, names and progress display are left out, and names `given` now; {} for any other source.
    """
    if not isinstance(source, str | os.PathLike) or "\n" in str(source):
        return {}
    folder = Path(source) if os.path.isdir(source) else Path(source).parent
    if Path(source) not in (folder, folder / "config.py") or not (folder / "environment.json").is_file():
        return {}
    told = read_json(folder / "environment.json")
    try:
        stored, lost = overrides_in(told)
    except ConfigError:
        log.warning("The overrides of %s are not known: its environment.json is damaged.", folder)
        return {}
    for name in [name for name in lost if name not in given]:
        said = "%r of the run %s was overridden by an object, which cannot be stored: its configuration's own is used."
        log.warning(said, name, folder)
    return {name: value for name, value in stored.items() if name not in (*OF_ITS_OWN, *given)}


def overrides_in(environment: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The overrides that an `environment.json` holds, and what it shows of those that JSON cannot hold.

    Of these, the run's folder, names and progress display are left out: no rebuilt experiment needs them.

    >>> overrides_in({"overrides": {"rate": 0.1, "optimizer": "<Adam>"}, "not_stored": ["optimizer"]})
    ({'rate': 0.1}, {'optimizer': '<Adam>'})

    Raises:
        ConfigError: if it is damaged.
    """
    told, lost = environment.get("overrides", {}), environment.get("not_stored", [])
    if not isinstance(told, dict) or not isinstance(lost, list):
        seen = "Seen: `overrides` is not a dictionary, or `not_stored` is not a list."
        raise ConfigError("environment.json is damaged.", seen, "Name another run.")
    stored = {name: value for name, value in told.items() if name not in lost}
    return stored, {name: told.get(name, "nothing") for name in map(str, lost) if name not in OF_ITS_OWN}


def json_value(value: Any) -> Any:
    """A value that JSON can hold: a number or text, None for NaN and infinity, else the repr.

    >>> json_value(float("nan")), json_value((1, 2))
    (None, '(1, 2)')
    """
    if callable(getattr(value, "item", None)):
        with suppress(ValueError, RuntimeError):  # of an array, and of a tensor, of several numbers
            value = value.item()
    return finite(value) if value is None or isinstance(value, bool | int | float | str) else repr(value)


def sha256(text: str) -> str:
    """The SHA-256 of a configuration's text.

    >>> sha256("rate = 0.1")[:8]
    'd4736fb6'
    """
    return hashlib.sha256(text.encode()).hexdigest()


def _of_config(source: Config) -> dict[str, Any]:
    """The entries about the configuration: its hash, folder, modules and git commit."""
    text, filename = source.text, source.filename
    folder = home(filename) if text and os.path.isfile(filename) else None
    told: dict[str, Any] = {"config_sha256": sha256(text)} if text else {}
    if folder is not None:
        told["config_folder"], told["modules"] = folder, neighbours(filename)
    if (git := _git(folder or os.getcwd())) is not None:
        told["git"] = git
    return told


def _git(folder: str) -> dict[str, Any] | None:
    """The commit of a folder, and whether tracked files were changed since; None outside of a repository."""
    try:
        commit = _said(folder, "rev-parse", "HEAD")
        changes = _said(folder, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit, "dirty": bool(changes)}


def _said(folder: str, *words: str) -> str:
    # no optional locks: a training that starts must not make another git command fail
    quiet = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    command = ["git", "-c", "core.fsmonitor=false", "-C", str(Path(folder)), *words]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=GIT_SECONDS, env=quiet, stdin=subprocess.DEVNULL
    )
    return done.stdout.strip()


def _is_same(stored: Any, value: Any) -> bool:
    """Whether the stored JSON value equals the value; lists and tuples count as equal."""
    if isinstance(value, list | tuple):
        both = isinstance(stored, list) and len(stored) == len(value)
        return both and all(map(_is_same, stored, value))
    if isinstance(value, dict):
        return (
            isinstance(stored, dict)
            and stored.keys() == value.keys()
            and all(_is_same(stored[name], one) for name, one in value.items())
        )
    return isinstance(value, bool | int | float | str | None) and bool(stored == value)
