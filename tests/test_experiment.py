"""The experiment as a user meets it: built in every form, trained, changed, and misused."""

from __future__ import annotations

import copy
import gc
import io
import json
import logging
import math
import pickle
import sys
import threading
import weakref
from functools import cached_property
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from experimentator import (
    AsyncExperiment,
    BaseExperiment,
    Callback,
    CallbackedExperiment,
    CallbackError,
    CheckpointError,
    CheckpointEvery,
    ChunkProcessor,
    ConfigError,
    DataAugmentationDataset,
    DatasetError,
    EarlyStopping,
    ExponentialMovingAverage,
    GatherCycleMetrics,
    GraphError,
    KerasExperiment,
    Mode,
    NonFiniteLossError,
    Optimizers,
    PrintLoss,
    ResumeError,
    SaveWeights,
    Subset,
    TerminateOnNaN,
    WeightsError,
    build_experiment,
    chunk_processor,
    ops,
)
from experimentator.backends import get_backend
from experimentator.checkpoint import load_weights, save_weights
from experimentator.graph import Graph, MissingTensorError
from experimentator.records.history import read_history
from tests.stand_ins import POINTS, SIDES, Rows, arrays, subsets

TEXT = """
import keras
from keras import layers
from experimentator import Mode, ops
from tests.stand_ins import subsets as make

seed = 3
units = 8
subsets = make()
batch_size = 16
learning_rate = 0.01
network = keras.Sequential([layers.Dense(units, activation="relu"), layers.Dense(2)])
chunk_processors = [
    ops.Model(network, inputs="batch_input", outputs="batch_logits"),
    ops.SoftmaxCrossEntropy("batch_logits", "batch_target"),
    ops.Accuracy("batch_logits", "batch_target"),
]
optimizer = keras.optimizers.Adam(learning_rate)
jit_compile = False
hide_progress = True
"""


TYPED = (
    """
from typing import TYPE_CHECKING
from experimentator import BalancedSubset, BaseExperiment, CallbackedExperiment, DataAugmentationDataset
from experimentator import chunk_processor
if TYPE_CHECKING:
    from numpy import Array

class Task(BaseExperiment):
    width: Array

class Told:
    def on_cycle_end(self, cycle_name: Array, metrics: Array):
        if cycle_name == "validation":
            told.append(metrics["validation_loss"])

@chunk_processor(inputs=["batch_input"], outputs=["batch_input"])
def halve(batch_input: Array) -> Array:
    return batch_input / 2

def shift(key: Array, item: Array) -> Array:
    return {**item, "input": item["input"] + 1}

told = []
experiment_type = [CallbackedExperiment, Task]
callbacks = [Told()]
"""
    + TEXT.replace("[\n    ops.Model", "[\n    halve,\n    ops.Model")
    + """
subsets[0] = BalancedSubset("training", Mode.TRAIN, DataAugmentationDataset(subsets[0].dataset, [shift]), by="target")
"""
)


def config(**changes: Any) -> dict[str, Any]:
    keras.utils.set_random_seed(0)
    network = keras.Sequential([layers.Dense(8, activation="relu"), layers.Dense(2)])
    return {
        "subsets": subsets(),
        "batch_size": 16,
        "chunk_processors": [
            ops.Model(network, inputs="batch_input", outputs="batch_logits"),
            ops.SoftmaxCrossEntropy("batch_logits", "batch_target"),
            ops.Accuracy("batch_logits", "batch_target"),
        ],
        "optimizer": keras.optimizers.Adam(0.01),
        "jit_compile": False,
        "hide_progress": True,
        **changes,
    }


class Specific(BaseExperiment):
    @cached_property
    def subsets(self) -> list[Any]:
        return [*super().subsets, Subset("extra", Mode.EVAL, arrays(0, 8))]


# Building


def test_training_lowers_the_loss_and_keeps_history():
    exp = build_experiment(config())

    history = exp.train(5)

    assert [row["epoch"] for row in history] == [1, 2, 3, 4, 5]
    assert history[-1]["training_loss"] < history[0]["training_loss"]
    assert set(history[0]) == {"epoch", "training_loss", "validation_loss", "validation_accuracy", "epoch_time"}


@pytest.mark.skipif(sys.version_info < (3, 14), reason="earlier, such an annotation is an error where it stands")
def test_annotations_with_names_that_only_type_checkers_import_are_left_alone():
    exp = build_experiment(TYPED)

    history = exp.train(1)
    exp.by = 2

    assert history[0]["training_loss"] > 0
    assert exp.told == [history[0]["validation_loss"]]
    with pytest.raises(ConfigError, match="'width'"):
        exp.cfg["width"] = 3


@pytest.mark.parametrize("form", ["mapping", "text", "path", "pyconfyg"])
def test_every_form_of_configuration_builds_the_same_experiment(form, tmp_path):
    (tmp_path / "config.py").write_text(TEXT)
    forms = {"text": TEXT, "path": tmp_path / "config.py"}
    forms["mapping"] = forms["pyconfyg"] = dict(build_experiment(TEXT).cfg)
    forms["pyconfyg"] = SimpleNamespace(dict=forms["pyconfyg"])

    exp = build_experiment(forms[form])

    assert exp.batch_size == 16
    assert exp.train(1)[0]["epoch"] == 1


def test_a_type_call_takes_its_namespace_as_configuration_under_overridden_subsets():
    exp = type("Exp", (Specific, BaseExperiment), config())()

    assert [subset.name for subset in exp.subsets] == ["training", "validation", "extra"]
    assert "extra_accuracy" in exp.train(1)[0]


def test_plain_settings_of_a_class_count_where_the_configuration_has_none():
    class Task(BaseExperiment):
        batch_size = 4
        learning_rate = 0.5
        callbacks: Any = [None]

    class Finer(Task):
        batch_size = 2

    exp, finer = Task(config(batch_size=8)), Finer(hide_progress=True)
    assert (exp.batch_size, finer.batch_size, finer.learning_rate) == (8, 2, 0.5)
    assert exp.cfg["callbacks"] is not Task(config()).cfg["callbacks"]
    exp.batch_size = 16
    assert exp.batch_size == exp.cfg["batch_size"] == 16
    assert float(exp.optimizer.learning_rate) == 0.5


def test_overrides_reach_what_the_file_derives():
    exp = build_experiment(TEXT, units=3, batch_size=8)

    assert exp.network.layers[0].units == 3
    assert exp.batch_size == 8


def test_the_same_seed_gives_the_same_run():
    losses = [[row["training_loss"] for row in build_experiment(TEXT, seed=seed).train(3)] for seed in (1, 1, 2)]

    assert losses[0] == losses[1] != losses[2]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_features_commute(order):
    features = [CallbackedExperiment, KerasExperiment, AsyncExperiment]
    exp = build_experiment(config(experiment_type=[BaseExperiment, *(features[n] for n in order)]))

    assert exp.train(2)[1]["training_loss"] == build_experiment(config()).train(2)[1]["training_loss"]


def test_each_feature_changes_one_seam():
    seams = {"fire", "cycle", "backend", "listens", "requests", "listeners", "call_limit"}
    own = {
        feature.__name__: {name for name in vars(feature) if not name.startswith("_")}
        for feature in (CallbackedExperiment, KerasExperiment, AsyncExperiment)
    }

    assert own["KerasExperiment"] == {"backend"}
    assert own["AsyncExperiment"] == {"cycle"}
    assert own["CallbackedExperiment"] <= seams - {"backend", "cycle"}


def test_a_near_miss_of_a_library_key_is_refused():
    with pytest.raises(ConfigError, match=r"'batchsize' is not a key of the library.\nDid you mean 'batch_size'"):
        build_experiment({"batchsize": 3})
    with pytest.raises(ConfigError, match="'batch_size'"):
        build_experiment(config()).cfg["batchsize"] = 3


def test_a_setting_named_like_a_method_is_refused():
    with pytest.raises(ConfigError, match="'train' is the name of a method or property"):
        build_experiment(config(train=True))


def test_what_a_task_class_lists_is_told_as_a_setting_by_its_setting():
    with pytest.raises(ConfigError, match=r"In a configuration, write outputs = \.\.\."):
        build_experiment(config(batch_outputs_names=["batch_y"]))


@pytest.mark.parametrize(
    "change",
    [
        lambda exp: setattr(exp, "train", 3),
        lambda exp: exp.cfg.update(predict=3),
        lambda exp: exp.update(save_weights=3),
        lambda exp: exp.cfg.setdefault("history", []),
    ],
)
def test_what_is_named_like_a_method_is_refused_at_run_time_too(change):
    exp = build_experiment(config())
    before = dict(exp.cfg)

    with pytest.raises(ConfigError, match="is the name of a method or property"):
        change(exp)
    assert exp.cfg == before
    assert callable(exp.train)


def test_a_method_may_be_replaced_by_another():
    exp = build_experiment(config())
    exp.evaluate = lambda: {"validation_loss": 0.0}

    assert exp.evaluate() == {"validation_loss": 0.0}


@pytest.mark.parametrize(
    "key, value",
    [
        ("batch_size", 0),
        ("batch_size", 2.5),
        ("jit_compile", "yes"),
        ("precision", "int8"),
        ("optimizer", "adamm"),
        ("learning_rate", "fast"),
        ("callbacks", 3),
        ("experiment_type", "BaseExperiment"),
        ("outputs", 3),
        ("metrics", {"loss": 1}),
    ],
)
def test_values_that_cannot_work_are_refused_at_once(key, value):
    with pytest.raises(ConfigError, match=f"{key}={value!r} cannot be used"):
        build_experiment(config(**{key: value}))


def test_the_history_has_columns():
    exp = build_experiment(config(eval_epochs=2))
    exp.train(2)

    first, last = exp.history["validation_loss"]
    assert math.isnan(first)
    assert last == exp.history[-1]["validation_loss"]
    assert exp.history["epoch"] == [1, 2]
    with pytest.raises(KeyError, match="val_loss is not in the history, which has epoch, training_loss"):
        exp.history["val_loss"]  # noqa: B018  # the access is the test


def test_an_optimizer_may_be_named():
    exp = build_experiment(config(optimizer="sgd", learning_rate=0.5))
    assert isinstance(exp.optimizer, keras.optimizers.SGD)
    exp.train(1)

    exp.optimizer = "adam"
    assert isinstance(exp.optimizer, keras.optimizers.Adam)
    assert isinstance(Optimizers({"*": "adamw"})["*"], keras.optimizers.AdamW)
    with pytest.raises(ConfigError, match="optimizer='adamm' cannot be used"):
        exp.optimizer = "adamm"


@pytest.mark.parametrize("classes", [int, [int], [BaseExperiment, type("Mine", (dict,), {})]])
def test_a_class_of_plain_values_is_no_experiment(classes):
    with pytest.raises(
        ConfigError, match=r"experiment_type lists '(int|Mine)'.*\nSeen: .*\nList classes of experiments"
    ):
        build_experiment(config(experiment_type=classes))


@pytest.mark.parametrize("run", [lambda exp: exp.train(1), lambda exp: exp.evaluate()])
def test_a_slip_in_outputs_is_told_before_anything_runs(run):
    exp = build_experiment(config(outputs=["batch_logit"]))

    with pytest.raises(GraphError, match="Did you mean 'batch_logits'") as error:
        run(exp)
    assert error.value.__notes__ == ["The setting `outputs` lists it."]
    assert exp.history == []


def test_outputs_may_be_written_in_inference_alone():
    double = chunk_processor(inputs=["batch_logits"], outputs=["double"], mode=Mode.INFER)(lambda logits: 2 * logits)
    base = config()
    exp = build_experiment({**base, "chunk_processors": [*base["chunk_processors"], double], "outputs": "double"})
    exp.train(1)

    assert exp.predict({"batch_input": POINTS})["double"].shape == (len(POINTS), 2)


def test_precision_may_change_between_trainings_and_keeps_the_weights():
    exp = build_experiment(config(precision="bfloat16"))
    exp.train(2)
    assert exp.predict({"batch_input": POINTS})["batch_logits"].dtype == "bfloat16"
    weights = exp.backend.weights()
    exp.precision = "float32"

    assert all(np.array_equal(exp.backend.weights()[key], value) for key, value in weights.items())
    assert exp.predict({"batch_input": POINTS})["batch_logits"].dtype == np.float32


@pytest.mark.parametrize("back", [lambda exp: setattr(exp, "precision", None), lambda exp: exp.cfg.pop("precision")])
def test_precision_that_is_taken_back_leaves_no_trace(back):
    exp = build_experiment(config())
    exp.precision = "float16"
    assert exp.predict({"batch_input": POINTS})["batch_logits"].dtype == np.float16
    back(exp)

    assert exp.predict({"batch_input": POINTS})["batch_logits"].dtype == np.float32


def test_a_subset_without_what_inference_reads_is_told_how_to_give_it():
    shown = chunk_processor(inputs=["batch_seen"], outputs=["batch_shown"], mode=Mode.INFER)(
        lambda batch_seen: batch_seen
    )
    exp = build_experiment(config(chunk_processors=[*config()["chunk_processors"], shown], outputs=["batch_shown"]))
    exp.train(1)

    with pytest.raises(DatasetError, match=r"Give its items 'seen', or write predict\(\{'batch_seen': \.\.\.\}\)"):
        exp.predict("training")


def test_a_dataset_that_lacks_a_name_is_told_when_it_takes_the_place_of_another():
    exp = build_experiment(config())
    exp.train(1)
    exp.subset("training").dataset = {"input": POINTS}

    with pytest.raises(DatasetError, match="'training' does not fit the graph of TRAIN, which reads 'batch_target'"):
        exp.train(2)


