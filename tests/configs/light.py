"""A training without a framework: one weight, moved by hand; `trouble` makes it fail in the middle."""

import numpy as np

from experimentator import BaseExperiment, CallbackedExperiment, Mode, Subset, chunk_processor
from experimentator.backends.numpy import NumpyBackend, NumpyStep

rate = 0.1
trouble = ""
weight = {"scale": np.array(0.0)}


class Descent(NumpyStep):
    """Descends the square error of `scale * input` against `target`."""

    def __call__(self, columns, index, **options):
        outputs = super().__call__(columns, index, **options)
        weight["scale"] = weight["scale"] - rate * outputs["slope"].mean()
        return outputs | {"loss": outputs["loss"] + (np.nan if trouble == "nan" else 0.0)}


class ByHand(NumpyBackend):
    def compile(self, graph, specs, optimizer=None, **options):
        return super().compile(graph, specs) if optimizer is None else Descent(graph)

    def weights(self):
        return weight


class Rate:
    """Stands where an optimizer stands: Descent does the work."""

    learning_rate = rate


class ByHandExperiment(BaseExperiment):
    backend = ByHand()


@chunk_processor(inputs=["batch_input", "batch_target"], outputs=["loss", "slope"])
def square_error(batch_input, batch_target):
    if trouble == "processor":
        raise ZeroDivisionError("in the middle")
    error = weight["scale"] * batch_input - batch_target
    return np.mean(error**2), np.mean(2 * error * batch_input)


class Observer:
    inputs = ("slope",)

    def on_epoch_end(self, epoch, **_):
        if trouble == "callback" and epoch == 2:
            raise ZeroDivisionError("in the callback")


experiment_type = [BaseExperiment, CallbackedExperiment, ByHandExperiment]
x = np.linspace(0.0, 1.0, 8)
items = {key: {"input": x[key], "target": 2 * x[key]} for key in range(8)}
if trouble == "dataset":
    del items[3]["target"]
subsets = [Subset("training", Mode.TRAIN, items), Subset("validation", Mode.EVAL, items)]
batch_size = 4
optimizer = Rate()
callbacks = [Observer()]
chunk_processors = [square_error]
