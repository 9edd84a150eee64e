"""Trackers: where the scalars and files of a run are shown; each writes in its own way what `Track` hands it."""

from experimentator.trackers.json_lines import JsonLinesTracker
from experimentator.trackers.mlflow import MlflowTracker
from experimentator.trackers.tensorboard import TensorBoardTracker
from experimentator.trackers.tracker import MissingTrackerError, TrackedRun, Tracker
from experimentator.trackers.trackio import TrackioTracker
from experimentator.trackers.wandb import WandbTracker

__all__ = [
    "JsonLinesTracker",
    "MissingTrackerError",
    "MlflowTracker",
    "TensorBoardTracker",
    "TrackedRun",
    "Tracker",
    "TrackioTracker",
    "WandbTracker",
]
