"""What a tracker is: four methods, called one after the other in a thread of their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol


class MissingTrackerError(ImportError):
    """The package that a tracker writes with is not installed; the message holds the command to type."""


@dataclass(frozen=True)
class TrackedRun:
    """The run that is tracked: `folder` is its run folder, if it has one, and `config` its resolved values.

    `epochs` and `batches` are the last steps of each kind that are done as it starts: later ones, which a killed
    training may have told, are told again.

    >>> TrackedRun("digits", "first").config
    {}
    """

    project: str
    name: str
    folder: Path | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    epochs: int = 0
    batches: int = 0


class Tracker(Protocol):
    """Takes what a run measures to where it can be looked at; any object with these methods is a tracker.

    >>> class Told:
    ...     def start(self, run): print("start", run.name)
    ...     def scalars(self, values, step): print(step, values)
    ...     def artifact(self, path): print(path.name)
    ...     def finish(self, status): print(status)
    >>> Told().scalars({"validation/accuracy": 0.5}, step=1)
    1 {'validation/accuracy': 0.5}
    """

    def start(self, run: TrackedRun) -> None:
        """A training begins, or goes on under a name that was there before."""

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """What an epoch measured, `step` being its number; with `Track(batches=)` batches, too, and their number."""

    def artifact(self, path: Path) -> None:
        """Keep a file with the run."""

    def finish(self, status: str) -> None:
        """The training ended: finished, interrupted or failed."""


def require(module: str, *, asker: object) -> None:
    """Refuse a tracker whose package is missing, when it is made; the extra to install is named like the package.

    >>> require("no_such_package", asker=object())
    Traceback (most recent call last):
    experimentator.trackers.tracker.MissingTrackerError: object needs no_such_package, which is not installed.
    Type: pip install "experimentator-dl[no_such_package]"
    """
    if find_spec(module) is None:
        raise MissingTrackerError(
            f"{type(asker).__name__} needs {module}, which is not installed.\n"
            f'Type: pip install "experimentator-dl[{module}]"'
        )
