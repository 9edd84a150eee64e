"""The callbacks we ship, each through an experiment that runs it."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import pytest
from keras import layers

from experimentator import (
    AverageMetrics,
    BaseExperiment,
    Callback,
    CallbackedExperiment,
    CallbackError,
    CheckpointError,
    CheckpointEvery,
    ConfusionMatrix,
    EarlyStopping,
    ExponentialMovingAverage,
    FindLearningRate,
    Freeze,
    GatherCycleMetrics,
    LearningRateCosine,
    LearningRateDecay,
    LearningRateWarmUp,
    LoadWeights,
    MeasureTime,
    Mode,
    NonFiniteLossError,
    PrintLoss,
    ReduceLROnPlateau,
    SaveLearningRate,
    SaveWeights,
    StateLogger,
    Subset,
    TerminateOnNaN,
    build_experiment,
    chunk_processor,
    ops,
)
from experimentator.callbacks.order import Listener
from experimentator.callbacks.picture import matrix
from experimentator.callbacks.rate_search import suggest
from experimentator.checkpoint import load_weights
from experimentator.records.archive import read_run
from experimentator.runs import RunFolder
from experimentator.saving.manifest import newest
from experimentator.saving.packing import from_safetensors
from tests.stand_ins import POINTS, SIDES, Rows, arrays, subsets
from tests.test_experiment import config


def build(*callbacks: Any, **changes: Any) -> Any:
    return build_experiment(config(callbacks=list(callbacks), **changes))


def lively(node: str | None = None) -> list[Any]:
    """A network with all that a copy of the state must hold: draws, statistics, weights."""
    keras.utils.set_random_seed(1)
    body = [layers.Dense(8, activation="relu"), layers.BatchNormalization(), layers.Dropout(0.3, seed=2)]
    network = keras.Sequential([*body, layers.Dense(2)])
    model = ops.Model(network, inputs="batch_input", outputs="batch_logits", node=node)
    return [model, *config()["chunk_processors"][1:]]


@pytest.mark.parametrize("schedule", [LearningRateCosine(), LearningRateWarmUp(), LearningRateDecay(1)])
def test_an_experiment_with_a_schedule_evaluates_before_it_trains(schedule):
    exp = build(schedule)
    before = exp.evaluate()
    exp.train(1)

    assert before.keys() == {name for name in exp.history[-1] if name.startswith("validation_")}


def test_callbacks_that_ask_for_the_epoch_hear_of_an_evaluation_too():
    class Asks(Callback):
        def on_cycle_end(self, epoch: int, epochs: int, **_: Any) -> None:
            self.seen = epoch, epochs

    asks = Asks()
    exp = build(asks)
    exp.evaluate()
    assert asks.seen == (0, 0)

    exp.train(2)
    exp.evaluate()
    assert asks.seen == (2, 2)


def everything(exp: Any) -> list[np.ndarray]:
    return [*exp.backend.weights().values(), *(np.asarray(v) for v in exp.optimizer.variables)]


def equal(one: Any, other: Any) -> bool:
    return len(one) == len(other) and all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


class Scores(Callback):
    """Writes a value for each epoch into the state."""

    outputs = ("score",)

    def __init__(self, *values: float):
        self.values = values

    def on_epoch_end(self, epoch, state, **_):
        state["score"] = self.values[epoch - 1]


# Watching a measure


def test_a_measure_that_a_callback_names_and_never_writes_is_told_once(caplog):
    exp = build(SaveLearningRate(), EarlyStopping("training_learning_rate", patience=1, mode="min"))
    exp.train(3)

    assert caplog.text.count("'training_learning_rate' was not measured in epoch 1") == 1
    assert "Measured: training_loss, validation_loss" in caplog.text


@pytest.mark.parametrize(
    "when, trainings, told",  # the epoch in which it is measured
    [(9, [3], True), (2, [3], False), (9, [1, 2, 3], False)],  # of one epoch each, where the next may have it
)
def test_a_measure_that_no_epoch_of_a_training_had_is_told_as_it_ends(when, trainings, told, caplog):
    class Seldom(Callback):
        outputs = ["score"]

        def on_epoch_end(self, epoch, state, **_):
            state.pop("score", None)
            if epoch == when:
                state["score"] = 1.0

    exp = build(Seldom(), EarlyStopping("score", mode="max"))
    for epochs in trainings:
        exp.train(epochs)

    assert ("'score' was not measured" in caplog.text) == told


def test_a_measure_of_evaluations_that_come_later_is_not_missed(caplog):
    build(EarlyStopping("validation_loss", patience=1), eval_epochs=[2]).train(2)
    assert "not measured" not in caplog.text


@pytest.mark.parametrize("make", [EarlyStopping, lambda name: SaveWeights("best", name)])
def test_a_misspelt_metric_is_refused_before_anything_is_trained(make, tmp_path):
    exp = build(make("validation_los"), output_folder=tmp_path)

    with pytest.raises(CallbackError) as caught:
        exp.train(1)

    assert "asks for 'validation_los', which nothing produces." in str(caught.value)
    assert "Known here: training_loss, validation_loss, validation_accuracy, epoch_time." in str(caught.value)
    assert "Did you mean 'validation_loss'" in str(caught.value)
    assert exp.counts == {}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("make", [EarlyStopping, lambda name: SaveWeights("best", name)])
def test_a_measure_without_its_subset_is_answered_with_those_of_subsets(make):
    with pytest.raises(CallbackError, match="Did you mean 'training_loss' or 'validation_loss'"):
        build(make("loss")).train(1)


def test_a_subset_that_never_runs_produces_nothing():
    with pytest.raises(CallbackError, match=r"Known here: training_loss, epoch_time"):
        build(EarlyStopping("validation_loss"), eval_epochs=0).train(1)


def test_a_metric_that_only_evaluation_computes_is_not_known_in_training():
    with pytest.raises(CallbackError, match="'training_accuracy', which nothing produces"):
        build(EarlyStopping("training_accuracy")).train(1)
    assert len(build(EarlyStopping("training_accuracy"), metrics=["accuracy"]).train(1)) == 1


def test_what_is_better_must_be_told_where_the_name_does_not_tell():
    with pytest.raises(CallbackError, match=r"more or less of 'score' is better(.|\n)*Write mode='min' or mode='max'"):
        build(EarlyStopping("score"), Scores(1.0)).train(1)
    with pytest.raises(CallbackError, match="Write 'min' or 'max'"):
        EarlyStopping("validation_f1", mode="up")


@pytest.mark.parametrize(
    "make",
    [
        lambda: EarlyStopping(3),
        lambda: SaveWeights("best", 3),
        lambda: CheckpointEvery(seconds="3"),
        lambda: Freeze(3),
        lambda: PrintLoss("file"),
        lambda: EarlyStopping(patience="3"),
        lambda: EarlyStopping(patience=1.5),
        lambda: EarlyStopping(min_delta="0.1"),
        lambda: LearningRateWarmUp("1"),
        lambda: LearningRateDecay("2"),
        lambda: LearningRateDecay(["2"]),
        lambda: LearningRateDecay([]),
        lambda: LearningRateCosine(floor="0"),
        lambda: FindLearningRate("1e-6", 1.0),
        lambda: ExponentialMovingAverage("0.9"),
        lambda: AverageMetrics("("),
        lambda: AverageMetrics([3]),
        lambda: Freeze("Trunk", epochs="3"),
        lambda: ConfusionMatrix("batch_logits", classes=-1),
        lambda: ConfusionMatrix("batch_logits", classes="cat, dog"),
    ],
)
def test_a_parameter_of_another_kind_is_refused_when_it_is_given(make):
    with pytest.raises(CallbackError, match=r"\nSeen: .+\nWrite "):
        make()


def test_two_that_keep_their_best_in_one_folder_are_refused(tmp_path):
    two = [SaveWeights("best", f"validation_{name}", folder=tmp_path) for name in ("loss", "accuracy")]

    with pytest.raises(CallbackError, match=r"Two SaveWeights write(.|\n)*'validation_loss' and by 'val"):
        build(*two).train(1)
    assert list(tmp_path.iterdir()) == []


# Stopping


def test_training_ends_when_patience_is_over_and_says_why(caplog, tmp_path):
    stopping = EarlyStopping("score", patience=2, mode="max")
    exp = build(stopping, Scores(0.1, 0.5, 0.4, 0.5, 0.9), output_folder=tmp_path, experiment_id="one")

    assert len(exp.train(5)) == 4
    reason = "score did not improve for 2 epochs; its best was 0.5, in epoch 2."
    assert exp.state["stop"] == reason
    assert f"Training ends after epoch 4: {reason}" in caplog.text
    status = json.loads(next(tmp_path.glob("*/one/status.json")).read_text())
    assert (status["status"], status["stopped"], status["epoch"]) == ("finished", reason, 4)


def test_improvements_below_min_delta_and_nan_do_not_count():
    small = build(EarlyStopping("score", patience=2, min_delta=0.1, mode="max"), Scores(0.5, 0.55, 0.6, 0.9))
    nan = build(EarlyStopping("score", patience=2, mode="max"), Scores(np.nan, np.nan, 1.0))

    assert len(small.train(4)) == 3
    assert len(nan.train(3)) == 2
    assert "it was never a number" in nan.state["stop"]


def test_epochs_without_evaluation_do_not_use_up_patience():
    stopping = EarlyStopping("validation_loss", patience=2, min_delta=100.0)

    assert len(build(stopping, eval_epochs=2).train(20)) == 6


def test_a_later_call_trains_on_and_a_stop_before_the_first_epoch_trains_nothing():
    class Never(Callback):
        def on_train_begin(self, state, **_):
            state["stop"] = "no wish to"

    exp = build(EarlyStopping("score", patience=1, mode="max"), Scores(2, 1, 3, 4))
    assert len(exp.train(3)) == 2
    assert len(exp.train(4)) == 4
    assert build(Never()).train(3) == []


@pytest.mark.parametrize("make", [EarlyStopping, ReduceLROnPlateau, lambda metric: SaveWeights("best", metric)])
def test_the_best_of_one_measure_is_not_taken_for_that_of_another(tmp_path, monkeypatch, make):
    monkeypatch.chdir(tmp_path)
    begun = build(make("validation_loss"))
    begun.train(1)
    begun.save_checkpoint(tmp_path)

    with pytest.raises(CheckpointError, match="its best is of 'validation_loss', and it watches 'training_loss'"):
        build(make("training_loss")).resume(tmp_path)


def test_patience_survives_a_resume():
    first = EarlyStopping("validation_loss", patience=3)
    for epoch, loss in enumerate([0.5, 0.6, 0.6], start=1):
        first.judge(loss, epoch, {})
    second, state = EarlyStopping("validation_loss", patience=3), {}
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    second.judge(0.7, 4, state)

    assert state["stop"] == "validation_loss did not improve for 3 epochs; its best was 0.5, in epoch 1."


# Values that are not finite


def spoiling(**changes: Any) -> Any:
    """One row has a value of which a processor makes infinity."""
    points = POINTS[:48].copy()
    points[3, 0] = -1000.0
    grow = chunk_processor(inputs=["batch_input"], outputs=["batch_grown"])(
        lambda batch_input: keras.ops.exp(-batch_input)
    )
    network = layers.Dense(2)
    model = ops.Model(network, inputs="batch_grown", outputs="batch_logits")
    subset = Subset("training", Mode.TRAIN, {"input": points, "target": SIDES[:48]})
    processors = [grow, model, *config()["chunk_processors"][1:]]
    return build(TerminateOnNaN(), subsets=[subset], batch_size=4, chunk_processors=processors, **changes)


def test_the_first_processor_that_makes_infinity_is_named():
    exp = spoiling()

    with pytest.raises(
        NonFiniteLossError, match=r"batch \d+ of 'training', epoch 1.\nSeen: 'batch_grown' holds NaN or"
    ):
        exp.train(1)


def test_the_weights_are_left_as_the_failing_batch_found_them(tmp_path):
    exp = spoiling(steps_per_call=12, output_folder=tmp_path)
    with pytest.raises(NonFiniteLossError, match="made by #0") as caught:
        exp.train(1)

    assert all(np.isfinite(values).all() for values in exp.backend.weights().values())
    batch = int(str(caught.value).partition("batch ")[2].split()[0])
    assert int(exp.optimizer.iterations) == batch > 0
    status = json.loads(next(tmp_path.glob("*/latest/status.json")).read_text())
    assert [text for text in status["processors"].values() if text != "ok"] == [
        f"failed: first NaN or infinity, in {caught.value.first!r}"
    ]


def test_weights_that_an_update_spoilt_are_told_from_a_processor_that_fails():
    exp = build(TerminateOnNaN(), optimizer=keras.optimizers.SGD(float("inf")))

    with pytest.raises(NonFiniteLossError, match=r"made by #0 .*, whose weights are not finite.\nThe update before"):
        exp.train(9)


def test_nan_in_the_data_of_an_evaluation_is_found_without_a_copy_of_the_state():
    bad = Subset("validation", Mode.EVAL, {"input": np.full((4, 3), np.nan, np.float32), "target": SIDES[:4]})

    model = ops.Model(layers.Dense(2), inputs="batch_input", outputs="batch_logits")
    processors = [model, *config()["chunk_processors"][1:]]
    with pytest.raises(NonFiniteLossError, match=r"batch 0 of 'validation'(.|\n)*Look for NaN in the data"):
        build(TerminateOnNaN(), subsets=[subsets()[0], bad], chunk_processors=processors).train(1)


def test_watching_for_nan_changes_no_training():
    watched, plain = build(TerminateOnNaN(), chunk_processors=lively()), build(chunk_processors=lively())

    assert watched.train(3)[-1]["training_loss"] == plain.train(3)[-1]["training_loss"]


# Weights


def test_the_best_epoch_is_saved_by_min_or_max_and_nan_never_wins(tmp_path):
    for mode, best in (("max", 3), ("min", 2)):
        save = SaveWeights("best", "score", mode=mode, folder=tmp_path / mode)
        exp = build(save, Scores(np.nan, 0.1, 0.7, 0.3, np.nan))
        exp.train(5)
        told = json.loads((tmp_path / mode / "best.json").read_text())
        assert (told["epoch"], told["metric"], exp.state["best_epoch"]) == (best, "score", best)
        assert load_weights(tmp_path / mode / told["weights"]).keys() == exp.backend.weights().keys()


def test_the_best_stands_in_the_run_folder(tmp_path):
    exp = build(SaveWeights(), output_folder=tmp_path, experiment_id="one")
    exp.train(3)
    (folder,) = tmp_path.glob("*/one")
    told = json.loads((folder / "best.json").read_text())

    assert told["value"] == min(row["validation_loss"] for row in exp.history)
    assert (folder / "best.safetensors").exists()


def test_an_infinite_best_leaves_a_run_that_can_be_read(tmp_path):
    exp = build(SaveWeights("best", "score", mode="max"), Scores(np.inf, 1.0), output_folder=tmp_path)
    exp.train(2)

    assert (read_run(exp.folder).status, read_run(exp.folder).best["epoch"]) == ("finished", 1)


@pytest.mark.parametrize(
    "strategy, names",
    [
        ("last", ["last.safetensors"]),
        ("all", ["epoch-0001.safetensors", "epoch-0002.safetensors", "epoch-0003.safetensors"]),
        (2, ["epoch-0002.safetensors"]),
    ],
)
def test_a_strategy_says_which_epochs_are_kept(strategy, names, tmp_path):
    build(SaveWeights(strategy, folder=tmp_path)).train(3)

    assert sorted(path.name for path in tmp_path.iterdir()) == names


def test_an_interrupted_save_leaves_the_file_before(tmp_path, monkeypatch):
    exp = build(SaveWeights("last", folder=tmp_path))
    exp.train(1)
    before = (tmp_path / "last.safetensors").read_bytes()
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("power cut")))
    with pytest.raises(CheckpointError, match="power cut"):
        exp.train(2)

    assert [path.read_bytes() for path in tmp_path.iterdir()] == [before]


def test_the_best_so_far_survives_a_resume(tmp_path):
    first = SaveWeights("best", "score", mode="max", folder=tmp_path)
    build(first, Scores(0.9)).train(1)
    second = SaveWeights("best", "score", mode="max", folder=tmp_path)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    build(second, Scores(0.8)).train(1)

    assert json.loads((tmp_path / "best.json").read_text())["value"] == 0.9


def test_a_training_starts_from_loaded_weights_once(tmp_path):
    build(SaveWeights("last", folder=tmp_path)).train(1)
    load = LoadWeights(tmp_path / "last.safetensors")
    exp = build(load, learning_rate=0.0)
    exp.train(1)
    assert equal(list(load_weights(tmp_path / "last.safetensors").values()), list(exp.backend.weights().values()))
    (tmp_path / "last.safetensors").unlink()
    exp.train(2)
    assert load.state_dict() == {"loaded": True}


def test_missing_or_strange_weights_are_refused_before_training(tmp_path):
    with pytest.raises(CheckpointError, match="no weights file"):
        build(LoadWeights(tmp_path / "absent")).train(1)
    exp = build()
    exp.save_weights(tmp_path / "w")
    with pytest.raises(ValueError, match="do not fit"):
        build(LoadWeights(tmp_path / "w"), chunk_processors=lively()).train(1)


def test_a_part_is_loaded_by_pattern_and_the_rest_is_kept(tmp_path, caplog):
    saved = build()
    saved.save_weights(tmp_path / "w")
    load = LoadWeights(tmp_path / "w", only="Body/1/*", rename={"Model": "Body"})
    exp = build(load, chunk_processors=lively(node="Body"), learning_rate=0.0)
    with caplog.at_level(logging.INFO):
        exp.train(1)

    weights, found = exp.backend.weights(), saved.backend.weights()
    assert np.array_equal(weights["Body/1/bias"], found["Model/1/bias"])
    assert not np.array_equal(weights["Body/0/kernel"], found["Model/0/kernel"])
    others = [key for key in weights if key != "Body/1/bias" and not key.endswith("seed_generator_state")]
    assert f"Loaded 1 weights from {tmp_path / 'w'}; {len(others)} were not asked for" in caplog.text


# Metrics


@chunk_processor(inputs=["batch_target"], outputs=["batch_value", "part"])
def partly_unknown(batch_target):
    value = keras.ops.cast(batch_target, "float32")
    known = keras.ops.where(value > 0, value, float("nan"))
    return known + keras.ops.cast(keras.ops.arange(keras.ops.shape(value)[0]), "float32"), keras.ops.mean(value)


def test_averages_weigh_by_batch_size_and_leave_nan_out():
    rows = Subset("validation", Mode.EVAL, {"target": np.array([1, 1, 0, 1, 0], np.int32)})
    exp = build_experiment(
        {"subsets": [rows], "batch_size": 4, "chunk_processors": [partly_unknown], "hide_progress": True}
        | {"callbacks": [AverageMetrics(["batch_value", "part"])], "metrics": ["part"], "jit_compile": False}
    )

    assert exp.evaluate() == pytest.approx({"validation_part": 3 / 5, "validation_batch_value": (1 + 2 + 4) / 3})


@chunk_processor(inputs=["batch_target"], outputs=["part", "of"], weights={"part": "of"})
def weighed(batch_target):
    return keras.ops.max(batch_target), keras.ops.sum(batch_target) / 3.0


def test_averages_of_what_is_weighed_do_not_depend_on_how_many_batches_a_call_runs():
    target = np.random.default_rng(1).random(99, np.float32)
    settings = {"subsets": [Subset("validation", Mode.EVAL, {"target": target})], "chunk_processors": [weighed]}
    settings |= {"batch_size": 3, "metrics": ["part"], "hide_progress": True, "jit_compile": False}
    rows = [
        build_experiment({**settings, "callbacks": [AverageMetrics("part")], "steps_per_call": steps}).evaluate()
        for steps in (1, 3, 33)
    ]

    assert rows == [rows[0]] * 3
    assert rows[0] == build_experiment(settings).evaluate()


@pytest.mark.parametrize("patterns", [".*", "score"])
def test_the_average_of_a_sum_is_that_of_what_each_loss_is_over_the_pass(patterns):
    error, known = np.array([1, 2, 3, 4, 5], np.float32), np.array([True, False, False, False, True])
    processors = [
        ops.MeanAbsoluteError("batch_error", "batch_zero", "part", mask="batch_known"),
        ops.CombineLosses({"part": 2.0}),
        ops.Rename("loss", "score"),
    ]
    data = {"error": error, "zero": np.zeros(5, np.float32), "known": known}
    settings = {"subsets": [Subset("validation", Mode.EVAL, data)], "chunk_processors": processors, "batch_size": 3}
    settings |= {"hide_progress": True, "jit_compile": False}
    row = build_experiment({**settings, "callbacks": [AverageMetrics(patterns)]}).evaluate()

    assert (row["validation_loss"], row["validation_score"]) == (6.0, 6.0)  # of errors 1 and 5
    assert row.items() >= build_experiment(settings).evaluate().items()


def test_patterns_ask_training_for_what_it_would_prune():
    row = build(AverageMetrics([".*accuracy"]), EarlyStopping("training_accuracy")).train(1)[0]

    assert 0 <= row["training_accuracy"] <= 1
    assert row["validation_accuracy"] == pytest.approx(build().train(1)[0]["validation_accuracy"])


def test_a_wide_pattern_takes_numbers_and_leaves_tensors_on_the_device():
    averages = AverageMetrics(".*")
    exp = build(averages)
    exp.train(1)

    assert averages.inputs == ("loss", "accuracy")
    assert exp.graph("train").outputs == {"loss", "accuracy"}


def test_values_that_callbacks_write_at_batches_are_averaged_in_their_cycle_only():
    class Writes(Callback):
        before = ("AverageMetrics",)
        when = Mode.EVAL

        def on_batch_end(self, batch, state, **_):
            state["mine"] = float(batch)

    history = build(Writes(), AverageMetrics(["mine"]), batch_size=8).train(2)

    assert [row["validation_mine"] for row in history] == [0.5, 0.5]
    assert not any("training_mine" in row for row in history)


@pytest.mark.parametrize("every, mean", [(None, 3.5), (3, 3.5), (5, 4.0)])
def test_what_a_callback_says_it_writes_at_batches_is_averaged_wherever_it_is_listed(every, mean):
    class Writes:
        outputs = "mine"

        def on_batch_end(self, batch, state, **_):
            state["mine"] = float(batch)

    writes = Writes()
    writes.every = every
    row = build(AverageMetrics(["mine"]), writes, batch_size=6).train(1)[0]

    assert row["training_mine"] == mean


def test_a_callback_that_writes_at_batches_may_read_what_follows_from_averages():
    class Score(Callback):
        after, outputs = "GatherCycleMetrics", "score"

        def on_cycle_end(self, state, **_):
            state["score"] = 1.0

    class Writes(Callback):
        outputs = "mine"

        def on_batch_end(self, state, **_):
            state["mine"] = 2.0

        def on_epoch_end(self, score):
            assert score == 1.0

    row = build(Writes(), AverageMetrics(["mine"]), GatherCycleMetrics(), Score()).train(1)[0]
    assert row["training_mine"] == 2.0


def test_averaging_looks_at_the_graph_once_a_pass_not_once_a_call(monkeypatch):
    exp = build(AverageMetrics(["batch_.*"]), batch_size=2, steps_per_call=1)
    exp.train(1)
    looks, whole = [], exp.program.whole
    monkeypatch.setattr(exp.program, "whole", lambda *given: looks.append(given) or whole(*given))
    exp.batch_size = 4
    exp.train(2)
    few, looks[:] = len(looks), []
    exp.batch_size = 1
    exp.train(3)

    assert len(looks) == few


def test_what_was_not_written_at_a_batch_is_not_averaged_again():
    class Writes:
        every = 3

        def on_batch_end(self, batch, state, **_):
            state["mine"] = float(batch)

    assert build(Writes(), AverageMetrics(["mine"]), batch_size=6).train(1)[0]["training_mine"] == 3.5  # 2 and 5


def test_names_of_the_data_are_not_averaged_though_others_read_them():
    row = build(AverageMetrics(), ConfusionMatrix("batch_logits", classes=np.int64(2))).train(1)[0]

    assert "validation_accuracy" in row
    assert "validation_batch_target" not in row


def test_a_plain_name_that_nothing_produces_is_refused():
    with pytest.raises(CallbackError, match=r"AverageMetrics asks for 'acuracy'(.|\n)*Did you mean 'accuracy'"):
        build(AverageMetrics(["acuracy"])).train(1)
    assert len(build(AverageMetrics([".*nothing.*"])).train(1)) == 1


def test_a_name_that_another_callback_says_it_writes_is_none_of_those():
    class Writes(Callback):
        outputs = "mine"

        def on_epoch_end(self, state, **_):
            state["mine"] = 1.0

    assert build(Writes(), AverageMetrics(["mine"])).train(1)[0]["mine"] == 1.0


@pytest.mark.parametrize("event", ["on_epoch_begin", "on_cycle_end", "on_batch_end"])
def test_a_number_that_a_callback_says_it_writes_stands_in_the_history_whenever_it_was_written(event):
    def plays(self, epoch, state, **_):
        state["reward"] = epoch / 2

    exp = build(type("Plays", (Callback,), {"outputs": ["reward"], event: plays})())

    assert [row["reward"] for row in exp.train(2)] == [0.5, 1.0]


def test_averaging_stays_out_of_the_batches():
    exp = build(AverageMetrics([".*loss"]), GatherCycleMetrics(), MeasureTime(), PrintLoss(), StateLogger())

    assert [event for event in ("batch_begin", "batch_end") if exp.listens(event)] == []


def test_outputs_are_gathered_with_their_keys():
    gather = GatherCycleMetrics(["batch_logits", "accuracy"])
    exp = build(gather, batch_size=10)
    exp.evaluate()
    found = gather.cycles["validation"]

    assert found["keys"] == list(range(16))
    assert found["accuracy"].shape == (2,)
    np.testing.assert_allclose(
        found["batch_logits"], exp.predict({"batch_input": POINTS[48:]})["batch_logits"], rtol=1e-5
    )


def test_what_was_measured_of_a_subset_that_is_not_listed_stands_there_once():
    exp = build(AverageMetrics(), GatherCycleMetrics(["batch_logits"]))

    measured = exp.evaluate(Subset("elsewhere", Mode.EVAL, arrays(0, 16)))

    assert [name for name in measured if name.startswith("elsewhere_elsewhere")] == []


def test_what_was_gathered_is_saved_once_and_in_the_state_again_when_resumed(tmp_path):
    def training():
        return build(GatherCycleMetrics(["batch_logits"]), seed=3)

    exp = training()
    exp.train(1)
    read = newest(exp.save_checkpoint(tmp_path).parent)
    arrays = from_safetensors(read.files["state.safetensors"], read.path)
    assert [name for name in arrays if "gathered" in name] == []
    assert sum("batch_logits" in name for name in arrays) == 2  # subsets

    other = training()
    other.resume(tmp_path)
    for name, cycle in exp.state["gathered"].items():
        for column in cycle:
            np.testing.assert_array_equal(other.state["gathered"][name][column], cycle[column])


@pytest.mark.parametrize("within", [False, True])
def test_keys_of_a_class_of_ones_own_are_gathered_beside_checkpoints(within, tmp_path, caplog):
    class Key(NamedTuple):
        number: int

    class Keyed:
        keys = tuple(map(Key, range(12)))

        def query_item(self, key):
            return {name: values[key.number] for name, values in arrays().items()}

    def training():
        gather = GatherCycleMetrics(["batch_logits"])
        return gather, build(gather, subsets=[Subset("training", Mode.TRAIN, Keyed())], batch_size=4, steps_per_call=1)

    class Saves:
        every = 2

        def on_pause(self, **_):
            if exp.walk.batches == 5:
                exp.save_checkpoint(tmp_path)

    gather, exp = training()
    exp.callbacks.extend([Saves()] * within)
    exp.train(2)
    if not within:
        exp.save_checkpoint(tmp_path)
    assert set(gather.cycles["training"]["keys"]) == set(Keyed.keys)

    gather, other = training()
    other.resume(tmp_path)
    other.train(2)
    assert gather.cycles == {}
    assert ("could not be saved" in caplog.text) == within
    other.train(3)
    assert set(gather.cycles["training"]["keys"]) == set(Keyed.keys)


def test_objects_of_the_items_are_gathered_too():
    gather = GatherCycleMetrics(["batch_path"])
    build(gather, subsets=[Subset("training", Mode.TRAIN, Rows(4))], batch_size=2).train(1)
    found = gather.cycles["training"]

    assert found["batch_path"] == [f"/{key}" for key in found["keys"]]


@pytest.mark.parametrize("number", [float, keras.ops.convert_to_tensor, np.asarray])
def test_numbers_that_callbacks_measure_come_into_the_history_of_their_cycle(number):
    class Measures(Callback):
        before = ("GatherCycleMetrics",)
        when = Mode.EVAL

        def on_cycle_end(self, state, **_):
            state["extent"] = number(2.5)

    exp = build(GatherCycleMetrics(), Measures(), SaveLearningRate())
    history = exp.train(3)

    assert all(row["validation_extent"] == 2.5 for row in history)
    assert not any(name.startswith("training_") and name != "training_loss" for row in history for name in row)
    assert exp.evaluate()["validation_extent"] == 2.5


def test_what_callbacks_measure_is_in_the_history_after_others_were_added_between_two_trainings():
    class Measures:
        def on_batch_end(self, state, **_):
            state["error_rate"] = state["batch"] / 4

        def on_cycle_end(self, state, **_):
            state["mean_iou"] = 0.5

    exp = build(Measures(), AverageMetrics("error_rate"), GatherCycleMetrics())
    exp.train(1)
    exp.callbacks.append(MeasureTime())
    names = {f"{subset}_{name}" for subset in ("training", "validation") for name in ("error_rate", "mean_iou")}
    assert names <= exp.train(2)[0].keys()
    assert names <= exp.history[1].keys()


@pytest.mark.parametrize("make", [GatherCycleMetrics, ConfusionMatrix])
def test_a_tensor_that_nobody_knows_is_refused(make):
    with pytest.raises(CallbackError, match=r"asks for 'batch_logit', (.|\n)*Did you mean 'batch_logits'"):
        build(make("batch_logit")).train(1)


def test_gathering_may_be_for_evaluation_alone():
    gather = GatherCycleMetrics(["batch_logits"], when=Mode.EVAL)
    exp = build(gather)
    exp.train(1)

    assert set(gather.cycles) == {"validation"}
    assert "batch_logits" not in exp.graph("train").outputs


def test_a_metric_that_training_alone_writes_is_averaged_there():
    sure = chunk_processor(inputs=["batch_logits"], outputs=["sure"], mode=Mode.TRAIN)(keras.ops.mean)
    row = build(metrics=["sure"], chunk_processors=[*config()["chunk_processors"], sure]).train(1)[-1]

    assert "training_sure" in row
    assert "validation_sure" not in row


def test_a_confusion_matrix_counts_what_the_predictions_say(tmp_path):
    matrix = ConfusionMatrix("batch_logits", classes=["left", "right"], folder=tmp_path)
    exp = build(matrix, batch_size=10)
    accuracy = exp.train(2)[-1]["validation_accuracy"]

    counts = matrix.cycles["validation"]
    assert counts.sum(axis=1).tolist() == np.bincount(SIDES[48:]).tolist()
    assert np.trace(counts) / 16 == pytest.approx(accuracy)
    assert "left" in (tmp_path / "confusion-validation.svg").read_text()
    numbers = json.loads((tmp_path / "confusion-validation.json").read_text())
    assert numbers == {"classes": ["left", "right"], "counts": counts.tolist()}
    assert "batch_logits" not in exp.graph("train").outputs


def test_long_names_of_classes_stand_whole_beside_their_row_and_above_their_column():
    names = ["handwritten digit 1", "handwritten digit 2", "a name that is far too long to be shown"]
    picture = matrix(np.eye(3, dtype=int), names, title="validation")

    assert [picture.count(f">{name}<") for name in (*names[:2], "a name that is far too …")] == [2, 2, 2]
    assert picture.count("rotate(-90)") == 3
    assert "rotate" not in matrix(np.eye(2, dtype=int), ["cat", "dog"], title="validation")


def test_the_picture_of_a_thousand_classes_stays_small():
    counts = np.eye(1000, dtype=int) * 50
    counts[3, 7] = 9

    picture = matrix(counts, [str(number) for number in range(1000)], title="validation")
    assert picture.count("<rect") == 1 + 1 + 1001  # background, frame, what was counted
    assert len(picture) < 200_000


def test_what_callbacks_write_into_the_history_is_in_the_file_wherever_the_run_folder_is_listed(tmp_path):
    class Noting:
        def on_epoch_end(self, **_):
            exp.history[-1]["noted"] = 7

    folder = RunFolder(tmp_path, experiment_id="one")
    exp = build(folder, StateLogger(tmp_path / "state.jsonl"), Scores(0.5), Noting())
    exp.train(1)

    assert json.loads(folder.history.read_text())["noted"] == 7
    assert json.loads((tmp_path / "state.jsonl").read_text())["score"] == 0.5


def test_a_confusion_matrix_refuses_too_few_classes_and_leaves_unlabelled_out():
    matrix = ConfusionMatrix("batch_ids", classes=2)

    assert matrix.count(np.array([0, 1]), np.array([-1, 1])).tolist() == [[0, 0], [0, 1]]
    with pytest.raises(CallbackError, match=r"told of 2 classes.\nSeen: class 2"):
        matrix.count(np.array([0, 1]), np.array([2, 1]))


@pytest.mark.parametrize("axes", [(), (5,), (3, 2)])
@pytest.mark.parametrize("kind", ["ids", "scores", "rows of both", "rows of both in bfloat16", "rows of targets"])
def test_a_confusion_matrix_counts_every_place(axes, kind):
    random = np.random.default_rng(0)
    target, said = random.integers(0, 4, (2, 8, *axes))
    rows = np.eye(4, dtype=np.float32)
    expected = np.zeros((4, 4), int)
    np.add.at(expected, (target.ravel(), said.ravel()), 1)
    prediction = {"ids": said, "rows of targets": said}.get(kind, rows[said])
    items = [
        {"said": one, "target": (rows[other] if "rows" in kind else np.asarray(other))}
        for one, other in zip(prediction, target, strict=True)
    ]
    matrix = ConfusionMatrix("batch_again")
    dtype = "bfloat16" if "bfloat16" in kind else prediction.dtype.name
    again = chunk_processor(inputs=["batch_said"], outputs=["batch_again"])(lambda said: keras.ops.cast(said, dtype))
    subsets = [Subset("validation", Mode.EVAL, items)]
    build(matrix, subsets=subsets, chunk_processors=[again], batch_size=4, metrics=None).evaluate()

    assert matrix.cycles["validation"].tolist() == expected.tolist()


def test_a_confusion_matrix_refuses_as_many_predictions_as_there_are_not_targets():
    items = [{"said": np.zeros(3, np.int32), "target": np.zeros(2, np.int32)}] * 4
    matrix = ConfusionMatrix("batch_again")
    again = chunk_processor(inputs=["batch_said"], outputs=["batch_again"])(lambda batch_said: batch_said + 0)
    with pytest.raises(
        CallbackError, match=r"a class in 'batch_again' for each in 'batch_target'.\nSeen: \[B, 3\] int32"
    ):
        build(matrix, subsets=[Subset("validation", Mode.EVAL, items)], chunk_processors=[again]).evaluate()


def counting(scores, shape):
    """A matrix, and an experiment that gives it one number of this shape for each sample of class 1."""
    items = [{"said": np.full(shape, score, np.float32), "target": np.int32(1)} for score in scores]
    again = chunk_processor(inputs=["batch_said"], outputs=["batch_again"])(lambda batch_said: batch_said + 0)
    matrix, subsets = ConfusionMatrix("batch_again"), [Subset("validation", Mode.EVAL, items)]
    return matrix, build(matrix, subsets=subsets, chunk_processors=[again], metrics=None)


@pytest.mark.parametrize("shape", [(), (1,)])
def test_a_confusion_matrix_does_not_take_one_score_for_a_class(shape):
    _, exp = counting([0.25, 0.75, 0.5, 1.0], shape)

    with pytest.raises(CallbackError, match=r"'batch_again' to hold classes.\nSeen: 0.25, where ids are whole"):
        exp.evaluate()


@pytest.mark.parametrize("shape", [(), (1,)])
def test_a_confusion_matrix_counts_classes_that_stand_as_floats_and_leaves_nan_out(shape):
    matrix, exp = counting([1.0, 0.0, np.nan, 1.0], shape)
    exp.evaluate()

    assert matrix.cycles["validation"].tolist() == [[0, 0], [1, 2]]


@pytest.mark.parametrize("without", ["said", "target"])
def test_a_confusion_matrix_leaves_rows_of_nan_out(without):
    items = {"said": np.eye(2, dtype=np.float32)[[0, 1, 1]], "target": np.eye(2, dtype=np.float32)[[1, 1, 1]]}
    items[without][2] = np.nan
    again = chunk_processor(inputs=["batch_said"], outputs=["batch_again"])(lambda batch_said: batch_said + 0)
    matrix, subsets = ConfusionMatrix("batch_again"), [Subset("validation", Mode.EVAL, items)]
    build(matrix, subsets=subsets, chunk_processors=[again], metrics=None).evaluate()

    assert matrix.cycles["validation"].tolist() == [[0, 0], [1, 1]]


def test_a_confusion_matrix_needs_a_class_for_each_sample():
    with pytest.raises(CallbackError, match=r"'accuracy' to hold a class for each sample.\nSeen: \[\]"):
        build(ConfusionMatrix("accuracy")).evaluate()


def test_a_cycle_that_when_leaves_out_is_not_heard():
    seen: list[Any] = []
    one = type("One", (), {"when": Mode.EVAL, "on_cycle_end": lambda self, cycle_name: seen.append(cycle_name)})()
    build(one).train(1)

    assert seen == ["validation"]
    assert Listener(Callback(), 0).when == Mode.ALL


# Learning rates


class Seen(Callback):
    """The rate at every batch, which makes calls of one batch."""

    every = 1

    def init(self, exp):
        self.exp, self.rates = exp, []

    def on_batch_end(self, mode, **_):
        if mode == Mode.TRAIN:
            self.rates.append(self.exp.get_learning_rate())


def test_every_batch_has_the_rate_of_its_place(recwarn):
    cosine, warm = LearningRateCosine(start=1), LearningRateWarmUp(1, initial=0.5)
    exp = build(warm, cosine, optimizer=keras.optimizers.SGD(0.1), steps_per_call=3)
    exp.train(2)
    plain = build(optimizer=keras.optimizers.SGD(0.1))
    for epoch in (1, 2):
        done = epoch - 1 + np.arange(3) / 3
        expected = 0.1 * warm.factor(done, 2) * cosine.factor(done, 2)
        for place, block in enumerate(blocks(plain, epoch)):
            plain.optimizer.learning_rate = float(expected[place])
            block()

    assert np.allclose(everything(exp)[0], everything(plain)[0], rtol=1e-6, atol=1e-7)


def blocks(exp: Any, epoch: int) -> Any:
    """The batches of an epoch of training, each to be called."""
    subset = exp.subsets[0]
    exp.program.prepare()
    subset.seed, subset.epoch = 0, epoch - 1
    feed = exp.program.feed(subset)
    cycle = exp.cycle(feed, exp.batch_size)
    step = exp.program.runner(subset, Mode.TRAIN, steps=cycle.steps).step
    while (block := cycle.take(lambda done: 1)) is not None:
        yield lambda block=block: step(block.columns, block.index)


def test_a_schedule_keeps_calls_long_and_traces_few():
    exp = build(LearningRateCosine(), batch_size=4)
    exp.train(8)
    plain = build(batch_size=4)
    plain.train(8)

    assert exp.counts["training"]["traces"] == plain.counts["training"]["traces"]
    assert exp.counts["training"]["calls"] < exp.counts["training"]["batches"] / 3


@pytest.mark.parametrize("options", [{"jit_compile": True}, {"eager": True}, {"precision": "float16"}], ids=str)
def test_the_shelf_goes_with_every_way_to_run(options):
    find, ema = FindLearningRate(1e-4, 10.0, batches=20), ExponentialMovingAverage(0.9)
    exp = build(LearningRateCosine(), TerminateOnNaN(), ema, chunk_processors=lively(), **options)
    exp.train(2)
    before = everything(exp)
    find.find(exp)

    assert equal(everything(exp), before)
    assert exp.get_learning_rate() == pytest.approx(0.01)


def test_rates_decay_at_every_start_and_are_written_into_the_history():
    history = build(LearningRateDecay(start=range(1, 3), duration=0, factor=0.5), SaveLearningRate()).train(3)

    assert [row["learning_rate"] for row in history] == pytest.approx([0.01, 0.005, 0.0025])


def on_plateau() -> Any:
    return build(
        ReduceLROnPlateau("validation_loss", 0.5, patience=2, min_delta=100.0, floor=0.2),  # never better
        SaveLearningRate(),
        optimizer=keras.optimizers.Adam(0.1),
    )


def test_the_rate_falls_when_nothing_improves_down_to_its_floor():
    history = on_plateau().train(9)

    expected = [0.1] * 3 + [0.05] * 2 + [0.025] * 2 + [0.02] * 2
    assert [row["learning_rate"] for row in history] == pytest.approx(expected)


@pytest.mark.parametrize("how", ["another call", "a resume"])
def test_a_rate_that_fell_stays_where_it_is(how, tmp_path):
    whole, exp = on_plateau(), on_plateau()
    whole.train(6)
    exp.train(4)
    if how == "a resume":
        exp.save_checkpoint(tmp_path)
        exp = on_plateau()
        exp.resume(tmp_path)
    exp.train(6)

    assert [row["learning_rate"] for row in exp.history] == [row["learning_rate"] for row in whole.history]
    assert equal(everything(exp), everything(whole))


@pytest.mark.parametrize("wrong", [{"factor": 1.5}, {"factor": "x"}, {"floor": -1}, {"patience": 0}])
def test_what_would_lower_no_rate_is_refused(wrong):
    (name,) = wrong
    with pytest.raises(CallbackError, match=f"^{name} "):
        ReduceLROnPlateau("validation_loss", **wrong)
    with pytest.raises(CallbackError, match="ReduceLROnPlateau asks for 'validation_los'"):
        build(ReduceLROnPlateau("validation_los")).train(1)


def test_the_given_rate_may_change_under_a_schedule_and_holds_after_training():
    exp = build(LearningRateDecay(1, 0, 0.5), SaveLearningRate())
    exp.train(2)
    assert exp.get_learning_rate() == pytest.approx(0.01)
    exp.learning_rate = 0.2
    exp.train(3)

    assert exp.history[-1]["learning_rate"] == pytest.approx(0.1)


class Interrupts(Callback):
    """Ends a pass in the middle, once it is told to."""

    def __init__(self, when: Mode):
        self.when, self.now = when, False

    def on_batch_end(self, batch: int, **_: Any) -> None:
        if self.now and not batch:
            self.now = False
            raise KeyboardInterrupt


def test_an_epoch_that_was_interrupted_starts_anew_at_its_own_rate():
    ends = Interrupts(Mode.TRAIN)
    exp = build(LearningRateDecay(1, 0, 0.1), LearningRateWarmUp(0.5), SaveLearningRate(), ends)
    exp.train(2)
    for _ in range(2):
        ends.now = True
        with pytest.raises(KeyboardInterrupt):
            exp.train(3)
    exp.batch_size = 8  # factors of another number of batches

    assert [row["learning_rate"] for row in exp.train(4)[1:]] == pytest.approx([0.001] * 3)


def test_an_evaluation_that_was_interrupted_leaves_the_weights_of_training():
    ends = Interrupts(Mode.EVAL)
    exp = build(ExponentialMovingAverage(0.9), ends)
    exp.train(2)
    before = everything(exp)
    ends.now = True
    with pytest.raises(KeyboardInterrupt):
        exp.evaluate()

    assert all(map(np.array_equal, everything(exp), before))


def test_an_evaluation_at_whose_end_a_callback_fails_leaves_them_too():
    class Fails(Callback):
        before = ("ExponentialMovingAverage",)
        when = Mode.EVAL

        def on_cycle_end(self, **_: Any) -> None:
            if hasattr(self, "now"):
                raise ValueError

    fails = Fails()
    exp = build(ExponentialMovingAverage(0.9), fails)
    exp.train(2)
    before, fails.now = everything(exp), True
    with pytest.raises(ValueError):
        exp.evaluate()

    assert all(map(np.array_equal, everything(exp), before))


def test_a_schedule_of_keras_and_one_of_ours_are_told_apart():
    optimizer = keras.optimizers.SGD(keras.optimizers.schedules.CosineDecay(0.1, 10))

    with pytest.raises(ValueError, match=r"Two schedules would set one learning rate.\nSeen: CosineDecay"):
        build(LearningRateWarmUp(), optimizer=optimizer).train(1)


def test_accumulated_gradients_take_the_rate_of_their_batches():
    seen = Seen()
    optimizer = keras.optimizers.SGD(0.1, gradient_accumulation_steps=3)
    build(LearningRateDecay(1, 0, 0.1), seen, optimizer=optimizer).train(2)

    assert seen.rates[:2] == pytest.approx([0.1, 0.1])
    assert seen.rates[-1] == pytest.approx(0.01)


def test_a_search_leaves_the_experiment_bit_for_bit_as_it_was(tmp_path):
    exp, plain = (build(chunk_processors=lively()) for _ in range(2))
    for one in (exp, plain):
        one.train(2)
    before, history = everything(exp), [*exp.history]
    find = FindLearningRate(1e-4, 10.0, batches=60, folder=tmp_path)
    suggestion = find.find(exp)

    assert equal(everything(exp), before)
    assert (exp.history, exp.epoch) == (history, 2)
    assert 1e-4 < suggestion < 10
    assert exp.train(4)[-1]["training_loss"] == plain.train(4)[-1]["training_loss"]


def test_a_search_before_the_first_epoch_suggests_and_draws(tmp_path, caplog):
    exp = build(FindLearningRate(1e-3, 1.0, batches=40), LearningRateWarmUp(), output_folder=tmp_path)
    plain = build(LearningRateWarmUp())

    assert exp.train(2)[-1]["training_loss"] == plain.train(2)[-1]["training_loss"]
    assert "Suggested learning rate" in caplog.text
    (folder,) = [path.parent for path in tmp_path.glob("*/*/learning_rate.svg") if path.parent.name != "latest"]
    assert (folder / "learning_rate.csv").read_text().startswith("learning_rate,loss\n0.001,")
    assert exp.state["suggested_learning_rate"] == exp.callbacks[0].suggestion


def test_a_first_batch_that_happens_to_be_hard_is_not_taken_for_learning():
    rates = np.geomspace(1e-5, 1e-1, 60)
    losses = 2.5 / (1 + np.exp(4 * (np.log10(rates) + 2.5))) + np.random.default_rng(0).normal(0, 0.2, 60)
    losses[0] += 2.0

    assert 1e-3 < suggest(rates, losses) < 1e-2
    assert suggest(rates, 2.3 + np.random.default_rng(1).normal(0, 0.01, 60)) is None


def test_a_search_whose_first_loss_is_not_finite_suggests_nothing(tmp_path, caplog):
    broken = chunk_processor(outputs=["loss"])(lambda loss: loss * np.nan)
    find = FindLearningRate(folder=tmp_path)
    exp = build(find, chunk_processors=[*config()["chunk_processors"], broken])

    assert find.find(exp) is None
    assert "none: the loss of the first batch is not finite" in caplog.text


class TakesAnOptimizer:
    """Assigns another optimizer behind the first epoch, and notes the weights of that moment."""

    def init(self, exp):
        self.exp = exp

    def on_epoch_end(self, epoch, **_):
        if epoch == 1:
            self.exp.optimizer = keras.optimizers.SGD(0.5)
            self.weights = {key: values.copy() for key, values in self.exp.backend.weights().items()}


def test_an_optimizer_that_takes_the_place_of_another_follows_the_schedule_too():
    takes = TakesAnOptimizer()
    exp = build(LearningRateDecay(start=1, duration=0, factor=1e-30), takes)
    exp.train(3)

    for key, values in exp.backend.weights().items():
        np.testing.assert_array_equal(values, takes.weights[key])
    assert exp.get_learning_rate() == 0.5


def test_a_search_refuses_what_it_cannot_do():
    with pytest.raises(CallbackError, match="0 < low < high"):
        FindLearningRate(1.0, 0.1)
    with pytest.raises(CallbackError, match="CosineDecay, a schedule"):
        build(FindLearningRate(), optimizer=keras.optimizers.SGD(keras.optimizers.schedules.CosineDecay(0.1, 9))).train(
            1
        )


@pytest.mark.parametrize("make", [lambda: LearningRateWarmUp(0), lambda: LearningRateDecay(1, -1)])
def test_a_schedule_that_makes_no_sense_is_refused(make):
    with pytest.raises(CallbackError, match=r"duration=.* makes no schedule"):
        make()


# An average of the weights


def test_a_number_that_a_callback_assigns_is_not_averaged():
    factor = keras.Variable(1.0, trainable=False)
    scaled = chunk_processor(inputs=["batch_logits"], outputs=["factor"])(
        lambda logits: factor + 0.0 * keras.ops.sum(logits)
    )

    class Raise(Callback):
        def on_epoch_begin(self, epoch: int, **_: Any) -> None:
            factor.assign(10.0 * epoch)

    processors = [*config()["chunk_processors"], scaled]
    exp = build(Raise(), ExponentialMovingAverage(0.9), metrics=["factor"], chunk_processors=processors)

    assert [row["validation_factor"] for row in exp.train(3)] == [10.0, 20.0, 30.0]


def test_evaluation_sees_the_average_and_training_does_not():
    ema, seen = ExponentialMovingAverage(0.9), {}

    class Look(Callback):
        def on_block_end(self, mode, **_):
            seen[mode] = list(exp.backend.weights().values())

    exp, plain = build(ema, Look(), chunk_processors=lively()), build(chunk_processors=lively())
    losses = [one.train(3)[-1]["training_loss"] for one in (exp, plain)]

    assert losses[0] == losses[1]
    assert equal(seen[Mode.TRAIN], list(plain.backend.weights().values()))
    assert not equal(seen[Mode.EVAL], seen[Mode.TRAIN])
    with ema.averaged():
        assert equal(seen[Mode.EVAL], list(exp.backend.weights().values()))


def test_predictions_are_those_of_the_weights_that_are_evaluated(tmp_path):
    class Predicts(Callback):
        def on_epoch_end(self, state, **_):
            state["within"] = predicted(exp)

    def predicted(exp):
        return exp.predict({"batch_input": POINTS})["batch_logits"]

    exp = build(ExponentialMovingAverage(0.9), Predicts(), output_folder=tmp_path, experiment_id="one")
    before = predicted(exp)
    exp.train(2)
    trained, logits = exp.backend.weights(), predicted(exp)

    assert not np.array_equal(before, logits)
    assert np.array_equal(exp.state["within"], logits)
    assert exp.evaluate()["validation_accuracy"] == pytest.approx(np.mean(np.argmax(logits[48:], 1) == SIDES[48:64]))
    assert equal(list(exp.backend.weights().values()), list(trained.values()))
    plain = build()
    plain.load_weights(exp.folder / "weights.safetensors")
    assert not np.array_equal(predicted(plain), logits)
    plain.load_weights(exp.folder / "weights.average.safetensors")
    assert np.array_equal(predicted(plain), logits)


def test_draws_go_on_from_prediction_to_prediction_of_an_average():
    noise = keras.random.SeedGenerator(1)

    @chunk_processor(inputs=["batch_logits"], outputs=["batch_drawn"])
    def draw(batch_logits):
        return batch_logits + keras.random.normal(keras.ops.shape(batch_logits), seed=noise)

    exp = build(ExponentialMovingAverage(0.9), chunk_processors=[*lively(), draw])
    exp.train(1)
    first, second = (exp.predict({"batch_input": POINTS})["batch_drawn"] for _ in range(2))

    assert not np.array_equal(first, second)


def test_the_average_is_that_of_every_batch():
    exp = build(ExponentialMovingAverage(0.5), optimizer=keras.optimizers.SGD(0.1))
    exp.program.prepare()
    expected = None
    for block in blocks(exp, 1):
        block()
        weights = next(iter(exp.backend.weights().values()))
        expected = weights.copy() if expected is None else 0.5 * expected + 0.5 * weights
    with exp.callbacks[0].averaged():
        np.testing.assert_allclose(next(iter(exp.backend.weights().values())), expected, rtol=1e-5, atol=1e-7)


def test_both_are_saved(tmp_path):
    ema = ExponentialMovingAverage(0.9)
    exp = build(SaveWeights("last"), ema, output_folder=tmp_path, experiment_id="one")
    exp.train(2)
    (folder,) = tmp_path.glob("*/one")
    with ema.averaged():
        averaged = exp.backend.weights()

    for name in ("weights", "last"):
        assert all(
            np.array_equal(v, exp.backend.weights()[k]) for k, v in load_weights(folder / f"{name}.safetensors").items()
        )
        assert all(
            np.array_equal(v, averaged[k]) for k, v in load_weights(folder / f"{name}.average.safetensors").items()
        )


def test_an_evaluation_that_fails_gives_the_weights_back():
    class Fails(Callback):
        when = Mode.EVAL

        def on_cycle_end(self, **_):
            raise ZeroDivisionError

    exp = build(Fails(), ExponentialMovingAverage(0.5))
    with pytest.raises(ZeroDivisionError):
        exp.train(1)
    plain = build()
    plain.train(1)
    assert equal(list(exp.backend.weights().values()), list(plain.backend.weights().values()))


def test_before_a_resumed_training_goes_on_it_is_told_that_no_average_is_there(tmp_path, caplog):
    build(ExponentialMovingAverage(0.5), CheckpointEvery(), output_folder=tmp_path, experiment_id="one").train(2)
    (folder,) = tmp_path.glob("*/one")
    exp = build(ExponentialMovingAverage(0.5), CheckpointEvery(), output_folder=tmp_path, experiment_id="two")
    exp.resume(folder)

    trained = exp.evaluate("validation")["validation_loss"]
    assert "the trained weights, not their average" in caplog.text
    assert "weights.average.safetensors" in caplog.text
    exp.load_weights(folder / "weights.average.safetensors")
    averaged = exp.evaluate("validation")["validation_loss"]
    assert averaged == pytest.approx(exp.history[-1]["validation_loss"])
    assert averaged != pytest.approx(trained)

    caplog.clear()
    exp.train(3)
    exp.evaluate("validation")
    assert "the trained weights, not their average" not in caplog.text


def test_an_optimizer_that_takes_the_place_of_another_within_a_training_averages_too():
    ema = ExponentialMovingAverage(0.9)
    exp = build(ema, TakesAnOptimizer())
    exp.train(3)
    trained = {key: values.copy() for key, values in exp.backend.weights().items()}

    with ema.averaged():
        assert any((values != trained[key]).any() for key, values in exp.backend.weights().items())


def test_a_new_optimizer_averages_too():
    exp = build(ExponentialMovingAverage(0.9))
    exp.train(1)
    exp.optimizer = keras.optimizers.SGD(0.1)
    exp.train(2)

    assert exp.optimizer.use_ema


def test_an_average_that_comes_too_late_is_refused():
    exp = build()
    exp.train(1)
    exp.callbacks = [ExponentialMovingAverage()]

    with pytest.raises(CallbackError, match=r"before the optimizer makes its variables(.|\n)*has trained already"):
        exp.train(2)


# Telling


def test_times_stand_in_the_history():
    row = build(MeasureTime()).train(1)[0]

    assert 0 < row["training_batch_time"] < row["training_time"] < row["epoch_time"]


def test_losses_are_printed_to_stderr(capsys):
    exp = build(PrintLoss())
    exp.train(1)
    out, err = capsys.readouterr()

    assert out == ""
    assert err == "".join(f"epoch 1  {n} loss {exp.history[0][f'{n}_loss']:.6g}\n" for n in ("training", "validation"))


def test_the_state_is_logged_as_lines_of_json(tmp_path):
    build(StateLogger(), SaveLearningRate(), output_folder=tmp_path, experiment_id="one").train(2)
    (path,) = tmp_path.glob("*/one/state.jsonl")
    rows = [json.loads(line) for line in path.read_text().splitlines()]

    assert [row["epoch"] for row in rows] == [1, 2]
    assert rows[0].keys() >= {"training_loss", "validation_accuracy", "learning_rate", "cycle_name"}


def test_a_log_that_cannot_be_written_says_so(tmp_path):
    with pytest.raises(CheckpointError, match=r"cannot be written.\nSeen: .*\.\nMake room"):
        build(StateLogger(tmp_path / "absent" / "log.jsonl")).train(1)


# Together


def test_a_list_as_older_configurations_have_it_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    callbacks = [
        AverageMetrics([".*loss"]), SaveWeights(), SaveLearningRate(), GatherCycleMetrics(), StateLogger(),
        LearningRateDecay(start=range(50, 101, 10), duration=2, factor=0.5), LearningRateWarmUp(), MeasureTime(),
    ]  # fmt: skip
    exp = build(*callbacks)

    assert len(exp.train(2)) == 2
    assert exp.history[-1]["learning_rate"] == pytest.approx(0.01)
    assert exp.counts["training"]["traces"] <= 3


def test_the_shelf_works_without_a_framework(tmp_path):
    mean = chunk_processor(inputs=["batch_input"], outputs=["batch_ids", "mean"])(
        lambda batch_input: ((batch_input[:, 0] > 0).astype(int), batch_input.mean())
    )
    matrix, gather = ConfusionMatrix("batch_ids"), GatherCycleMetrics("mean")
    exp = build_experiment(
        {
            "experiment_type": [BaseExperiment, CallbackedExperiment],
            "chunk_processors": [mean],
            "metrics": ["mean"],
            "batch_size": 8,
        }
        | {"subsets": subsets()[1:], "callbacks": [matrix, gather, AverageMetrics("mean"), MeasureTime()]}
        | {"hide_progress": True}
    )

    assert exp.evaluate()["validation_mean"] == pytest.approx(arrays(48)["input"].mean(), abs=1e-6)
    assert matrix.cycles["validation"].sum() == 16


def test_a_quiet_run_warns_of_nothing(caplog):
    with caplog.at_level(logging.WARNING):
        build(LearningRateCosine(), AverageMetrics([".*loss"]), TerminateOnNaN(), PrintLoss(sys.stderr)).train(2)

    assert caplog.text == ""


def test_a_training_without_a_framework_is_watched_and_saved_too(tmp_path):
    light = Path(__file__).with_name("configs") / "light.py"
    callbacks = [
        EarlyStopping(patience=2, min_delta=0.05),
        SaveWeights(),
        AverageMetrics(["slope"]),
        SaveLearningRate(),
    ]
    exp = build_experiment(light, callbacks=callbacks, output_folder=tmp_path, hide_progress=True)
    history = exp.train(50)

    assert 2 < len(history) < 50
    assert history[-1].keys() >= {"validation_slope", "learning_rate"}
    assert len(list(tmp_path.glob("light/2*/best.safetensors"))) == 1


class Within(Callback):
    """Evaluates in the midst of every training pass."""

    before = ("AverageMetrics", "ConfusionMatrix", "GatherCycleMetrics", "MeasureTime")
    every = 2
    when = Mode.TRAIN

    def init(self, exp: Any) -> None:
        self.exp = exp

    def on_batch_end(self, state: dict[str, Any], **_: Any) -> None:
        before = self.seen(state)
        self.exp.evaluate("validation")
        assert self.seen(state) == before

    def seen(self, state: dict[str, Any]) -> dict[str, int]:
        results = ("validation_", "gathered")
        return {name: id(value) for name, value in state.items() if not name.startswith(results)}


class Twice(Callback):
    """Evaluates in the midst of every evaluation."""

    when, busy = Mode.EVAL, False

    def init(self, exp: Any) -> None:
        self.exp = exp

    def on_block_end(self, **_: Any) -> None:
        if not self.busy:
            self.busy = True
            self.exp.evaluate(Subset("other", Mode.EVAL, arrays(0, 8)))
            self.busy = False


def test_an_evaluation_within_a_pass_leaves_that_pass_to_itself():
    """What is measured, gathered, counted, and told of the pass is what it would be without; so are rates."""

    class Told(Callback):
        when = Mode.TRAIN

        def init(self, exp: Any) -> None:
            self.seen: list[Any] = []

        def on_batch_end(self, batch: int, cycle_name: str, steps: int, loss: Any, **_: Any) -> None:
            self.seen.append((batch, cycle_name, steps, float(loss)))

        def on_cycle_end(self, cycle_name: str, state: dict[str, Any], **_: Any) -> None:
            self.seen.append(cycle_name)

    def outcome(*more: Any) -> Any:
        told, gather = Told(), GatherCycleMetrics(["batch_logits"])
        matrix = ConfusionMatrix("batch_logits", when=Mode.ALL)
        exp = build(
            LearningRateWarmUp(2), AverageMetrics(["accuracy"]), matrix, gather, told, SaveLearningRate(), *more, seed=3
        )
        exp.train(3)
        logits = {name: [cycle["keys"], cycle["batch_logits"].tolist()] for name, cycle in gather.cycles.items()}
        rows = [{name: value for name, value in row.items() if name != "epoch_time"} for row in exp.history]
        return rows, told.seen, logits, {name: counts.tolist() for name, counts in matrix.cycles.items()}

    assert outcome(Within()) == outcome()


def test_a_callback_that_evaluates_within_its_own_evaluation_is_told_what_to_write():
    class Always(Callback):
        def init(self, exp: Any) -> None:
            self.exp = exp

        def on_batch_end(self, **_: Any) -> None:
            self.exp.evaluate("validation")

    exp = build(Always())
    with pytest.raises(CallbackError, match=r"without end(.|\n)*Give it when = Mode\.TRAIN"):
        exp.train(1)
    assert exp.walk.depth == 0


def test_an_average_is_evaluated_with_and_left_again_by_each_evaluation_alone():
    def losses(*more: Any) -> Any:
        exp = build(ExponentialMovingAverage(0.5), *more, seed=3)
        exp.train(2)
        return [(row["training_loss"], row["validation_loss"]) for row in exp.history]

    assert losses(Twice()) == losses(Within()) == losses()


def test_what_accumulates_in_an_evaluation_goes_on_after_another_within_it():
    def measured(*callbacks: Any) -> Any:
        own = ops.KerasMetric(keras.metrics.SparseCategoricalAccuracy(), "batch_logits", "batch_target", output="own")
        exp = build(*callbacks, seed=3, batch_size=4, steps_per_call=1)
        exp.chunk_processors = [*exp.chunk_processors, own]
        return exp.evaluate("validation")

    assert measured(Twice()) == measured()


def test_weights_that_are_set_in_an_evaluation_within_another_stay():
    class Sets(Twice):
        def on_cycle_end(self, cycle_name: str, **_: Any) -> None:
            if cycle_name == "other":
                self.exp.backend.set_weights({key: 0 * one for key, one in self.exp.backend.weights().items()})

    exp = build(Sets())
    exp.evaluate("validation")
    assert not any(one.any() for one in exp.backend.weights().values())
