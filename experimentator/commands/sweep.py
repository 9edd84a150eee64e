"""`run --grid`: trains the points of a sweep that are not done, and shows progress and results."""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from experimentator.checkpoint import CheckpointError, write_atomically
from experimentator.commands.building import assigned
from experimentator.commands.failures import shown_path
from experimentator.commands.means import REPEATS, means_of, show_means
from experimentator.commands.results import show_table, tell
from experimentator.commands.usage import AUTO, LATEST, OUTPUT_FOLDER, UsageError
from experimentator.embedded import named
from experimentator.graph.text import printable
from experimentator.records.measures import best_of, loss_of, measures_of, numbers_in
from experimentator.records.run_places import folder_name, make
from experimentator.sweep.outcome import Outcome
from experimentator.sweep.picture import picture
from experimentator.sweep.points import axes_of, constant_in, literal, points
from experimentator.sweep.register import REGISTER, Register, asked_of, wait_for
from experimentator.sweep.supervisor import Child, Point, Supervisor, devices

PICTURE, COMPILED = "sweep.svg", "compiled"
SEED = "seed"
HANG_SECONDS = 3600.0
MOMENT = 0.1
OPTIONS = {  # settings that all points share, with the option that gives each
    "experiment_id": "--experiment-id",
    "output_folder": "--output-folder",
    "project_name": "--set project_name=NAME",
    "epochs": "--epochs",
}


def sweep(arguments: Namespace) -> int:
    """Train every point that is not done; returns the exit status of the first that failed."""
    axes = axes_of(arguments.grid)
    arguments.jobs = arguments.jobs or 1
    arguments.quiet |= arguments.jobs > 1  # points that train at once print into files
    sets = assigned(arguments)
    if arguments.seed is not None:
        sets[SEED] = arguments.seed
    _check(arguments, axes, sets)
    run = Sweep(arguments, sets, points(axes, arguments.config, sample=arguments.sample))
    supervisor = Supervisor(
        jobs=arguments.jobs,
        hang_seconds=arguments.hang_seconds or HANG_SECONDS,
        compiled=run.folder / COMPILED,
        devices=devices(),
        is_quiet=arguments.quiet,
    )
    try:
        with run.display:
            supervisor.train(run.due(), run)
    except KeyboardInterrupt as stop:
        stop.add_note(
            f"Give the command again with --experiment-id {run.folder.name} --resume auto to go on with the sweep."
        )
        raise
    finally:
        run.register.close()
        _show(axes, run.ended_so_far(), run.folder)
    return next((one.exit_status for one in run.ended_so_far() if not one.is_finished), 0)


class Sweep:
    """The points of a sweep: which are due, and their outcomes, which go to the register and the display."""

    def __init__(self, arguments: Namespace, sets: Mapping[str, Any], chosen: Sequence[Mapping[str, Any]]):
        self.arguments, self.sets, self.chosen = arguments, sets, chosen
        self.asked = asked_of(arguments.config, arguments.epochs)
        self.begun: dict[int, str] = {}  # what each point was asked
        self.folder = _folder(arguments, sets)
        self.register = Register(self.folder, arguments.config)
        self.numbers = [self.register.number({**sets, **values}) for values in chosen]
        self.outcomes: dict[int, Outcome] = {}
        epochs = arguments.epochs or _epochs(arguments.config)
        self.display = Display(chosen, self.numbers, jobs=arguments.jobs, epochs=epochs, is_quiet=arguments.quiet)
        self.begins, self.waits = self.display.begins, self.display.waits

    def due(self) -> Iterator[Point]:
        """The points that are not done, each as it is about to start."""
        for number, values in zip(self.numbers, self.chosen, strict=True):
            self._look()
            if done := self.register.done(number, values, self.asked):
                self.outcomes[number] = done
                self.display.is_done(number)
                continue
            run = self.folder.with_name(f"{self.folder.name}-{number}")
            if self.register.was_begun(number):
                wait_for(run)
            self.begun[number] = self.asked
            self.register.begin(number, values, {**self.sets, **values})
            yield Point(number, values, _command(self.arguments, values, run.name))

    def ended(self, outcome: Outcome, printed: str) -> None:
        """A point ended."""
        self.outcomes[outcome.number] = outcome
        self.register.end(outcome, {**self.sets, **outcome.values}, self.begun[outcome.number])
        self.display.ended(outcome, printed)

    def _look(self) -> None:
        """Take note of a configuration that was changed meanwhile: points that begin now are others than those before.

        A file that is gone is told of by the points themselves.
        """
        with suppress(OSError):
            now, before = asked_of(self.arguments.config, self.arguments.epochs), self.asked
            if now != before:
                tell(f"{self.arguments.config} was changed meanwhile: from here on, points are trained as it is now.")
            self.asked = now

    def ended_so_far(self) -> list[Outcome]:
        """The outcomes so far, in the order of points."""
        return [self.outcomes[number] for number in self.numbers if number in self.outcomes]


