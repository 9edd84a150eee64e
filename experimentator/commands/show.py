"""The `graph` command: prints or draws the graph of a configuration, run or file, or the difference of two."""

from __future__ import annotations

import tempfile
from argparse import Namespace
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from experimentator import diagram
from experimentator.bench.costs import with_costs_of
from experimentator.checkpoint import CheckpointError, write_atomically
from experimentator.commands.building import build
from experimentator.commands.results import tell
from experimentator.commands.usage import UsageError
from experimentator.graph import Description, GraphError, Mode, changes, difference, from_json, tree, with_statuses
from experimentator.page import look_at
from experimentator.records.plainfile import read_bytes, values_of
from experimentator.runs import DESCRIPTION, STATUS

MODES = ("train", "eval", "infer")


def show(arguments: Namespace) -> int:
    """Run `experimentator graph`: print the graph, or write it to a file and print the file's name."""
    _refuse_unheard(arguments)
    if arguments.open and not arguments.output:
        arguments.output = str(Path(tempfile.mkdtemp(prefix="experimentator-")) / "graph.html")
    format = diagram.check_suffix(arguments.output) if arguments.output else ""
    drawn: dict[str, Any] = {"theme": arguments.theme, "fold": False if arguments.unfold else None}
    if format == "html" and not _one_view(arguments):
        page = diagram.page(_modes(_built(arguments, arguments.config)), **drawn)
        write_atomically(Path(arguments.output), page.encode())
    else:
        picture = _priced(arguments) if arguments.cost else _asked(arguments)
        if not format:
            print(changes(picture) if arguments.diff else tree(picture) if arguments.tree else picture)
            return 0
        diagram.save(picture, arguments.output, **drawn)
    if arguments.open:
        look_at(arguments.output, tell)
    print(arguments.output)
    return 0


def _refuse_unheard(arguments: Namespace) -> None:
    """Refuse options of which one would go unheard."""
    drawn = "--open" if arguments.open else arguments.output and f"-o {arguments.output}"
    is_drawn = drawn and (not arguments.output or diagram.check_suffix(arguments.output) != "txt")
    for one, other, write in (
        (arguments.all and "--all", arguments.plan and "--plan", "both show every processor, --plan with why"),
        (arguments.all and "--all", arguments.names and "--for", "--all shows all; --plan marks those left out"),
        (arguments.tree and "--tree", arguments.diff and "--diff", "a difference is a list or a picture"),
        (arguments.tree and "--tree", is_drawn and drawn, "a tree is text; a .txt holds it, too"),
    ):
        if one and other:
            raise UsageError(f"{one} cannot be given with {other}\nSeen: both; {write}. Leave one of them out.")


def _built(arguments: Namespace, config: str) -> Any:
    return build(arguments, config)[0]


def _one_view(arguments: Namespace) -> bool:
    """Whether a single graph was asked for; else a page shows the graphs of all modes."""
    chosen = arguments.mode or arguments.names or arguments.plan or arguments.all or arguments.diff or arguments.cost
    return bool(chosen) or _is_stored(arguments.config)


def _modes(exp: Any) -> dict[str, Description]:
    """The graph of each mode; modes with errors are left out, unless all have some."""
    views, errors = {}, []
    for mode in MODES:
        try:
            views[mode.upper()] = exp.describe(mode)
        except GraphError as error:
            errors.append(error)
    if not views:
        raise errors[0]
    for left_out in errors:
        tell(f"Left out: {left_out}")
    return views


