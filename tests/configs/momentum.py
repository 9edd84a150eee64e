"""A training without a framework that has state of every kind: momentum, noise, sums, a callback, shared generators.

`forgetful` lists the callback without its `state_dict`. The environment says where to witness every batch that is
trained on (`WITNESS`, a file), and after how many of them this process kills itself (`DIES_AFTER`).
"""

import os
import random
import signal

import numpy as np

from experimentator import BaseExperiment, CallbackedExperiment, Mode, Subset, chunk_processor
from experimentator.backends.numpy import NumpyBackend, NumpyStep

seed = 5
forgetful = False


class Line:
    """What is trained: a slope with momentum, and a generator of noise that counts its draws."""

    def __init__(self):
        self.weights = {"Line/0/slope": np.array(0.0), "Line/1/seed": np.array([7, 0])}
        self.slots = {"0000": np.array(0.0)}
        self.trained = 0

    def witness(self, rows):
        """Tell of a batch outside of the library, and die if it is time."""
        if path := os.environ.get("WITNESS"):
            with open(path, "a") as file:
                file.write(f"{os.getpid()} {' '.join(map(str, rows))}\n")
        self.trained += 1
        if self.trained == int(os.environ.get("DIES_AFTER", "0")):
            os.kill(os.getpid(), signal.SIGKILL)

    def noise(self):
        first, count = self.weights["Line/1/seed"]
        self.weights["Line/1/seed"] = np.array([first, count + 1])
        return np.random.default_rng((first, count)).normal()


class Descent(NumpyStep):
    """Descends the square error, with noise on the gradient; counts evaluations as draws, too."""

    def __init__(self, graph, line, trains):
        super().__init__(graph)
        self.line, self.trains = line, trains

    def __call__(self, columns, index, **options):
        losses = []
        for rows in index:
            x, y = (columns[name][rows] for name in ("batch_input", "batch_target"))
            error = self.line.weights["Line/0/slope"] * x - y
            losses.append(np.mean(error**2))
            noise = self.line.noise()
            if self.trains:
                self.line.witness(rows)
                velocity = 0.9 * self.line.slots["0000"] - 0.01 * (np.mean(2 * error * x) + 0.1 * noise)
                self.line.slots["0000"] = velocity
                self.line.weights["Line/0/slope"] = self.line.weights["Line/0/slope"] + velocity
        return {name: np.array(losses) for name in self.graph.results}


class ByHand(NumpyBackend):
    def __init__(self):
        self.line = Line()

    def compile(self, graph, specs, optimizer=None, **options):
        return Descent(graph, self.line, optimizer is not None)

    def weights(self):
        return dict(self.line.weights)

    def set_weights(self, weights):
        assert weights.keys() == self.line.weights.keys()
        self.line.weights = {key: array.copy() for key, array in weights.items()}

    def optimizer_state(self, optimizer):
        return dict(self.line.slots)

    def set_optimizer_state(self, optimizer, state):
        assert state.keys() == self.line.slots.keys()
        self.line.slots = {key: array.copy() for key, array in state.items()}


class Rate:
    """Stands where an optimizer stands: Descent does the work."""

    learning_rate = 0.01


class ByHandExperiment(BaseExperiment):
    backend = ByHand()


@chunk_processor(inputs=["batch_input", "batch_target"], outputs=["loss"])
def square_error(batch_input, batch_target):
    return np.mean((batch_input - batch_target) ** 2)


class Luck:
    """Remembers the luckiest batch; luck is drawn from the generators that everybody shares."""

    outputs = ("luck",)

    def __init__(self):
        self.best, self.drawn = -1.0, 0

    def on_block_end(self, results, state, **_):
        for loss in results["loss"]:
            self.drawn += 1
            self.best = max(self.best, float(loss) * random.random() * np.random.random())
        state["luck"] = self.best

    def on_epoch_end(self, **_):
        exp_row = {"luck": self.best, "drawn": self.drawn}
        self.exp.history[-1].update(exp_row)

    def init(self, exp):
        self.exp = exp


class DeclaredLuck(Luck):
    before = ("RunFolder",)

    def state_dict(self):
        return {"best": self.best, "drawn": self.drawn}

    def load_state_dict(self, state):
        self.best, self.drawn = state["best"], state["drawn"]


class ForgetfulLuck(Luck):
    before = ("RunFolder",)


experiment_type = [BaseExperiment, CallbackedExperiment, ByHandExperiment]
x = np.linspace(-1.0, 1.0, 23)
items = {"input": x, "target": 2 * x}
subsets = [Subset("training", Mode.TRAIN, items), Subset("validation", Mode.EVAL, {"input": x[:7], "target": x[:7]})]
batch_size = 4
optimizer = Rate()
callbacks = [ForgetfulLuck() if forgetful else DeclaredLuck()]
chunk_processors = [square_error]
