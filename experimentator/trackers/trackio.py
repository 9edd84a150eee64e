"""trackio: a local database, which `trackio show` opens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from experimentator.patches import patched
from experimentator.trackers.tracker import TrackedRun, require


class TrackioTracker:
    """Log to trackio, under the project and the name of the run: `trackio show --project digits` shows it.

    `options` go to `trackio.init`, such as `space_id=`; the database lies where trackio keeps it (`TRACKIO_DIR`).

    >>> TrackioTracker().options
    {}

    Raises:
        MissingTrackerError: without `pip install "experimentator-dl[trackio]"`.
    """

    def __init__(self, **options: Any):
        require("trackio", asker=self)
        self.options = options
        self.run: Any = None

    def start(self, run: TrackedRun) -> None:
        """Open a run, or go on with the one of that name."""
        import trackio

        quiet = {"embed": False, "auto_log_gpu": False, "auto_log_cpu": False, "resume": "allow"}
        with _silent():
            self.run = trackio.init(run.project, run.name, config=dict(run.config), **{**quiet, **self.options})

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """A row of the run."""
        self.run.log(dict(values), step=step)

    def artifact(self, path: Path) -> None:
        """A copy among the artifacts of the run."""
        with _silent():
            self.run.log_artifact(path, name=f"{self.run.name}-{path.name}", type="file")

    def finish(self, status: str) -> None:
        """Close the run, its rows in the database."""
        with _silent():
            self.run.finish()


@contextmanager
def _silent() -> Iterator[None]:
    """Keep trackio from printing to stdout, which holds results; other threads print as ever."""
    import trackio

    with ExitStack() as stack:
        for module in (trackio, trackio.run, trackio.utils):
            stack.enter_context(patched(module, print=lambda *_, **__: None))
        yield