@pytest.mark.parametrize("options", [{}, {"residency": "stream"}, {"eager": True}], ids=str)
def test_data_of_another_dtype_may_take_the_place_of_others(options, caplog):
    seen = []

    class Sees(Callback):
        when = Mode.TRAIN

        def on_batch_end(self, batch_target, **_):
            seen.append(batch_target)

    exp = build_experiment(config(callbacks=[Sees()]), **options)
    exp.train(1)
    exp.subset("training").dataset = {"input": POINTS, "target": np.zeros(len(POINTS), "int16")}
    exp.train(2)

    assert seen[-1].dtype == np.int16
    assert "Compiled again for subset 'training': batch_target was int32, is int16." in caplog.text


def test_lists_changed_in_place_are_noticed(caplog):
    exp = build_experiment(config())
    exp.train(1)
    exp.chunk_processors.append(ops.Softmax("batch_logits", output="batch_scores"))

    assert "batch_scores" in exp.predict({"batch_input": POINTS[:2]})
    assert "chunk_processors changed" in caplog.text


@pytest.mark.parametrize("trained", [0, 1], ids=["before", "after"])
def test_names_added_to_the_metrics_or_outputs_that_an_experiment_shows_count_as_set(trained):
    largest = chunk_processor(inputs=["batch_logits"], outputs=["largest"])(lambda logits: keras.ops.max(logits))
    exp = build_experiment(config(outputs=["batch_logits"]))
    exp.chunk_processors.append(largest)
    exp.train(trained)
    exp.metrics.append("largest")
    exp.outputs.append("largest")

    assert {"training_largest", "validation_largest"} <= exp.train(2)[-1].keys()
    assert exp.cfg["metrics"] == ["largest"]
    assert exp.predict({"batch_input": POINTS[:4]}).keys() == {"batch_logits", "largest"}
    with pytest.raises(GraphError, match="'odd'"):
        exp.metrics.append("odd") or exp.train(3)


def test_a_metric_of_a_processor_may_be_listed_for_training_too_and_is_taken_out_with_it_alone(caplog):
    exp = build_experiment(config())
    exp.train(1)
    exp.metrics.append("accuracy")
    exp.train(2)
    exp.metrics.remove("accuracy")
    exp.train(3)
    exp.metrics.remove("accuracy")
    exp.train(4)

    assert ["training_accuracy" in row for row in exp.history] == [False, True, False, False]
    assert all("validation_accuracy" in row for row in exp.history)
    assert caplog.messages[-1] == (
        "Nothing was taken from exp.metrics: processors write it. To measure less, leave those out."
    )


def test_a_type_that_is_set_too_late_is_told(caplog):
    exp = build_experiment(config())
    exp.experiment_type = [BaseExperiment]

    assert "experiment_type is read when an experiment is built: build_experiment(..." in caplog.text


def test_a_near_miss_as_attribute_is_refused_too():
    with pytest.raises(ConfigError, match="Did you mean 'batch_size'"):
        build_experiment(config()).batchsize = 3
    with pytest.raises(
        AttributeError, match=r"no attribute 'batchsize', nor a setting of .*\.\nDid you mean 'batch_size'"
    ):
        _ = build_experiment(config()).batchsize


def test_a_near_miss_beside_the_real_key_may_be_assigned_later_as_a_file_may_set_it():
    exp = build_experiment(config())
    exp.d_optimizer = exp.cfg["g_optimizer"] = 3

    assert (exp.d_optimizer, exp.g_optimizer) == (3, 3)


def test_a_setting_may_be_deleted_as_an_attribute():
    exp = build_experiment(config(width=3, seed=1))
    del exp.width, exp.seed

    assert (exp.seed, "width" in exp.cfg, hasattr(exp, "width")) == (0, False, False)
    with pytest.raises(AttributeError, match=r"^'seed' is not set.\nSeen: 0, which is its default.\nAssign another"):
        del exp.seed
    with pytest.raises(AttributeError, match="width"):
        del exp.width


def test_an_interrupted_epoch_is_told_when_it_starts_anew(caplog):
    class Once:
        def on_batch_end(self, batch, **_):
            if not hasattr(self, "done"):
                self.done = True
                raise KeyboardInterrupt

    exp = build_experiment(config(callbacks=[Once()]))
    with pytest.raises(KeyboardInterrupt):
        exp.train(1)
    exp.train(1)

    assert "Epoch 1 was cut short. It starts anew" in caplog.text
    assert exp.epoch == 1


@pytest.mark.parametrize(
    "evaluated, told", [((3, 4, 5), "trains on 1 of the 3 items"), ((4, 5), ""), ((0, 1), ""), (None, "")]
)
def test_items_that_are_trained_and_evaluated_on_are_told_once(caplog, evaluated, told):
    """None of them, or all, may be meant; so may other items under the same keys."""
    data = arrays()
    training = Subset("training", Mode.TRAIN, data, range(4))
    validation = Subset("validation", Mode.EVAL, data if evaluated else arrays(), evaluated or range(3, 8))
    exp = build_experiment(config(subsets=[training, validation]))
    exp.train(1)
    exp.train(2)

    said = [one.getMessage() for one in caplog.records if "trains on" in one.getMessage()]
    assert len(said) == bool(told)
    assert all(told in one and "such as 3." in one for one in said)


@pytest.mark.parametrize("residency", ["device", "host", "stream"])
def test_the_item_that_holds_no_number_is_named(residency):
    items = [{"input": np.zeros(2, np.float32), "target": 0} for _ in range(32)]
    items[23] = items[23] | {"input": "lost"}

    with pytest.raises(DatasetError, match="in key 23"):
        build_experiment(config(subsets=[Subset("training", Mode.TRAIN, items)], residency=residency)).train(1)


def test_a_name_that_a_processor_takes_away_is_told_with_who_does():
    processors = [lambda chunk: chunk.pop("batch_target"), *config()["chunk_processors"]]

    with pytest.raises(GraphError, match=r"No tensor named 'batch_target'(.|\n)*lambda .* deletes it above"):
        build_experiment(config(chunk_processors=processors)).train(1)


def test_a_list_within_the_list_is_to_be_spliced():
    with pytest.raises(GraphError, match=r"is not callable.\nSplice a list: \[\*those, ...\]"):
        build_experiment(config(chunk_processors=[config()["chunk_processors"]])).train(1)


def test_what_is_given_to_predict_and_computed_all_the_same_is_told_once(caplog):
    exp = build_experiment(config())
    for _ in range(2):
        exp.predict(data={"batch_input": POINTS, "batch_logits": np.zeros((len(POINTS), 2), np.float32)})

    told = [r.getMessage() for r in caplog.records if "does not use it" in r.getMessage()]
    assert len(told) == 1
    assert told[0].startswith("predict is given 'batch_logits' and does not use it: #0 Model")
    assert told[0].endswith("computes it from batch_input, which is given, too.")


def test_batches_that_a_subset_replaces_are_told_not_to_be_trained_on(caplog):
    class Own(Subset):
        def batches(self, *args, **options):
            yield from super().batches(*args, **options)

    build_experiment(config(subsets=[Own("training", Mode.TRAIN, arrays(0, 32))])).train(1)

    assert "Own.batches was replaced, but it only serves to look at batches." in caplog.text


def test_an_order_of_keys_may_be_a_generator():
    subset = Subset("training", Mode.TRAIN, arrays(0, 32))
    subset.shuffled_keys = lambda: (key for key in range(31, -1, -1))
    exp = build_experiment(config(subsets=[subset]))

    assert next(exp.batch_generator(subset, 2))[0] == (31, 30)


def test_losses_and_metrics_that_count_for_nothing_are_told_once(caplog):
    exp = build_experiment(config())
    exp.chunk_processors += [
        ops.Accuracy("batch_logits", "batch_target"),
        ops.Apply(lambda x: 0.1 * keras.ops.mean(x**2), inputs=["batch_logits"], outputs=["loss"]),
    ]
    exp.train(1)

    said = [one.getMessage() for one in caplog.records if "has no effect" in one.getMessage()]
    assert said == [
        "#1 SoftmaxCrossEntropy() has no effect in TRAIN: #4 Apply(fn=<lambda>) writes 'loss', too, and nothing "
        "reads it before. Give each an `output` of its own, and add them up with ops.CombineLosses([...]).",
        "#2 Accuracy() has no effect in EVAL: #3 Accuracy() writes 'accuracy', too, and nothing reads it before. "
        "Give each an `output` of its own.",
    ]
    (box,) = [box for box in exp.describe("train", view="plan").boxes if box.name == "SoftmaxCrossEntropy"]
    assert box.notes == ("Apply overwrites loss before a processor that runs reads it",)


def test_two_results_of_one_name_are_told_once(caplog):
    subsets = [Subset("training", Mode.TRAIN, arrays(0, 32)), Subset("val", Mode.EVAL, arrays(0, 16))]
    exp = build_experiment(config(subsets=[*subsets, Subset("val_hard", Mode.EVAL, arrays(16, 32))]))
    exp.evaluate()
    assert "result of" not in caplog.text

    exp.chunk_processors[-1] = ops.Accuracy("batch_logits", "batch_target", output="hard_loss")
    exp.train(2)

    told = "val_hard_loss is a result of 'val', too: the history keeps that of 'val_hard'. "
    assert caplog.text.count(told) == 1


def test_a_loss_that_is_read_before_it_is_written_again_counts(caplog):
    exp = build_experiment(config())
    exp.chunk_processors.append(ops.Apply(lambda x: 2 * x, inputs=["loss"], outputs=["loss"]))
    exp.train(1)

    assert "has no effect" not in caplog.text


def test_weights_go_to_and_from_experiments_that_draw_or_measure_otherwise(tmp_path):
    plain, other = build_experiment(config()), build_experiment(config())
    layers_of = [layers.Dense(8, activation="relu"), layers.Dropout(0.5), layers.Dense(2)]
    other.chunk_processors[0] = ops.Model(keras.Sequential(layers_of), inputs="batch_input", outputs="batch_logits")
    noise = ops.Model(layers.GaussianNoise(0.1), inputs="batch_input", outputs="batch_input", node="Noise")
    other.chunk_processors.insert(0, noise)
    other.chunk_processors.append(
        ops.KerasMetric(keras.metrics.SparseCategoricalAccuracy(), "batch_logits", "batch_target")
    )
    plain.train(1)
    plain.save_weights(tmp_path / "plain")
    plain_weights = plain.backend.weights()

    assert len(other.load_weights(tmp_path / "plain").matched) == 4
    assert {"Noise/0/seed_generator_state", "KerasMetric/0/total"} <= other.backend.weights().keys()
    assert np.array_equal(other.backend.weights()["Model/3/kernel"], plain_weights["Model/2/kernel"])
    other.train(1)
    other.save_weights(tmp_path / "other")
    plain.load_weights(tmp_path / "other")
    assert np.array_equal(plain.backend.weights()["Model/2/kernel"], other.backend.weights()["Model/3/kernel"])


def test_what_only_inference_writes_may_be_asked_for_and_is_drawn():
    answer = ops.Model(lambda x: x[..., 0], inputs="batch_query", outputs="batch_answer")
    answer.mode = Mode.INFER
    exp = build_experiment(config(outputs=["batch_answer"]))
    exp.chunk_processors.append(answer)
    exp.train(1)

    assert exp.predict({"batch_query": POINTS[:2]})["batch_answer"].tolist() == POINTS[:2, 0].tolist()
    assert exp.graph("infer").inputs == {"batch_query"}
    exp.outputs = ["batch_anwser"]
    with pytest.raises(GraphError, match="Did you mean 'batch_answer'"):
        exp.train(2)


def test_lists_changed_within_a_training_act_from_the_next_epoch_on_and_are_told_once(caplog):
    class Adds(Callback):
        def on_epoch_end(self, epoch, **_):
            if epoch == 2:
                exp.chunk_processors.append(ops.TopKAccuracy("batch_logits", "batch_target", k=2))
            if epoch == 3:
                exp.chunk_processors = exp.chunk_processors[:-1]

    exp = build_experiment(config(callbacks=[Adds()]))
    exp.train(4)
    exp.train(5)

    assert ["validation_top2_accuracy" in row for row in exp.history] == [False, False, True, False, False]
    assert caplog.text.count("chunk_processors changed") == 2


@pytest.mark.parametrize("assigned", [True, False])
def test_callbacks_that_come_and_go_within_a_training_hear_of_its_begin_and_end(tmp_path, assigned):
    heard = []

    class Tells(Callback):
        def on_train_begin(self, **_):
            heard.append("begin")

        def on_epoch_end(self, epoch, **_):
            heard.append(epoch)

        def on_train_end(self, **_):
            heard.append("end")

    class Changes(Callback):
        def on_epoch_end(self, epoch, **_):
            changed = exp.callbacks if not assigned else list(exp.callbacks)
            changed[1:] = [Tells()] if epoch == 2 else changed[1:] if epoch == 3 else []
            exp.callbacks = changed if assigned else exp.callbacks

    exp = build_experiment(config(callbacks=[Changes()], output_folder=tmp_path, experiment_id="one"))
    exp.train(5)

    assert heard == ["begin", 3, 4, "end"]
    assert [row["epoch"] for row in read_history(exp.folder)] == [1, 2, 3, 4, 5]
    again = build_experiment(config(callbacks=[Changes()], output_folder=tmp_path, experiment_id="one"))
    again.resume(exp.folder)
    assert again.epoch == 5


def hiding() -> list[Any]:
    """The loss stays finite on NaN, which reaches the weights; whether a ReLU hides NaN depends on the CPU."""
    network = keras.Sequential([layers.Dense(8, activation=keras.ops.nan_to_num), layers.Dense(2)])
    return [
        ops.Model(network, inputs="batch_input", outputs="batch_logits"),
        ops.SoftmaxCrossEntropy("batch_logits", "batch_target"),
    ]


@pytest.mark.parametrize("residency", ["device", "host"])
def test_nan_in_the_data_that_the_loss_does_not_show_is_told_with_its_key(residency):
    data = arrays(0, 48)
    data["input"] = data["input"].copy()
    data["input"][7, 1] = np.nan
    subset = Subset("training", Mode.TRAIN, data, range(2, 48))
    exp = build_experiment(config(subsets=[subset], chunk_processors=hiding(), residency=residency))

    with pytest.raises(NonFiniteLossError, match="The loss is finite, but weights are NaN, after epoch 1") as caught:
        exp.train(2)
    assert str(caught.value).splitlines()[2:-1] == [
        "'batch_input' holds NaN or infinity in the data, as in the item of key 7."
    ]


