"""Weights & Biases: online, or offline for `wandb sync` later."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experimentator.trackers.tracker import TrackedRun, require


class WandbTracker:
    """Log to Weights & Biases, under the project and the name of the run; files go into the run folder, or here.

    `mode` is "online", "offline" or "disabled"; without one, W&B's own settings decide. Offline runs are sent
    by `wandb sync`. `options` go to `wandb.init`, such as `entity=`, `tags=`, `project=`.

    >>> WandbTracker(mode="offline").mode
    'offline'

    Raises:
        MissingTrackerError: without `pip install "experimentator-dl[wandb]"`.
    """

    def __init__(self, *, mode: str | None = None, **options: Any):
        require("wandb", asker=self)
        self.mode, self.options = mode, options
        self.run: Any = None

    def start(self, run: TrackedRun) -> None:
        """Open a run, or go on with the one of that name."""
        import wandb

        settings = wandb.Settings(console="off", silent=True)  # the terminal is the progress display's
        wandb.setup(settings)  # or it would ask for a key, and wait for the answer
        fixed = {"config": dict(run.config), "mode": self.mode, "resume": "allow", "settings": settings}
        given = {"project": run.project, "name": run.name, "id": re.sub(r"[^\w.-]", "-", run.name), **self.options}
        self.run = wandb.init(dir=run.folder or os.getcwd(), **fixed, **given)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """A row of the history."""
        self.run.log(dict(values), step=step)

    def artifact(self, path: Path) -> None:
        """A copy among the files of the run."""
        copy = shutil.copy(path, self.run.dir)
        self.run.save(copy, base_path=self.run.dir, policy="now")

    def finish(self, status: str) -> None:
        """Close the run, as failed unless it finished."""
        self.run.finish(exit_code=0 if status == "finished" else 1)
