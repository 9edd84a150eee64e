"""A grid: one training for each combination of values, one after the other, each in a process of its own."""

from __future__ import annotations

import ast
import math
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experimentator.commands.failures import Terminated
from experimentator.config import ConfigError, grid, load
from experimentator.overrides import assigned
from experimentator.runs import read_history
from experimentator.settings import LIBRARY_KEYS

WATCH_SECONDS = 0.5
GRACE = 10.0  # seconds for a training to put its run folder in order once it is told to stop


@dataclass(frozen=True)
class Outcome:
    """How the training of one point ended."""

    values: Mapping[str, Any]
    status: int
    folder: str = ""
    last: Mapping[str, Any] = field(default_factory=dict)


def points(axes: Mapping[str, Sequence[Any]], config: str) -> list[dict[str, Any]]:
    """The points of a grid over names of a configuration file, which is not run.

    Raises:
        ConfigError: for a name that the file does not set, or a value that cannot be written down.
    """
    if unknown := set(axes) - {*names_in(config), *LIBRARY_KEYS}:
        load(config, dict.fromkeys(unknown), known=LIBRARY_KEYS)  # refuses them, with near matches, before it runs
    return list(grid(axes))


def names_in(config: str) -> tuple[str, ...]:
    """The names that a configuration file assigns; none of a file that cannot be read, which `load` complains about."""
    try:
        return assigned(ast.parse(Path(config).read_text("utf-8-sig")))
    except (OSError, ValueError, SyntaxError, RecursionError, MemoryError):
        return ()


def train_points(config: str, grid_points: Sequence[Mapping[str, Any]], options: Sequence[str]) -> Iterator[Outcome]:
    """Train each point with the command line; yields how it ended. What stops this stops the training too."""
    for place, values in enumerate(grid_points, start=1):
        sets = [word for name, value in values.items() for word in ("--set", f"{name}={literal(value)}")]
        numbered = [option.replace("{point}", str(place)) for option in options]
        with tempfile.TemporaryDirectory(prefix="experimentator-") as aside:
            report = Path(aside, "folder")
            command = [sys.executable, "-m", "experimentator", "run", config, *numbered, *sets, "--report", str(report)]
            status = _run(command)
            folder = report.read_text("utf-8") if report.exists() else ""
        rows = read_history(folder) if folder and Path(folder, "history.jsonl").exists() else []
        yield Outcome(values, status, folder, rows[-1] if rows else {})


def literal(value: Any) -> str:
    """A value as the command line reads it back.

    >>> literal([1e-3, "adam"]), literal(float("inf"))
    ("[0.001, 'adam']", '1e999')
    """
    if isinstance(value, float) and math.isinf(value):
        return "1e999" if value > 0 else "-1e999"
    text = repr(value)
    try:
        if ast.literal_eval(text) == value:
            return text
    except (ValueError, SyntaxError):
        pass
    raise ConfigError(f"{text:.80} cannot be handed to another process.", "It is no literal.", "Write numbers or text.")


def end_with_parent(*, is_point: bool) -> None:
    """Let a point end as SIGTERM ends it, once the sweep that began it is gone: killed, it could not say so."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(WATCH_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)

    if is_point:
        threading.Thread(target=watch, daemon=True).start()


def _run(command: Sequence[str]) -> int:
    """Run a training; all it prints goes to stderr, since stdout is for the table of points."""
    # A group of its own: Ctrl-C reaches this process only, which passes it on once.
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sys.__stderr__, process_group=0) as child:
        try:
            return child.wait()
        except KeyboardInterrupt as stop:
            _stop(child, stop)
            raise


def _stop(child: subprocess.Popen[bytes], stop: KeyboardInterrupt) -> None:
    if isinstance(stop, Terminated) or sys.platform == "win32":
        child.terminate()
    else:
        child.send_signal(signal.SIGINT)
    try:
        child.wait(timeout=GRACE)
    except subprocess.TimeoutExpired:
        child.kill()
