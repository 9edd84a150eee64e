"""Modules that a configuration imports from its own folder: a part of what is trained, though it is not in its text."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path

CONFIG_MODULES = "experimentator"  # under such a name a configuration itself is run


def neighbours(filename: str) -> dict[str, str]:
    """The Python files below the folder of a configuration that are imported now, each with its SHA-256.

    Installed packages are left out, in an environment that lies in that folder, too.

    >>> neighbours("<text>")
    {}
    """
    if not os.path.isfile(filename):
        return {}
    folder = os.path.dirname(os.path.abspath(filename)) + os.sep
    loaded = {name: getattr(module, "__file__", None) for name, module in list(sys.modules.items())}
    own = {name: file for name, file in loaded.items() if not name.startswith(CONFIG_MODULES) and isinstance(file, str)}
    files = {os.path.abspath(file) for file in own.values() if file.endswith(".py")} - {os.path.abspath(filename)}
    inside = sorted(file for file in files if file.startswith(folder) and "site-packages" not in file)
    return {Path(file).relative_to(folder).as_posix(): found for file in inside if (found := digest(Path(file)))}


def changed(folder: Path, recorded: Mapping[str, str]) -> list[str]:
    """Those recorded files that are not in the folder as they were."""
    return [name for name, known in recorded.items() if digest(folder / name) != known]


def digest(path: Path) -> str | None:
    """The SHA-256 of a file; None where it cannot be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None
