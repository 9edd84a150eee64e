"""Activations against numpy in float64."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from experimentator.graph import Chunk, Mode
from experimentator.ops import ArgMax, Sigmoid, Softmax

LOGITS = np.random.default_rng(2).normal(0, 10, (5, 3, 4))


def softmax(x, axis=-1):
    powers = np.exp(x - x.max(axis=axis, keepdims=True))
    return powers / powers.sum(axis=axis, keepdims=True)


def test_sigmoid_is_the_logistic_function(run_xla):
    result = run_xla(Sigmoid("x"), {"x": LOGITS.astype("float32")})

    np.testing.assert_allclose(result, 1 / (1 + np.exp(-LOGITS)), rtol=1e-5)


@pytest.mark.parametrize("axis", [-1, 1])
def test_softmax_is_the_normalized_exponential(run_xla, axis):
    result = run_xla(Softmax("x", axis), {"x": LOGITS.astype("float32")})

    np.testing.assert_allclose(result, softmax(LOGITS, axis), rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("op", [Sigmoid, Softmax])
@pytest.mark.parametrize("given, written", [("float16", "float16"), ("float32", "float32"), ("int32", "float32")])
def test_scores_are_floats(run, op, given, written):
    assert run(op("x"), {"x": LOGITS[:, 0].astype(given)}).dtype == written


def test_scores_of_huge_logits_are_finite(run_xla):
    huge = {"x": np.array([[1e4, -1e4], [3e38, 3e38]], "float32")}

    np.testing.assert_array_equal(run_xla(Softmax("x"), huge), [[1, 0], [0.5, 0.5]])
    np.testing.assert_array_equal(run_xla(Sigmoid("x"), huge), [[1, 0], [1, 1]])


@pytest.mark.parametrize("axis", [-1, 1])
def test_argmax_is_int32_and_numpys(run_xla, axis):
    result = run_xla(ArgMax("x", axis, output="class"), {"x": LOGITS})

    assert result.dtype == "int32"
    np.testing.assert_array_equal(result, LOGITS.argmax(axis))


@pytest.mark.parametrize("values", [[[1.0, np.nan, 3.0]], [[np.nan, np.nan]], [[1.0, 3.0, 3.0]], [[-np.inf, -np.inf]]])
def test_argmax_of_what_is_no_number_and_of_equals_is_numpys(run_xla, values):
    values = np.array(values, "float32")
    assert run_xla(ArgMax("x", output="class"), {"x": values}).tolist() == values.argmax(-1).tolist()


@pytest.mark.parametrize("dtype", ["int64", "uint8", "int32"])
def test_argmax_of_integers_is_numpys(run_xla, dtype):
    values = np.array([[3, 200, 100], [7, 7, 1]]).astype(dtype)
    assert run_xla(ArgMax("x", output="class"), {"x": values}).tolist() == [1, 0]


@settings(deadline=None)  # a first call of a kernel is slow
@given(arrays.arrays("float32", (4, 3), elements=st.floats(-1e4, 1e4, width=32)))
def test_softmax_sums_to_one_and_keeps_the_order(logits):
    chunk = Chunk({"x": logits}, mode=Mode.ALL)

    Softmax("x")(chunk)

    scores = np.asarray(chunk["x"])
    np.testing.assert_allclose(scores.sum(-1), 1, rtol=1e-5)
    assert np.all(np.diff(np.take_along_axis(scores, logits.argsort(-1), -1)) >= 0)


def test_a_batch_without_rows_has_classes(run):
    classes = run(ArgMax("x"), {"x": np.zeros([0, 3], "float32")})

    assert (classes.shape, classes.dtype) == ((0,), "int32")
