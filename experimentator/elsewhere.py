"""Names that Keras, PyTorch and Lightning have for what is called otherwise here, and what to write instead."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# What is asked of a model or a trainer elsewhere.
_EVALUATE = 'Write exp.evaluate(), over every EVAL subset, or exp.evaluate("validation"), over one.'
_EXPORT = "Write exp.export(PATH) for a file that runs without this library."
_LOAD = "Write exp.load_weights(PATH); exp.resume(FOLDER) goes on with a training."
_NUMBERS = 'Let a processor write the number, and list its name in the setting `metrics`: metrics = ["name"].'
_PLACE = 'The framework chooses the device: a GPU where it sees one, else the CPU; CUDA_VISIBLE_DEVICES="" hides GPUs.'
_SAVE = "Write exp.save_weights(PATH) for weights, exp.save_checkpoint(FOLDER) for all that a training goes on from."
_SUMMARY = "Write print(exp), or print(exp.describe()) for what is computed."
_WEIGHTS = "Write exp.backend.weights(), which has arrays by key; the network that ops.Model was given has its own."
ATTRIBUTES: Mapping[str, str] = {
    "compile": "Give an optimizer and metrics in the configuration; a loss is a processor, as ops.SoftmaxCrossEntropy.",
    "cpu": _PLACE,
    "cuda": _PLACE,
    "fit": "Write exp.train(10), which trains on the TRAIN subsets and evaluates on the EVAL subsets of `subsets`.",
    "get_weights": _WEIGHTS,
    "layers": "Write print(exp.describe()); the network that ops.Model was given has its layers.",
    "load": _LOAD,
    "load_from_checkpoint": _LOAD,
    "load_state_dict": _LOAD,
    "log": _NUMBERS,
    "log_dict": _NUMBERS,
    "lr": "Write exp.learning_rate, or exp.get_learning_rate() for the one in force.",
    "model": "Write exp.as_model() for a keras.Model of what INFER computes, or keep the network that ops.Model has.",
    "parameters": _WEIGHTS,
    "save": f"{_SAVE} {_EXPORT}",
    "save_model": f"{_SAVE} {_EXPORT}",
    "set_weights": "Write exp.load_weights(PATH), or exp.backend.set_weights({...}) with arrays by key.",
    "state_dict": f"{_WEIGHTS} {_SAVE}",
    "summary": _SUMMARY,
    "test": _EVALUATE,
    "to": _PLACE,
    "trainable_variables": _WEIGHTS,
    "trainer": "An experiment trains itself: write exp.train(10).",
    "validate": _EVALUATE,
    "weights": _WEIGHTS,
}

# What is listed among callbacks elsewhere.
_AVERAGED = "Write experimentator.ExponentialMovingAverage(...)."
_PROGRESS = "Leave it out: progress is shown, unless the setting hide_progress is True."
_TRACK = "Write experimentator.Track(experimentator.TensorBoardTracker())."
_SCHEDULE = (
    "Give the optimizer a schedule of Keras: keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.1, 9000)), "
    "or list experimentator.LearningRateCosine()."
)
CALLBACKS: Mapping[str, str] = {
    "BackboneFinetuning": 'Write experimentator.Freeze("Trunk", epochs=3).',
    "BackupAndRestore": "Write experimentator.CheckpointEvery().",
    "CSVLogger": "The run folder's history.jsonl has it already; or write pandas.DataFrame(exp.history).to_csv(PATH).",
    "EarlyStopping": "Write experimentator.EarlyStopping(...).",
    "LearningRateFinder": "Write experimentator.FindLearningRate(...).",
    "LearningRateMonitor": "Write experimentator.SaveLearningRate().",
    "LearningRateScheduler": (
        "Write a class of your own with init(self, exp), which keeps exp, and on_epoch_begin(self, epoch, **_), which "
        "calls self.exp.set_learning_rate(schedule(epoch - 1)): epochs count from 1 here, from 0 in Keras."
    ),
    "MLFlowLogger": "Write experimentator.Track(experimentator.MlflowTracker()).",
    "ModelCheckpoint": "Write experimentator.SaveWeights(...).",
    "ModelSummary": ATTRIBUTES["summary"],
    "ProgbarLogger": _PROGRESS,
    "ReduceLROnPlateau": "Write experimentator.ReduceLROnPlateau(...).",
    "RichProgressBar": _PROGRESS,
    "StochasticWeightAveraging": _AVERAGED,
    "SwapEMAWeights": _AVERAGED,
    "TQDMProgressBar": _PROGRESS,
    "TensorBoard": _TRACK,
    "TensorBoardLogger": _TRACK,
    "TerminateOnNaN": "Write experimentator.TerminateOnNaN().",
    "WandbLogger": "Write experimentator.Track(experimentator.WandbTracker(...)).",
}
_OWN = (
    "Write a class of your own: hooks take values by name, as on_epoch_end(self, epoch, training_loss, **_), and "
    "init(self, exp) gives the experiment."
)
_LOOPS = {  # by where a class comes from: what it is, and what to write where its name tells no more
    "keras.src.optimizers": ("a schedule of Keras, for its optimizers", _SCHEDULE),
    "keras": ("a callback of Keras, for its fit", _OWN),
    "lightning": ("of Lightning, for its Trainer", _OWN),
    "pytorch_lightning": ("of Lightning, for its Trainer", _OWN),
    "torch.optim": ("of PyTorch, for a loop written by hand", _SCHEDULE),
}


def callback_of_others(callback: Any) -> tuple[str, str] | None:
    """What a callback, logger or schedule made for another loop is, and what to write; None for any other object.

    >>> callback_of_others(object()) is None
    True
    """
    for kind in type(callback).__mro__:
        for room, (what, write) in _LOOPS.items():
            if f"{kind.__module__}.".startswith(f"{room}."):
                if kind.__name__ not in CALLBACKS and kind is not type(callback):
                    write = f"Leave {kind.__name__} out of its bases. {_OWN}"
                return what, CALLBACKS.get(kind.__name__, write)
    return None