class Spoils(Callback):
    """Puts NaN into the data before the second epoch."""

    def on_epoch_begin(self, epoch, **_):
        self.data["input"][7, 1] = np.nan if epoch == 2 else 0
        self.subset.dataset = {**self.data}


def test_weights_that_became_nan_end_a_training_that_saved_them_meanwhile(tmp_path):
    data = arrays(0, 48)
    data["input"] = data["input"].copy()
    spoils, subset = Spoils(), Subset("training", Mode.TRAIN, data)
    spoils.data, spoils.subset = data, subset
    callbacks = [spoils, SaveWeights("all", folder=tmp_path)]
    exp = build_experiment(config(subsets=[subset], chunk_processors=hiding(), callbacks=callbacks))

    for _ in range(2):
        with pytest.raises(NonFiniteLossError, match="weights are NaN, after epoch 4"):
            exp.train(4)
        exp.save_weights(tmp_path / "weights.safetensors")
    exp.load_weights(tmp_path / "weights.safetensors")
    exp.train(4)
    assert exp.epoch == 4  # NaN that a training begins with may be meant


@pytest.mark.parametrize("callbacks", [[], [TerminateOnNaN()]])
def test_infinity_in_the_data_is_named_where_the_loss_shows_it(callbacks):
    data = arrays(0, 48)
    data["input"] = data["input"].copy()
    data["input"][7, 1] = np.inf
    exp = build_experiment(config(subsets=[Subset("training", Mode.TRAIN, data)], callbacks=callbacks))

    with pytest.raises(NonFiniteLossError) as caught:
        exp.train(1)
    cause = "'batch_input' holds NaN or infinity in the data, as in the item of key 7."
    assert str(caught.value).splitlines()[-2] == cause  # before the advice


def test_a_forgotten_loss_is_told_with_what_writes_one():
    exp = build_experiment(config(chunk_processors=config()["chunk_processors"][:1]))

    with pytest.raises(GraphError, match="No tensor named 'loss'") as caught:
        exp.train(1)
    assert any("ops.SoftmaxCrossEntropy" in note for note in caught.value.__notes__)


def test_evaluation_needs_no_loss_where_callbacks_ask_for_something():
    loss = ops.SoftmaxCrossEntropy("batch_logits", "batch_target")
    loss.mode = Mode.TRAIN
    gather = GatherCycleMetrics(["batch_logits"])
    exp = build_experiment(config(chunk_processors=[config()["chunk_processors"][0], loss], callbacks=[gather]))

    (row,) = exp.train(1)
    assert {name for name in row if "loss" in name} == {"training_loss"}


def test_a_file_is_no_folder_to_resume(tmp_path):
    exp = build_experiment(config())
    exp.save_weights(tmp_path / "w")

    with pytest.raises(CheckpointError, match="Seen: a file, and no folder"):
        exp.resume(tmp_path / "w")


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    "asks", [lambda x: x if keras.ops.max(x) > 3 else -x, lambda x: x * float(keras.ops.max(x)), lambda x: np.abs(x)]
)
def test_a_processor_that_asks_a_traced_tensor_for_its_value_is_told_what_to_write(asks):
    exp = build_experiment(config())
    exp.chunk_processors.insert(1, ops.Apply(asks, inputs=["batch_logits"], outputs=["batch_logits"]))

    with pytest.raises((TypeError, NotImplementedError)) as caught:
        exp.train(1)
    assert any("keras.ops.where or keras.ops.cond, not `if`" in note for note in caught.value.__notes__)


@pytest.mark.parametrize("value", [0.5, np.float32(0.5), float("nan"), 3])
def test_numbers_that_a_callback_says_it_writes_stand_in_the_history(tmp_path, value):
    class Measures(Callback):
        outputs = ("recall", "words")

        def on_epoch_end(self, epoch, state, **_):
            state.update(recall=value, words="many", other=2.0)

    best = SaveWeights("best", "recall", mode="max")
    exp = build_experiment(config(callbacks=[best, Measures()], output_folder=tmp_path, experiment_id="one"))
    (row,) = exp.train(1)

    assert row["recall"] == pytest.approx(value, nan_ok=True)
    assert {"words", "other"}.isdisjoint(row)
    (kept,) = read_history(exp.folder)
    assert kept["recall"] == pytest.approx(value, nan_ok=True)


def test_a_tensor_that_a_callback_writes_is_a_number_in_the_history():
    class Measures(Callback):
        outputs = "recall"

        def on_cycle_end(self, cycle_name, metrics, state, **_):
            state["recall"] = metrics[f"{cycle_name}_recall"] = keras.ops.convert_to_tensor(0.5)

    (row,) = build_experiment(config(callbacks=[Measures()])).train(1)

    assert (row["recall"], row["validation_recall"]) == (0.5, 0.5)
    assert type(row["validation_recall"]) is float


def test_a_misspelt_tensor_of_a_callback_is_told_with_the_tensor_it_may_mean():
    class Asks(Callback):
        def on_batch_end(self, batch_logit, **_):
            pass

    with pytest.raises(CallbackError, match=r"asks for 'batch_logit'(.|\n)*\nDid you mean 'batch_logits'"):
        build_experiment(config(callbacks=[Asks()])).train(1)


def test_an_image_and_its_mask_are_changed_alike_by_ops_of_the_same_seed():
    images = np.arange(48 * 12, dtype=np.float32).reshape(48, 3, 4, 1)
    data = {"input": images, "mask": images}
    names, random = ("batch_input", "batch_mask"), {"mode": Mode.EVAL}
    processors = [ops.RandomFlip(name, seed=1, **random) for name in names]
    processors += [ops.RandomCrop(name, (3, 4), padding=1, seed=2, **random) for name in names]
    loss = ops.Apply(lambda x, y: keras.ops.mean((x - y) ** 2), inputs=["batch_input", "batch_mask"], outputs=["loss"])
    gather = GatherCycleMetrics(["batch_input", "batch_mask"])
    changes = {"chunk_processors": [*processors, loss], "callbacks": [gather], "optimizer": keras.optimizers.SGD(0.1)}
    exp = build_experiment(config(subsets=[Subset("training", Mode.EVAL, data)], **changes))

    assert exp.evaluate() == {"training_loss": 0.0}
    cycle = gather.cycles["training"]
    assert np.array_equal(cycle["batch_input"], cycle["batch_mask"])
    assert not np.array_equal(cycle["batch_input"], images)


def test_callbacks_that_come_and_go_may_evaluate(tmp_path):
    heard = []

    class Evaluates(Callback):
        def on_train_begin(self, **_):
            heard.append(exp.evaluate()["validation_loss"])

        on_train_end = on_train_begin

    class Changes(Callback):
        def on_epoch_end(self, epoch, **_):
            exp.callbacks = [self, *[Evaluates()] * (epoch == 1)]

    exp = build_experiment(config(callbacks=[Changes()]))
    exp.train(3)

    assert heard == [exp.history[0]["validation_loss"], exp.history[1]["validation_loss"]]


def test_a_callback_that_cannot_be_called_ends_a_training_that_says_so(tmp_path):
    class Changes(Callback):
        def on_epoch_end(self, **_):
            exp.callbacks.append(EarlyStopping)

    exp = build_experiment(config(callbacks=[Changes()], output_folder=tmp_path, experiment_id="one"))
    with pytest.raises(CallbackError, match="EarlyStopping is a class"):
        exp.train(2)

    status = json.loads((tmp_path / "experiment" / "one" / "status.json").read_text())
    assert status["status"] == "failed"


def test_a_callback_that_fails_when_a_training_has_ended_takes_nothing_of_it(tmp_path):
    class Fails(Callback):
        def on_train_end(self, **_):
            raise ValueError("a slip in a plot")

    class Heard(Callback):
        after, seen = ["Fails"], False

        def on_train_end(self, **_):
            Heard.seen = True
            raise KeyError("another")

    exp = build_experiment(config(callbacks=[Fails(), Heard()], output_folder=tmp_path, experiment_id="one"))
    with pytest.raises(ValueError, match="a slip in a plot") as caught:
        exp.train(3)

    run = tmp_path / "experiment" / "one"
    status = json.loads((run / "status.json").read_text())
    assert (status["status"], status["error"]) == ("failed", "ValueError: a slip in a plot")
    assert (status["epoch_of_weights"], len(read_history(run)), Heard.seen) == (3, 3, True)
    assert any("KeyError: 'another'" in note for note in caught.value.__notes__)
    again = build_experiment(config())
    again.load_weights(run / "weights.safetensors")
    assert again.evaluate() == exp.evaluate()


def test_weights_that_are_no_numbers_replace_none_where_a_callback_fails(tmp_path):
    class Spoils(Callback):
        def on_epoch_end(self, epoch, **_):
            if epoch == 2:
                exp.backend.set_weights({key: values * np.nan for key, values in exp.backend.weights().items()})
                raise ArithmeticError("weights are NaN")

    exp = build_experiment(config(callbacks=[Spoils()], output_folder=tmp_path, experiment_id="one"))
    with pytest.raises(ArithmeticError):
        exp.train(3)

    run = tmp_path / "experiment" / "one"
    assert json.loads((run / "status.json").read_text())["epoch_of_weights"] == 1
    assert all(np.isfinite(values).all() for values in load_weights(run / "weights.safetensors").values())


@pytest.mark.parametrize("event", ["on_batch_end", "on_epoch_end", "on_train_end"])
def test_a_training_within_a_training_is_refused_and_may_follow(event):
    def trains(callback, **_):
        exp.train(5)

    exp = build_experiment(config(callbacks=[type("Trains", (Callback,), {event: trains})()]))
    with pytest.raises(CallbackError, match=r"cannot begin another(.|\n)*Seen: train\(5\) within it"):
        exp.train(2)
    exp.callbacks = []

    assert [row["epoch"] for row in exp.train(2)] == [1, 2]


def test_a_training_in_another_thread_is_refused_from_the_beginning_on():
    begun, goes_on = threading.Event(), threading.Event()

    class Waits:
        keys = range(4)

        def query_item(self, key):
            begun.set()
            goes_on.wait(20)
            return {"input": POINTS[key], "target": SIDES[key]}

    exp = build_experiment(config(subsets=[Subset("training", Mode.TRAIN, Waits())]))
    other = threading.Thread(target=exp.train, args=(1,))
    other.start()
    begun.wait(20)  # it looks at an item to build its graph
    try:
        with pytest.raises(CallbackError, match="cannot begin another"):
            exp.train(1)
    finally:
        goes_on.set()
        other.join()

    assert [row["epoch"] for row in exp.history] == [1]


def test_callbacks_that_are_assigned_within_an_epoch_begin_with_the_next():
    class Sees(Callback):
        epochs = set()

        def on_batch_end(self, epoch, batch_logits, **_):
            self.epochs.add(epoch)

    class Changes(Callback):
        def on_batch_end(self, **_):
            if len(exp.callbacks) == 1:
                exp.callbacks = [self, Sees()]

    exp = build_experiment(config(callbacks=[Changes()]))
    exp.train(3)

    assert Sees.epochs == {2, 3}


def test_callbacks_that_a_task_class_adds_compile_nothing_anew(caplog):
    class Task(BaseExperiment):
        @property
        def callbacks(self):
            return [*super().callbacks, PrintLoss(file=io.StringIO())]

    kinds = [BaseExperiment, CallbackedExperiment, AsyncExperiment, KerasExperiment, Task]
    exp = build_experiment(config(experiment_type=kinds, steps_per_call=3))
    exp.train(4)

    assert exp.counts["training"]["traces"] == 1
    assert "compiled again" not in caplog.text


def test_earlier_versions_of_names_may_be_renamed_and_added():
    processors = [
        ops.Rename("batch_input@0", "batch_original"),
        *config()["chunk_processors"],
        ops.Apply(lambda x: 0.1 * x, inputs=["loss"], outputs=["small_loss"]),
        ops.CombineLosses({"loss": 1.0, "small_loss": 1.0}, output="total"),
    ]
    gather = GatherCycleMetrics(["batch_original"])
    exp = build_experiment(config(chunk_processors=processors, callbacks=[gather], metrics=["small_loss", "total"]))
    (row,) = exp.train(1)

    assert row["validation_total"] == pytest.approx(1.1 * row["validation_loss"], rel=1e-5)
    assert gather.cycles["validation"]["batch_original"].shape == (16, 3)


@pytest.mark.parametrize(
    "summed, parts",
    [
        (ops.CombineLosses, ["task", "own"]),
        (ops.UncertaintyWeighting, {"task": "classification", "own": "regression"}),
    ],
)
def test_every_part_of_a_loss_is_reported_whoever_writes_it(summed, parts):
    forward, *_ = config()["chunk_processors"]
    own = ops.Apply(lambda logits: keras.ops.mean(logits**2), inputs=["batch_logits"], outputs=["own"])
    loss = ops.SoftmaxCrossEntropy("batch_logits", "batch_target", "task")
    (row,) = build_experiment(config(chunk_processors=[forward, own, loss, summed(parts)])).train(1)

    assert {"training_task", "training_own", "validation_task", "validation_own"} < row.keys()


def test_a_processor_may_have_an_array_called_weight():
    class Weighs(ChunkProcessor):
        inputs, outputs = ["batch_logits", "batch_target"], ["loss"]
        weight = np.array([1.0, 2.0], np.float32)

        def __call__(self, chunk):
            chunk["loss"] = keras.ops.mean(self.weight * chunk["batch_logits"] ** 2)

    data = {**arrays(0, 48), "input": np.where(np.arange(48)[:, None] == 7, np.inf, POINTS[:48]).astype(np.float32)}
    processors = [config()["chunk_processors"][0], Weighs()]
    exp = build_experiment(config(subsets=[Subset("training", Mode.TRAIN, data)], chunk_processors=processors))

    with pytest.raises(NonFiniteLossError) as caught:
        exp.train(1)
    assert "as in the item of key 7." in str(caught.value)


