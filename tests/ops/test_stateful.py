"""Metrics of Keras that accumulate on the device, against numpy formulas over whole cycles."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from sklearn.metrics import f1_score

from experimentator import AverageMetrics, CheckpointEvery, ChunkProcessor, Mode, Subset, build_experiment, ops
from experimentator.graph import Chunk, DeclarationError, Graph
from experimentator.ops import KerasMetric, OneHot, TensorError
from tests.frameworks import one_elsewhere

X = np.random.default_rng(0).normal(size=(22, 3)).astype(np.float32)
TARGET = (X[:, 0] + 0.5 * X[:, 1] > 0).astype(np.float32)
SCORE = (1 / (1 + np.exp(-2 * X[:, 0]))).astype(np.float32)
ITEMS = {"input": X, "score": SCORE, "target": TARGET, "weight": np.arange(22, dtype=np.float32)}
RMSE = float(np.sqrt(np.mean((SCORE - TARGET) ** 2)))


def rmse() -> KerasMetric:
    return KerasMetric(keras.metrics.RootMeanSquaredError(), "batch_score", "batch_target", "rmse")


def experiment(*metrics: Any, keys: Any = None, **settings: Any) -> Any:
    network = keras.Sequential([keras.layers.Dense(1)])
    processors = [
        ops.Model(network, inputs="batch_input", outputs="batch_logit"),
        ops.SigmoidCrossEntropy("batch_logit", "batch_target"),
        *metrics,
    ]
    subsets = [
        Subset("training", Mode.TRAIN, ITEMS, keys=range(16)),
        Subset("validation", Mode.EVAL, ITEMS, keys=keys),
    ]
    config = {"subsets": subsets, "chunk_processors": processors, "batch_size": 8, "hide_progress": True}
    settings = {"optimizer": keras.optimizers.SGD(0.1), "jit_compile": False} | settings
    return build_experiment(config | settings)


@pytest.mark.parametrize(
    "options", one_elsewhere({"jit_compile": False}, {"jit_compile": True}, {"eager": True}), ids=str
)
def test_the_last_batch_may_be_smaller_and_the_cycle_is_still_whole(options):
    exp = experiment(rmse(), metrics=["rmse"], **options)
    (row,) = exp.train(1)

    assert row["validation_rmse"] == pytest.approx(RMSE, rel=1e-5)
    assert row["training_rmse"] == pytest.approx(np.sqrt(np.mean((SCORE - TARGET)[:16] ** 2)), rel=1e-5)


def test_an_area_under_a_curve_is_that_of_all_answers():
    exp = experiment(KerasMetric(keras.metrics.AUC(num_thresholds=1000), "batch_score", "batch_target"))
    pairs = SCORE[TARGET == 1][:, None] - SCORE[TARGET == 0][None]

    assert exp.evaluate()["validation_auc"] == pytest.approx(np.mean(pairs > 0), abs=0.005)


def test_every_pass_begins_anew_with_any_number_of_batches_a_call():
    exp = experiment(rmse(), steps_per_call=2)
    values = [exp.evaluate()["validation_rmse"] for _ in range(3)] + [exp.train(2)[-1]["validation_rmse"]]

    np.testing.assert_allclose(values, RMSE, rtol=1e-5)


def test_evaluating_within_a_training_pass_disturbs_nothing():
    class Evaluate:
        every = 1

        def init(self, exp):
            self.exp = exp

        def on_batch_end(self, mode, **_):
            if mode == Mode.TRAIN:
                self.exp.evaluate()

    exp = experiment(rmse(), metrics=["rmse"], callbacks=[Evaluate()])

    assert exp.train(1)[0]["training_rmse"] == pytest.approx(np.sqrt(np.mean((SCORE - TARGET)[:16] ** 2)), rel=1e-5)


def test_its_variables_are_not_trained_and_are_saved_alike_by_all_modes(tmp_path):
    both = experiment(rmse())
    both.train(1)
    both.save_weights(tmp_path / "weights.safetensors")
    evaluating = experiment(rmse())
    del evaluating.cfg["subsets"][0]
    evaluating.load_weights(tmp_path / "weights.safetensors")

    assert both.backend.sizes()["KerasMetric"] == (0, 4)
    assert evaluating.evaluate() == both.evaluate()


def test_a_prediction_of_another_shape_than_its_target_is_told_where_keras_refuses_it():
    metric = KerasMetric(keras.metrics.AUC(), "batch_scores", "batch_target")
    chunk = Chunk({"batch_scores": np.full((4, 2), 0.5, "float32"), "batch_target": np.ones(4)}, mode=Mode.EVAL)
    with pytest.raises(ValueError) as caught:
        metric(chunk)

    assert "AUC may take a number for each target" in caught.value.__notes__[0]


def test_sample_weights_weigh():
    metric = KerasMetric(
        keras.metrics.MeanSquaredError(), "batch_score", "batch_target", "error", weight="batch_weight"
    )
    expected = np.average((SCORE - TARGET) ** 2, weights=ITEMS["weight"])

    assert experiment(metric).evaluate()["validation_error"] == pytest.approx(expected, rel=1e-5)


def test_a_metric_of_one_tensor_needs_no_target():
    exp = experiment(KerasMetric(keras.metrics.Mean(), "batch_score", output="mean_score"))

    assert exp.evaluate()["validation_mean_score"] == pytest.approx(SCORE.mean(), rel=1e-5)


def test_a_callback_that_averages_everything_leaves_it_alone():
    exp = experiment(rmse(), callbacks=[AverageMetrics()])

    assert exp.train(1)[0]["validation_rmse"] == pytest.approx(RMSE, rel=1e-5)


def test_one_batch_and_inference_give_the_metric_of_what_is_given():
    exp = experiment(rmse())
    exp.evaluate()
    batch = exp.batch("validation", 5)
    given = {name: batch[name] for name in ("batch_score", "batch_target")}
    expected = np.sqrt(np.mean((SCORE - TARGET)[:5] ** 2))

    assert exp.batch_eval(batch)["rmse"] == pytest.approx(expected, rel=1e-5)
    for _ in range(2):
        assert exp.predict(given, outputs=["rmse"])["rmse"] == pytest.approx(expected, rel=1e-5)


def test_a_name_that_keras_counted_is_given_without_the_count():
    metrics = [KerasMetric(keras.metrics.AUC(), "a", "b") for _ in range(2)]

    assert [metric.outputs for metric in metrics] == [("auc",), ("auc",)]
    assert KerasMetric(keras.metrics.AUC(name="area"), "a", "b").outputs == ("area",)
    assert KerasMetric(keras.metrics.IoU(3, [1], name="iou_1"), "a", "b").outputs == ("iou_1",)


class Answers(keras.metrics.Metric):
    """As people write one: without sample weights."""

    def __init__(self, name="answers", **options):
        super().__init__(name=name, **options)
        self.total = self.add_weight(name="total", initializer="zeros")

    def update_state(self, target, prediction):
        self.total.assign_add(keras.ops.sum(keras.ops.cast(prediction > 0.5, "float32")))

    def result(self):
        return self.total


def test_a_metric_that_takes_no_sample_weights_is_given_none():
    chunk = Chunk({"batch_score": np.array([0.9, 0.2]), "batch_target": np.array([1, 0])}, mode=Mode.EVAL)
    KerasMetric(Answers(), "batch_score", "batch_target")(chunk)

    assert float(chunk["answers"]) == 1.0


def test_it_runs_in_a_graph_of_its_own():
    graph = Graph([rmse()], provided={"batch_score", "batch_target"}, mode=Mode.EVAL).select("rmse")

    assert float(graph.run({"batch_score": SCORE, "batch_target": TARGET})["rmse"]) == pytest.approx(RMSE, rel=1e-5)


class Uncopied(keras.metrics.Mean):
    def __init__(self, kind, **options):
        super().__init__(**options)
        self.kind = kind


@pytest.mark.parametrize(
    "metric, seen",
    [(keras.metrics.AUC, "AUC"), ("auc", "'auc'"), (lambda a, b: 0, "lambda"), (Uncopied("mean"), "cannot be copied")],
    ids=["a class", "a name", "a function", "no configuration"],
)
def test_what_is_no_metric_of_keras_is_refused_when_it_is_made(metric, seen):
    with pytest.raises(DeclarationError, match=seen):
        KerasMetric(metric, "batch_score", "batch_target", "metric")


def test_a_metric_of_several_numbers_is_refused_with_their_shape():
    metric = KerasMetric(keras.metrics.F1Score(), "batch_scores", "batch_rows")
    chunk = Chunk({"batch_scores": np.eye(3), "batch_rows": np.eye(3)}, mode=Mode.EVAL)

    with pytest.raises(TensorError, match=r"A metric gives one number(?s:.*)'f1_score' \[3\] float32(?s:.*)macro"):
        metric(chunk)


def test_a_metric_that_takes_rows_is_given_those_of_ids_as_its_error_says():
    ids, scores = np.array([0, 1, 1, 2]), np.eye(3)[[0, 1, 2, 2]]
    metric = KerasMetric(keras.metrics.F1Score("macro"), "batch_scores", "batch_ids")
    chunk = Chunk({"batch_scores": scores, "batch_ids": ids}, mode=Mode.EVAL)
    with pytest.raises(ValueError) as caught:
        metric(chunk)
    assert 'ops.OneHot("batch_ids", 3, output="one_hot")' in caught.value.__notes__[0]

    OneHot("batch_ids", 3, output="one_hot")(chunk)
    metric.target = "one_hot"
    metric(chunk)
    assert float(chunk["f1_score"]) == pytest.approx(f1_score(ids, scores.argmax(1), average="macro"))


def test_a_metric_of_a_single_class_gives_one_number():
    metric = KerasMetric(keras.metrics.F1Score(threshold=0.5), "batch_score", "batch_yes")
    scores, yes = np.array([0.9, 0.8, 0.1, 0.2]), np.array([1, 0, 1, 0])
    chunk = Chunk({"batch_score": scores, "batch_yes": yes}, mode=Mode.EVAL)
    metric.reset(Mode.EVAL)
    metric(chunk)

    assert chunk["f1_score"].shape == ()
    assert float(chunk["f1_score"]) == pytest.approx(f1_score(yes, scores > 0.5))


@pytest.mark.parametrize("missing", ["mask", "nan"])
def test_samples_without_a_label_count_as_if_they_were_not_there(missing):
    known = np.arange(22) % 3 > 0
    items = {**ITEMS, "known": known, "partial": np.where(known, TARGET, np.nan).astype(np.float32)}
    items["score"] = np.where(known, SCORE, np.nan).astype(np.float32)
    options = {"mask": "batch_known"} if missing == "mask" else {"nan_is_no_label": True}
    metric = KerasMetric(keras.metrics.RootMeanSquaredError(), "batch_score", "batch_partial", "rmse", **options)
    exp = experiment(metric)
    exp.subsets[1].dataset = Subset("validation", Mode.EVAL, items).dataset
    exp.subsets[0].dataset = exp.subsets[1].dataset

    expected = np.sqrt(np.mean((SCORE - TARGET)[known] ** 2))
    assert exp.evaluate()["validation_rmse"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("which", ["mask", "weight"])
def test_each_place_counts_alike_in_rows_of_several_lengths(which):
    random = np.random.default_rng(0)
    root = keras.metrics.RootMeanSquaredError()
    metric = KerasMetric(root, "batch_x", "batch_y", **{which: "batch_known"})
    squares = []
    for length in (2, 8, 5):
        x, y = random.normal(size=(2, 4, length)).astype("float32")
        known = random.uniform(size=x.shape) < 0.6
        squares.extend(((x - y) ** 2)[known])
        chunk = Chunk({"batch_x": x, "batch_y": y, "batch_known": known}, mode=Mode.EVAL)
        metric(chunk)

    assert float(chunk["root_mean_squared_error"]) == pytest.approx(np.mean(squares) ** 0.5, rel=1e-5)


def test_a_training_resumed_within_a_pass_measures_the_same(tmp_path):
    def made(**settings):
        return experiment(rmse(), metrics=["rmse"], steps_per_call=1, **settings)

    whole = made(callbacks=[CheckpointEvery(seconds=1e-9, keep=100)], output_folder=str(tmp_path))
    whole.train(1)
    measured = {name: value for name, value in whole.history[0].items() if name != "epoch_time"}

    for number in ("00000001", "00000004"):  # within training, within validation
        resumed = made(callbacks=[CheckpointEvery(folder=tmp_path / "resumed", seconds=1e9)])
        resumed.resume(whole.folder / "checkpoints" / number)
        assert resumed.walk.position.batch > 0
        assert resumed.train(1)[0].items() >= measured.items()


ERROR = keras.metrics.MeanSquaredError()


class Measures(ChunkProcessor):
    inputs, outputs = ["batch_score", "batch_target"], ["error"]

    def __init__(self):
        self.metric = keras.metrics.MeanSquaredError()

    def __call__(self, chunk):
        chunk["error"] = self.metric(chunk["batch_target"], chunk["batch_score"])


def measured(chunk):
    chunk["error"] = ERROR(chunk["batch_target"], chunk["batch_score"])


def measured_below(chunk):
    measured(chunk)


def of_this_batch(chunk):
    ERROR.reset_state()
    measured(chunk)


def without_state(chunk):
    kept = ERROR.stateless_update_state([0 * v for v in ERROR.variables], chunk["batch_target"], chunk["batch_score"])
    chunk["error"] = ERROR.stateless_result(kept)


@pytest.mark.parametrize(
    "processor, told",
    one_elsewhere(
        (measured, "measured reads ERROR, a metric of Keras"),
        (Measures(), "Measures reads self.metric, a metric of Keras"),
        (measured_below, "measured_below reads ERROR, a metric of Keras"),
        (lambda chunk: measured(chunk), "<lambda> reads ERROR, a metric of Keras"),
        (without_state, None),
        (of_this_batch, None),
        (KerasMetric(ERROR, "batch_score", "batch_target", "error"), None),
    ),
    ids=one_elsewhere("function", "class", "function below", "lambda", "stateless", "set back", "ours"),
)
def test_a_metric_within_a_function_of_ones_own_is_told_to_add_up(processor, told, caplog):
    exp = experiment(processor, metrics=["error"])
    exp.evaluate()
    exp.evaluate()

    said = [record.message for record in caplog.records if "accumulates over" in record.message]
    assert len(said) == (told is not None)
    assert told is None or said[0].startswith(told)


def test_weights_of_rows_and_a_mask_of_places_go_together(call):
    ids = np.array([[0, 1], [2, 0]])
    tensors = {"p": np.eye(3)[ids], "t": np.array([[0, 2], [2, 2]]), "w": np.array([1.0, 3.0])}
    tensors["m"] = np.array([[True, True], [True, False]])
    metric = keras.metrics.SparseCategoricalAccuracy()

    assert call(KerasMetric(metric, "p", "t", weight="w", mask="m"), tensors, mode=Mode.EVAL) == pytest.approx(0.8)


def test_a_mask_of_places_and_targets_without_labels_go_together(call):
    target = np.array([[[0.0], [0.0]], [[np.nan], [0.0]]])
    tensors = {
        "p": np.array([[[1.0], [2.0]], [[3.0], [4.0]]]),
        "t": target,
        "m": np.array([[True, True], [True, False]]),
    }
    op = KerasMetric(keras.metrics.MeanSquaredError(), "p", "t", mask="m", nan_is_no_label=True)

    assert call(op, tensors, mode=Mode.EVAL) == 2.5


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize(
    "metric",
    [
        lambda: keras.metrics.SparseTopKCategoricalAccuracy(2),
        lambda: keras.metrics.SparseCategoricalCrossentropy(from_logits=True),
        lambda: keras.metrics.CosineSimilarity(),
    ],
)
def test_metrics_of_half_precision_are_those_of_the_same_numbers_in_float32(metric, dtype):
    target = (
        np.random.default_rng(1).normal(size=(64, 4)).astype(np.float32)
        if isinstance(metric(), keras.metrics.CosineSimilarity)
        else np.arange(64) % 4
    )
    logits = keras.ops.cast(np.random.default_rng(2).normal(size=(64, 4)), dtype)
    found = []
    for scores in (logits, keras.ops.cast(logits, "float32")):
        chunk = Chunk({"batch_logits": scores, "batch_target": target}, mode=Mode.EVAL)
        KerasMetric(metric(), "batch_logits", "batch_target", "found")(chunk)
        found.append(float(chunk["found"]))

    assert found[0] == found[1]


@pytest.mark.parametrize(
    "metric", one_elsewhere(keras.metrics.Hinge, keras.metrics.Poisson, keras.metrics.BinaryCrossentropy)
)
@pytest.mark.parametrize("long", ["batch_score", "batch_target"])
@pytest.mark.parametrize("places", [(), (3,)])
def test_a_last_axis_of_one_that_only_one_of_both_has_changes_nothing(metric, long, places):
    random, found = np.random.default_rng(3), []
    tensors = {name: random.random((8, *places)).astype(np.float32) for name in ("batch_score", "batch_target")}
    for names in ([long], list(tensors)):
        chunk = Chunk({**tensors, **{name: tensors[name][..., None] for name in names}}, mode=Mode.EVAL)
        KerasMetric(metric(), "batch_score", "batch_target", "found")(chunk)
        found.append(float(chunk["found"]))

    assert found[0] == pytest.approx(found[1], rel=1e-6)


def test_scores_of_rows_without_a_label_are_not_divided_by_their_sum():
    known = np.arange(8) % 2 == 0
    scores = np.random.default_rng(4).random((8, 3)).astype(np.float32)
    tensors = {"batch_scores": scores, "batch_target": np.eye(3, dtype=np.float32)[np.arange(8) % 3]}
    chunk = Chunk({**tensors, "batch_known": known}, mode=Mode.EVAL)
    metric = keras.metrics.CategoricalCrossentropy()
    KerasMetric(metric, "batch_scores", "batch_target", "found", mask="batch_known")(chunk)

    shares = (scores / scores.sum(axis=1, keepdims=True))[np.arange(8), np.arange(8) % 3]
    assert float(chunk["found"]) == pytest.approx(-np.log(shares[known]).mean(), rel=1e-5)


@pytest.mark.parametrize("last", [slice(0, 0), slice(0, 3)], ids=["none without a label", "a batch without labels"])
def test_a_correlation_is_that_of_the_rows_with_a_label(call, last):
    target, scores = np.random.default_rng(5).normal(size=(2, 9, 4)).astype(np.float32)
    known = np.arange(9) % 3 > 0
    metric = KerasMetric(keras.metrics.PearsonCorrelation(), "p", "t", "found", mask="m")
    for rows, mask in ((slice(0, 9), known), (last, np.zeros(9, bool))):
        chunk = Chunk({"p": scores[rows], "t": target[rows], "m": mask[rows]}, mode=Mode.EVAL)
        if len(mask[rows]):
            metric(chunk)
            found = float(chunk["found"])

    assert found == pytest.approx(np.mean([np.corrcoef(*pair)[0, 1] for pair in zip(target[known], scores[known])]))
