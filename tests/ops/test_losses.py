"""Losses against formulas in float64, their gradients against finite differences."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from experimentator.graph import Chunk, DeclarationError, Graph, Mode
from experimentator.ops import (
    CombineLosses,
    Huber,
    MeanSquaredError,
    OneHot,
    SigmoidCrossEntropy,
    SoftmaxCrossEntropy,
    TensorError,
)
from tests.frameworks import ON_JAX, gradients

RNG = np.random.default_rng(3)
LOGITS = RNG.normal(0, 3, (6, 5))
IDS = np.array([0, 4, 2, 2, 1, 3])
SCORES = RNG.normal(0, 2, (6, 2))
TARGETS = RNG.uniform(0, 1, (6, 2))
WEIGHTS = np.array([1.0, 0.0, 2.5, 0.0, 3.0, 0.5])


# The formulas, as their sources print them


def softmax_cross_entropy(logits, rows, smoothing=0.0):
    rows = (1 - smoothing) * rows + smoothing / rows.shape[-1]
    return -np.sum(rows * (logits - np.log(np.sum(np.exp(logits), -1, keepdims=True))), -1)


def sigmoid_cross_entropy(logits, targets):
    scores = 1 / (1 + np.exp(-logits))
    return -targets * np.log(scores) - (1 - targets) * np.log(1 - scores)


def squared_error(predictions, targets):
    return (predictions - targets) ** 2


def huber(predictions, targets, delta=1.0):
    error = np.abs(predictions - targets)
    return np.where(error <= delta, error**2 / 2, delta * (error - delta / 2))


PAIRS = {
    "softmax": (SoftmaxCrossEntropy, LOGITS, np.eye(5)[IDS], softmax_cross_entropy),
    "sigmoid": (SigmoidCrossEntropy, SCORES, TARGETS, sigmoid_cross_entropy),
    "squared": (MeanSquaredError, SCORES, TARGETS, squared_error),
    "huber": (Huber, SCORES, TARGETS, huber),
}
every_loss = pytest.mark.parametrize("op, prediction, target, formula", PAIRS.values(), ids=PAIRS)


def loss_of(op, prediction, target, **more):
    chunk = Chunk({"p": prediction, "t": target, **more}, mode=Mode.TRAIN)
    op("p", "t", **({"weight": "w"} if "w" in more else {}))(chunk)
    return float(chunk["loss"])


def gradient_of(op, prediction, target):
    def loss(prediction):
        chunk = Chunk({"p": prediction, "t": target}, mode=Mode.TRAIN)
        op(chunk)
        return chunk["loss"]

    return gradients(loss, np.asarray(prediction, "float32"))[0]


@every_loss
def test_a_loss_is_the_mean_of_its_formula(run_xla, op, prediction, target, formula):
    result = run_xla(op("p", "t"), {"p": prediction.astype("float32"), "t": target.astype("float32")})

    assert (result.shape, result.dtype) == ((), "float32")
    np.testing.assert_allclose(result, formula(prediction, target).mean(), rtol=1e-6)


@every_loss
def test_a_weighted_loss_is_the_weighted_mean(run_xla, op, prediction, target, formula):
    values = formula(prediction, target).reshape(6, -1).mean(-1)

    result = run_xla(op("p", "t", "other", weight="w"), {"p": prediction, "t": target, "w": WEIGHTS}, "other")

    np.testing.assert_allclose(result, np.sum(values * WEIGHTS) / np.sum(WEIGHTS), rtol=1e-6)


@every_loss
def test_weights_of_one_weigh_nothing(op, prediction, target, formula):
    weighted = loss_of(op, prediction, target, w=np.ones(6, "int32"))

    assert weighted == pytest.approx(loss_of(op, prediction, target), rel=1e-6)


@every_loss
def test_weights_of_zero_give_zero_and_no_gradient(run_xla, op, prediction, target, formula):
    tensors = {"p": prediction.astype("float32"), "t": target, "w": np.zeros(6)}

    assert run_xla(op("p", "t", weight="w"), tensors) == 0

    def loss(p):
        chunk = Chunk({**tensors, "p": p}, mode=Mode.TRAIN)
        op("p", "t", weight="w")(chunk)
        return chunk["loss"]

    np.testing.assert_array_equal(gradients(loss, prediction)[0], 0)


@every_loss
def test_gradients_match_finite_differences(op, prediction, target, formula):
    step, expected = 1e-6, np.zeros_like(prediction)
    for place in np.ndindex(*prediction.shape):
        bump = np.zeros_like(prediction)
        bump[place] = step
        rise = formula(prediction + bump, target).mean() - formula(prediction - bump, target).mean()
        expected[place] = rise / (2 * step)

    np.testing.assert_allclose(gradient_of(op("p", "t"), prediction, target), expected, rtol=1e-4, atol=1e-6)


@every_loss
@pytest.mark.parametrize("half", ["float16", "bfloat16"])
def test_half_precision_predictions_are_compared_in_full(op, prediction, target, formula, half):
    rounded = keras.ops.cast(keras.ops.convert_to_tensor(prediction), half)
    wide = np.asarray(keras.ops.cast(rounded, "float64"))

    assert loss_of(op, rounded, target) == pytest.approx(formula(wide, target).mean(), rel=1e-6)


@every_loss
def test_losses_are_metrics(op, prediction, target, formula):
    assert op("p", "t").is_metric


# Softmax cross entropy


@pytest.mark.parametrize("dtype", ["uint8", "int32", "int64"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_class_ids_and_one_hot_rows_give_the_same_loss(run, dtype, smoothing):
    op = SoftmaxCrossEntropy("p", "t", label_smoothing=smoothing)
    expected = softmax_cross_entropy(LOGITS, np.eye(5)[IDS], smoothing).mean()

    for target in (IDS, IDS[:, None], np.eye(5)[IDS]):
        result = run(op, {"p": LOGITS.astype("float32"), "t": target.astype(dtype)})
        np.testing.assert_allclose(result, expected, rtol=1e-6)


def test_what_a_softmax_wrote_is_compared_as_it_is_on_every_framework():
    shares = keras.activations.softmax(keras.ops.convert_to_tensor(LOGITS.astype("float32")))

    expected = softmax_cross_entropy(keras.ops.convert_to_numpy(shares), np.eye(5)[IDS]).mean()

    np.testing.assert_allclose(loss_of(SoftmaxCrossEntropy, shares, IDS), expected, rtol=1e-6)


def test_targets_may_be_distributions(run_xla, rng):
    rows = rng.dirichlet(np.ones(5), 6)

    result = run_xla(SoftmaxCrossEntropy("p", "t"), {"p": LOGITS, "t": rows})

    np.testing.assert_allclose(result, softmax_cross_entropy(LOGITS, rows).mean(), rtol=1e-6)


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4)])
@pytest.mark.parametrize("weighted", [False, True])
def test_every_pixel_may_have_a_class(run, shape, weighted, rng):
    logits, ids = rng.normal(0, 3, (*shape, 5)), rng.integers(0, 5, shape)
    values = softmax_cross_entropy(logits, np.eye(5)[ids]).reshape(2, -1).mean(-1)
    weights = np.array([3.0, 1.0])

    tensors = {"p": logits, "t": ids, "w": weights}
    result = run(SoftmaxCrossEntropy("p", "t", weight="w" if weighted else None), tensors)

    np.testing.assert_allclose(result, np.average(values, weights=weights if weighted else None), rtol=1e-6)


def test_every_pixel_may_have_a_weight(run_xla, rng):
    logits, ids, weights = rng.normal(0, 3, (2, 3, 5)), rng.integers(0, 5, (2, 3)), rng.integers(0, 2, (2, 3))

    result = run_xla(SoftmaxCrossEntropy("p", "t", weight="w"), {"p": logits, "t": ids, "w": weights})

    values = softmax_cross_entropy(logits, np.eye(5)[ids])
    np.testing.assert_allclose(result, np.average(values, weights=weights), rtol=1e-6)


def test_huge_logits_give_finite_losses(run_xla):
    logits = np.array([[1e4, 0, -1e4], [1e4, 0, -1e4]], "float32")

    result = run_xla(SoftmaxCrossEntropy("p", "t"), {"p": logits, "t": np.array([0, 2])})

    np.testing.assert_allclose(result, 1e4)


def test_a_class_ruled_out_by_minus_infinity_counts_nothing(run):
    logits = np.array([[0.0, 0.0, -np.inf]], "float32")

    np.testing.assert_allclose(
        run(SoftmaxCrossEntropy("p", "t"), {"p": logits, "t": np.array([1])}), np.log(2), rtol=1e-6
    )
    assert np.isfinite(gradient_of(SoftmaxCrossEntropy("p", "t"), logits, np.array([1]))).all()


@pytest.mark.parametrize("wrong", [-1, 5])
def test_an_id_that_is_no_class_makes_the_loss_nan(run_xla, wrong):
    assert np.isnan(run_xla(SoftmaxCrossEntropy("p", "t"), {"p": LOGITS, "t": np.array([0, 1, 2, 3, 4, wrong])}))


@settings(deadline=None)  # a first call of a kernel is slow
@given(arrays.arrays("float32", (3, 4), elements=st.floats(-50, 50, width=32)), st.floats(-20, 20))
def test_adding_a_constant_to_all_logits_changes_nothing(logits, shift):
    ids = np.array([0, 3, 1])

    shifted = loss_of(SoftmaxCrossEntropy, logits + np.float32(shift), ids)

    assert shifted == pytest.approx(loss_of(SoftmaxCrossEntropy, logits, ids), abs=1e-4)


@pytest.mark.parametrize(
    "logits, target, told",
    [
        ([6, 10], np.zeros([6, 12]), r"'p' \[6, 10\] float64 and 't' \[6, 12\] float64\.\nWrite ops.OneHot\('t', 10\)"),
        ([6, 10], np.zeros([5], int), "Sizes differ"),
        ([6, 10], np.zeros([6], "float32"), r"Class ids are integers(.|\n)*Write ops.Cast\('t', 'int32'\) above it"),
        ([6, 10], np.zeros([6, 10, 2]), "one axis fewer than the classes, or one-hot rows"),
        ([6, 2, 10], np.zeros([6], int), "one axis fewer"),
        ([6, 1], np.zeros([6], int), "write ops.SigmoidCrossEntropy"),
        ([6], np.zeros([6], int), "A softmax is over classes"),
    ],
)
def test_targets_that_do_not_fit_are_named_with_their_shapes(call, logits, target, told):
    with pytest.raises(TensorError, match=told):
        call(SoftmaxCrossEntropy("p", "t"), {"p": np.zeros(logits), "t": target})


@pytest.mark.tensorflow
def test_shapes_are_checked_when_the_batch_size_is_not_known():
    import tensorflow as tf

    specs = [tf.TensorSpec([None, 10]), tf.TensorSpec([None, 12])]
    graph = Graph([SoftmaxCrossEntropy("p", "t")], provided={"p", "t"})
    step = tf.function(lambda p, t: graph.run({"p": p, "t": t}), input_signature=specs, autograph=False)

    with pytest.raises(TensorError, match=r"'p' \[B, 10\] float32 and 't' \[B, 12\] float32"):
        step.get_concrete_function()


@pytest.mark.parametrize("smoothing", [-0.1, 1.1])
def test_smoothing_is_a_share(smoothing):
    with pytest.raises(DeclarationError, match="share from 0 to 1"):
        SoftmaxCrossEntropy("p", "t", label_smoothing=smoothing)


# The others


@pytest.mark.parametrize("op", [SigmoidCrossEntropy, MeanSquaredError, Huber])
@pytest.mark.parametrize("prediction, target", [((6, 1), (6,)), ((6,), (6, 1)), ((6, 3, 1), (6, 3))])
def test_a_last_axis_of_one_is_dropped_not_broadcast(op, prediction, target, rng):
    p = rng.normal(0, 1, prediction)
    t = rng.integers(0, 2, target)

    assert loss_of(op, p, t) == pytest.approx(loss_of(op, p.reshape(6, -1), t.reshape(6, -1)), rel=1e-6)


@pytest.mark.parametrize("op", [SigmoidCrossEntropy, MeanSquaredError, Huber])
@pytest.mark.parametrize("target", [(6, 3), (6,), (5, 2), (6, 2, 2)])
def test_different_shapes_are_refused_not_broadcast(call, op, target):
    with pytest.raises(TensorError, match=r"have the same shape\.\nIt was given 'p' \[6, 2\] float64 and 't' \["):
        call(op("p", "t"), {"p": SCORES, "t": np.zeros(target)})


def test_sigmoid_loss_is_exact_for_huge_logits_and_booleans(run_xla):
    logits = np.array([1e4, -1e4, 20.0, -30.0], "float32")

    result = run_xla(SigmoidCrossEntropy("p", "t"), {"p": logits, "t": np.array([False, False, True, False])})

    np.testing.assert_allclose(result, (1e4 + np.log1p(np.exp(-20.0)) + np.exp(-30.0)) / 4, rtol=1e-6)
    np.testing.assert_allclose(loss_of(SigmoidCrossEntropy, [20.0], [1.0]), np.log1p(np.exp(-20)), rtol=1e-5)


def test_sigmoid_gradients_are_right_at_zero():
    gradient = gradient_of(SigmoidCrossEntropy("p", "t"), [0.0, 0.0], np.array([0, 1]))

    np.testing.assert_allclose(gradient, [0.25, -0.25])


def test_unsigned_targets_do_not_wrap(run):
    result = run(MeanSquaredError("p", "t"), {"p": np.array([1, 2], "uint8"), "t": np.array([3, 255], "uint8")})

    np.testing.assert_allclose(result, (4 + 253**2) / 2)


@pytest.mark.parametrize("delta", [0.5, 3.0])
def test_huber_turns_linear_at_delta(run, delta):
    result = run(Huber("p", "t", delta=delta), {"p": 3 * SCORES, "t": TARGETS})

    np.testing.assert_allclose(result, huber(3 * SCORES, TARGETS, delta).mean(), rtol=1e-6)


@pytest.mark.parametrize("at, slope", [(-9.0, -2.0), (-2.0, -2.0), (0.0, 0.0), (1.0, 1.0), (2.0, 2.0), (1e30, 2.0)])
def test_hubers_slope_is_its_error_clipped_to_delta(at, slope):
    assert gradient_of(Huber("p", "t", delta=2.0), [at], np.zeros(1)) == pytest.approx(slope)


def test_huber_needs_a_delta_above_zero():
    with pytest.raises(DeclarationError, match="delta is 0"):
        Huber("p", "t", delta=0)


@pytest.mark.parametrize("weights", [np.ones(5), np.ones([6, 3]), np.ones([6, 2, 2]), np.float64(1)])
def test_weights_that_fit_nothing_are_named(call, weights):
    with pytest.raises(TensorError, match=r"leading axes(.|\n)*'w' \[.*\] float(.|\n)*one weight for each sample"):
        call(MeanSquaredError("p", "t", weight="w"), {"p": SCORES, "t": TARGETS, "w": weights})


# Their sum


def test_combined_losses_are_the_weighted_sum_and_keep_their_names(run_xla):
    tensors = {"a": np.array(2.0, "float16"), "b": np.array(3, "int32"), "c": np.array(5.0)}

    results = run_xla(CombineLosses({"a": 1.0, "b": 0.5}), tensors, "loss", "a", "b")

    assert (results["loss"], results["a"], results["b"], results["loss"].dtype) == (3.5, 2, 3, "float32")
    assert run_xla(CombineLosses(["a", "b", "c"], "total"), tensors, "total") == 10
    assert CombineLosses(["a"]).is_metric


def test_factors_may_be_changed_later(call):
    op = CombineLosses({"a": 1.0})
    op.parts["a"] = 3.0

    assert call(op, {"a": 2.0}) == 6


@pytest.mark.parametrize("parts, seen", [([], "none"), (["a", "a"], "a, a"), ({}, "none")])
def test_combining_nothing_or_one_thing_twice_is_refused(parts, seen):
    with pytest.raises(DeclarationError, match=seen):
        CombineLosses(parts)


def test_only_single_numbers_are_combined(call):
    with pytest.raises(TensorError, match=r"A loss is one number(.|\n)*'a' \[2\] float32\.\nWrite ops.Apply"):
        call(CombineLosses(["a"]), {"a": np.ones(2, "float32")})


@pytest.mark.tensorflow
def test_labels_are_smoothed_among_a_number_of_classes_that_is_not_known():
    import tensorflow as tf

    def step(logits, target):
        chunk = Chunk({"p": logits, "t": target}, mode=Mode.TRAIN)
        SoftmaxCrossEntropy("p", "t", label_smoothing=0.1)(chunk)
        return chunk["loss"]

    specs = [tf.TensorSpec([None, None]), tf.TensorSpec([None], tf.int32)]
    step = tf.function(step, input_signature=specs, autograph=False)
    assert float(step(tf.zeros([2, 4]), tf.constant([1, 3]))) == pytest.approx(np.log(4))


@pytest.mark.skipif(ON_JAX, reason="arrays of JAX hold no int64")
@pytest.mark.parametrize("missing", [-(2**63), 2**32, 2**63 - 1])
def test_ids_beyond_32_bits_are_no_classes(run, missing):
    ids = np.array([missing, 1])

    assert np.isnan(run(SoftmaxCrossEntropy("p", "t"), {"p": np.zeros([2, 3]), "t": ids}))
    np.testing.assert_array_equal(run(OneHot("t", 3), {"t": ids}), [[0, 0, 0], [0, 1, 0]])


def test_an_error_is_not_usual_without_end():
    with pytest.raises(DeclarationError, match="its delta is inf"):
        Huber("p", "t", delta=float("inf"))