@pytest.mark.parametrize("data", [POINTS, arrays()], ids=["array", "dict"])
def test_what_is_evaluated_on_is_a_subset_not_data(data):
    with pytest.raises(
        DatasetError,
        match=r"exp.evaluate was given something that is no subset(.|\n)*exp.evaluate\(\"validation\"\), by",
    ):
        build_experiment(config()).evaluate(data)


def test_settings_read_and_write_as_attributes():
    exp = build_experiment(config(mine=3))
    exp.mine = 4

    assert (exp.cfg["mine"], exp.mine, exp.get("absent", 5)) == (4, 4, 5)
    with pytest.raises(AttributeError, match="nor a setting of that name"):
        exp.absent  # noqa: B018  # the access is the test


def test_an_attribute_error_inside_a_property_is_not_hidden():
    class Broken(BaseExperiment):
        @cached_property
        def subsets(self) -> list[Any]:
            return self.nowhere_to_be_found

    with pytest.raises(AttributeError, match="nowhere_to_be_found"):
        Broken(config()).train(1)


# Changing


def test_a_new_batch_size_takes_effect_keeps_weights_and_says_so(caplog):
    exp = build_experiment(config())
    exp.train(2)
    weights = exp.backend.weights()
    exp.batch_size = 8

    assert "batch_size changed: compiled again at the next call; the weights are kept." in caplog.text
    assert all(np.array_equal(exp.backend.weights()[key], value) for key, value in weights.items())
    exp.train(3)
    runner = next(iter(exp.program.runners.values()))
    assert runner.pace.steps == 6


def test_new_processors_take_a_new_optimizer_and_say_so():
    exp = build_experiment(config())
    exp.train(1)
    exp.chunk_processors = config()["chunk_processors"]

    with pytest.raises(ValueError, match=r"(?s)The optimizer was made for other weights.*exp.optimizer = keras"):
        exp.train(2)
    exp.optimizer = keras.optimizers.SGD(0.1)
    assert np.isfinite(exp.train(2)[-1]["training_loss"])


def test_a_layer_may_be_frozen_and_thawed_between_trainings():
    exp = build_experiment(config())
    layer = exp.chunk_processors[0].model.layers[0]
    kernels = []
    for epoch, trainable in enumerate((True, False, True), start=1):
        layer.trainable = trainable
        exp.train(epoch)
        kernels.append(layer.kernel.numpy())

    assert np.array_equal(kernels[0], kernels[1])
    assert not np.array_equal(kernels[1], kernels[2])


def test_a_new_learning_rate_reaches_the_optimizer(caplog):
    exp = build_experiment(config())
    exp.train(1)
    exp.cfg["learning_rate"] = 0.0
    before = [weight.copy() for weight in exp.backend.weights().values()]
    exp.train(2)

    assert exp.get_learning_rate() == 0.0
    assert "learning_rate is now 0.0" in caplog.text
    assert all(np.array_equal(a, b) for a, b in zip(before, exp.backend.weights().values(), strict=True))


def test_changing_what_others_were_derived_from_warns_and_names_them(caplog):
    exp = build_experiment(TEXT)
    exp.units = 16

    assert "the configuration derived network" in caplog.text


def test_batches_share_calls_and_traces_stay_constant():
    exp = build_experiment(config(batch_size=4))
    exp.train(6)
    traces = exp.counts["training"]["traces"]
    exp.train(12)

    assert exp.counts["training"]["batches"] == 12 * 12
    assert exp.counts["training"]["calls"] < 12 * 12 / 4
    assert exp.counts["training"]["traces"] == traces <= 3


def test_an_evaluation_before_training_is_not_compiled_again_within_it():
    exp = build_experiment(config(batch_size=4, jit_compile="auto"))
    exp.evaluate()
    traces = exp.counts["validation"]["traces"]
    exp.train(2)

    assert exp.compilers["training"] == exp.compilers["validation"]
    assert exp.counts["validation"]["traces"] == traces
    assert all(runner.step.is_settled for runner in exp.program.runners.values() if runner.name == "validation")


def test_a_subset_that_grows_every_epoch_is_seldom_compiled_anew():
    histories = []
    for residency in ("device", "host", "stream"):
        exp = build_experiment(config(batch_size=4, residency=residency, optimizer=keras.optimizers.SGD(0.1)))
        (subset,) = [one for one in exp.subsets if one.mode == Mode.TRAIN]
        keys = list(subset.keys)
        for epoch in range(1, 11):
            subset.keys = keys[: 4 * epoch]
            exp.train(epoch)
        subset.keys = keys[:36]  # some are gone: no other shape
        exp.train(11)
        histories.append([{k: v for k, v in row.items() if k != "epoch_time"} for row in exp.history])

        assert exp.counts["training"]["batches"] == 55 + 9
        assert exp.counts["training"]["traces"] <= 5, residency  # for 1, 2, 4, 8 and 16 batches
    assert histories[0] == histories[1] == histories[2]


def test_training_up_to_a_total_already_reached_does_nothing():
    exp = build_experiment(config())
    exp.train(2)

    assert len(exp.train(2)) == 2


def test_between_changes_no_name_is_looked_up_and_no_callback_put_in_order(monkeypatch):
    exp, seen = build_experiment(config(callbacks=[PrintLoss()])), []
    exp.train(1)
    for name in ("experimentator.configured.check_names", "experimentator.callbacks.changes.in_order"):
        monkeypatch.setattr(name, lambda *_, name=name, **__: seen.append(name))

    exp.train(2)
    exp.evaluate()
    exp.predict({"batch_input": POINTS[:2]})

    assert seen == []


# Predicting and evaluating


def test_predict_needs_no_targets_and_takes_any_number_of_rows():
    exp = build_experiment(config())

    for rows in (1, 16, 21):
        outputs = exp.predict({"batch_input": POINTS[:rows]})
        assert set(outputs) == {"batch_logits"}
        assert outputs["batch_logits"].shape == (rows, 2)


def test_predict_hands_over_the_rows_of_one_batch_at_a_time(monkeypatch):
    exp, seen = build_experiment(config(batch_size=10)), []
    compiled = exp.backend.compile

    def watched(*arguments, **options):
        step = compiled(*arguments, **options)
        call, rows = type(step).__call__, lambda columns: seen.append(len(columns["batch_input"]))
        monkeypatch.setattr(type(step), "__call__", lambda *given: rows(given[1]) or call(*given))
        return step

    monkeypatch.setattr(exp.backend, "compile", watched)
    assert len(exp.predict({"batch_input": POINTS[:25]})["batch_logits"]) == 25
    assert seen == [10, 10, 5]


def test_predict_agrees_with_the_network_itself():
    settings = config()
    exp = build_experiment(settings)
    exp.train(1)

    expected = settings["chunk_processors"][0].model(POINTS[:5])
    np.testing.assert_allclose(exp.predict({"batch_input": POINTS[:5]})["batch_logits"], expected, rtol=1e-5, atol=1e-6)


def test_predict_from_a_name_in_the_middle_of_the_graph():
    exp = build_experiment(config())

    outputs = exp.predict({"batch_logits": np.eye(2, dtype=np.float32), "batch_target": np.array([0, 0], np.int32)})

    assert outputs["accuracy"] == 0.5


def test_predict_from_text_says_that_it_holds_no_numbers():
    with pytest.raises(MissingTensorError) as caught:
        build_experiment(config()).predict({"batch_input": ["a", "b"]})
    assert "'batch_input' is given, but holds no numbers: its dtype is object." in caught.value.__notes__


def test_a_name_that_code_lacks_is_not_said_to_hold_no_numbers():
    lost = chunk_processor(inputs=["batch_a"], outputs=["batch_c"])(lambda batch_a: batch_b)  # noqa: F821
    with pytest.raises(NameError) as caught:
        build_experiment({"chunk_processors": [lost]}).predict({"batch_a": [1.0], "batch_b": [1.0]})
    assert not any("no numbers" in note for note in caught.value.__notes__)


def test_predict_from_a_misspelt_name_tells_what_is_read():
    exp = build_experiment(config())

    with pytest.raises(GraphError, match=r"No tensor named 'batch_input'(.|\n)*Did you mean 'batch_imput'"):
        exp.predict({"batch_imput": POINTS})


def test_predict_takes_no_rows_and_one_name_as_text():
    exp = build_experiment(config())

    assert exp.predict({"batch_input": POINTS[:0]}, outputs="batch_logits")["batch_logits"].shape == (0, 2)


def test_predict_returns_what_outputs_asks_for():
    exp = build_experiment(config(outputs=["batch_input"]))

    assert set(exp.predict({"batch_input": POINTS[:2]})) == {"batch_input"}
    with pytest.raises(GraphError, match=r"No tensor named 'batch_logit' to select \[INFER\](.|\n)*'batch_logits'"):
        exp.predict({"batch_input": POINTS[:2]}, outputs=["batch_logit"])


def test_evaluate_averages_over_all_rows_by_batch_size():
    exp = build_experiment(config(batch_size=10))

    logits = exp.predict({"batch_input": POINTS[48:64]})["batch_logits"]

    assert exp.evaluate()["validation_accuracy"] == pytest.approx((logits.argmax(-1) == SIDES[48:64]).mean())


def test_evaluating_a_training_subset_leaves_nothing_out_and_keeps_the_order():
    class Keys:
        def __init__(self):
            self.seen = []

        def on_batch_end(self, keys, **_):
            self.seen += keys

    keys = Keys()
    exp = build_experiment(config(batch_size=10, callbacks=[keys]))
    accuracy = exp.evaluate("training")["training_accuracy"]

    logits = exp.predict({"batch_input": POINTS[:48]})["batch_logits"]
    assert accuracy == pytest.approx((logits.argmax(-1) == SIDES[:48]).mean())
    assert keys.seen == list(range(48))


def test_subsets_that_come_and_go_leave_nothing_behind():
    exp = build_experiment(config())
    exp.train(1)
    for _ in range(3):
        exp.evaluate(Subset("extra", Mode.EVAL, arrays(0, 8)))

    assert len(exp.program.feeds) == len(exp.program.runners) == 2


def test_subsets_of_a_mode_that_disagree_are_refused_before_training():
    odd = Subset("odd", Mode.EVAL, {"input": POINTS})

    with pytest.raises(DatasetError, match=r"Subset 'odd' does not fit the graph of EVAL, which reads 'batch_target'"):
        build_experiment(config(subsets=[*subsets(), odd])).train(1)


def test_a_subset_to_infer_of_that_has_no_targets_is_not_evaluated():
    unlabelled = Subset("unlabelled", Mode.INFER, {"input": POINTS})

    with pytest.raises(DatasetError, match=r"a subset of INFER: predict\('unlabelled'\)"):
        build_experiment(config(subsets=[*subsets(), unlabelled])).evaluate("unlabelled")


@pytest.mark.parametrize("run", [lambda exp: exp.train(2), lambda exp: exp.evaluate()], ids=["train", "evaluate"])
def test_a_subset_renamed_to_the_name_of_another_is_refused_before_anything_runs(run):
    exp = build_experiment(config())
    exp.train(1)
    exp.subset("validation").name = "training"

    with pytest.raises(ConfigError, match=r"Two subsets share a name.\nSeen: training, training.\nGive each its own."):
        run(exp)
    assert (exp.epoch, exp.counts["training"]["batches"]) == (1, 3)


def test_a_training_that_cannot_begin_is_not_called_interrupted(caplog, tmp_path):
    (tmp_path / "file").write_text("")
    exp = build_experiment(config(output_folder=tmp_path / "file" / "runs"))
    with pytest.raises(OSError, match="cannot be made"):
        exp.train(1)
    exp.output_folder = tmp_path / "runs"
    exp.train(1)

    assert len(list((tmp_path / "runs").glob("*/*/history.jsonl"))) == 2  # the run, and `latest`
    assert "cut short" not in caplog.text


def test_subsets_of_a_mode_may_have_images_of_two_sizes():
    images = {size: np.ones((4, size, size, 1), np.float32) for size in (6, 9)}
    pooled = keras.Sequential([layers.Conv2D(2, 3), layers.GlobalAveragePooling2D()])
    model = ops.Model(pooled, inputs="batch_input", outputs="batch_logits")
    both = [Subset(f"size {size}", Mode.EVAL, {"input": image, "target": SIDES[:4]}) for size, image in images.items()]

    results = build_experiment(
        config(subsets=both, chunk_processors=[model, *config()["chunk_processors"][1:]])
    ).evaluate()
    assert results["size 6_loss"] == pytest.approx(results["size 9_loss"])


def test_evaluation_runs_when_eval_epochs_says():
    every_other = build_experiment(config(eval_epochs=2)).train(5)
    chosen = build_experiment(config(eval_epochs=[1])).train(3)

    assert ["validation_loss" in row for row in every_other] == [False, True, False, True, True]
    assert ["validation_loss" in row for row in chosen] == [True, False, False]


@pytest.mark.parametrize("wanted", [np.int64(2), np.array([2])], ids=str)
def test_numbers_of_numpy_say_how_long_to_train_and_when_to_evaluate(wanted, tmp_path):
    stopping = EarlyStopping("validation_loss")
    exp = build_experiment(config(eval_epochs=wanted, callbacks=[stopping], output_folder=str(tmp_path)))

    assert ["validation_loss" in row for row in exp.train(np.int64(2))] == [False, True]
    assert stopping.watched.epoch == 2


def test_names_that_an_iterator_lists_are_kept():
    exp = build_experiment(config(metrics=(name for name in ["accuracy"])))
    exp.train(1)
    exp.chunk_processors = [*exp.chunk_processors]
    assert {"training_accuracy", "validation_accuracy"} <= exp.train(2)[-1].keys()

    exp.metrics = map(str, ["accuracy"])
    assert exp.cfg["metrics"] == ["accuracy"]


