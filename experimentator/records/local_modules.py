"""Modules that a configuration imports from its own folder: they belong to what is trained, and are hashed, too."""

from __future__ import annotations

import ast
import hashlib
import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from experimentator.checkpoint import CheckpointError
from experimentator.records.plainfile import read_json

log = logging.getLogger(__name__)
CONFIG_MODULES = "experimentator"  # prefix of the module names of the library and of configurations


def neighbours(filename: str) -> dict[str, str]:
    """The Python files below the folder of a configuration that are imported now, each with its SHA-256.

    Installed packages are left out, even if their environment lies in that folder.

    >>> neighbours("<text>")
    {}
    """
    if not os.path.isfile(filename):
        return {}
    folder = home(filename) + os.sep
    loaded = {name: getattr(module, "__file__", None) for name, module in sys.modules.copy().items()}
    own = {name: file for name, file in loaded.items() if not name.startswith(CONFIG_MODULES) and isinstance(file, str)}
    named = {file for file in own.values() if file.endswith(".py") and "site-packages" not in file}  # most are there
    files = set(map(os.path.abspath, named)) - {os.path.abspath(filename)}
    inside = sorted(file for file in files if file.startswith(folder))
    return {Path(file).relative_to(folder).as_posix(): found for file in inside if (found := digest(Path(file)))}


def home(filename: str | os.PathLike[str]) -> str:
    """The folder of a configuration file; of the copy in a run folder, that of the file that was trained, if it exists.

    >>> home("/tasks/digits.py")
    '/tasks'
    """
    folder, name = os.path.split(os.path.abspath(filename))
    if name != "config.py":
        return folder
    try:
        trained = read_json(os.path.join(folder, "environment.json")).get("config_folder")
    except CheckpointError:  # none, or a file of that name that is not ours
        return folder
    return trained if isinstance(trained, str) and os.path.isdir(trained) else folder


def tell_others(tree: ast.Module, folder: str | None) -> None:
    """Warn of modules that lie beside a configuration, where Python had imported others of the same names before."""
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    plain = [alias.name for node in imports if isinstance(node, ast.Import) for alias in node.names]
    names = plain + [node.module for node in imports if isinstance(node, ast.ImportFrom) and node.module]
    for name in sorted({name.partition(".")[0] for name in names} - sys.stdlib_module_names) if folder else ():
        beside = [os.path.join(str(folder), *parts) for parts in ((f"{name}.py",), (name, "__init__.py"))]
        file = getattr(sys.modules.get(name), "__file__", None)
        if isinstance(file, str) and any(map(os.path.isfile, beside)):
            if os.path.realpath(file) not in map(os.path.realpath, beside):
                log.warning(
                    "%r is %s, which was imported before, and not the one in %s. Give one of them another name, or "
                    "use them in different processes.",
                    name, file, folder,
                )  # fmt: skip


def changed(folder: Path, recorded: Mapping[str, str]) -> list[str]:
    """The recorded files that are missing in the folder, or have another hash."""
    return [name for name, known in recorded.items() if digest(folder / name) != known]


def digest(path: Path) -> str | None:
    """The SHA-256 of a file; None where it cannot be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None