def _check(arguments: Namespace, axes: Mapping[str, Any], sets: Mapping[str, Any]) -> None:
    if arguments.resume not in (None, LATEST, AUTO):
        wrong = "--resume RUN continues one run, but --grid begins many"
        raise UsageError(f"{wrong}\nWrite --resume for the newest sweep, or --experiment-id ID --resume for another.")
    for name, option in OPTIONS.items():
        if name in axes and (name != "epochs" or arguments.epochs is not None):
            raise UsageError(f"{name!r} is no axis of a grid\nSeen: --grid {name}=. All points share it: {option}.")
    if "experiment_id" in sets:
        seen = f"--set experiment_id={sets['experiment_id']!r}"
        raise UsageError(f"'experiment_id' is set for all points of a grid by --experiment-id\nSeen: {seen}.")
    for name in axes:
        if name in sets:
            raise UsageError(
                f"{name!r} is both an axis and a single value\nSeen: {name}={sets[name]!r}. Leave one of them out."
            )


def _folder(arguments: Namespace, sets: Mapping[str, Any]) -> Path:
    """The folder of the sweep: a new one, or that of the sweep to continue. Run folders of points are beside it."""
    output = arguments.output_folder or sets.get("output_folder") or constant_in(arguments.config, "output_folder")
    project = sets.get("project_name") or constant_in(arguments.config, "project_name") or named(arguments.config)
    place = Path(output or OUTPUT_FOLDER) / folder_name(project, key="project_name")
    if arguments.experiment_id:
        folder = place / folder_name(arguments.experiment_id, key="experiment_id")
        is_there = (folder / REGISTER).exists()
        if is_there and not arguments.resume:
            raise CheckpointError(
                f"There is already a sweep {folder.name!r}.\nSeen: {folder}.\n"
                "Add --resume auto to go on with it, or give another --experiment-id."
            )
        if not is_there and arguments.resume == LATEST:
            raise CheckpointError(_nothing(place))
        is_empty = folder.is_dir() and not any(folder.iterdir())  # left by a sweep that was killed at once
        return folder if is_there or is_empty else make(place, arguments.experiment_id)
    found = max(place.glob(f"*/{REGISTER}"), key=lambda path: path.stat().st_mtime_ns, default=None)
    if arguments.resume and found is not None:
        return found.parent
    if arguments.resume == LATEST:
        raise CheckpointError(_nothing(place))
    return _begun_now(place)


def _begun_now(place: Path) -> Path:
    """A new folder named by the time in UTC; if that is taken, wait for the next second."""
    while True:
        name = f"{datetime.now(UTC):%Y%m%d-%H%M%S}"
        try:
            return make(place, name)
        except CheckpointError:
            if not (place / name).is_dir():
                raise
            time.sleep(MOMENT)


def _nothing(place: Path) -> str:
    write = "Leave --resume out to begin one, or write --resume auto."
    return f"There is no sweep to resume.\nSeen: none in {place}.\n{write}"


def _epochs(config: str) -> int:
    told = constant_in(config, "epochs")
    return told if type(told) is int else 0


def _command(arguments: Namespace, values: Mapping[str, Any], experiment_id: str) -> list[str]:
    """The command line of a point."""
    words = [sys.executable, "-m", "experimentator", "run", arguments.config]
    for name in ("epochs", "seed", "output_folder", "checkpoint_seconds"):
        if (value := vars(arguments)[name]) is not None:
            words += [f"--{name.replace('_', '-')}", str(value)]
    words += ["--experiment-id", experiment_id, *(["--resume", AUTO] if arguments.resume else [])]
    for text in (*arguments.assignments, *(f"{name}={literal(value)}" for name, value in values.items())):
        words += ["--set", text]
    return words + [f"--{name}" for name in ("profile", "quiet", "traceback") if vars(arguments)[name]]