def _asked(arguments: Namespace) -> Description:
    mode, other = arguments.mode or MODES[0], arguments.diff
    sources = [*filter(None, (arguments.config, other))]
    is_unheard = arguments.assignments and all(map(_is_stored, sources))
    chosen = arguments.names or arguments.plan or arguments.all or other in MODES or is_unheard
    for source in sources:
        if chosen and _is_stored(source):
            raise UsageError(
                f"{source} holds one graph as it was: no other names, values or modes can be chosen for it\n"
                "Name the configuration instead; of a run folder, its config.py."
            )
    if other is None:
        described = _described(arguments.config, mode, arguments)
        if arguments.mode and described.mode != str(Mode.of(mode)):
            write = "Name the configuration instead."
            raise UsageError(f"{arguments.config} holds the graph of {described.mode}\nSeen: --mode {mode}. {write}")
        return described
    if other in MODES:
        exp = _built(arguments, arguments.config)
        before, after = (_of_experiment(exp, one, arguments) for one in (mode, other))
        return difference(before, after)
    if not Path(other).exists() and (near := get_close_matches(other.casefold(), MODES, n=1, cutoff=0.5)):
        raise UsageError(f"{other!r} is no mode and no file\nDid you mean --diff {near[0]}?")
    before, after = (_described(source, mode, arguments) for source in (arguments.config, other))
    return difference(before, after, title=f"{arguments.config} -> {other}")


def _is_stored(source: str) -> bool:
    """Whether a source is a run folder or a JSON file, and no configuration."""
    return source not in MODES and (Path(source).is_dir() or Path(source).suffix == ".json")


def _priced(arguments: Namespace) -> Description:
    """The description of a configuration with measured costs."""
    if arguments.diff or _is_stored(arguments.config):
        seen = "--diff" if arguments.diff else arguments.config
        raise UsageError(f"--cost measures a configuration\nSeen: {seen}. Type: experimentator graph CONFIG.py --cost")
    exp = _built(arguments, arguments.config)
    return with_costs_of(exp, _of_experiment(exp, arguments.mode or MODES[0], arguments), arguments.names or (), tell)


def _described(source: str, mode: str, arguments: Namespace) -> Description:
    """The description of a configuration's graph, or the one that a run folder or JSON file holds."""
    if not _is_stored(source):
        return _of_experiment(_built(arguments, source), mode, arguments)
    return _of_run(Path(source), mode) if Path(source).is_dir() else _graph_in(Path(source).resolve())


def _of_experiment(exp: Any, mode: str, arguments: Namespace) -> Description:
    view = "plan" if arguments.plan else "list" if arguments.all else "graph"
    described: Description = exp.describe(mode, *(arguments.names or ()), view=view)
    return described


def _of_run(folder: Path, mode: str) -> Description:
    """The description that a run folder holds, with the status of the run; no code of it is run."""
    if Mode.of(mode) != Mode.TRAIN:
        raise UsageError(
            f"a run folder holds the graph of TRAIN only\nName its configuration: {folder / 'config.py'} --mode {mode}"
        )
    if not (folder / DESCRIPTION).is_file():
        raise UsageError(
            f"{folder} is no run folder\nSeen: no {DESCRIPTION} in it. "
            "Name a configuration, a run folder or a file of JSON."
        )
    status, processors = _status(folder / STATUS)
    described = _graph_in(folder / DESCRIPTION)
    here = {box.name for box in described.boxes}
    elsewhere = [f"{name} {fared}" for name, fared in processors.items() if name not in here]  # in another mode
    title = ", ".join([folder.resolve().name, status, *elsewhere])
    return with_statuses(replace(described, title=title), processors)


def _status(path: Path) -> tuple[str, dict[str, str]]:
    """The status of a run, and that of single processors."""
    text = _read(path)
    try:
        found = values_of(text.encode())
        processors = found.get("processors", {})
        return str(found["status"]), {str(name): str(status) for name, status in processors.items()}
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise UsageError(
            f"{path} is damaged\nSeen: {error}. Name the run's pipeline.json to see the graph alone."
        ) from None


def _graph_in(path: Path) -> Description:
    text = _read(path)
    try:
        return from_json(text)
    except ValueError as error:
        error.add_note(f"In {path}.")
        raise


def _read(path: Path) -> str:
    try:
        return read_bytes(path).decode("utf-8")
    except (CheckpointError, UnicodeDecodeError) as error:
        seen = str(error).splitlines()[1] if isinstance(error, CheckpointError) else "Seen: no UTF-8 text."
        raise UsageError(
            f"{path} cannot be read\n{seen} Name a configuration, a run folder or a file of JSON."
        ) from None
