"""The command line: `run` trains a configuration file, once or over a grid; other commands show, measure and use it.

Frameworks take seconds to load, so nothing is imported before it is needed.
"""

from __future__ import annotations

import argparse
import atexit
import io
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any, NoReturn

from experimentator.commands import collector, deferral, failures
from experimentator.commands.failures import printable
from experimentator.commands.framework import prefer_installed
from experimentator.commands.usage import AUTO, LATEST, OUTPUT_FOLDER, UsageError, parse

if TYPE_CHECKING:
    from experimentator.runs import RunFolder

EPOCHS = 10
LONG = ("num_epochs", "n_epochs", "nb_epochs", "max_epochs", "EPOCHS")  # usual names for `epochs` elsewhere


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the arguments say; returns the exit status.

    >>> main(["--version"])
    experimentator ...
    0
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("JAX_TRACEBACK_FILTERING", "off")  # `failures` leaves out what is of no help
    prefer_installed()
    _open_streams()
    if argv is None:
        collector.take()
        deferral.defer()
    words = sys.argv[1:] if argv is None else list(argv)
    whole = "--traceback" in words or os.environ.get("EXPERIMENTATOR_TRACEBACK", "") not in ("", "0")
    try:
        with _terminable():
            status = _obey(parse(words))
            sys.stdout.flush()
            return status
    except SystemExit as stop:  # raised by the configuration
        return _obey_exit(stop.code)
    except BaseException as error:
        status = _fail(error, whole)
        if argv is None and isinstance(error, KeyboardInterrupt):
            _leave(status)
        return status