class Display:
    """Shows a sweep under way: a line for each point on stderr; on a terminal, with several jobs, a progress bar."""

    def __init__(
        self, chosen: Sequence[Mapping[str, Any]], numbers: Sequence[int], *, jobs: int, epochs: int, is_quiet: bool
    ):
        self.chosen, self.jobs, self.epochs, self.is_quiet = chosen, jobs, epochs, is_quiet
        self.places = {number: place for place, number in enumerate(numbers, start=1)}
        self.progress: Any = None
        self.count, self.shown = 0, 0.0
        self.errors_told: set[str] = set()  # errors printed in full, once each

    def __enter__(self) -> None:
        if self.jobs > 1 and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

            from experimentator.callbacks.progress import Forgiving

            columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
            stderr: Any = Forgiving(sys.stderr)
            self.progress = Progress(*columns, console=Console(file=stderr), transient=True)
            self.progress.add_task("", total=len(self.chosen))
            self.progress.start()

    def __exit__(self, *_: Any) -> None:
        if self.progress is not None:
            self.progress.stop()

    def is_done(self, number: int) -> None:
        """Show that a point is done already."""
        self._tell(f"{self._name(number)}  finished before")
        self._count()

    def begins(self, point: Point) -> None:
        """Show that a point starts."""
        self._tell(self._name(point.number))

    def waits(self, children: Sequence[Child]) -> None:
        """Show the epochs of the points under way."""
        if self.progress is None or time.monotonic() - self.shown < 0.5:
            return
        self.shown = time.monotonic()
        of = f"/{self.epochs}" if self.epochs else ""
        told = ", ".join(f"point {self.places[child.point.number]}: epoch {child.epoch}{of}" for child in children)
        self.progress.update(self.progress.task_ids[0], description=told)

    def ended(self, outcome: Outcome, printed: str) -> None:
        """Show how a point ended, if its own output did not."""
        self._count()
        place = f"point {self.places[outcome.number]}/{len(self.chosen)}"
        if not outcome.is_finished and printed and outcome.error not in self.errors_told:
            self.errors_told.add(outcome.error)
            self._tell("\n".join(f"  {printable(line)}" for line in printed.expandtabs().splitlines()))
        if self.is_quiet or outcome.status < 0 or outcome.why:
            self._tell(f"{place}  {outcome.ended} after {outcome.seconds:.1f} s{_told(outcome)}")

    def _name(self, number: int) -> str:
        values = self.chosen[self.places[number] - 1]
        shown = "  ".join(f"{name}={value!r}" for name, value in values.items())
        return f"point {self.places[number]}/{len(self.chosen)}  {shown}"

    def _count(self) -> None:
        self.count += 1
        if self.progress is not None:
            self.progress.update(self.progress.task_ids[0], completed=self.count)

    def _tell(self, text: str) -> None:
        if self.progress is not None:
            self.progress.console.print(text, markup=False, emoji=False, highlight=False, soft_wrap=True)
        else:
            tell(text)


def _told(outcome: Outcome) -> str:
    """The first line of the error, or the loss, as the end of a line."""
    if not outcome.is_finished:
        return f": {printable(outcome.error.splitlines()[0])}" if outcome.error else ""
    metrics = numbers_in(measures_of(outcome.last))
    name = loss_of(metrics)
    return f": {name} {metrics[name]:.4g}" if name else ""


def _show(axes: Mapping[str, Any], outcomes: Sequence[Outcome], folder: Path) -> None:
    """Print the table of points and their means over seeds to stdout, errors to stderr, and write the picture."""
    if not outcomes:
        return
    measured = [_measured(one) for one in outcomes]
    told = _drawn(axes, outcomes, measured, folder)  # before all that is printed: the terminal may be gone
    names = dict.fromkeys(name for metrics in measured for name in metrics)
    rows = [
        {
            **one.values,
            **{name: metrics.get(name, "") for name in names},
            "ended": _ending(one),
            "run folder": shown_path(one.folder) or "-",
        }
        for one, metrics in zip(outcomes, measured, strict=True)
    ]
    repeats = [name for name in axes if name in REPEATS]
    means = means_of(outcomes, measured) if repeats else []
    is_repeated = any(row["runs"] > 1 for row in means)
    show_table(rows, best=None if is_repeated else best_of(measured))
    if is_repeated:
        print()
        show_means(means)
    for error, place in _grouped(outcomes).items():
        tell(f"{place}: {error}")
    if told:
        tell(told)


def _measured(outcome: Outcome) -> dict[str, float]:
    """What a finished point measured in its last epoch, less the names of axes, such as a `learning_rate`."""
    numbers = numbers_in(measures_of(outcome.last)) if outcome.is_finished else {}
    return {name: number for name, number in numbers.items() if name not in outcome.values}


def _drawn(axes: Mapping[str, Any], outcomes: Sequence[Outcome], measured: Sequence[Any], folder: Path) -> str:
    """Write the picture, and say where it is; empty if there is nothing to draw."""
    page = picture([one.values for one in outcomes], measured, title=folder.name, grid=axes)
    if not page:
        return ""
    try:
        write_atomically(folder / PICTURE, page.encode())
    except CheckpointError as error:  # not raised: it would hide the error that ended the sweep
        return f"There is no {PICTURE}. {error}"
    return f"{folder / PICTURE} shows what each axis does; {REGISTER} beside it has all in JSON."


def _grouped(outcomes: Sequence[Outcome]) -> dict[str, str]:
    """The first line of each different error, with one of its runs and the number of others."""
    groups: dict[str, list[Outcome]] = {}
    for one in outcomes:
        if one.error:
            groups.setdefault(printable(one.error.splitlines()[0]), []).append(one)
    runs = {error: shown_path(same[0].folder) or f"point {same[0].number}" for error, same in groups.items()}
    return {e: f"{runs[e]} and {len(same) - 1} more" if len(same) > 1 else runs[e] for e, same in groups.items()}


def _ending(outcome: Outcome) -> str:
    is_told = outcome.status <= 0 or outcome.why or outcome.ended.startswith("exit")
    return outcome.ended if is_told else f"{outcome.ended} (exit {outcome.status})"
