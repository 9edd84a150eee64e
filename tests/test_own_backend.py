"""A framework that the library does not know trains as ours do: the one in docs/parts.md, written from outside."""

from __future__ import annotations

import re
import subprocess
import sys
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest

from experimentator import (
    BaseExperiment,
    CallbackedExperiment,
    CallbackError,
    ConfigError,
    ExponentialMovingAverage,
    Freeze,
    LearningRateWarmUp,
    build_experiment,
)
from experimentator.backends import Backend
from experimentator.bench.faces import as_text
from experimentator.bench.report import measured
from experimentator.graph import ChunkProcessor, chunk_processor
from tests.stand_ins import POINTS, subsets

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "parts.md").read_text("utf-8")
SHOWN = re.search(r"### A framework of your own\n.*?```python\n(.*?)```", PAGE, re.DOTALL)[1]
OWN: dict = {"__name__": "own_framework"}
exec(SHOWN, OWN)


class Plane(ChunkProcessor):
    inputs, outputs = ["batch_input"], ["batch_side"]
    scale = 1.0

    def __init__(self):
        self.normal, self.offset = np.zeros(3), np.zeros(1)
        self._weights = {"normal": self.normal, "offset": self.offset}

    def __call__(self, chunk):
        chunk["batch_side"] = self.scale * (chunk["batch_input"] @ self.normal) + self.offset

    def __repr__(self):
        return "Plane()"


@chunk_processor(inputs=["batch_side", "batch_target"], outputs=["loss"])
def logistic(side, target):
    return np.mean(np.log1p(np.exp(np.where(target == 1, -side, side))))


def build(kind=OWN["SearchBackend"], **settings):
    class Own(OWN["SearchExperiment"]):
        backend = cached_property(lambda exp: kind())

    config = {"subsets": subsets(), "chunk_processors": [Plane(), logistic], "optimizer": OWN["Search"](0.2)}
    config |= {"experiment_type": [BaseExperiment, CallbackedExperiment, Own], "hide_progress": True, "batch_size": 8}
    return build_experiment(config | settings)


def test_a_framework_of_ones_own_trains_evaluates_predicts_and_draws(caplog):
    exp = build()
    rows = exp.train(5)

    assert rows[-1]["validation_loss"] < 0.8 * rows[0]["training_loss"]
    assert exp.evaluate() == {"validation_loss": rows[-1]["validation_loss"]}
    assert exp.predict({"batch_input": np.zeros((9, 3))})["batch_side"].shape == (9,)
    assert re.search(r"Plane\(\) +batch_input \[B, 3\] float32 +batch_side \[B\] float64 +ALL +4", str(exp.graph()))
    exp.chunk_processors[0].scale = 0.0  # which acts, and is not told: nothing is compiled
    assert exp.predict({"batch_input": POINTS})["batch_side"].std() < 1e-6
    assert not caplog.records


def test_it_resumes_to_the_last_bit_and_its_weights_are_saved_and_loaded(tmp_path):
    whole, before, after, other = build(), build(), build(), build()
    before.train(2)
    before.save_checkpoint(tmp_path)
    after.resume(tmp_path)
    assert after.train(4)[-1]["training_loss"] == whole.train(4)[-1]["training_loss"]

    whole.save_weights(tmp_path / "weights.safetensors")
    other.load_weights(tmp_path / "weights.safetensors")
    assert other.evaluate() == whole.evaluate()


def test_its_training_is_measured_and_nothing_passes_for_compilation():
    report = measured(build(), 500, seconds=1, against=None, told=lambda _: None)

    assert report["time"]["whole"]["compile"] < 0.2 * report["time"]["whole"]["device"]
    text = as_text(report)
    assert "on CPU, uncompiled" in text
    assert "From prefixes of the graph, forward alone" in text
    assert "cannot run: the search backend has no `by_hand` that trains" in text


def test_predictions_are_handed_what_the_backend_makes_of_arrays():
    class Marked(np.ndarray):
        pass

    class Placing(OWN["SearchBackend"]):
        def put(self, columns):
            return {name: np.asarray(values).view(Marked) for name, values in columns.items()}

    seen = chunk_processor(inputs=["batch_input"], outputs=["batch_seen"])(lambda x: np.full(len(x), type(x) is Marked))
    exp = build(Placing, chunk_processors=[seen], optimizer=None)

    assert exp.predict({"batch_input": np.zeros((3, 3))})["batch_seen"].all()


@pytest.mark.parametrize("callback, method", [(Freeze("Plane"), "freeze"), (LearningRateWarmUp(duration=1), "rates")])
def test_what_it_has_no_method_for_is_refused_by_that_name(callback, method):
    with pytest.raises(ValueError, match=rf"The search backend cannot(.|\n)*Seen: no `{method}` in SearchBackend"):
        build(callbacks=[callback]).train(1)


def test_what_asks_for_an_optimizer_of_keras_says_so_of_another():
    with pytest.raises(
        CallbackError, match=r"needs an optimizer that averages weights(.|\n)*Seen: <own_framework.Search"
    ):
        build(callbacks=[ExponentialMovingAverage(0.9)]).train(1)


def test_a_backend_as_a_setting_is_answered_with_where_it_goes():
    with pytest.raises(ConfigError, match=r"or property(.|\n)*a class in experiment_type may define it"):
        build_experiment({"backend": OWN["SearchBackend"]()})


def test_a_backend_without_weights_or_state_cannot_be_made():
    class Begun(Backend):
        name = "begun"

    with pytest.raises(TypeError, match=r"compile.*optimizer_state.*set_optimizer_state.*set_weights.*weights"):
        Begun()


@pytest.mark.parametrize(
    "change", [lambda results: None, lambda results: {}, lambda results: {"loss": results["loss"][-1]}]
)
def test_results_that_a_step_leaves_out_are_missed_at_once(change):
    class Step(OWN["SearchStep"]):
        def __call__(self, columns, index, *, fixed=None):
            return change(super().__call__(columns, index))

    class Short(OWN["SearchBackend"]):
        def compile(self, graph, specs, optimizer=None, **options):
            return Step(graph, self.arrays, optimizer)

    with pytest.raises(TypeError, match=r"Step returned no values of loss for each of 1 batches"):
        build(Short).train(1)


def test_no_framework_is_loaded_for_it():
    config = "from experimentator import Mode, Subset, chunk_processor\nexperiment_type = [SearchExperiment]\n"
    config += "subsets = [Subset('all', Mode.INFER, {'x': [1.0]})]\n"
    config += "chunk_processors = [chunk_processor(outputs=['batch_y'])(lambda batch_x: 2 * batch_x)]\n"
    run = "import sys; from experimentator import build_experiment; build_experiment(sys.argv[1]).predict('all')\n"
    look = "print({'keras', 'tensorflow', 'jax', 'torch'} & set(sys.modules))"
    given = [sys.executable, "-c", run + look, f"{SHOWN}\n{config}"]
    assert subprocess.run(given, check=True, capture_output=True, text=True).stdout == "set()\n"