def test_classes_that_an_iterator_lists_compose_the_experiment():
    exp = build_experiment(config(experiment_type=filter(None, [KerasExperiment, None])))
    assert isinstance(exp, KerasExperiment)
    assert not isinstance(exp, CallbackedExperiment)


def test_weights_survive_a_file(tmp_path):
    exp, other = build_experiment(config()), build_experiment(config())
    exp.train(2)
    exp.save_weights(tmp_path / "weights.safetensors")
    other.load_weights(tmp_path / "weights.safetensors")

    assert other.evaluate() == exp.evaluate()


@pytest.mark.parametrize("call", ["save_weights", "load_weights", "save_checkpoint", "resume", "export"])
def test_what_is_no_path_is_refused_with_what_to_write(call):
    exp = build_experiment(config())

    for given in (3, None, ["w"]):
        with pytest.raises(OSError, match=rf"is no path.\nSeen: {type(given).__name__}.\nWrite exp.{call}\("):
            getattr(exp, call)(given)


def test_a_damaged_weights_file_is_refused(tmp_path):
    (tmp_path / "w.safetensors").write_bytes(b"not weights")

    with pytest.raises(OSError, match=r"w.safetensors' cannot be read as weights"):
        build_experiment(config()).load_weights(tmp_path / "w.safetensors")


def test_weights_of_something_else_are_refused_by_the_name_of_their_file(tmp_path):
    save_weights(tmp_path / "w.safetensors", {"Other/0/kernel": np.zeros(3)})

    with pytest.raises(WeightsError, match=r"^The weights of '.*w.safetensors' do not fit the experiment; nothing was"):
        build_experiment(config()).load_weights(tmp_path / "w.safetensors")


def test_weights_that_keras_wrote_are_answered_with_who_reads_them(tmp_path):
    network = keras.Sequential([layers.Input((3,)), layers.Dense(2)])
    network.save_weights(tmp_path / "w.weights.h5")

    with pytest.raises(OSError, match=r"Keras wrote it: load it into the network, network.load_weights"):
        build_experiment(config()).load_weights(tmp_path / "w.weights.h5")


@pytest.mark.parametrize(
    "name, told", [("w.weights.h5", "w.weights.safetensors"), ("w.pt", "w.safetensors"), ("w", "")]
)
def test_weights_under_a_name_of_another_format_are_told_to_be_of_ours_once(tmp_path, caplog, name, told):
    exp = build_experiment(config())
    for _ in range(2):
        exp.save_weights(tmp_path / name)

    assert caplog.text.count(
        f"is a safetensors file, whatever its name: neither Keras nor torch.load can read it. Name it {told}."
    ) == bool(told)


# The graph


def test_training_augmentation_does_not_run_in_evaluation():
    noise = chunk_processor(inputs=["batch_logits"], outputs=["batch_logits"], mode=Mode.TRAIN)(lambda x: x * np.nan)
    model, *rest = config()["chunk_processors"]
    exp = build_experiment(config(chunk_processors=[model, noise, *rest]))

    assert np.isfinite(exp.evaluate()["validation_loss"])
    with pytest.raises(NonFiniteLossError, match=r"The loss became nan in batch 0 of 'training', epoch 1"):
        exp.train(1)


def test_lambdas_none_and_idle_entries_work_in_the_list():
    dense = layers.Dense(2)
    processors = [
        lambda chunk: chunk.update(batch_input=keras.ops.cast(chunk["batch_input"], "float32")),
        None,
        lambda chunk: chunk.update(never=1) if False else None,
        lambda chunk: chunk.update(batch_logits=dense(chunk["batch_input"])),
        ops.SoftmaxCrossEntropy("batch_logits", "batch_target"),
    ]
    exp = build_experiment(config(chunk_processors=processors))

    assert np.isfinite(exp.train(1)[0]["training_loss"])
    assert [node.index for node in exp.graph("train").order] == [0, 3, 4]


def test_a_writer_below_its_reader_works():
    settings = config()
    exp = build_experiment(settings | {"chunk_processors": settings["chunk_processors"][::-1]})

    assert np.isfinite(exp.train(1)[0]["training_loss"])


def test_an_older_version_of_an_overwritten_name_can_be_predicted():
    thrice = [ops.Scale("batch_input", 2.0) for _ in range(3)]
    exp = build_experiment({"chunk_processors": thrice})

    outputs = exp.predict({"batch_input": np.ones(4, np.float32)}, outputs=["batch_input", "batch_input@1"])

    assert outputs["batch_input"].tolist() == [0.125] * 4
    assert outputs["batch_input@1"].tolist() == [0.5] * 4


def test_a_misspelt_name_in_a_lambda_is_reported_before_training():
    wrong = lambda chunk: chunk.update(loss=keras.ops.mean(chunk["batch_logit"]))  # noqa: E731
    exp = build_experiment(config(chunk_processors=[config()["chunk_processors"][0], wrong]))

    with pytest.raises(GraphError, match=r"'batch_logit'(.|\n)*Did you mean 'batch_logits'"):
        exp.train(1)


def test_a_missing_loss_is_reported_before_training():
    exp = build_experiment(config(chunk_processors=config()["chunk_processors"][:1]))

    with pytest.raises(GraphError, match=r"No tensor named 'loss' to select \[TRAIN\]"):
        exp.train(1)


def test_a_watch_for_finite_values_names_the_processor_in_compiled_code():
    blow = chunk_processor(inputs=["batch_logits"], outputs=["batch_logits"])(lambda x: x / 0.0)
    first, *rest = config()["chunk_processors"]
    exp = build_experiment(config(chunk_processors=[first, blow, ops.AssertFinite("batch_logits"), *rest]))

    with pytest.raises(FloatingPointError, match="found NaN or infinity in 'batch_logits'") as caught:
        exp.train(1)
    assert "in batch 0 of 'training', epoch 1" in str(caught.value)
    troubles = exp.troubles(caught.value)
    assert troubles["AssertFinite"] == "failed: NotFiniteError"
    assert set(troubles.values()) == {"ok", "failed: NotFiniteError"}


def test_a_watch_for_finite_values_is_silent_of_what_came_of_a_loss():
    spoil = chunk_processor(inputs=["loss"], outputs=["loss"])(lambda loss: loss * float("nan"))
    first, *rest = config()["chunk_processors"]
    processors = [first, ops.AssertFinite("batch_logits"), *rest, spoil]
    exp = build_experiment(config(chunk_processors=processors, steps_per_call=2))

    with pytest.raises(NonFiniteLossError, match="in batch 0 of 'training', epoch 1"):
        exp.train(1)


def test_a_watch_for_finite_values_names_the_batch_of_a_prediction():
    first, *_ = config()["chunk_processors"]
    exp = build_experiment(config(chunk_processors=[ops.AssertFinite("batch_input"), first], batch_size=10))
    points = POINTS[:25].copy()
    points[13] = np.nan

    with pytest.raises(FloatingPointError, match="not finite, in batch 1"):
        exp.predict({"batch_input": points})


def test_a_name_may_be_watched_at_several_places():
    first, *rest = config()["chunk_processors"]
    blow = chunk_processor(inputs=["batch_logits"], outputs=["batch_logits"], mode=Mode.TRAIN)(lambda x: x / 0.0)
    watches = [ops.AssertFinite("batch_logits", node=name) for name in ("before", "after", "last")]
    before, after, last = watches
    exp = build_experiment(config(chunk_processors=[first, before, blow, after, *rest, last]))

    assert np.isfinite(exp.evaluate()["validation_loss"])
    with pytest.raises(FloatingPointError, match=r"^after found NaN or infinity in 'batch_logits'"):
        exp.train(1)


def test_a_processor_that_fails_in_evaluation_alone_is_told_of_alone():
    blow = chunk_processor(inputs=["batch_logits"], outputs=["batch_logits"], mode=Mode.EVAL)(lambda x: x / 0.0)
    watch = ops.AssertFinite("batch_logits", mode=Mode.EVAL)
    first, *rest = config()["chunk_processors"]
    exp = build_experiment(config(chunk_processors=[first, blow, watch, *rest]))

    with pytest.raises(FloatingPointError) as caught:
        exp.train(1)
    assert exp.troubles(caught.value) == {"AssertFinite": "failed in EVAL: NotFiniteError"}


# Data


def test_items_that_travel_train_as_resident_columns_do():
    resident = build_experiment(config(residency="device")).train(3)
    for travelling in ({"residency": "stream"}, {"residency": "host"}, {"residency": "stream", "workers": 3}):
        exp = build_experiment(config(**travelling))
        assert [row["training_loss"] for row in exp.train(3)] == [row["training_loss"] for row in resident]
        assert all(runner.step.traces <= 3 for runner in exp.program.runners.values())


@pytest.mark.parametrize("residency", ["device", "host", "stream"])
def test_calls_of_the_usual_size_and_the_rest_give_the_bits_of_calls_of_one(residency):
    single = build_experiment(config(steps_per_call=1))
    single.train(3)
    exp = build_experiment(config(steps_per_call=2, residency=residency))
    exp.train(3)

    assert {runner.pace.fixing for runner in exp.program.runners.values()} == {True}
    assert exp.counts["training"]["traces"] == 2
    for key, weight in exp.backend.weights().items():
        assert weight.tobytes() == single.backend.weights()[key].tobytes()


def test_results_for_every_sample_bound_the_batches_of_a_call():
    class Maps(Callback):
        def on_batch_end(self, maps, **_):
            assert maps.shape == (16, 1024, 1024)

    spread = chunk_processor(inputs=["batch_input"], outputs=["maps"])(
        lambda batch_input: keras.ops.tile(batch_input[:, :1, None], [1, 1024, 1024])
    )
    exp = build_experiment(config(callbacks=[Maps()], subsets=subsets()[:1]))
    exp.chunk_processors.append(spread)
    exp.train(1)

    assert {runner.pace.capacity for runner in exp.program.runners.values()} == {1}


@pytest.mark.tensorflow
def test_draws_of_tensorflow_itself_follow_the_seed_and_are_warned_of(caplog):
    import tensorflow as tf

    def noisy(chunk):
        chunk["batch_input"] = chunk["batch_input"] + tf.random.normal(tf.shape(chunk["batch_input"]))

    def losses(**changes):
        exp = build_experiment(config(**changes))
        exp.chunk_processors.insert(0, noisy)
        return [row["training_loss"] for row in exp.train(2)]

    assert losses(seed=1) == losses(seed=1) != losses(seed=2)
    warned = [record.message for record in caplog.records if "whose state cannot be saved" in record.message]
    assert "noisy" in warned[0]
    assert "RandomStandardNormal" in warned[0]


def test_passes_of_other_lengths_share_one_compiled_step():
    class Shrinking(Subset):
        def shuffled_keys(self):
            return super().shuffled_keys()[: 48 - 16 * (self.epoch % 3)]

    exp = build_experiment(config(subsets=[Shrinking("training", Mode.TRAIN, arrays(0, 48))]))
    exp.train(6)

    assert exp.counts["training"]["batches"] == 2 * (3 + 2 + 1)
    assert exp.counts["training"]["traces"] <= 3


def test_counts_go_on_when_a_setting_changes():
    exp = build_experiment(config())
    exp.train(1)
    exp.batch_size = 8
    exp.train(2)

    assert exp.counts["training"]["batches"] == 48 // 16 + 48 // 8


def test_an_item_that_exits_is_named():
    class Leaving(Rows):
        def query_item(self, key):
            raise SystemExit(3)

    with pytest.raises(DatasetError, match=r"fails on key 'row 0'.\nSeen: SystemExit: 3"):
        build_experiment(config(subsets=[Subset("training", Mode.TRAIN, Leaving(4))])).train(1)


def test_a_key_that_fails_is_named():
    subset = Subset("training", Mode.TRAIN, Rows(10, fails="row 7"))
    exp = build_experiment(config(subsets=[subset], batch_size=2))

    with pytest.raises(DatasetError, match=r"fails on key 'row 7'.\nSeen: OSError: disk on fire"):
        exp.train(1)


def test_an_empty_subset_is_named():
    exp = build_experiment(config(subsets=[Subset("training", Mode.TRAIN, Rows(4), keys=[])]))

    with pytest.raises(DatasetError, match="Subset 'training' is empty"):
        exp.train(1)


def test_a_subset_smaller_than_a_batch_trains_on_what_it_has():
    exp = build_experiment(config(subsets=[Subset("training", Mode.TRAIN, arrays(0, 5))]))

    assert np.isfinite(exp.train(2)[1]["training_loss"])


def test_a_wrong_dtype_is_one_clear_error():
    words = {"input": POINTS, "target": np.array(["left", "right"] * 32)}
    exp = build_experiment(config(subsets=[Subset("training", Mode.TRAIN, words)]))

    with pytest.raises(
        DatasetError,
        match=r"'batch_target' of subset 'training' holds no numbers(.|\n)*left'\), a str_(.|\n)*np.unique",
    ):
        exp.train(1)


@pytest.mark.parametrize("outputs", [["batch_ids"], ["batch_words"]])
def test_a_prediction_of_items_without_numbers_says_so(outputs):
    ids = chunk_processor(inputs=["batch_words"], outputs=["batch_ids"])(lambda words: words + 1)
    exp = build_experiment({"subsets": [Subset("s", Mode.EVAL, [{"words": "a"}])], "chunk_processors": [ids]})

    with pytest.raises(DatasetError, match=r"'batch_words' of subset 's' holds no numbers"):
        exp.predict("s", outputs=outputs)


