"""With TensorFlow and everything that holds state, a resumed training is the uninterrupted one, bit for bit."""

import os
import random
import shutil
from pathlib import Path

import numpy as np
import pytest

from experimentator import CheckpointEvery, build_experiment
from experimentator.commands.outside import lines
from experimentator.saving import resume
from experimentator.saving.manifest import numbered

CONFIG = str(Path(__file__).parent.parent / "configs" / "stateful.py")
EPOCHS = 2


def built(place, name, **overrides):
    exp = build_experiment(
        CONFIG, output_folder=str(place), project_name="p", experiment_id=name, hide_progress=True, **overrides
    )
    exp.callbacks.append(CheckpointEvery(seconds=1e-9, keep=1000))
    return exp


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """A run that nothing interrupted, with a checkpoint at each of its 2 x (12 + 7) batches and at the ends."""
    place = tmp_path_factory.mktemp("runs")
    built(place, "reference", steps_per_call=1).train(EPOCHS)
    return place / "p" / "reference"


def resumed(reference, number, place):
    """What the run leaves when it goes on from its checkpoint of that number."""
    run = place / "p" / "cut"
    shutil.copytree(reference, run)
    for path in numbered(run / "checkpoints"):
        if int(path.name) > number:
            shutil.rmtree(path)
    exp = built(place, "cut")
    exp.resume(run)
    exp.train(EPOCHS)
    return lines(run)


@pytest.mark.parametrize("within", ["training", "evaluation"])
def test_resumed_at_a_step_drawn_anew_it_is_the_same_in_every_bit(reference, tmp_path, within):
    """Calls are longer after the resume than before it, too."""
    seed = int.from_bytes(os.urandom(4), "little")
    number = random.Random(seed).choice(range(2, 12) if within == "training" else range(13, 20))

    assert resumed(reference, number, tmp_path) == lines(reference), f"checkpoint {number}, seed {seed}"


def zero(*keys):
    """Forget variables of the optimizer, whose keys these are, or all slots."""

    def drop(it):
        own = [key for key in it.arrays if key.startswith("optimizer/") and (not keys or key in keys)]
        it.arrays.update({key: np.zeros_like(it.arrays[key]) for key in own})

    return drop


def seeds(it):
    """Random layers and ops begin their draws anew."""
    found = [key for key, array in it.weights.items() if array.dtype.kind in "iu" and array.shape == (2,)]
    it.weights.update({key: it.weights[key] * np.array([1, 0], it.weights[key].dtype) for key in found})
    assert len(found) == 3


DROPS = {
    "seeds": seeds,
    "slots of Adam": zero(),
    "iterations": zero("optimizer/0000"),
    "averages of the callbacks": lambda it: it.callbacks["AverageMetrics#1"]["totals"].clear(),
}


@pytest.mark.parametrize("what", DROPS)
def test_whatever_is_dropped_from_a_checkpoint_shows(reference, tmp_path, monkeypatch, what):
    make = resume.Restored.__init__
    monkeypatch.setattr(resume.Restored, "__init__", lambda self, read: make(self, read) or DROPS[what](self))

    assert resumed(reference, 7, tmp_path) != lines(reference)
