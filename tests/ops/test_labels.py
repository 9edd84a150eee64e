"""What has no label: loss and gradients are those of the batch without it, whatever stands there."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experimentator.graph import Chunk, DeclarationError, Graph, Mode
from experimentator.ops import (
    Accuracy,
    ConfusionMatrix,
    Contrastive,
    Dice,
    Focal,
    Huber,
    MeanAbsoluteError,
    MeanSquaredError,
    PrecisionRecall,
    SigmoidCrossEntropy,
    SoftmaxCrossEntropy,
    TensorError,
    TopKAccuracy,
    Triplet,
)
from tests.frameworks import compiled, value_and_gradients

RNG = np.random.default_rng(11)
LOGITS = RNG.normal(0, 2, (8, 5)).astype("float32")
MAPS = RNG.normal(0, 2, (8, 4, 3)).astype("float32")
NUMBERS = RNG.normal(0, 2, (8, 5)).astype("float32")
YES = RNG.integers(0, 2, (8, 5)).astype("float32")
IDS = RNG.integers(0, 5, 8).astype("float32")
PIXELS = (IDS[:, None] % [1, 2, 3, 3]).astype("float32")
ROWS = RNG.dirichlet(np.ones(5), 8).astype("float32")
WEIGHTS = RNG.uniform(0.1, 2, 8).astype("float32")

LOSSES = {
    "softmax of ids": (lambda **options: SoftmaxCrossEntropy("p", "t", **options), LOGITS, IDS),
    "softmax of one more axis": (lambda **options: SoftmaxCrossEntropy("p", "t", **options), LOGITS, IDS[:, None]),
    "softmax of rows": (lambda **options: SoftmaxCrossEntropy("p", "t", **options), LOGITS, ROWS),
    "softmax of pixels": (lambda **options: SoftmaxCrossEntropy("p", "t", **options), MAPS, PIXELS),
    "softmax by class": (
        lambda **options: SoftmaxCrossEntropy("p", "t", class_weights=[1, 2, 3, 0.5, 0], **options), LOGITS, IDS),
    "sigmoid": (lambda **options: SigmoidCrossEntropy("p", "t", **options), LOGITS, YES),
    "sigmoid by answer": (
        lambda **options: SigmoidCrossEntropy("p", "t", class_weights=[1, 3], **options), LOGITS, YES),
    "squared": (lambda **options: MeanSquaredError("p", "t", **options), LOGITS, NUMBERS),
    "squared of a column": (lambda **options: MeanSquaredError("p", "t", **options), LOGITS[:, :1], NUMBERS[:, 0]),
    "squared with a column": (lambda **options: MeanSquaredError("p", "t", **options), LOGITS[:, 0], NUMBERS[:, :1]),
    "huber": (lambda **options: Huber("p", "t", **options), LOGITS, NUMBERS),
    "absolute": (lambda **options: MeanAbsoluteError("p", "t", "loss", **options), LOGITS, NUMBERS),
    "focal": (lambda **options: Focal("p", "t", **options), LOGITS, YES),
    "focal of ids": (lambda **options: Focal("p", "t", gamma=0.5, **options), LOGITS, IDS),
    "dice": (lambda **options: Dice("p", "t", **options), MAPS, (MAPS > 1).astype("float32")),
    "dice of ids": (lambda **options: Dice("p", "t", **options), MAPS, RNG.integers(0, 3, (8, 4)).astype("float32")),
    "contrastive": (lambda **options: Contrastive("p", "t", **options), LOGITS, NUMBERS),
    "triplet": (lambda **options: Triplet("p", "t", "n", margin=9.0, **options), LOGITS, NUMBERS),
}  # fmt: skip
every_loss = pytest.mark.parametrize("make, prediction, target", LOSSES.values(), ids=LOSSES)
KEPT = np.array([True, False, True, True, False, False, True, True])


def loss_and_gradient(op, tensors, *, jit=None):
    """Under XLA, or eagerly without a `jit`."""

    def loss(prediction):
        chunk = Chunk({**tensors, "n": -np.asarray(tensors["t"]), "p": prediction}, mode=Mode.TRAIN)
        op(chunk)
        return chunk["loss"]

    loss = compiled(loss) if jit else loss
    return value_and_gradients(loss, tensors["p"])


def without(rows, **tensors):
    return {name: tensor[rows] for name, tensor in tensors.items()}


def whole(target):
    """Class ids as they come where none is missing."""
    return target.astype("int32") if np.array_equal(target, np.round(target)) else target


@every_loss
@pytest.mark.parametrize("jit, junk", [(False, 3.0), (False, np.inf), (True, np.nan)])
def test_masked_rows_count_as_if_they_were_not_there(make, prediction, target, jit, junk):
    p = np.where(KEPT.reshape([-1] + [1] * (prediction.ndim - 1)), prediction, np.float32(junk))

    loss, gradient = loss_and_gradient(make(mask="m"), {"p": p, "t": whole(target), "m": KEPT}, jit=jit)

    expected, slopes = loss_and_gradient(make(), without(KEPT, p=prediction, t=whole(target)))
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(gradient[KEPT], slopes, rtol=1e-4, atol=1e-6)
    assert np.all(gradient[~KEPT] == 0)


@every_loss
@pytest.mark.parametrize("jit", [False, True])
def test_rows_with_nan_for_a_target_count_as_if_they_were_not_there(make, prediction, target, jit):
    t = np.where(KEPT.reshape([-1] + [1] * (target.ndim - 1)), target, np.nan).astype("float32")

    loss, gradient = loss_and_gradient(make(nan_is_no_label=True), {"p": prediction, "t": t}, jit=jit)

    expected, slopes = loss_and_gradient(make(), without(KEPT, p=prediction, t=whole(target)))
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(gradient[KEPT], slopes, rtol=1e-4, atol=1e-6)
    assert np.all(gradient[~KEPT] == 0)


@every_loss
def test_weights_and_masks_go_together(make, prediction, target):
    tensors = {"p": prediction, "t": whole(target), "w": np.where(KEPT, WEIGHTS, np.nan)}

    loss, gradient = loss_and_gradient(make(mask="m", weight="w"), {**tensors, "m": KEPT})

    expected, slopes = loss_and_gradient(make(weight="w"), without(KEPT, **tensors))
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(gradient[KEPT], slopes, rtol=1e-4, atol=1e-6)


@every_loss
def test_without_any_label_loss_and_gradients_are_zero(make, prediction, target):
    tensors = {"p": prediction, "t": whole(target), "m": np.zeros(8, bool)}

    loss, gradient = loss_and_gradient(make(mask="m"), tensors)

    assert loss == 0
    assert np.all(gradient == 0)


@every_loss
def test_a_mask_that_holds_everywhere_masks_nothing(make, prediction, target):
    tensors = {"p": prediction, "t": whole(target)}

    masked = loss_and_gradient(make(mask="m", nan_is_no_label=True), {**tensors, "m": np.ones(8, bool)})

    for value, expected in zip(masked, loss_and_gradient(make(), tensors)):
        np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-7)


@settings(deadline=None, max_examples=40)  # a first call of a kernel is slow
@given(st.sampled_from(sorted(LOSSES)), st.lists(st.booleans(), min_size=8, max_size=8).filter(any))
def test_masking_equals_leaving_out_for_any_mask(name, kept):
    make, prediction, target = LOSSES[name]
    kept, tensors = np.array(kept), {"p": prediction, "t": whole(target)}

    loss, gradient = loss_and_gradient(make(mask="m"), {**tensors, "m": kept})

    expected, slopes = loss_and_gradient(make(), without(kept, **tensors))
    np.testing.assert_allclose(loss, expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(gradient[kept], slopes, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("op", [MeanSquaredError, Huber, SigmoidCrossEntropy, Focal, MeanAbsoluteError])
def test_single_values_may_miss(op):
    kept = RNG.integers(0, 2, YES.shape).astype(bool)
    t = np.where(kept, YES, np.nan).astype("float32")

    loss, gradient = loss_and_gradient(op("p", "t", "loss", nan_is_no_label=True), {"p": LOGITS, "t": t})

    expected, slopes = loss_and_gradient(op("p", "t", "loss"), {"p": LOGITS[kept], "t": YES[kept]})
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(gradient[kept], slopes, rtol=1e-4)


def test_pixels_without_a_label_do_not_overlap():
    t = (MAPS > 0).astype("float32")
    t[:, 2:] = np.nan

    loss, gradient = loss_and_gradient(Dice("p", "t", nan_is_no_label=True), {"p": MAPS, "t": t})

    expected, slopes = loss_and_gradient(Dice("p", "t"), {"p": MAPS[:, :2], "t": t[:, :2]})
    np.testing.assert_allclose((loss, gradient[:, 2:].any()), (expected, 0), rtol=1e-5)
    np.testing.assert_allclose(gradient[:, :2], slopes, rtol=1e-4)


METRICS = {
    "accuracy": (Accuracy, {}, LOGITS, IDS),
    "top 2": (TopKAccuracy, {"k": 2}, LOGITS, IDS),
    "yes or no": (Accuracy, {}, LOGITS[:, :1], YES[:, 0]),
    "precision": (PrecisionRecall, {}, LOGITS, YES),
    "confusion": (ConfusionMatrix, {"num_classes": 5}, LOGITS, IDS),
}


@pytest.mark.parametrize("op, options, prediction, target", METRICS.values(), ids=METRICS)
def test_metrics_leave_out_what_has_no_label(run_xla, op, options, prediction, target):
    t = np.where(KEPT.reshape([-1] + [1] * (target.ndim - 1)), target, np.nan).astype("float32")
    name = op("p", "t", **options).outputs[0]

    for missing in ({"mask": "m"}, {"nan_is_no_label": True}):
        given = {"p": prediction, "t": whole(target) if "mask" in missing else t, "m": KEPT}
        result = run_xla(op("p", "t", **options, **missing), given, name)
        expected = run_xla(op("p", "t", **options), without(KEPT, p=prediction, t=whole(target)), name)
        np.testing.assert_allclose(result, expected, rtol=1e-6)


def test_masks_are_read():
    assert Huber("p", "t", weight="w", mask="m").inputs == ("p", "t", "w", "m")


def test_nan_stays_nan_unless_it_is_said_to_be_no_label(run):
    assert np.isnan(run(MeanSquaredError("p", "t"), {"p": np.ones(2), "t": np.array([1, np.nan])}))


@pytest.mark.parametrize("wrong", [0.5, -1.0, 5.0])
def test_a_float_that_is_no_class_makes_the_loss_nan(run, wrong):
    op = SoftmaxCrossEntropy("p", "t", nan_is_no_label=True)

    assert np.isnan(run(op, {"p": LOGITS[:2], "t": np.array([1, wrong])}))


@pytest.mark.parametrize("mask", [np.ones(7, bool), np.array(True), np.ones([8, 4], bool)])
def test_masks_that_fit_nothing_are_named(call, mask):
    with pytest.raises(TensorError, match=r"A mask is bool(.|\n)*'m' \[.*\] bool(.|\n)*nan_is_no_label"):
        call(MeanSquaredError("p", "t", mask="m"), {"p": LOGITS, "t": NUMBERS, "m": mask})


def test_a_mask_of_floats_is_refused_with_what_makes_one_of_it(call):
    with pytest.raises(TensorError, match=r"'m' \[8\] float64(.|\n)*ops.Cast\('m', \"bool\"\)(.|\n)*weight='m'"):
        call(MeanSquaredError("p", "t", mask="m"), {"p": LOGITS, "t": NUMBERS, "m": np.ones(8)})


def test_shapes_that_do_not_fit_are_named_with_missing_labels_too(call):
    with pytest.raises(TensorError, match=r"'p' \[8, 5\] float32 and 't' \[8, 3\] float64"):
        call(MeanSquaredError("p", "t", nan_is_no_label=True), {"p": LOGITS, "t": np.ones([8, 3])})


@pytest.mark.tensorflow
def test_the_batch_size_may_be_unknown():
    import tensorflow as tf

    specs = {"p": tf.TensorSpec([None, 5]), "t": tf.TensorSpec([None, 1]), "m": tf.TensorSpec([None], "bool")}
    op = SoftmaxCrossEntropy("p", "t", mask="m", nan_is_no_label=True)
    graph = Graph([op], provided=set(specs), mode=Mode.TRAIN).select("loss")

    step = tf.function(graph.run, input_signature=[specs], autograph=False, jit_compile=True)

    tensors = {"p": LOGITS, "t": IDS[:, None], "m": KEPT}
    expected = loss_and_gradient(op, tensors)[0]
    np.testing.assert_allclose(step({k: tf.constant(v) for k, v in tensors.items()})["loss"], expected, rtol=1e-6)


# Weights of classes


@pytest.mark.parametrize("target", [IDS.astype("int32"), np.eye(5)[IDS.astype(int)], ROWS])
def test_samples_weigh_what_their_classes_do(run_xla, target):
    factors = np.array([1.0, 2.0, 0.0, 0.5, 3.0])
    rows = target if target.ndim == 2 else np.eye(5)[target]
    losses = -np.sum(rows * (LOGITS - np.log(np.exp(LOGITS).sum(-1, keepdims=True))), -1)

    op = SoftmaxCrossEntropy("p", "t", class_weights=factors.tolist(), weight="w")
    result = run_xla(op, {"p": LOGITS, "t": target, "w": WEIGHTS})

    np.testing.assert_allclose(result, np.average(losses, weights=WEIGHTS * (rows @ factors)), rtol=1e-5)


def test_no_and_yes_may_weigh_differently(run):
    scores = 1 / (1 + np.exp(-LOGITS))
    losses = -np.where(YES, np.log(scores), np.log(1 - scores))

    result = run(SigmoidCrossEntropy("p", "t", class_weights=[1, 4]), {"p": LOGITS, "t": YES})

    np.testing.assert_allclose(result, np.average(losses, weights=np.where(YES, 4, 1)), rtol=1e-5)


@pytest.mark.parametrize(
    "given", [{2: 3.0, 0: 1.0, 1: 2.0, 3: 0.5, 4: 0.0}, np.array([1.0, 2.0, 3.0, 0.5, 0.0])], ids=type
)
def test_class_weights_may_be_a_dictionary_or_an_array(call, given):
    tensors = {"p": LOGITS, "t": IDS.astype(int)}

    listed = call(SoftmaxCrossEntropy("p", "t", class_weights=[1, 2, 3, 0.5, 0]), tensors)

    assert call(SoftmaxCrossEntropy("p", "t", class_weights=given), tensors) == listed


REFUSED = [
    "balanced",
    3,
    [1],
    [1, None, 3],
    [1, np.nan],
    [1, np.inf],
    [[1, 2], [3, 4]],
    {0: 1, 2: 3},
    {"cat": 1, "dog": 2},
]


@pytest.mark.parametrize("given", REFUSED, ids=str)
def test_class_weights_are_one_number_for_each_class(given):
    with pytest.raises(DeclarationError, match=r"its class_weights are (.|\n)*Give one number for each class"):
        SoftmaxCrossEntropy("p", "t", class_weights=given)


@pytest.mark.parametrize("op", [SoftmaxCrossEntropy, SigmoidCrossEntropy])
def test_there_is_one_class_weight_for_each_class(call, op):
    target = IDS.astype(int) if op is SoftmaxCrossEntropy else YES

    with pytest.raises(TensorError, match=r"There are 3 class_weights(.|\n)*Give . class_weights"):
        call(op("p", "t", class_weights=[1, 2, 3]), {"p": LOGITS, "t": target})


def test_a_mask_that_layers_hand_on_is_told_once_where_the_loss_knows_of_none(caplog):
    tokens = np.array([[1, 2, 0], [3, 0, 0]])
    logits = keras.layers.Dense(4)(keras.layers.Embedding(4, 2, mask_zero=True)(tokens))
    chunk = Chunk({"logits": logits, "target": tokens, "known": tokens != 0}, mode=Mode.TRAIN)
    SoftmaxCrossEntropy("logits", "target", mask="known")(chunk)
    assert not caplog.records

    loss = SoftmaxCrossEntropy("logits", "target")
    loss(chunk)
    loss(chunk)

    (record,) = caplog.records
    assert "counts every value of 'logits', which carries a Keras mask" in record.getMessage()
