"""Confusion, precision and recall against scikit-learn and counting."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from sklearn import metrics

from experimentator.graph import Chunk, DeclarationError, Mode
from experimentator.ops import Accuracy, ArgMax, ConfusionMatrix, PrecisionRecall, TensorError

RNG = np.random.default_rng(14)
LOGITS = RNG.normal(size=(60, 4)).astype("float32")
IDS = RNG.integers(0, 4, 60)
WEIGHTS = RNG.uniform(0, 2, 60).astype("float32")
YES = RNG.integers(0, 2, (60, 4))
CONFUSED = metrics.confusion_matrix(IDS, LOGITS.argmax(-1))


@pytest.mark.parametrize("target", [IDS, IDS.astype("uint8")[:, None], np.eye(4)[IDS]])
def test_the_matrix_is_that_of_scikit_learn(run_xla, target):
    result = run_xla(ConfusionMatrix("p", "t", num_classes=4), {"p": LOGITS, "t": target})

    assert (result.shape, result.dtype) == ((4, 4), "float32")
    np.testing.assert_array_equal(result, CONFUSED)


def test_predicted_classes_are_counted_as_they_are(run_xla):
    processors = [ArgMax("p", output="c"), ConfusionMatrix("c", "t", num_classes=4)]

    np.testing.assert_array_equal(run_xla(processors, {"p": LOGITS, "t": IDS}, "confusion_matrix"), CONFUSED)


def test_weights_are_counted(run):
    result = run(ConfusionMatrix("p", "t", num_classes=4, weight="w"), {"p": LOGITS, "t": IDS, "w": WEIGHTS})

    expected = metrics.confusion_matrix(IDS, LOGITS.argmax(-1), sample_weight=WEIGHTS)
    np.testing.assert_allclose(result, expected, rtol=1e-5)


def test_every_pixel_may_have_a_class(run):
    tensors = {"p": LOGITS.reshape(3, 5, 4, 4), "t": IDS.reshape(3, 5, 4)}

    np.testing.assert_array_equal(run(ConfusionMatrix("p", "t", num_classes=4), tensors), CONFUSED)


def test_what_is_no_class_is_not_counted(run_xla):
    tensors = {"p": np.array([[1, 0], [np.nan, 0], [0, 1]]), "t": np.array([0, 0, 2])}

    np.testing.assert_array_equal(run_xla(ConfusionMatrix("p", "t", num_classes=2), tensors), [[1, 0], [0, 0]])
    tensors = {"p": np.array([0, 2, -1, 1]), "t": np.array([0, 0, 0, 1])}
    np.testing.assert_array_equal(run_xla(ConfusionMatrix("p", "t", num_classes=2), tensors), [[1, 0], [0, 1]])


@settings(deadline=None, max_examples=25)  # a first call of a kernel is slow
@given(
    arrays.arrays("float32", (9, 3), elements=st.integers(-2, 2)), arrays.arrays("int32", 9, elements=st.integers(0, 2))
)
def test_the_diagonal_is_the_accuracy(logits, ids):
    chunk = Chunk({"p": logits, "t": ids}, mode=Mode.EVAL)

    ConfusionMatrix("p", "t", num_classes=3)(chunk)
    Accuracy("p", "t")(chunk)

    matrix = np.asarray(chunk["confusion_matrix"])
    assert np.sum(matrix) == 9
    np.testing.assert_allclose(np.trace(matrix) / 9, chunk["accuracy"], rtol=1e-6)


def test_a_matrix_is_no_average():
    assert not ConfusionMatrix("p", "t", num_classes=2).is_metric
    assert PrecisionRecall("p", "t").is_metric


@pytest.mark.parametrize("weighted", [False, True])
def test_precision_and_recall_are_those_of_scikit_learn(run_xla, weighted):
    op = PrecisionRecall("p", "t", "pre", "rec", weight="w" if weighted else None)

    results = run_xla(op, {"p": LOGITS[:, 0], "t": YES[:, :1], "w": WEIGHTS})

    given = {"sample_weight": WEIGHTS if weighted else None}
    for name, score in (("pre", metrics.precision_score), ("rec", metrics.recall_score)):
        np.testing.assert_allclose(results[name], score(YES[:, 0], LOGITS[:, 0] > 0, **given), rtol=1e-5)


def test_many_questions_are_counted_together(run):
    results = run(PrecisionRecall("p", "t", threshold=0.5), {"p": LOGITS, "t": YES})

    np.testing.assert_allclose(
        results["precision"], metrics.precision_score(YES.ravel(), LOGITS.ravel() > 0.5), rtol=1e-6
    )


@pytest.mark.parametrize("logit, answer", [(-1.0, 1), (1.0, 0), (-1.0, 0), (np.nan, 1)])
def test_nothing_to_divide_by_is_zero(run_xla, logit, answer):
    results = run_xla(PrecisionRecall("p", "t"), {"p": np.array([logit]), "t": np.array([answer])})

    assert (results["precision"], results["recall"]) == (0, 0)


@pytest.mark.parametrize(
    "op, told",
    [
        (ConfusionMatrix("p", "t", num_classes=3), r"There are 3 classes(.|\n)*\[60, 4\](.|\n)*num_classes=4"),
        (ConfusionMatrix("p", "f", num_classes=4), r"Write ops.Cast\('f', 'int32'\)"),
        (PrecisionRecall("p", "t"), "same shape"),
    ],
)
def test_targets_that_do_not_fit_are_named(call, op, told):
    with pytest.raises(TensorError, match=told):
        call(op, {"p": LOGITS, "t": IDS, "f": IDS.astype("float32")})


def test_one_class_cannot_be_confused():
    with pytest.raises(DeclarationError, match="it has 1 classes"):
        ConfusionMatrix("p", "t", num_classes=1)


def test_a_class_that_is_certain_and_one_that_is_ruled_out_are_counted(run):
    logits = np.array([[np.inf, -np.inf], [np.nan, 0.0]])
    matrix = run(ConfusionMatrix("p", "t", num_classes=2), {"p": logits, "t": np.array([0, 0])})

    np.testing.assert_array_equal(matrix, [[1, 0], [0, 0]])


@pytest.mark.parametrize("mask", [None, "m"])
def test_large_batches_of_large_images_are_counted_to_the_end(call, mask):
    size = 2**24 + 2  # of which float32 counts 2^24
    tensors = {"p": np.ones([1, size], "float32"), "t": np.ones([1, size], bool), "m": np.ones(1, bool)}

    results = call(PrecisionRecall("p", "t", mask=mask), tensors, "precision.weight", "recall.weight")

    assert results == {"precision.weight": size, "recall.weight": size}