def test_items_without_a_row_in_a_prediction_are_told_and_a_number_tells_the_others(caplog):
    def third(key, item):
        return item if key % 3 else None

    double = chunk_processor(inputs=["batch_number"], outputs=["batch_double"])(lambda number: 2 * number)
    numbers = DataAugmentationDataset([{"number": number} for number in range(5)], [third])
    exp = build_experiment({"subsets": [Subset("s", Mode.EVAL, numbers)], "chunk_processors": [double]})
    found = exp.predict("s", outputs=["batch_double", "batch_number"])

    assert {name: values.tolist() for name, values in found.items()} == {
        "batch_double": [2, 4, 8],
        "batch_number": [1, 2, 4],
    }
    assert "2 of the 5 items of 's' are None and have no row" in caplog.text


def test_training_without_an_optimizer_says_what_to_write():
    with pytest.raises(ValueError, match="There is no optimizer to train with"):
        build_experiment(config(optimizer=None)).train(1)


class Halved(BaseExperiment):
    @property
    def learning_rate(self) -> float:
        return 0.5


class Own(BaseExperiment):
    @cached_property
    def optimizer(self) -> Any:
        return keras.optimizers.SGD(0.5)


class Counting(BaseExperiment):
    @cached_property
    def optimizer(self) -> Any:
        return keras.optimizers.SGD(0.5 if self.backend.weights() else 0.25)


class InForce(BaseExperiment):
    @property
    def learning_rate(self) -> float:
        return float(self.optimizer.learning_rate)


class Falling(BaseExperiment):
    learning_rate = property(lambda self: keras.optimizers.schedules.CosineDecay(0.1, 100))


class Anew(BaseExperiment):
    @property
    def optimizer(self) -> Any:
        return keras.optimizers.SGD(0.5)


def test_a_task_class_may_have_a_rate_of_its_own():
    assert build_experiment(config(), experiment_type=[Halved]).get_learning_rate() == 0.5
    exp = build_experiment(config(), experiment_type=[InForce])
    assert exp.learning_rate == exp.get_learning_rate()
    with pytest.raises(ConfigError, match="a schedule goes into the optimizer"):
        build_experiment(config(), experiment_type=[Falling]).get_learning_rate()


def test_a_task_class_may_have_an_optimizer_of_its_own_which_hears_of_the_rate():
    exp = build_experiment(config(optimizer=None), experiment_type=[Own])
    exp.train(1)
    exp.set_learning_rate(0.25)

    assert exp.get_learning_rate() == 0.25


def test_an_optimizer_of_a_task_class_may_ask_for_the_backend():
    assert build_experiment(config(), experiment_type=[Counting]).get_learning_rate() == 0.25


def test_an_optimizer_that_is_made_anew_each_time_is_refused():
    told = r"`optimizer` of Experiment makes another one each time.*\n.*\nWrite @functools.cached_property above it"
    with pytest.raises(ValueError, match=told):
        build_experiment(config(), experiment_type=[Anew]).train(1)


def test_a_setting_that_is_defined_as_a_method_is_refused():
    with pytest.raises(ConfigError, match=r"'subsets' of Mine is a method.*\nSeen: def subsets.*\nWrite @functools"):

        class Mine(BaseExperiment):
            def subsets(self) -> list[Any]:
                return []


def test_a_class_that_does_not_begin_its_base_is_told_to():
    class Mine(BaseExperiment):
        def __init__(self, config: Any):
            self.units = 8

    with pytest.raises(AttributeError, match=r"holds no configuration.\nCall super\(\).__init__\("):
        build_experiment(config(), experiment_type=[Mine])


def test_the_numpy_backend_says_of_an_optimizer_what_to_give_to_whom():
    graph = Graph([], provided=())

    told = r"does not train.\nSeen: an optimizer.\nGive the experiment a Keras optimizer, .*; or leave it out"
    with pytest.raises(ValueError, match=told):
        get_backend("numpy").compile(graph, {}, object())


@pytest.mark.parametrize("call", ["evaluate", "predict", "batch", "batch_generator"])
def test_an_unknown_subset_is_named_with_those_there_are(call):
    with pytest.raises(ConfigError, match=r"No subset named 'test'.\nThere are: training, validation."):
        list(getattr(build_experiment(config()), call)("test"))


def test_batches_are_those_of_a_subset_or_of_its_name():
    exp = build_experiment(config())

    assert [keys for keys, _ in exp.batch_generator("training", 8)] == [
        keys for keys, _ in exp.batch_generator(exp.subset("training"), 8)
    ]
    with pytest.raises(DatasetError, match="batch_generator"):
        next(exp.batch_generator(3))
    with pytest.raises(ValueError, match="batch_size=0"):
        next(exp.batch_generator("training", 0))


def test_one_batch_can_be_looked_at():
    exp = build_experiment(config())

    assert exp.batch("training")["batch_input"].shape == (16, 3)
    keys, batch = next(exp.batch_generator(exp.subset("validation"), 4))
    assert keys == (0, 1, 2, 3)
    np.testing.assert_array_equal(batch["batch_input"], POINTS[48:52])


# Callbacks


class Watch(Callback):
    def __init__(self) -> None:
        self.seen: list[Any] = []

    def on_batch_end(self, batch, keys, batch_logits, cycle_name, **_):
        self.seen.append((cycle_name, batch, len(keys), batch_logits.shape))


def test_a_callback_sees_every_batch_with_the_tensors_it_names():
    watch = Watch()
    build_experiment(config(callbacks=[watch, None])).train(1)

    assert watch.seen == [*(("training", n, 16, (16, 2)) for n in range(3)), ("validation", 0, 16, (16, 2))]


def test_objects_of_items_reach_callbacks_and_not_the_graph():
    class Paths:
        def __init__(self):
            self.seen = []

        def on_batch_end(self, keys, batch_path, **_):
            self.seen += [(key, path) for key, path in zip(keys, batch_path, strict=True)]

    paths = Paths()
    subset = Subset("training", Mode.TRAIN, Rows(4))
    build_experiment(config(subsets=[subset], batch_size=2, callbacks=[paths])).train(1)

    assert sorted(paths.seen) == [(f"row {n}", f"/row {n}") for n in range(4)]


def test_events_come_in_order_and_state_passes_between_callbacks():
    log: list[Any] = []

    class Reader:
        after = ("Writer", "Nobody")

        def on_epoch_end(self, note, **_):
            log.append(("epoch end", note))

    class Writer:
        def on_epoch_begin(self, epoch, **_):
            log.append(("epoch begin", epoch))

        def on_cycle_begin(self, cycle_name, **_):
            log.append(("cycle begin", cycle_name))

        def on_epoch_end(self, state, validation_loss, **_):
            state["note"] = round(validation_loss) * 0

    build_experiment(config(callbacks=[Reader(), Writer()])).train(1)

    assert log == [("epoch begin", 1), ("cycle begin", "training"), ("cycle begin", "validation"), ("epoch end", 0)]


def test_a_callback_with_a_period_acts_on_time_with_the_weights_of_that_batch():
    class Snapshots:
        every = 2

        def init(self, exp):
            self.exp, self.seen = exp, []

        def on_batch_end(self, cycle_name, batch, **_):
            if cycle_name == "training":
                self.seen.append((batch, next(iter(self.exp.backend.weights().values())).copy()))

    often, single = Snapshots(), Snapshots()
    build_experiment(config(batch_size=8, callbacks=[often])).train(1)
    build_experiment(config(batch_size=8, callbacks=[single], steps_per_call=1)).train(1)

    assert [batch for batch, _ in often.seen] == [1, 3, 5]
    assert all(np.array_equal(a, b) for (_, a), (_, b) in zip(often.seen, single.seen, strict=True))


def test_a_tensor_that_the_state_lacks_is_told_how_to_ask_for():
    class Reading(Callback):
        def on_batch_end(self, state):
            state["batch_input"]

    exp = build_experiment(config(callbacks=[Reading()]))
    with pytest.raises(KeyError) as caught:
        exp.train(1)

    assert "inputs = ['batch_input'] in the class." in caught.value.__notes__[0]
    Reading.inputs = ["batch_input"]
    build_experiment(config(callbacks=[Reading()])).train(1)


@pytest.mark.parametrize("every, told", [(None, True), (1, False), (2, False)])
def test_a_rate_that_comes_after_the_batches_it_is_for_is_told(every, told, caplog):
    class Warming(Callback):
        def on_batch_end(self, batch):
            self.exp.optimizer.learning_rate = 0.1 / (batch + 1)

    Warming.every = every
    build_experiment(config(batch_size=8, callbacks=[Warming()], steps_per_call=4)).train(1)

    assert ("Write every = 1 into its class" in caplog.text) == told


def test_acting_before_batches_makes_calls_of_one_batch_and_says_so(caplog):
    class Before:
        count = 0

        def on_batch_begin(self, **_):
            Before.count += 1

    build_experiment(config(callbacks=[Before()])).train(1)

    assert Before.count == 4
    assert "one batch only" in caplog.text


@pytest.mark.parametrize("event", ["batch_begin", "batch_end", "epoch_end"])
def test_calls_are_as_short_as_callbacks_need_in_passes_that_they_hear_of(event):
    class OfTraining:
        when, every = Mode.TRAIN, 1

    setattr(OfTraining, f"on_{event}", lambda self, **_: None)
    exp = build_experiment(config(callbacks=[OfTraining()], batch_size=4, steps_per_call=2))
    exp.train(1)
    exp.predict("validation")

    per_call = {key[1]: runner.batches / runner.calls for key, runner in exp.program.runners.items()}
    assert per_call[Mode.TRAIN] == (2 if event == "epoch_end" else 1)
    assert min(per_call[Mode.EVAL], per_call[Mode.INFER]) > 1


def test_a_callback_that_asks_for_an_unknown_name_is_told():
    class Asks:
        def on_epoch_end(self, validation_acuracy):
            pass

    with pytest.raises(ValueError, match=r"Asks.on_epoch_end asks for 'validation_acuracy'(.|\n)*validation_accuracy"):
        build_experiment(config(callbacks=[Asks()])).train(1)


def test_progress_prints_a_line_an_epoch_to_stderr_only(capsys):
    build_experiment(config(hide_progress=False)).train(2)

    out, err = capsys.readouterr()
    assert out == ""
    assert "2/2  training loss" in err
    assert "validation_accuracy" in err or "accuracy" in err


def test_a_graph_without_framework_runs_on_the_numpy_backend():
    mean = chunk_processor(inputs=["batch_input"], outputs=["mean"])(lambda batch_input: batch_input.mean())
    exp = build_experiment(
        {"experiment_type": BaseExperiment, "chunk_processors": [mean], "metrics": ["mean"], "batch_size": 8}
        | {"subsets": [Subset("validation", Mode.EVAL, {"input": np.arange(16.0)})]}
    )

    assert exp.evaluate() == {"validation_mean": 7.5}


def test_logging_is_quiet_by_default(caplog):
    with caplog.at_level(logging.WARNING):
        build_experiment(config(jit_compile="auto")).train(2)

    assert caplog.text == ""


def test_a_callback_added_to_the_list_acts_from_the_next_call_on():
    class Counting(Callback):
        def __init__(self):
            self.epochs = 0

        def on_epoch_end(self, **_):
            self.epochs += 1

    for changes in ({}, {"callbacks": []}, {"callbacks": [None]}):
        counting, exp = Counting(), build_experiment(config(**changes))
        exp.train(1)
        exp.callbacks.append(counting)
        exp.train(3)
        exp.callbacks.clear()
        exp.train(4)
        assert counting.epochs == 2


def test_when_and_how_often_a_callback_acts_may_change_from_epoch_to_epoch():
    class Watches(Callback):
        every, when, seen = 1, Mode.TRAIN, []

        def on_batch_end(self, epoch, batch, cycle_name, **_):
            self.seen.append((epoch, cycle_name, batch))

        def on_epoch_end(self, epoch, **_):
            self.every, self.when = (2, Mode.TRAIN) if epoch == 1 else (1, Mode.EVAL)

    build_experiment(config(callbacks=[Watches()])).train(3)

    first = [(1, "training", batch) for batch in range(3)]
    assert Watches.seen == [*first, (2, "training", 1), (3, "validation", 0)]


def test_a_rate_for_an_optimizer_with_a_schedule_is_refused_before_first_use_too():
    schedule = keras.optimizers.schedules.CosineDecay(0.1, 10)
    exp = build_experiment(config(optimizer=keras.optimizers.Adam(schedule)))

    with pytest.raises(ConfigError, match="leave learning_rate out"):
        exp.set_learning_rate(0.2)


@pytest.mark.parametrize(
    "callbacks, told", [([], True), ([ExponentialMovingAverage(0.9)], False)], ids=["none", "its own"]
)
def test_an_average_of_weights_that_nothing_takes_is_told(caplog, callbacks, told):
    optimizer = keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.9)

    build_experiment(config(optimizer=optimizer, callbacks=callbacks)).train(1)

    said = "Write callbacks = [ExponentialMovingAverage(0.9)]."
    assert any(said in record.getMessage() for record in caplog.records) == told


def test_a_rate_beside_an_optimizer_that_follows_a_schedule_is_told_to_count_for_nothing(caplog):
    told = []
    for rate in ("0.5", "0.01", "learning_rate / 2"):
        caplog.clear()
        schedule = f"keras.optimizers.schedules.CosineDecay({rate}, 10)"
        build_experiment(TEXT.replace("Adam(learning_rate)", f"Adam({schedule})")).train(1)
        told.append("learning_rate = 0.01 in the configuration has no effect" in caplog.text)

    assert told == [True, False, False]  # the second is that rate, the third is made of it


def test_a_rate_that_the_optimizer_is_told_is_not_said_to_leave_it_as_it_was(caplog):
    build_experiment(f"{TEXT}\nhalf = learning_rate / 2").learning_rate = 0.25

    assert "learning_rate is now 0.25, in the optimizer too." in caplog.text
    assert "derived half from it, which keep" in caplog.text


