"""A configuration and a task file as users of earlier versions have them: only import lines differ."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest

import experimentator
from experimentator import (
    BaseExperiment,
    CallbackedExperiment,
    ConfigError,
    DatasetError,
    DummyExperiment,
    Mode,
    Subset,
    build_experiment,
)
from experimentator.legacy import UntracedError

CONFIG = Path(__file__).parent / "configs" / "ball.py"
NAMES = """
    BaseExperiment AsyncExperiment CallbackedExperiment TensorflowExperiment DummyExperiment
    Callback SaveWeights LoadWeights SaveLearningRate GatherCycleMetrics AverageMetrics StateLogger MeasureTime
    LearningRateDecay LearningRateWarmUp FindLearningRate PrintLoss
    ChunkProcessor ExperimentMode Stage Subset BalancedSubset CombinedSubset BasicDatasetSplitter collate_fn find
    build_experiment DataAugmentationDataset
"""


@pytest.fixture(autouse=True)
def beside(monkeypatch):
    monkeypatch.syspath_prepend(CONFIG.parent)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(CONFIG.parent)
        random.seed(0)  # from which Keras draws the first weights, of layers made at the first call too
        exp = build_experiment(CONFIG, output_folder=str(tmp_path_factory.mktemp("runs")))
        exp.train(4)
        yield exp


def images(count: int, side: int = 16) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(count)
    return {"batch_input_image": generator.integers(0, 255, size=(count, side, side, 3)).astype(np.uint8)}


def batch_of(exp: Any, count: int = 6) -> dict[str, Any]:
    return next(exp.batch_generator(subset=exp.subsets[1], batch_size=count))[1]


def test_the_names_of_earlier_versions_are_here():
    assert [name for name in NAMES.split() if not hasattr(experimentator, name)] == []
    assert experimentator.Stage is experimentator.ExperimentMode is Mode


def test_the_task_learns(trained):
    first, *_, last = trained.history

    assert last["validation_loss"] < first["validation_loss"] / 2
    assert last["validation_MAE"] < first["validation_MAE"]
    assert last["learning_rate"] == pytest.approx(0.02)


def test_train_may_be_overridden_and_write_into_the_configuration(trained):
    assert trained.cfg["trained_on"] == ["training"]
    assert trained.get("nothing", 3) == 3


def test_an_overridden_order_of_keys_rules_training(trained):
    assert trained.shuffled == [24] * len(trained.shuffled)  # the eight frames of one game, three times
    assert trained.counts["training"]["batches"] == 4 * 6


def test_objects_and_fetched_tensors_reach_callbacks(trained):
    callback = next(c for c in trained.callbacks if type(c).__name__ == "ComputeSizeMetrics")

    assert callback.frames == [2, 5, 11, 14, 17, 23]  # of the third game, those that have a ball
    assert set(callback.focals) == {3.0}
    assert trained.history[-1]["validation_MAE"] == pytest.approx(np.mean(callback.errors))


def test_what_one_callback_writes_into_the_state_a_later_one_reads(trained):
    remember = next(c for c in trained.callbacks if type(c).__name__ == "Remember")

    assert [epoch for epoch, _, _ in remember.seen] == [1, 2, 3, 4]
    assert [mae for _, mae, _ in remember.seen] == [row["validation_MAE"] for row in trained.history]


def test_properties_over_the_chunk_are_evaluated_anew_in_each_mode(trained):
    batch = batch_of(trained)
    for results in (trained.batch_eval(batch), trained.batch_train(batch, Mode.EVAL)):
        error = np.abs(results["predicted"] - batch["batch_ball_size"])
        np.testing.assert_allclose(results["size_error"], error, rtol=1e-5)

    assert set(trained.batch_infer(batch)) == {"predicted", "presence"}


def test_a_name_may_become_another_in_inference_only(trained):
    ids = trained.batch_infer(batch_of(trained))["presence"]

    assert ids.dtype == np.int32
    assert set(ids) <= {0, 1}


def test_one_batch_trains_evaluates_and_infers():
    exp = build_experiment(CONFIG)
    batch = batch_of(exp)
    before, weights = exp.batch_eval(batch)["loss"], exp.backend.weights()
    exp.batch_infer(batch)
    unchanged = all(np.array_equal(weights[key], value) for key, value in exp.backend.weights().items())
    losses = [exp.batch_train(batch, mode=Mode.TRAIN)["loss"] for _ in range(20)]

    assert unchanged
    assert losses[0] == pytest.approx(before)
    assert exp.batch_eval(batch)["loss"] < losses[0]


def test_batches_of_other_dtypes_are_computed_in_them():
    mean = experimentator.chunk_processor(inputs=["batch_x"], outputs=["loss"])(lambda batch_x: keras.ops.mean(batch_x))
    exp = build_experiment({"chunk_processors": [mean]})

    for dtype in ("float32", "float16", "float32"):
        loss = exp.batch_eval({"batch_x": np.ones(4, dtype)})["loss"]
        assert (float(loss), loss.dtype) == (1.0, dtype)


def test_a_batch_of_arrays_of_several_lengths_is_refused():
    error = experimentator.chunk_processor(outputs=["loss"])(lambda batch_x, batch_y: keras.ops.mean(batch_x - batch_y))
    exp = build_experiment({"chunk_processors": [error]})

    with pytest.raises(ValueError, match=r"equal length.\nSeen: {'batch_x': \(2,\), 'batch_y': \(3,\)}"):
        exp.batch_eval({"batch_x": np.zeros(2), "batch_y": np.zeros(3)})
    exp.batch_eval({"mean": np.zeros(3), "batch_x": np.zeros(2), "batch_y": np.zeros(2)})  # which nothing reads


def test_a_batch_may_be_typed_by_hand():
    double = experimentator.chunk_processor(inputs=["batch_x"], outputs=["batch_double"])(lambda batch_x: 2 * batch_x)
    batch = {"batch_x": [[1.0, 2.0]], "batch_names": ["a"], "batch_ragged": [[1], [2, 3]]}

    assert build_experiment({"chunk_processors": [double]}).batch_infer(batch)["batch_double"].tolist() == [[2.0, 4.0]]


def test_images_of_two_shapes_are_predicted_without_targets(trained):
    for side in (16, 20):
        results = trained.predict(images(5, side))
        assert {name: values.shape for name, values in results.items()} == {"predicted": (5,), "presence": (5,)}


def test_inputs_are_those_that_the_task_lists(trained):
    assert list(trained.inputs) == ["batch_input_image", "batch_ball_size", "batch_presence"]
    assert trained.inputs["batch_input_image"].shape == (None, 16, 16, 3)


def test_subsets_say_what_they_are(trained):
    training, validation = trained.subsets

    assert (training.type, validation.is_training) == (Mode.TRAIN, False)
    assert experimentator.find(trained.subsets, "validation") is validation
    assert "validation" in str(validation)


def test_a_subset_takes_its_mode_as_a_stage():
    subset = Subset(name="training", stage=experimentator.Stage.TRAIN, dataset={"x": np.arange(3)}, desc="all of it")

    assert (subset.is_training, subset.desc, len(subset)) == (True, "all of it", 3)


def test_the_learning_rate_can_be_asked_and_set(trained):
    before = trained.get_learning_rate()
    trained.set_learning_rate(0.5)
    after = trained.get_learning_rate()
    trained.set_learning_rate(before)

    assert (after, trained.get_learning_rate()) == (0.5, pytest.approx(before))


def test_the_chunk_is_there_while_a_graph_is_made_and_only_then(trained):
    with pytest.raises(UntracedError, match="There is no chunk outside of a graph"):
        trained.chunk  # noqa: B018
    assert (trained.project_name, build_experiment(CONFIG).folder) == ("ball", CONFIG.parent)


def test_an_override_acts_before_what_follows_from_it():
    exp = build_experiment(CONFIG, brightness=100.0, with_presence=False, augment=True)
    names = [type(processor).__name__ for processor in exp.chunk_processors if processor is not None]

    assert exp.cfg["factor"] == exp.chunk_processors[1].by == 50.0
    assert "Flip" in names
    assert "PresenceLoss" not in names
    assert set(exp.graph("eval").outputs) == {"loss", "batch_ball_size", "predicted", "size_error"}


def test_a_condition_inside_a_lambda_makes_a_node_of_nothing():
    small, large = build_experiment(CONFIG, side=8), build_experiment(CONFIG)
    for _ in range(2):  # whichever was made last: two experiments share no names
        writes = [exp.program.whole(Mode.EVAL).nodes[2].outputs for exp in (small, large)]
        assert writes == [(), ("batch_input_image",)]


def test_a_driver_may_change_processors_before_the_first_batch(caplog):
    exp = build_experiment(CONFIG)
    exp.cfg["backbone"].features = 3
    exp.chunk_processors[1].by = 1.0
    exp.predict(images(2))

    assert exp.backend.weights()["Backbone/0/kernel"].shape == (3, 3, 3, 3)
    assert "Changed" not in caplog.text


def test_the_configuration_of_a_run_comes_with_its_weights(trained, monkeypatch):
    config = trained.folder / "config.py"
    again, fresh = build_experiment(config), build_experiment(config, load_weights=False)
    of_folder = build_experiment(trained.folder)

    predictions = [one.predict(images(4))["predicted"] for one in (trained, again, fresh, of_folder)]
    assert np.array_equal(predictions[0], predictions[1])
    assert np.array_equal(predictions[0], predictions[3])
    assert not np.array_equal(predictions[0], predictions[2])
    assert (again.state["loaded"], again.folder, trained.folder.parent.name) == (True, trained.folder, "ball")
    assert (again.project_name, of_folder.project_name) == ("ball", "ball")
    assert str(of_folder).startswith(
        f"ball: begins with weights of {of_folder.own_folder()}/weights.safetensors, 0 epochs trained"
    )
    assert str(fresh).startswith("ball: 0 epochs trained")
    monkeypatch.chdir(trained.folder)
    beside = build_experiment("config.py")
    assert (beside.project_name, beside.as_processor("predicted").node) == ("ball", "ball")


def test_the_weights_of_a_run_are_loaded_at_first_use_so_that_processors_may_be_changed(trained, caplog):
    again = build_experiment(trained.folder / "config.py")
    again.chunk_processors[1].by = 1.0

    assert not np.array_equal(trained.predict(images(4))["predicted"], again.predict(images(4))["predicted"])
    assert "Changed" not in caplog.text


def test_weights_go_to_a_file_and_come_back_by_overridden_methods(trained, tmp_path):
    other, before = build_experiment(CONFIG), trained.state["saved"]  # by the run folder
    trained.save_weights(tmp_path / "weights.safetensors")
    other.load_weights(filename=tmp_path / "weights.safetensors")

    assert np.array_equal(trained.predict(images(3))["predicted"], other.predict(images(3))["predicted"])
    assert (trained.state["saved"], other.state["loaded"]) == (before + 1, True)


def test_the_weights_that_a_run_saved_are_loaded_without_a_name(trained):
    before = trained.predict(images(3))["predicted"]
    trained.backend.set_weights({key: 0 * value for key, value in trained.backend.weights().items()})
    trained.load_weights()

    assert np.array_equal(before, trained.predict(images(3))["predicted"])


def test_a_list_in_an_overridden_property_still_names_metrics():
    class Listed(BaseExperiment):
        @property
        def metrics(self):
            return [*super().metrics, "total"]

    total = experimentator.chunk_processor(inputs=["batch_x"], outputs=["loss", "total"])(lambda x: (x.mean(), x.sum()))
    subsets = [Subset("validation", Mode.EVAL, {"x": np.arange(4.0)})]
    exp = build_experiment({"experiment_type": [Listed], "subsets": subsets, "chunk_processors": [total]})

    assert exp.evaluate() == {"validation_loss": 1.5, "validation_total": 6.0}


def test_names_that_an_overridden_property_adds_are_averaged_in_training_too():
    class Listed(BaseExperiment):
        @property
        def metrics(self):
            return [*super().metrics, "total"]

    total = experimentator.chunk_processor(inputs=["batch_x"], outputs=["total"])(lambda x: x.sum())
    subsets = [Subset("training", Mode.TRAIN, {"x": np.arange(4.0)})]
    config = {"subsets": subsets, "chunk_processors": [total], "optimizer": SimpleNamespace(learning_rate=0.1)}
    exp = build_experiment(config, experiment_type=[Listed, DummyExperiment])

    assert exp.train(1)[0]["training_total"] == 0.0


def test_a_metric_that_an_overridden_property_lists_once_more_is_computed_in_training_too():
    class Listed(BaseExperiment):
        @property
        def metrics(self):
            return [*super().metrics, "total"]

    loss = experimentator.chunk_processor(inputs=["batch_x"], outputs=["loss"])(lambda x: x.mean())
    total = experimentator.chunk_processor(inputs=["batch_x"], outputs=["total"])(lambda x: x.sum())
    total.is_metric = True
    config = {"subsets": [Subset("training", Mode.TRAIN, {"x": np.arange(4.0)})], "chunk_processors": [loss, total]}

    assert BaseExperiment(config).graph("train").outputs == {"loss"}
    assert Listed(config).graph("train").outputs == {"loss", "total"}


def test_the_backend_that_computes_nothing_writes_names_in_the_order_of_the_list():
    names = [f"batch_{letter}" for letter in "hgfedcba"]
    listed = experimentator.chunk_processor(inputs=["batch_x"], outputs=names)(lambda x: x)
    subset = Subset("training", Mode.TRAIN, {"x": np.arange(4.0)})
    exp = build_experiment({"subsets": [subset], "chunk_processors": [listed], "experiment_type": [DummyExperiment]})

    assert exp.program.whole(Mode.TRAIN).nodes[0].outputs == ("loss", *names)


def test_a_property_may_pick_names_out_of_the_chunk():
    class Picks(BaseExperiment):
        @property
        def metrics(self):
            return [name for name in self.chunk if name.startswith("t")]

    total = experimentator.chunk_processor(inputs=["batch_x"], outputs=["loss", "total"])(lambda x: (x.mean(), x.sum()))
    subsets = [Subset("validation", Mode.EVAL, {"x": np.arange(4.0)})]
    exp = build_experiment({"experiment_type": [Picks], "subsets": subsets, "chunk_processors": [total]})

    assert exp.evaluate() == {"validation_loss": 1.5, "validation_total": 6.0}


def test_the_tensors_of_metrics_are_told_to_be_of_a_graph_where_there_is_none():
    class Task(BaseExperiment):
        @property
        def metrics(self):
            return {**super().metrics, "error": self.chunk["total"]}

    exp = build_experiment({"experiment_type": [Task], "metrics": "total", "chunk_processors": []})

    with pytest.raises(UntracedError, match="There is no chunk outside of a graph"):
        _ = exp.metrics


def test_the_dummy_experiment_walks_over_data_and_calls_callbacks():
    seen = []

    class Look:
        def on_batch_end(self, keys, batch_ball, batch_ball_size, **_):
            seen.extend(zip(keys, batch_ball, batch_ball_size, strict=True))

    exp = build_experiment(
        CONFIG, experiment_type=[BaseExperiment, CallbackedExperiment, DummyExperiment], callbacks=[Look()]
    )
    history = exp.train(1)

    assert history[0]["training_loss"] == history[0]["validation_loss"] == 0.0
    assert len(seen) == 24
    assert exp.backend.weights() == {}


def test_a_batch_that_lacks_something_is_refused_with_what_it_lacks(trained):
    with pytest.raises(DatasetError, match="lacks 'batch_ball_size', 'batch_presence', which the graph of EVAL reads"):
        trained.batch_eval(images(3))


@pytest.mark.parametrize("value", [lambda exp: 3, lambda exp: exp.chunk["loss"]], ids=["a number", "a tensor"])
def test_a_property_that_is_neither_names_nor_tensors_by_name_is_refused(value):
    class Wrong(BaseExperiment):
        metrics = property(value)

    loss = experimentator.chunk_processor(inputs=["batch_x"], outputs=["loss"])(lambda x: x.mean())
    subsets = [Subset("validation", Mode.EVAL, {"x": np.arange(4.0)})]
    exp = build_experiment({"experiment_type": [Wrong], "subsets": subsets, "chunk_processors": [loss]})

    with pytest.raises(ConfigError, match=r"Wrong\.metrics gives neither names nor tensors by name"):
        exp.evaluate()


def test_names_of_metrics_that_nobody_writes_are_told(caplog):
    class Misspelt(BaseExperiment):
        batch_metrics_names = ("totl",)

        @property
        def metrics(self):
            return [*super().metrics, "errr"]

    loss = experimentator.chunk_processor(inputs=["batch_x"], outputs=["loss"])(lambda x: x.mean())
    subsets = [Subset("validation", Mode.EVAL, {"x": np.arange(4.0)})]
    build_experiment({"experiment_type": [Misspelt], "subsets": subsets, "chunk_processors": [loss]}).evaluate()

    assert "batch_metrics_names lists 'totl', which evaluation does not know." in caplog.text
    assert "metrics lists 'errr', which evaluation does not know." in caplog.text


def test_settings_may_have_the_names_of_what_older_task_files_ask():
    exp = build_experiment("folder = '/data'\ninputs = ['a']\nchunk_processors = []")
    exp.folder = "/other"

    assert (exp.folder, exp.cfg["folder"], exp.inputs) == ("/other", "/other", ["a"])
