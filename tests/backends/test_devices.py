"""Several devices, which `keras.distribution` names: one process sees a CPU as four, and trains in every way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from experimentator import ConfigError, build_experiment
from tests.frameworks import ON_TENSORFLOW
from tests.test_experiment import config

TRAININGS = """
    import json, logging
    import keras, numpy as np
    from keras import layers
    from experimentator import ExponentialMovingAverage, LearningRateCosine, Mode, Subset, build_experiment, ops

    lib, told = keras.distribution, []
    logging.getLogger("experimentator").addFilter(lambda record: told.append(record.getMessage()))
    logging.getLogger("experimentator.backends.jax.devices").addFilter(lambda record: told.append(record.getMessage()))
    layouts = lib.LayoutMap(lib.DeviceMesh((2, 2), ["batch", "model"], devices=lib.list_devices()))
    layouts[".*wide.*kernel"] = (None, "model")
    parts = {None: None, "data": lib.DataParallel(), "model": lib.ModelParallel(layout_map=layouts)}
    random = np.random.default_rng(0)
    data = {"input": random.normal(size=(203, 8)).astype("float32"), "target": random.integers(0, 4, 203)}

    def trained(distribution, **settings):
        lib.set_distribution(parts[distribution])
        keras.utils.set_random_seed(1)
        wide = layers.Dense(16, activation="tanh", name="wide")
        network = keras.Sequential([wide, layers.BatchNormalization(), layers.Dropout(0.2, seed=1), layers.Dense(4)])
        exp = build_experiment({
            "subsets": [Subset("training", Mode.TRAIN, data), Subset("validation", Mode.EVAL, data)],
            "batch_size": 12,
            "chunk_processors": [
                ops.Model(network, inputs="batch_input", outputs="batch_logits"),
                ops.SoftmaxCrossEntropy("batch_logits", "batch_target"),
                ops.Accuracy("batch_logits", "batch_target"),
            ],
            "optimizer": keras.optimizers.Adam(0.01),
            "callbacks": [LearningRateCosine(), ExponentialMovingAverage(0.9)],
            "hide_progress": True, "seed": 2, **settings,
        })
        told.clear()
        exp.train(1)
        steps = sorted(exp.backend._steps, key=lambda step: step.batch.optimizer is None)
        return {
            "weights": {key: np.asarray(value, float).ravel().tolist() for key, value in exp.backend.weights().items()},
            "metrics": exp.evaluate(),
            "traces": [step.traces for step in steps],
            "program": "".join(steps[0].programs()),
            "device": str(exp.backend.device),
            "axes": list(getattr(wide.kernel.value.sharding, "spec", ())),
            "told": list(told),
        }

    print(json.dumps({
        "alone": trained(None),
        "device": trained("data"),
        "stream": trained("data", residency="stream"),
        "model": trained("model"),
        "odd": trained("data", batch_size=6),
    }))
"""


@pytest.fixture(scope="module")
def trainings():
    """What trainings leave, by how they ran."""
    four = {"KERAS_BACKEND": "jax", "XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    four["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # it compiles in two thirds of the time
    env = {**os.environ, **four, "PYTHONPATH": str(Path(__file__).parents[2])}
    code = [sys.executable, "-c", textwrap.dedent(TRAININGS)]
    run = subprocess.run(code, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two trainings differ by rounding alone."""
    return all(_close(one[part], other[part]) for part in ("metrics", "weights"))


def _close(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_close(value, other[key]) for key, value in one.items())
    return np.allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("residency", ["device", "stream"])
def test_several_devices_train_as_one_does_and_each_computes_its_part(trainings, residency):
    alone, several = trainings["alone"], trainings[residency]

    assert same(several, alone)
    assert several["traces"] == alone["traces"]
    assert (alone["device"], several["device"]) == ("CPU", "4 x CPU")
    assert ("f32[12,16]" in alone["program"], "f32[3,16]" in alone["program"]) == (True, False)
    assert ("f32[12,16]" in several["program"], "f32[3,16]" in several["program"]) == (False, True)
    assert several["told"] == alone["told"] == []  # the last rows of an evaluation, which do not divide, need no word


def test_weights_lie_in_parts_where_the_distribution_says_so(trainings):
    assert same(trainings["model"], trainings["alone"])
    assert trainings["model"]["axes"] == [None, "model"]
    assert "f32[6,8]" in trainings["model"]["program"]  # half of the rows, half of the units


def test_batches_that_do_not_divide_are_whole_on_each_device_and_that_is_said_once(trainings):
    assert "f32[6,16]" in trainings["odd"]["program"]
    assert [said for said in trainings["odd"]["told"] if "Batches of 6 are not divisible by 4" in said]
    assert len(trainings["odd"]["told"]) == 1


@pytest.mark.skipif(not ON_TENSORFLOW, reason="JAX runs on several devices, PyTorch in Keras knows none")
def test_tensorflow_says_that_it_runs_on_one():
    keras.distribution.set_distribution(keras.distribution.DataParallel())
    try:
        with pytest.raises(ConfigError, match=r"^Only JAX runs on several devices.*\nSeen: DataParallel.\nSet KERAS"):
            build_experiment(config()).train(1)
    finally:
        keras.distribution.set_distribution(None)