@pytest.mark.parametrize("by_name", [True, False])
def test_predict_of_a_subset_is_that_of_its_items_in_the_order_of_its_keys(by_name):
    exp = build_experiment(config())
    exp.train(1)
    for subset in exp.subsets:
        keys = list(subset.keys)
        given = np.stack([subset.query_item(key)["input"] for key in keys])

        outputs = exp.predict(subset.name if by_name else subset)

        assert set(outputs) == {"batch_logits"}
        np.testing.assert_array_equal(outputs["batch_logits"], exp.predict({"batch_input": given})["batch_logits"])
    with pytest.raises(ConfigError, match="'accuracy' has no value for each row of 'training'"):
        exp.predict("training", outputs="accuracy")
    with pytest.raises(DatasetError, match="Subset 'none' is empty"):
        exp.predict(Subset("none", Mode.EVAL, {"input": POINTS[:0]}), outputs="batch_logits")


def test_predict_of_a_subset_gives_names_that_are_asked_for_whatever_the_setting_says():
    exp = build_experiment(config(outputs=["batch_logits"]))

    inputs = exp.predict("validation", outputs=["batch_input", "batch_target"])

    expected = [exp.subset("validation").query_item(key) for key in exp.subset("validation").keys]
    np.testing.assert_array_equal(inputs["batch_input"], [item["input"] for item in expected])
    np.testing.assert_array_equal(inputs["batch_target"], [item["target"] for item in expected])


def test_names_that_are_asked_for_of_a_subset_take_no_more_calls_than_an_evaluation():
    exp = build_experiment(config(batch_size=1, steps_per_call=4))
    exp.evaluate("validation")
    before = dict(exp.counts["validation"])

    asked = [exp.predict("validation", outputs=["batch_logits"]) for _ in range(2)]

    assert before["calls"] == before["batches"] // 4 > 0
    assert exp.counts["validation"] == {name: 3 * before[name] for name in ("batches", "calls")} | {
        "traces": 2 * before["traces"]
    }
    for outputs in asked:
        np.testing.assert_array_equal(outputs["batch_logits"], exp.predict("validation")["batch_logits"])


@pytest.mark.parametrize("batch_size", [3, 16])
def test_the_mean_of_a_part_weighs_as_much_as_it_says(batch_size):
    @chunk_processor(inputs=["batch_input"], outputs=["loss", "count"], weights={"loss": "count"})
    def positive(batch_input):
        counts = keras.ops.cast(batch_input[:, 0] > 0, "float32")
        count = keras.ops.sum(counts)
        return keras.ops.sum(counts * batch_input[:, 0]) / keras.ops.maximum(count, 1), count

    subset = Subset("validation", Mode.EVAL, {"input": POINTS})
    exp = build_experiment({"subsets": [subset], "chunk_processors": [positive], "batch_size": batch_size})

    first = POINTS[:, 0]
    assert exp.evaluate() == {"validation_loss": pytest.approx(first[first > 0].mean(), rel=1e-5)}


@chunk_processor(inputs=["batch_logits"], outputs=["table"])
def table(logits):
    return keras.ops.matmul(keras.ops.transpose(logits), logits)