def _open_streams() -> None:
    """Discard what is written to a stream that the caller closed (`>&-`), instead of failing."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115  # for as long as the process lives
        elif isinstance(stream := getattr(sys, name), io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # for terminals without Unicode


def _obey_exit(code: object) -> int:
    """The exit status of `sys.exit(code)`, as Python has it: a number is the status, a text is shown."""
    if code is None or isinstance(code, int):
        return code or 0
    print(code, file=sys.stderr)
    return 1


def _obey(arguments: argparse.Namespace) -> int:
    if arguments.command == "graph":
        return _graph(arguments)
    if arguments.command == "run":
        if not arguments.grid:
            _refuse_options_of_grid(arguments)
            return _point(arguments) if arguments.report else _run(arguments)
        from experimentator.commands.sweep import sweep

        return sweep(arguments, sys.stdout, sys.stderr)
    if arguments.command == "bench":
        return _bench(arguments)
    if arguments.command == "runs":
        from experimentator.commands.listing import list_runs

        return list_runs(arguments, sys.stdout, sys.stderr)
    if arguments.command in ("evaluate", "predict", "export"):
        from experimentator.commands import reuse

        getattr(reuse, arguments.command)(arguments, _built, sys.stdout, sys.stderr)
        return 0
    if arguments.command == "verify-resume":
        return _verify_resume(arguments)
    sys.stdout.write(arguments.text)
    return 0


# The commands


def _run(arguments: argparse.Namespace, is_built: Callable[[], None] = lambda: None) -> int:
    from experimentator.commands.results import final_metrics, show_epochs, show_values
    from experimentator.sweep.heartbeat import Heartbeat

    exp, epochs = _experiment(arguments)
    is_built()
    folder = _run_folder(exp, arguments)
    beat = Heartbeat(Path(arguments.report), folder) if arguments.report else None
    if beat and folder:
        exp.callbacks.append(beat)
    elif beat:
        beat.keep_quiet()
    if arguments.profile and folder:
        from experimentator.callbacks.profile import Profile

        exp.callbacks.append(Profile(lambda: folder.opened / "profile"))
    if arguments.checkpoint_seconds is not None and folder:
        from experimentator.callbacks.checkpoint_every import CheckpointEvery

        exp.callbacks.append(CheckpointEvery(seconds=arguments.checkpoint_seconds))
    if arguments.resume is not None:
        _resume(exp, folder, arguments.resume)
    try:
        exp.train(epochs)
    except BaseException as error:
        if folder and folder.path:
            error.add_note(f"{exp.epoch} of {epochs} epochs were done; what they gave is in {folder.path}")
        raise
    finally:
        if beat:
            beat.tell_folder()
    if exp.history:
        show_epochs(exp.history, sys.stdout)
        print()
        show_values(final_metrics(exp.history[-1]), sys.stdout)
    if folder and folder.path:
        files = {"weights": folder.weights, "diagram": folder.diagram, "profile": folder.opened / "profile"}
        found = {name: str(path) for name, path in files.items() if path.exists()}
        if len(exp.history) > 1:
            found["curves"] = f"experimentator runs {quote(str(folder.path))} --open"
        show_values({"run folder": str(folder.path), **found}, sys.stdout)
    return 0


def _point(arguments: argparse.Namespace) -> int:
    """Train one point of a grid: report to the process that runs the grid, and end with it."""
    from experimentator.sweep.fork_server import Loaded
    from experimentator.sweep.heartbeat import end_with, tell_done, tell_error, tidy

    end_with(arguments.parent)
    loaded = Loaded(arguments.report, is_forked=arguments.forked)
    try:
        status = _run(arguments, loaded.is_built)
        tell_done(arguments.report)
        return status
    except Exception as error:
        loaded.check()
        tell_error(arguments.report, error)
        raise
    finally:
        tidy(arguments.report, arguments.parent)


def _refuse_options_of_grid(arguments: argparse.Namespace) -> None:
    for name in ("sample", "jobs", "hang_seconds"):
        if vars(arguments)[name] is not None:
            write = 'Add --grid "NAME=[VALUE, VALUE]", or leave it out.'
            raise UsageError(f"--{name.replace('_', '-')} is for the points of a --grid\nSeen: no --grid. {write}")


def _graph(arguments: argparse.Namespace) -> int:
    from experimentator.commands.show import show

    def build(config: str) -> Any:
        return _experiment(argparse.Namespace(**{**vars(arguments), "config": config}))[0]

    print(show(arguments, build, _tell))
    return 0


def _bench(arguments: argparse.Namespace) -> int:
    from experimentator.bench.command import bench

    def build(config: str, changes: Mapping[str, Any]) -> Any:
        own = argparse.Namespace(**{**vars(arguments), "config": config})
        return _of_run(own, changes) if os.path.isdir(config) else _experiment(own, changes)

    print(bench(arguments, build, _tell))
    return 0


def _verify_resume(arguments: argparse.Namespace) -> int:
    from experimentator.commands.verify import Plan, TrainingFailedError, verify

    _assignments(arguments)
    options = [word for text in arguments.assignments for word in ("--set", text)]
    options += ["--epochs", str(arguments.epochs)] if arguments.epochs is not None else []
    plan = Plan(arguments.config, options, arguments.kills, arguments.seed, arguments.output_folder)
    try:
        return 0 if verify(plan, lambda line: print(line, flush=True)) else 1
    except TrainingFailedError as error:
        print(error, file=sys.stderr)
        return error.status


# Their parts


def _experiment(arguments: argparse.Namespace, changes: Mapping[str, Any] = {}) -> tuple[Any, int]:
    """The experiment of a configuration file with its overrides and further changes, and the epochs to train."""
    from experimentator.config import load
    from experimentator.settings import LIBRARY_KEYS

    overrides = {**_overrides(arguments), **changes}
    exp = _built(lambda: load(arguments.config, overrides, known=LIBRARY_KEYS))
    asked, in_file = vars(arguments).get("epochs"), exp.cfg.get("epochs", EPOCHS)
    if asked is None and "epochs" not in exp.cfg and (own := [name for name in LONG if name in exp.cfg]):
        _tell(f"{own[0]} is a name of your own: {EPOCHS} epochs are trained. Write `epochs`, or give --epochs N.")
    return exp, int(in_file) if asked is None else asked


def _of_run(arguments: argparse.Namespace, changes: Mapping[str, Any]) -> tuple[Any, int]:
    """The experiment of a run folder, built anew, and the epochs to train."""
    from experimentator.commands.reuse import stored

    with stored(arguments.config, {**_overrides(arguments), **changes}) as configuration:
        return (exp := _built(configuration)), arguments.epochs or int(exp.get("epochs") or EPOCHS)


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _built(load: Any) -> Any:
    """The experiment of a configuration that `load` runs."""
    from experimentator.commands.noise import filtered
    from experimentator.patches import patched

    # a configuration that reads sys.argv, as argparse does, must not see our arguments
    with patched(sys, argv=sys.argv[:1]), filtered(), collector.resting():
        config = load()
        from experimentator import build_experiment

        return build_experiment(config, load_weights=False)


def _overrides(arguments: argparse.Namespace) -> dict[str, Any]:
    """The settings that options override; `--epochs` does so if the file assigns `epochs`."""
    from experimentator.sweep.points import names_in

    given, names = vars(arguments), ["seed", "output_folder", "experiment_id"]
    if given.get("epochs") is not None and "epochs" in names_in(arguments.config):
        names.append("epochs")
    overrides = _assignments(arguments) | {name: given[name] for name in names if given.get(name) is not None}
    return overrides | ({"hide_progress": True} if given.get("quiet") else {})


def _assignments(arguments: argparse.Namespace) -> dict[str, Any]:
    from experimentator.config import parse_assignment

    return dict(parse_assignment(text) for text in arguments.assignments)


def _run_folder(exp: Any, arguments: argparse.Namespace) -> RunFolder | None:
    from experimentator.runs import RunFolder

    if not hasattr(type(exp), "listeners"):
        print("No run folder: experiment_type has no CallbackedExperiment.", file=sys.stderr)
        return None
    if not exp.cfg.get("output_folder"):
        exp.output_folder = OUTPUT_FOLDER
    if not exp.cfg.get("project_name"):
        exp.project_name = Path(arguments.config).stem
    folder = RunFolder.of(exp)
    if folder not in exp.callbacks:
        exp.callbacks.append(folder)
    return folder


def _resume(exp: Any, folder: RunFolder | None, which: str) -> None:
    """Let the experiment continue an earlier run; with `auto`, there may be none."""
    from experimentator.checkpoint import CheckpointError
    from experimentator.saving.resume import has_checkpoints

    if folder is None and which == AUTO:  # nothing to resume
        return
    if folder is None:
        raise UsageError("--resume needs a run folder, which this experiment_type does not have")
    path = folder.earlier if which in (LATEST, AUTO) else Path(which)
    if which == AUTO and (path is None or not has_checkpoints(path)):
        if folder.experiment_id and path is not None:
            folder.begin_again(path)
        return
    if path is None:
        raise CheckpointError(
            f"There is no run to resume.\nSeen: no runs in {folder.project}, points of a --grid aside.\n"
            "Leave --resume out to begin one, or write --resume auto, which does either."
        )
    exp.resume(path)
    done = "1 epoch is" if exp.epoch == 1 else f"{exp.epoch} epochs are"
    print(f"Resuming {path}: {done} done, {exp.walk.batches} batches in all.", file=sys.stderr, flush=True)


def _fail(error: BaseException, whole: bool) -> int:
    status = failures.exit_status(error)
    if status == failures.BROKEN_PIPE:  # the reader closed the pipe, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    elif whole:
        traceback.print_exception(error)
    else:
        print(*map(printable, failures.message(error).splitlines()), sep="\n", file=sys.stderr)
    return status


def _leave(status: int) -> NoReturn:
    """Exit with this status; after Ctrl-C within C code that runs Python, `sys.exit` would die of SIGINT instead."""
    if reading := sys.modules.get("experimentator.loading.processes"):
        reading.end_all()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


@contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM end a training as Ctrl-C does, with a complete run folder."""

    def stop(*_: Any) -> None:
        raise failures.Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
