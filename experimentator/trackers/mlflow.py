"""MLflow: a server, or a local store."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experimentator.trackers.tracker import TrackedRun, require

STATUSES = {"finished": "FINISHED", "interrupted": "KILLED"}
NAME = "experimentator.run"  # the tag by which a run that goes on is found
LONGEST, MOST = 250, 100  # characters of the name of a parameter; parameters a call


class MlflowTracker:
    """Log to MLflow: the project is the experiment, settings are parameters, files are artifacts.

    `tracking_uri` is a server or a local store (`"sqlite:///mlflow.db"`); without one, MLflow takes
    `MLFLOW_TRACKING_URI` or its default.

    >>> MlflowTracker("sqlite:///mlflow.db").tracking_uri
    'sqlite:///mlflow.db'

    Raises:
        MissingTrackerError: without `pip install "experimentator-dl[mlflow]"`.
    """

    def __init__(self, tracking_uri: str | None = None):
        require("mlflow", asker=self)
        self.tracking_uri = tracking_uri
        self.client: Any = None
        self.run_id = ""

    def start(self, run: TrackedRun) -> None:
        """Open a run, or go on with the one of that name."""
        from mlflow.tracking import MlflowClient

        logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)  # it tells of each table it makes
        self.client = MlflowClient(tracking_uri=self.tracking_uri)
        known = self.client.get_experiment_by_name(run.project)
        experiment = known.experiment_id if known else self.client.create_experiment(run.project)
        name = str(run.folder or run.name).replace("'", "")
        earlier = self.client.search_runs([experiment], filter_string=f"tags.`{NAME}` = '{name}'", max_results=1)
        if earlier:
            self.run_id = earlier[0].info.run_id
            self.client.update_run(self.run_id, status="RUNNING")
        else:
            self.run_id = self.client.create_run(experiment, run_name=run.name, tags={NAME: name}).info.run_id
            self._parameters(run.config)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """A value of each metric."""
        for name, value in values.items():
            self.client.log_metric(self.run_id, _allowed(name), value, step=step)

    def artifact(self, path: Path) -> None:
        """A copy among the artifacts of the run."""
        self.client.log_artifact(self.run_id, str(path))

    def finish(self, status: str) -> None:
        """Close the run."""
        self.client.set_terminated(self.run_id, STATUSES.get(status, "FAILED"))

    def _parameters(self, config: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        params = [Param(_allowed(name)[:LONGEST], str(value)[:LONGEST]) for name, value in config.items()]
        for start in range(0, len(params), MOST):
            self.client.log_batch(self.run_id, params=params[start : start + MOST])


def _allowed(name: str) -> str:
    """A name with `_` in place of what MLflow refuses, for which it would take none of the others.

    >>> _allowed("validation/top@5 (%)")
    'validation/top_5 ___'
    """
    return re.sub(r"[^\w/.\- :]", "_", name)