@pytest.mark.parametrize("kind", [dict, str])
def test_what_is_no_value_for_each_row_is_left_out_of_several_batches_or_refused_where_it_is_asked_for(kind):
    settings = config(batch_size=len(POINTS) // 2)
    exp = build_experiment({**settings, "chunk_processors": [*settings["chunk_processors"], table]})
    given = {"batch_input": POINTS} if kind is dict else "training"

    assert exp.predict({"batch_input": POINTS[: exp.batch_size]})["table"].shape == (2, 2)
    assert "batch_logits" in exp.predict(given)
    assert "table" not in exp.predict(given)
    with pytest.raises(ConfigError, match="'table' has no value for each row of"):
        exp.predict(given, outputs=["table"])
    exp.outputs = ["batch_logits", "table"]
    with pytest.raises(ConfigError, match=r"'table' has no value for each row of .*\nSeen: \[2, 2\] for"):
        exp.predict(given)


def test_what_has_the_size_of_whole_batches_alone_is_left_out_of_the_predictions_of_a_subset():
    data = {"input": np.arange(14, dtype=np.float32).reshape(7, 2)}
    mean = chunk_processor(inputs=["batch_input"], outputs=["batch_means"])(
        lambda rows: keras.ops.mean(keras.ops.concatenate([rows, rows], axis=1), axis=0)[:3]
    )
    exp = build_experiment(
        {
            "subsets": [Subset("all", Mode.INFER, data)],
            "chunk_processors": [mean, ops.Scale("batch_input", output="batch_x")],
        },
        batch_size=3,
    )

    assert {name: len(values) for name, values in exp.predict("all").items()} == {"batch_x": 7}


def test_a_number_for_a_batch_is_predicted_for_each():
    exp = build_experiment(config(batch_size=len(POINTS) // 2))
    given = {"batch_input": POINTS, "batch_target": SIDES}

    assert exp.predict(given, outputs=["loss"])["loss"].shape == (2,)


def test_a_subset_without_anything_to_measure_is_predicted():
    network = ops.Model(layers.Dense(2), inputs="batch_input", outputs="batch_logits")
    exp = build_experiment(
        {"subsets": [Subset("validation", Mode.EVAL, {"input": POINTS})], "chunk_processors": [network]}
    )

    predicted = exp.predict("validation")["batch_logits"]
    assert predicted.shape == (len(POINTS), 2)
    modelled = keras.ops.convert_to_numpy(exp.as_model()({"batch_input": POINTS})["batch_logits"])
    np.testing.assert_allclose(modelled, predicted, rtol=1e-5)


def functional():
    inputs = layers.Input([3])
    return keras.Model(inputs, layers.Activation("sigmoid")(layers.Dense(1)(inputs)))


def reshaped():
    inputs = keras.Input((3,))
    return keras.Model(inputs, layers.Flatten()(layers.Dense(1, "sigmoid")(inputs)))


class Gated(keras.Model):
    """Has an activation, which is not what it ends in."""

    def __init__(self):
        super().__init__()
        self.activation = keras.activations.sigmoid
        self.hidden, self.head = layers.Dense(4), layers.Dense(1)

    def call(self, x):
        return self.head(self.activation(self.hidden(x)))


SQUASHING = {
    "a Sequential": (lambda: keras.Sequential([layers.Dense(1, activation="sigmoid")]), "sigmoid"),
    "a functional model": (functional, "sigmoid"),
    "a layer": (lambda: layers.Dense(2, activation="softmax"), "softmax"),
    "a layer of its own": (lambda: keras.Sequential([layers.Dense(2), layers.Softmax()]), "softmax"),
    "one that is reshaped": (lambda: keras.Sequential([layers.Dense(1, "sigmoid"), layers.Reshape((1,))]), "sigmoid"),
    "a functional one, reshaped": (reshaped, "sigmoid"),
    "another, of one": (lambda: keras.Sequential([layers.Dense(1), layers.Activation("sigmoid")]), "sigmoid"),
    "none": (lambda: keras.Sequential([layers.Dense(1, activation="relu"), layers.Dense(1)]), None),
    "of a layer of its own within": (lambda: Gated(), None),
}


def test_a_metric_that_nothing_writes_is_answered_with_an_op():
    exp = build_experiment(config(metrics=["acuracy"], chunk_processors=config()["chunk_processors"][:2]))
    with pytest.raises(MissingTensorError) as caught:
        exp.train(1)

    assert caught.value.__notes__ == [
        "`metrics` names what processors write: list one, such as ops.Accuracy(logits, target)."
    ]


@pytest.mark.filterwarnings("ignore:.*does not represent logits")  # Keras' own, on TensorFlow alone
@pytest.mark.parametrize("network", SQUASHING)
def test_probabilities_where_logits_are_taken_are_told_once(network, caplog):
    make, squash = SQUASHING[network]
    loss = ops.SoftmaxCrossEntropy if squash == "softmax" else ops.SigmoidCrossEntropy
    processors = [
        ops.Model(make(), inputs="batch_input", outputs="batch_logits"),
        loss("batch_logits", "batch_target"),
        ops.Accuracy("batch_logits", "batch_target", "by_logits"),
        ops.Accuracy("batch_logits", "batch_target", threshold=0.5),
        ops.Sigmoid("batch_logits", output="batch_scores"),
    ]
    exp = build_experiment({**config(), "chunk_processors": processors})
    exp.train(1)
    exp.evaluate()

    told = [one.getMessage() for one in caplog.records if "takes logits" in one.getMessage()]
    assert len(told) == {"softmax": 1, "sigmoid": 2, None: 0}[squash], told
    if squash:
        assert "CrossEntropy() takes logits, but 'batch_logits' of #0 Model(" in told[0]
        assert f" ends in a {squash}. Leave it out; ops.Softmax" in told[0]
    if squash == "sigmoid":
        assert told[1].endswith("Write threshold=0.5.")


LOSSES = {
    "a loss": (keras.losses.BinaryCrossentropy(), None, "Write from_logits=True."),
    "its function": (keras.losses.binary_crossentropy, None, "Write from_logits=True."),
    "a loss on logits": (keras.losses.BinaryCrossentropy(from_logits=True), None, ""),
    "a loss on logits of probabilities": (
        keras.losses.BinaryCrossentropy(from_logits=True),
        "sigmoid",
        "Write from_logits=False.",
    ),
    "a loss of probabilities": (keras.losses.BinaryCrossentropy(), "sigmoid", ""),
    "a loss of numbers": (keras.losses.MeanSquaredError(), None, ""),
}


@pytest.mark.filterwarnings("ignore:.*does not represent logits")  # Keras' own, on TensorFlow alone
@pytest.mark.parametrize("made", LOSSES)
def test_a_loss_of_keras_that_takes_logits_for_probabilities_is_told(made, caplog):
    loss, activation, write = LOSSES[made]
    processors = [
        ops.Model(layers.Dense(1, activation=activation), inputs="batch_input", outputs="batch_logits"),
        ops.ExpandDims("batch_target"),
        ops.Apply(loss, inputs=["batch_target", "batch_logits"], outputs="each"),
        ops.Apply(keras.ops.mean, inputs="each", outputs="loss"),
    ]
    build_experiment({**config(), "chunk_processors": processors}).train(1)

    told = [one.getMessage() for one in caplog.records if one.name == "experimentator.slips"]
    assert [one[-len(write) :] for one in told] == ([write] if write else [])


def test_probabilities_that_a_last_layer_casts_are_not_told_to_be_logits(caplog):
    network = keras.Sequential([layers.Dense(1, activation="sigmoid"), layers.Activation("linear", dtype="float32")])
    processors = [
        ops.Model(network, inputs="batch_input", outputs="batch_sure"),
        ops.MeanSquaredError("batch_sure", "batch_target"),
        ops.KerasMetric(keras.metrics.AUC(), "batch_sure", "batch_target"),
    ]
    build_experiment({**config(), "chunk_processors": processors}).evaluate()

    assert not [one for one in caplog.records if one.name == "experimentator.slips"]


def test_an_area_under_a_curve_of_logits_is_told(caplog):
    processors = [
        *config()["chunk_processors"],
        ops.KerasMetric(keras.metrics.AUC(), "batch_logits", "batch_target"),
        ops.KerasMetric(keras.metrics.AUC(from_logits=True, name="right"), "batch_logits", "batch_target"),
    ]
    processors[0] = ops.Model(layers.Dense(1), inputs="batch_input", outputs="batch_logits")
    processors[1] = ops.SigmoidCrossEntropy("batch_logits", "batch_target")
    build_experiment({**config(), "chunk_processors": processors}).evaluate()

    (told,) = [one.getMessage() for one in caplog.records if one.name == "experimentator.slips"]
    assert "takes probabilities, but 'batch_logits' of #0 Model(" in told
    assert told.endswith("ends in neither a softmax nor a sigmoid. Write from_logits=True.")


def test_a_mean_of_nothing_is_told_once(caplog):
    def masked(name, mask):
        data = {"input": POINTS, "target": SIDES, "mask": np.full(len(POINTS), mask)}
        return Subset(name, Mode.EVAL, data)

    settings = config(subsets=[masked("seen", True), masked("unseen", False)])
    accuracy = ops.Accuracy("batch_logits", "batch_target", mask="batch_mask")
    exp = build_experiment({**settings, "chunk_processors": [*settings["chunk_processors"], accuracy]})
    for _ in range(2):
        metrics = exp.evaluate()

    assert np.isnan(metrics["unseen_accuracy"])
    assert 0 <= metrics["seen_accuracy"] <= 1
    (told,) = [one.getMessage() for one in caplog.records if "NaN" in one.getMessage()]
    assert told.startswith("'unseen_accuracy' is NaN: it is a mean over a part of each batch, and that part was empty")


def test_a_metric_that_is_no_single_number_is_told(caplog):
    def rows(chunk):
        chunk["sums"] = keras.ops.sum(chunk["batch_logits"], axis=0)

    settings = config(metrics=["sums"])
    exp = build_experiment({**settings, "chunk_processors": [*settings["chunk_processors"], rows]})
    exp.train(2)

    (told,) = [one.getMessage() for one in caplog.records if "metrics lists" in one.getMessage()]
    assert told.startswith("metrics lists 'sums', which is [2] for each batch: only single numbers are averaged.")


def test_a_metric_with_a_row_for_each_item_is_told_once_whatever_the_batches(caplog):
    build_experiment(config(metrics=["batch_logits"], batch_size=10)).train(1)  # 6 rows in the last of an evaluation

    (told,) = [one.getMessage() for one in caplog.records if "metrics lists" in one.getMessage()]
    assert told.startswith("metrics lists 'batch_logits', which is [B, 2] for each batch")


def test_an_error_of_shapes_tells_which_are_usual():
    exp = build_experiment(config())
    exp.train(1)

    with pytest.raises(Exception) as caught:  # noqa: PT011  # Keras' or the framework's own
        exp.predict({"batch_input": np.zeros((2, 5), np.float32)})
    assert caught.value.__notes__[-1] == (
        "'batch_input' was given as [2, 5]; batches of the subsets have it as [B, 3]."
    )


def test_many_kinds_of_shapes_are_told_once(caplog):
    def doubled(chunk):
        chunk["batch_twice"] = 2 * chunk["batch_words"]

    exp = build_experiment({"chunk_processors": [doubled], "hide_progress": True})
    for length in range(1, 12):
        exp.predict({"batch_words": np.zeros((1, length), np.float32)})

    assert [one.getMessage() for one in caplog.records if "kinds of shapes" in one.getMessage()] == [
        "predict has compiled for 8 kinds of shapes. Pad what varies to a few lengths."
    ]


def test_train_without_a_number_takes_that_of_the_configuration():
    assert len(build_experiment(config(epochs=2)).train()) == 2
    with pytest.raises(ConfigError, match=r"Write exp\.train\(10\)"):
        build_experiment(config()).train()


def test_what_is_as_long_as_the_batch_is_padded_alike_for_arrays_and_for_a_subset():
    alike = chunk_processor(inputs=["batch_x"], outputs=["batch_alike"])(lambda x: x[:, None] * x)
    x = np.array([1.0, 2.0, 3.0])
    exp = build_experiment(
        {"subsets": [Subset("all", Mode.INFER, {"x": x})], "chunk_processors": [alike]}, batch_size=2
    )

    for given in ({"batch_x": x}, "all"):
        assert exp.predict(given)["batch_alike"].tolist() == [[1.0, 2.0], [2.0, 4.0], [9.0, 0.0]]


def test_predict_of_an_array_without_a_name_says_what_to_write():
    exp = build_experiment(config())

    with pytest.raises(TypeError, match=r"Write predict\(\{'batch_input': ...\}\)"):
        exp.predict(np.zeros((3, 2), np.float32))


def test_predict_of_rows_of_several_lengths_says_what_to_write():
    with pytest.raises(DatasetError, match=r"'batch_input' in a dict of arrays is ragged(.|\n)*Resize or pad its rows"):
        build_experiment(config()).predict({"batch_input": [POINTS[0], POINTS[1, :1]]})


def test_a_checkpoint_of_another_optimizer_is_refused_by_the_argument_that_differs(tmp_path):
    def made(**options):
        return build_experiment(config(optimizer=keras.optimizers.Adam(0.01, **options)))

    exp = made()
    exp.train(1)
    exp.save_checkpoint(tmp_path)

    made().resume(tmp_path)
    with pytest.raises(ResumeError, match=r"optimizer \(config\), Adam.beta_1: was 0.9, is 0.1"):
        made(beta_1=0.1).resume(tmp_path)


def test_a_rate_in_the_configuration_that_replaces_the_optimizers_own_is_told(caplog):
    exp = build_experiment(TEXT.replace("Adam(learning_rate)", "Adam(learning_rate * 10)"))
    exp.train(1)

    assert exp.get_learning_rate() == pytest.approx(0.01)
    assert "learning_rate = 0.01 in the configuration replaces the optimizer's own, 0.1." in caplog.text
    caplog.clear()
    build_experiment(TEXT, learning_rate=0.02).train(1)
    build_experiment(TEXT.replace("keras.optimizers.Adam(learning_rate)", "'adam'"), learning_rate=0.02).train(1)
    assert "replaces the optimizer" not in caplog.text


def test_a_rate_set_once_more_takes_the_place_of_one_that_the_optimizer_was_given():
    exp, rate = build_experiment(config()), 0.25
    exp.learning_rate = rate
    exp.optimizer.learning_rate = 0.5
    exp.learning_rate = rate

    assert exp.get_learning_rate() == 0.25


def test_an_optimizer_that_takes_the_place_of_another_gets_the_rate_and_that_is_told(caplog):
    exp = build_experiment(config())
    exp.learning_rate = 0.25
    exp.optimizer = keras.optimizers.SGD(0.5)

    assert float(exp.optimizer.learning_rate) == 0.25
    assert "learning_rate = 0.25 in the configuration replaces the optimizer's own, 0.5." in caplog.text


def test_a_total_that_is_reached_already_is_told(caplog):
    exp = build_experiment(config())
    exp.train(2), exp.train(2)

    assert caplog.messages == ["Nothing to train: 2 of 2 epochs are done. train(3) trains one more."]


def test_batches_count_though_a_callback_failed_after_them():
    class Once:
        def on_batch_end(self, batch, **_):
            if not hasattr(self, "done"):
                self.done = True
                raise ValueError

    exp = build_experiment(config(callbacks=[Once()], steps_per_call=1))
    with pytest.raises(ValueError):
        exp.train(1)
    exp.train(1)

    assert exp.walk.batches == int(exp.optimizer.iterations)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_copy_is_refused_with_what_to_write(copied):
    with pytest.raises(TypeError, match=r"neither copied nor pickled(.|\n)*Build another of the same configuration"):
        copied(build_experiment(config()))


def test_settings_are_completed_like_attributes():
    assert {"batch_size", "learning_rate", "seed", "train", "mine"} <= set(dir(build_experiment(config(mine=1))))


def test_a_dict_that_is_filled_anew_for_the_next_subset_leaves_the_first_as_it_was():
    data, made = {}, []
    for name, mode, start, stop in (("t", Mode.TRAIN, 0, 48), ("v", Mode.EVAL, 48, 64)):
        data |= arrays(start, stop)
        made.append(Subset(name, mode, data))
    exp = build_experiment(config(subsets=made))
    exp.train(1)

    assert (len(exp.subset("t")), len(exp.subset("v"))) == (48, 16)
    np.testing.assert_array_equal(exp.batch("t", 48)["batch_input"].sum(), arrays(0, 48)["input"].sum())


def test_data_of_an_experiment_that_nobody_holds_are_let_go_before_more_is_placed(monkeypatch):
    monkeypatch.setattr("experimentator.feed.LARGE", 0)
    gc.collect()
    gc.freeze()  # what other tests left, for the sake of time
    gc.disable()
    try:
        exp = build_experiment(config())
        exp.train(1)
        first = weakref.ref(exp)
        exp = build_experiment(config())
        exp.train(1)
    finally:
        gc.enable()

    assert first() is None


@pytest.mark.parametrize("residency", ["device", "stream"])
def test_a_pass_that_is_over_is_let_go_with_its_order_and_data(monkeypatch, residency):
    exp = build_experiment(config(residency=residency))
    exp.train(1)
    passes, cycle = weakref.WeakSet(), exp.cycle
    monkeypatch.setattr(exp, "cycle", lambda *given: passes.add(made := cycle(*given)) or made, raising=False)
    gc.disable()
    try:
        exp.train(2)
    finally:
        gc.enable()

    assert not passes


def test_a_processor_left_out_for_a_slip_is_told_once(caplog):
    slip, given = ops.Softmax("batch_logit", output="a"), ops.Softmax("batch_heights", output="b")
    exp = build_experiment(config())
    exp.chunk_processors += [slip, given]
    exp.train(1), exp.evaluate()

    said = "#3 Softmax() is left out: it reads 'batch_logit', which nothing writes and no subset gives."
    assert caplog.messages == [f"{said} Did you mean 'batch_logits'?"]


@pytest.mark.parametrize("features, said", [([CallbackedExperiment, KerasExperiment], 1), (None, 0)])
def test_workers_that_nobody_asks_to_read_are_told_once(features, said, caplog):
    exp = build_experiment(config(experiment_type=features, workers=2, residency="stream"))
    exp.train(2)

    assert caplog.text.count("workers=2 is ignored: nothing reads ahead. List AsyncExperiment") == said


def test_workers_may_be_left_to_the_library():
    exp = build_experiment(config(workers="auto", residency="stream"))

    assert len(exp.train(1)) == 1


def test_a_processor_that_another_mode_feeds_is_no_slip(caplog):
    both = {"image1": POINTS[:48], "image2": POINTS[:48], "target": SIDES[:48]}
    one = {name: values[:16] for name, values in both.items() if name != "image2"}
    network = keras.Sequential([layers.Dense(2)])
    pair = chunk_processor(inputs=["batch_image1", "batch_image2"], outputs=["distance"])(
        lambda left, right: keras.ops.mean((left - right) ** 2)
    )
    exp = build_experiment(
        config(
            subsets=[Subset("t", Mode.TRAIN, both), Subset("v", Mode.EVAL, one)],
            chunk_processors=[
                ops.Model(network, inputs="batch_image1", outputs="batch_logits"),
                ops.SoftmaxCrossEntropy("batch_logits", "batch_target"),
                pair,
            ],
        )
    )
    exp.train(1)

    assert not caplog.messages


@pytest.mark.parametrize(
    "name, write",
    [
        ("loss", "Take metrics, which holds its average as 'training_loss'."),
        ("batch_logits", "Take batch_logits in on_batch_end."),
    ],
)
def test_a_callback_that_asks_for_a_tensor_of_batches_after_them_is_told_what_to_take(name, write):
    scope: dict[str, Any] = {}
    exec(f"class Mine:\n    def on_cycle_end(self, cycle_name, {name}): pass", scope)

    with pytest.raises(CallbackError) as caught:
        build_experiment(config(callbacks=[scope["Mine"]()])).train(1)
    assert str(caught.value) == (
        f"Mine.on_cycle_end asks for {name!r}, of which each batch has its own.\n"
        f"Seen: on_cycle_end(cycle_name, {name}), called after all batches.\n{write}"
    )


# Going on


def test_another_rate_or_network_is_refused_when_a_training_is_to_go_on(tmp_path):
    exp = build_experiment(config())
    exp.train(1)
    exp.save_checkpoint(tmp_path)
    wider = keras.Sequential([layers.Dense(16, activation="relu"), layers.Dense(2)])
    processors = [ops.Model(wider, inputs="batch_input", outputs="batch_logits"), *config()["chunk_processors"][1:]]

    with pytest.raises(ResumeError, match=r"learning rate \(optimizer\): was 0.01, is 0.1"):
        build_experiment(config(optimizer=keras.optimizers.Adam(0.1))).resume(tmp_path)
    with pytest.raises(ResumeError, match=r"Model/0/kernel is \[3, 8\] in the file, \[3, 16\] in the experiment"):
        build_experiment(config(chunk_processors=processors)).resume(tmp_path)


def test_a_rate_that_was_set_between_trainings_goes_on_with_the_same_configuration(tmp_path):
    exp = build_experiment(config())
    exp.train(1)
    exp.set_learning_rate(0.001)
    exp.train(2)
    exp.save_checkpoint(tmp_path)

    other = build_experiment(config(callbacks=[]))  # no callbacks, said or not, are the same
    told = build_experiment(config())
    told.set_learning_rate(0.001)  # a script may do so again
    told.resume(tmp_path)
    other.resume(tmp_path)
    assert other.train(3)[-1]["training_loss"] == exp.train(3)[-1]["training_loss"]
    assert other.get_learning_rate() == pytest.approx(0.001)


def test_a_training_goes_on_from_the_checkpoint_where_its_first_attempt_failed(tmp_path, caplog):
    class Fails:
        times = 1

        def on_epoch_begin(self, epoch, **_):
            if self.exp.walk.restore is not None and self.times:
                Fails.times -= 1
                raise OSError("the disk is away")

        def init(self, exp):
            self.exp = exp

        def state_dict(self):
            return {}

    class Stops:
        wanted = True

        def on_batch_end(self, batch, epoch, cycle_name, **_):
            if self.wanted and (batch, epoch, cycle_name) == (1, 3, "training"):
                raise KeyboardInterrupt

    callbacks = [[CheckpointEvery(steps=1, folder=tmp_path), Fails(), Stops()] for _ in range(3)]
    stopped, resumed, whole = (build_experiment(config(callbacks=one)) for one in callbacks)
    with pytest.raises(KeyboardInterrupt):
        stopped.train(4)
    Stops.wanted = False
    resumed.resume(tmp_path)
    with pytest.raises(OSError, match="the disk is away"):
        resumed.train(4)
    resumed.train(4)
    whole.train(4)

    assert "was cut short" not in caplog.text
    assert [row["training_loss"] for row in resumed.history] == [row["training_loss"] for row in whole.history]


def test_callbacks_that_nothing_calls_are_told(caplog, tmp_path):
    settings = config(callbacks=[Callback()], output_folder=tmp_path / "runs", experiment_type=None)
    exp = BaseExperiment(settings)
    exp.train(1)
    exp.train(2)

    told = [one.getMessage() for one in caplog.records if "is ignored" in one.getMessage()]
    write = "List CallbackedExperiment in experiment_type, or as a base of its class."
    assert told == [
        f"callbacks is ignored: nothing calls them. {write}",
        f"output_folder is ignored: nothing writes a run. {write}",
    ]
    assert not (tmp_path / "runs").exists()


def test_weights_that_nothing_is_known_of_are_neither_written_nor_read(tmp_path):
    exp, other = (
        build_experiment({"chunk_processors": [ops.Model(keras.layers.Dense(2), inputs="batch_x", outputs="batch_y")]})
        for _ in range(2)
    )
    file = tmp_path / "weights.safetensors"
    with pytest.raises(ConfigError, match="Give the experiment a subset, or call"):
        exp.save_weights(file)
    assert not file.exists()

    before = exp.predict({"batch_x": [[1.0, 2.0]]})["batch_y"]
    exp.save_weights(file)
    with pytest.raises(ConfigError, match="Give the experiment a subset, or call"):
        other.load_weights(file)
    other.predict({"batch_x": [[1.0, 2.0]]})
    other.load_weights(file)
    assert other.predict({"batch_x": [[1.0, 2.0]]})["batch_y"].tolist() == before.tolist()


@pytest.mark.parametrize("name", ["state", "history", "walk", "program"])
def test_what_an_experiment_needs_may_not_be_called_otherwise(name):
    with pytest.raises(ConfigError, match=rf"Own defines '{name}', which(?s:.*)Give it another name"):
        type("Own", (BaseExperiment,), {"__qualname__": "Own", name: property(lambda self: 1)})  # as a class statement
    with pytest.raises(ConfigError, match=rf"'{name}' is the name of a method or property"):
        build_experiment({name: 1})
