"""The `graph` command: which picture was asked for, of what, and where it goes."""

from __future__ import annotations

import json
import tempfile
import webbrowser
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experimentator import diagram
from experimentator.graph import Description, Mode, changes, difference, from_json, tree, with_statuses
from experimentator.runs import DESCRIPTION, STATUS
from experimentator.usage import UsageError

MODES = ("train", "eval", "infer")
Build = Callable[[str], Any]  # the experiment of a configuration file


def show(arguments: Namespace, build: Build) -> str:
    """What the `graph` command prints, once it has drawn what it was to draw."""
    if arguments.output:
        diagram.check_suffix(arguments.output)
    picture = _asked(arguments, build)
    if arguments.open and not arguments.output:
        arguments.output = str(Path(tempfile.mkdtemp(prefix="experimentator-")) / "graph.svg")
    if arguments.output:
        fold = False if arguments.unfold else None
        diagram.save(picture, arguments.output, theme=arguments.theme, fold=fold)
        if arguments.open:
            webbrowser.open(Path(arguments.output).resolve().as_uri())
        return str(arguments.output)
    if arguments.diff:
        return changes(picture)
    if arguments.tree:
        return tree(picture)
    return str(picture)


def _asked(arguments: Namespace, build: Build) -> Description:
    mode, other = arguments.mode, arguments.diff
    if other is None:
        return _described(arguments.config, mode, arguments, build)
    if other in MODES:
        exp = build(arguments.config)
        before, after = (_of_experiment(exp, one, arguments) for one in (mode, other))
        return difference(before, after)
    before, after = (_described(source, mode, arguments, build) for source in (arguments.config, other))
    return difference(before, after, title=f"{arguments.config} -> {other}")


def _described(source: str, mode: str, arguments: Namespace, build: Build) -> Description:
    """The description of a configuration, or the one that a run folder or a file of JSON holds."""
    path = Path(source)
    if path.is_dir():
        return _of_run(path, mode)
    if path.suffix == ".json":
        return from_json(_read(path))
    return _of_experiment(build(source), mode, arguments)


def _of_experiment(exp: Any, mode: str, arguments: Namespace) -> Description:
    view = "plan" if arguments.plan else "list" if arguments.all else "graph"
    described: Description = exp.describe(mode, *(arguments.names or ()), view=view)
    return described


def _of_run(folder: Path, mode: str) -> Description:
    """What a run folder holds; nothing of it is run."""
    if Mode.of(mode) != Mode.TRAIN:
        raise UsageError(
            f"a run folder holds the graph of TRAIN only\nName its configuration: {folder / 'config.py'} --mode {mode}"
        )
    status = json.loads(_read(folder / STATUS)).get("processors", {})
    return with_statuses(from_json(_read(folder / DESCRIPTION)), status)


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read\nSeen: {error.strerror}. Name a configuration, a run folder or a file of JSON."
        ) from None
