"""The `run` command: trains a configuration once; points of a grid are such trainings, too."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from shlex import quote
from typing import Any

from experimentator.callbacks.checkpoint_every import CheckpointEvery
from experimentator.callbacks.profile import PROFILE, Profile
from experimentator.checkpoint import CheckpointError
from experimentator.commands.building import build
from experimentator.commands.results import show_epochs, show_values, tell
from experimentator.commands.usage import AUTO, LATEST, OUTPUT_FOLDER, UsageError
from experimentator.records.measures import measures_of
from experimentator.runs import RunFolder
from experimentator.saving.manifest import CHECKPOINTS, numbered
from experimentator.sweep.heartbeat import Heartbeat, end_with, remove_reports, tell_done, tell_error


def run(arguments: Namespace) -> int:
    """Run `experimentator run`, of one training, of a grid, or of one of its points."""
    if (stored := Path(arguments.config, "config.py")).is_file():  # of a run folder
        arguments.config = str(stored)
    if arguments.grid:
        from experimentator.commands.sweep import sweep  # takes 0.1 s

        return sweep(arguments)
    _refuse_options_of_grid(arguments)
    return _point(arguments) if arguments.report else _train(arguments)


def _train(arguments: Namespace, is_built: Callable[[], None] = lambda: None) -> int:
    exp, epochs = build(arguments, arguments.config)
    is_built()
    folder = _run_folder(exp, arguments)
    beat = Heartbeat(Path(arguments.report), folder) if arguments.report else None
    if folder:
        exp.callbacks.extend([*filter(None, [beat]), *_asked(arguments)])
    elif beat:
        beat.keep_quiet()
    if arguments.resume is not None:
        _resume(exp, folder, arguments)
    try:
        exp.train(epochs)
    except BaseException as error:
        if folder and folder.path:
            error.add_note(f"{exp.epoch} of {epochs} epochs were done; what they gave is in {folder.path}")
        raise
    finally:
        if beat:
            beat.tell_folder()
    if arguments.report:
        tell_done(arguments.report)  # whatever becomes of what is printed now, as to a terminal that was closed
    _show(exp, folder)
    return 0


def _asked(arguments: Namespace) -> Iterator[Any]:
    """The callbacks that options ask for."""
    if arguments.profile:
        yield Profile()
    if arguments.checkpoint_seconds is not None:
        yield CheckpointEvery(seconds=arguments.checkpoint_seconds)


def _show(exp: Any, folder: RunFolder | None) -> None:
    """Print what was measured, and where the files are."""
    if exp.history:
        show_epochs(exp.history)
        print()
        show_values(measures_of(exp.history[-1]))
    if folder and folder.path:
        files = {"weights": folder.weights, "diagram": folder.diagram, "profile": folder.opened / PROFILE}
        found = {name: str(path) for name, path in files.items() if path.exists()}
        if len(exp.history) > 1:
            found["curves"] = f"experimentator runs {quote(str(folder.path))} --open"
        show_values({"run folder": str(folder.path), **found})


def _point(arguments: Namespace) -> int:
    """Train one point of a grid: report to the process that runs the grid, and end with it."""
    from experimentator.sweep.fork_server import Loaded

    loaded = Loaded(arguments.report, is_forked=arguments.forked)
    try:
        end_with(arguments.parent)  # at once, if that is gone already
        return _train(arguments, loaded.is_built)
    except Exception as error:
        loaded.check()
        tell_error(arguments.report, error)
        raise
    finally:
        remove_reports(arguments.report, arguments.parent)


def _refuse_options_of_grid(arguments: Namespace) -> None:
    for name in ("sample", "jobs", "hang_seconds"):
        if vars(arguments)[name] is not None:
            write = 'Add --grid "NAME=[VALUE, VALUE]", or leave it out.'
            raise UsageError(f"--{name.replace('_', '-')} is for the points of a --grid\nSeen: no --grid. {write}")


def _run_folder(exp: Any, arguments: Namespace) -> RunFolder | None:
    if not hasattr(type(exp), "listeners"):
        tell("No run folder: experiment_type has no CallbackedExperiment.")
        return None
    if not exp.cfg.get("output_folder"):
        exp.output_folder = OUTPUT_FOLDER
    folder = RunFolder.of(exp)
    if folder not in exp.callbacks:
        exp.callbacks.append(folder)
    return folder


def _resume(exp: Any, folder: RunFolder | None, arguments: Namespace) -> None:
    """Let the experiment continue an earlier run; with `auto`, there may be none."""
    which = arguments.resume
    if folder is None:
        if which != AUTO:
            raise UsageError("--resume needs a run folder, which this experiment_type does not have")
        return
    if which == AUTO:
        path = _begun(exp, folder, arguments)
        if path is None:
            return
    else:
        path = folder.earlier if which == LATEST else Path(which)
    if path is None:
        raise CheckpointError(
            f"There is no run to resume.\nSeen: no runs in {folder.project}, points of a --grid aside.\n"
            "Leave --resume out to begin one, or write --resume auto, which does either."
        )
    exp.resume(path)
    done = "1 epoch is" if exp.epoch == 1 else f"{exp.epoch} epochs are"
    tell(f"Resuming {path}: {done} done, {exp.walk.batches} batches in all.")


def _begun(exp: Any, folder: RunFolder, arguments: Namespace) -> Path | None:
    """The folder of checkpoints to go on from, if there is one; else a run that ended before its first begins again."""
    path = folder.earlier
    if path is not None and numbered(path / CHECKPOINTS):
        return path
    if folder.experiment_id is not None:
        if path is None:  # others' checkpoints are none of its own
            return None
        folder.begin_again(path)
    return None if arguments.report else _kept_elsewhere(exp)  # points of a sweep may share that folder


def _kept_elsewhere(exp: Any) -> Path | None:
    """A folder outside of run folders in which the training keeps checkpoints, if it has some."""
    folders = [Path(one.folder) for one in exp.callbacks if isinstance(one, CheckpointEvery) and one.folder is not None]
    return next((folder for folder in folders if numbered(folder)), None)
