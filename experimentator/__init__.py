"""Experiments as one Python object: subsets, callbacks and a dataflow graph of chunk processors.

Names are loaded when first used, so that importing the package loads no framework.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

_HOMES = {
    "experimentator.graph": (
        "Chunk ChunkProcessor ExperimentMode Graph GraphError MissingTensorError Mode Ref Stage chunk_processor record"
    ),
    "experimentator.experiment": "BaseExperiment",
    "experimentator.features": (
        "AsyncExperiment CallbackedExperiment DummyExperiment JaxExperiment KerasExperiment TensorflowExperiment "
        "TorchExperiment "
        "build_experiment"
    ),
    "experimentator.backends.keras.optimizers": "Optimizers",
    "experimentator.backends.keras.inner_gradients": "gradient",
    "experimentator.subset": "Subset find",
    "experimentator.data.buckets": "Buckets",
    "experimentator.data.padding": "bucket_sizes",
    "experimentator.data.choosing": "BalancedSubset CombinedSubset FilteredSubset",
    "experimentator.data.splitting": "BasicDatasetSplitter k_fold split",
    "experimentator.data.augmentation": "DataAugmentationDataset PairedDataset",
    "experimentator.data.datasets": "collate_fn",
    "experimentator.data.disk_cache": "DiskCachedDataset",
    "experimentator.data.reading": "item_random",
    "experimentator.callbacks": "Callback CallbackError",
    "experimentator.callbacks.checkpoint_every": "CheckpointEvery",
    "experimentator.callbacks.profile": "Profile",
    "experimentator.callbacks.weights": "LoadWeights SaveWeights",
    "experimentator.callbacks.stopping": "EarlyStopping",
    "experimentator.callbacks.freezing": "Freeze",
    "experimentator.callbacks.finite": "TerminateOnNaN",
    "experimentator.callbacks.metrics": "AverageMetrics",
    "experimentator.callbacks.gathering": "GatherCycleMetrics",
    "experimentator.callbacks.rates": "LearningRateCosine LearningRateDecay LearningRateWarmUp SaveLearningRate",
    "experimentator.callbacks.plateau": "ReduceLROnPlateau",
    "experimentator.callbacks.rate_search": "FindLearningRate",
    "experimentator.callbacks.moving_average": "ExponentialMovingAverage",
    "experimentator.callbacks.track": "Track",
    "experimentator.trackers": (
        "JsonLinesTracker MlflowTracker TensorBoardTracker TrackedRun Tracker TrackioTracker WandbTracker"
    ),
    "experimentator.callbacks.confusion": "ConfusionMatrix",
    "experimentator.callbacks.journal": "MeasureTime PrintLoss StateLogger",
    "experimentator.config": "ConfigError",
    "experimentator.data.items": "DatasetError",
    "experimentator.averages": "NonFiniteLossError",
    "experimentator.checkpoint": "CheckpointError",
    "experimentator.saving.matching": "WeightsError",
    "experimentator.saving.identity": "ResumeError",
    "experimentator.version": "__version__",
}
_HOME = {name: home for home, names in _HOMES.items() for name in names.split()}
_ROOMS = ("graph", "ops")

__all__ = sorted([*_HOME, "ops"])  # not `graph`: no setting may be called that


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return import_module(f"{__name__}.{name}")
    if name in _HOME:
        if "keras" in sys.modules:
            import_module(f"{__name__}.backends.remat_hook")  # before a configuration calls `keras.remat`
        return getattr(import_module(_HOME[name]), name)
    if not name.startswith("_") and sys._getframe(1).f_code.co_name == "_handle_fromlist":
        import_module(f"{__name__}.other_libraries").refuse_import(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "graph"]
