"""Metrics against counting in numpy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from experimentator.graph import Chunk, DeclarationError, Mode
from experimentator.ops import Accuracy, ArgMax, MeanAbsoluteError, TensorError, TopKAccuracy
from tests.frameworks import gradients

RNG = np.random.default_rng(4)
LOGITS = RNG.normal(0, 1, (40, 7))
IDS = RNG.integers(0, 7, 40)
WEIGHTS = RNG.integers(0, 3, 40).astype("float32")


def top(k):
    return np.any(np.argsort(-LOGITS, -1)[:, :k] == IDS[:, None], -1)


@pytest.mark.parametrize("target", [IDS, IDS.astype("uint8"), IDS[:, None], np.eye(7)[IDS], np.eye(7, dtype=int)[IDS]])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_accuracy_counts_the_best_guesses(run, target, dtype):
    result = run(Accuracy("p", "t"), {"p": LOGITS.astype(dtype), "t": target}, mode=Mode.EVAL)

    assert (result.shape, result.dtype) == ((), "float32")
    np.testing.assert_allclose(result, (LOGITS.argmax(-1) == IDS).mean(), rtol=1e-6)


@pytest.mark.parametrize("k", [1, 2, 5, 7])
def test_top_k_accuracy_counts_the_k_best(run_xla, k):
    op = TopKAccuracy("p", "t", k=k)

    assert op.outputs == (f"top{k}_accuracy",)
    np.testing.assert_allclose(run_xla(op, {"p": LOGITS, "t": IDS}), top(k).mean(), rtol=1e-6)
    np.testing.assert_allclose(run_xla(op, {"p": LOGITS, "t": np.eye(7)[IDS]}), top(k).mean(), rtol=1e-6)


def test_weighted_accuracy_is_the_weighted_mean(run_xla):
    tensors = {"p": LOGITS, "t": IDS, "w": WEIGHTS}

    np.testing.assert_allclose(
        run_xla(Accuracy("p", "t", weight="w"), tensors), np.average(top(1), weights=WEIGHTS), rtol=1e-6
    )
    np.testing.assert_allclose(
        run_xla(TopKAccuracy("p", "t", "best", k=3, weight="w"), tensors, "best"),
        np.average(top(3), weights=WEIGHTS),
        rtol=1e-6,
    )
    assert run_xla(Accuracy("p", "t", weight="w"), {**tensors, "w": 0 * WEIGHTS}) == 0


def test_every_pixel_may_have_a_class(run):
    logits, ids = LOGITS.reshape(2, 4, 5, 7), IDS.reshape(2, 4, 5)

    np.testing.assert_allclose(run(Accuracy("p", "t"), {"p": logits, "t": ids}), top(1).mean(), rtol=1e-6)


@pytest.mark.parametrize("prediction, target", [((40,), (40,)), ((40, 1), (40,)), ((40, 1), (40, 1)), ((40,), (40, 1))])
@pytest.mark.parametrize("dtype", ["bool", "float32", "int64"])
def test_without_classes_answers_are_yes_above_the_threshold(run, prediction, target, dtype):
    logits, answers = LOGITS[:, :1].reshape(prediction), (IDS > 3).reshape(target).astype(dtype)
    expected = ((LOGITS[:, 0] > 0.0) == (IDS > 3)).mean()

    np.testing.assert_allclose(run(Accuracy("p", "t"), {"p": logits, "t": answers}), expected, rtol=1e-6)
    scores = 1 / (1 + np.exp(-logits))
    np.testing.assert_allclose(run(Accuracy("p", "t", threshold=0.5), {"p": scores, "t": answers}), expected, rtol=1e-6)


def test_predicted_classes_are_compared_as_they_are(run):
    result = run([ArgMax("p", output="c"), Accuracy("c", "t")], {"p": LOGITS, "t": IDS}, "accuracy")

    np.testing.assert_allclose(result, top(1).mean(), rtol=1e-6)


@pytest.mark.parametrize("op", [Accuracy("p", "t", "a"), TopKAccuracy("p", "t", "a", k=2)])
def test_nan_and_ids_that_are_no_class_are_wrong(run_xla, op):
    logits = np.array([[np.nan, np.nan, np.nan], [3, 2, 1], [3, 2, 1], [3, 2, 1]])

    assert run_xla(op, {"p": logits, "t": np.array([0, -1, 3, 0])}) == 0.25


def test_nan_is_neither_yes_nor_no(run):
    assert run(Accuracy("p", "t"), {"p": np.array([np.nan, np.nan]), "t": np.array([0, 1])}) == 0


def test_of_equal_scores_the_first_counts(run_xla):
    tensors = {"p": np.zeros([4, 4]), "t": np.arange(4)}

    assert run_xla(Accuracy("p", "t"), tensors) == 0.25
    assert run_xla(TopKAccuracy("p", "t", k=2), tensors) == 0.5


@settings(deadline=None)  # a first call of a kernel is slow
@given(
    arrays.arrays("float32", (5, 4), elements=st.sampled_from([-1, 0, 1])),
    arrays.arrays("int32", 5, elements=st.integers(0, 3)),
)
def test_top_1_is_accuracy_and_top_all_is_one(logits, ids):
    chunk = Chunk({"p": logits, "t": ids}, mode=Mode.EVAL)
    for op in (Accuracy("p", "t"), TopKAccuracy("p", "t", k=1), TopKAccuracy("p", "t", k=4)):
        op(chunk)

    assert float(chunk["accuracy"]) == float(chunk["top1_accuracy"]) == pytest.approx(np.mean(logits.argmax(-1) == ids))
    assert float(chunk["top4_accuracy"]) == 1


@pytest.mark.parametrize(
    "op, prediction, target, told",
    [
        (Accuracy("p", "t"), [6, 10], np.zeros([6, 12]), r"'p' \[6, 10\] float64 and 't' \[6, 12\]"),
        (Accuracy("p", "t"), [6, 10], np.zeros([6]), r"Write ops.Cast\('t', 'int32'\)"),
        (Accuracy("p", "t"), [6], np.zeros([5]), "same shape"),
        (TopKAccuracy("p", "t"), [6, 4], np.zeros([6], int), "The best 5 are chosen among as many"),
        (TopKAccuracy("p", "t"), [6], np.zeros([6], int), "Give a smaller k"),
    ],
)
def test_targets_that_do_not_fit_are_named_with_their_shapes(call, op, prediction, target, told):
    with pytest.raises(TensorError, match=told):
        call(op, {"p": np.zeros(prediction), "t": target})


def test_k_is_a_number_of_guesses():
    with pytest.raises(DeclarationError, match="k is 0"):
        TopKAccuracy("p", "t", k=0)


def test_metrics_say_that_they_are():
    assert Accuracy("p", "t").is_metric
    assert TopKAccuracy("p", "t").is_metric


def test_a_target_of_nan_is_no_answer_of_no(run):
    assert run(Accuracy("p", "t"), {"p": np.array([-1.0, -1.0]), "t": np.array([np.nan, 0.0])}) == 0.5


@pytest.mark.parametrize("dtype", ["int32", "int64", "uint32"])
def test_large_integers_are_compared_as_they_are(run, dtype):
    ids = {"p": np.array([2**24 + 1, 3], dtype), "t": np.array([2**24, 3], dtype)}

    assert run(Accuracy("p", "t"), ids) == 0.5


def test_the_gradient_of_an_absolute_error_is_its_sign():
    def error(prediction):
        chunk = Chunk({"p": prediction, "t": np.array([0.0, 0.0, 3.0])}, mode=Mode.TRAIN)
        MeanAbsoluteError("p", "t")(chunk)
        return 3 * chunk["mean_absolute_error"]

    np.testing.assert_allclose(gradients(error, np.array([0, 1, 2], "float32"))[0], [0, 1, -1])


def test_nan_is_larger_than_any_number(run):
    tensors = {"p": np.array([[0.0, 1.0, np.nan], [2.0, 1.0, 0.0]]), "t": np.array([1, 0])}

    assert run([ArgMax("p"), Accuracy("p", "t", "a")], tensors, "a", mode=Mode.EVAL) == 0.5
    assert run(Accuracy("p", "t"), tensors, mode=Mode.EVAL) == 0.5
    assert run(TopKAccuracy("p", "t", k=2), tensors, mode=Mode.EVAL) == 1
