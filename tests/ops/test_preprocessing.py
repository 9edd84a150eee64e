"""Preprocessing against numpy in float64."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from experimentator.graph import Chunk, DeclarationError, Mode
from experimentator.ops import Cast, ExpandDims, OneHot, Scale, Standardize, TensorError

IMAGES = np.random.default_rng(1).integers(0, 256, (5, 4, 3, 2)).astype("uint8")


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int32", "uint8", "bool"])
def test_cast_writes_the_dtype_it_names(run_xla, dtype):
    result = run_xla(Cast("x", dtype), {"x": np.array([0.0, 1.0, 3.0], "float32")})

    assert result.dtype.name == dtype


def test_cast_takes_a_numpy_dtype():
    assert Cast("x", np.int64).dtype == "int64"


def test_cast_refuses_a_dtype_that_does_not_exist():
    with pytest.raises(DeclarationError, match=r"'flot32' is no dtype(.|\n)*Write 'float32'"):
        Cast("x", "flot32")


def test_scale_divides_integers_into_float32(run_xla):
    result = run_xla(Scale("x", 255.0), {"x": IMAGES})

    assert result.dtype == "float32"
    np.testing.assert_allclose(result, IMAGES / 255.0, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_scale_keeps_the_dtype_of_floats(run, dtype):
    result = run(Scale("x", 2), {"x": np.ones([3, 2], dtype)})

    assert result.dtype == dtype


def test_scale_refuses_to_divide_by_zero():
    with pytest.raises(DeclarationError, match="divides by 0"):
        Scale("x", 0)


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_standardize_gives_each_image_mean_0_and_deviation_1(run_xla, dtype):
    wide = IMAGES.astype("float64")
    mean, std = wide.mean(axis=(1, 2, 3), keepdims=True), wide.std(axis=(1, 2, 3), keepdims=True)

    result = run_xla(Standardize("x"), {"x": IMAGES.astype(dtype)})

    np.testing.assert_allclose(result, (wide - mean) / std, atol=1e-5)


def test_standardize_makes_a_plain_image_zero(run):
    result = run(Standardize("x"), {"x": np.full([2, 3, 3], 7, "uint8")})

    np.testing.assert_array_equal(result, 0)


def test_standardize_of_half_precision_is_computed_in_full(run):
    images = (IMAGES * 100.0).astype("float16")  # squares overflow half precision
    wide = images.astype("float64")

    result = run(Standardize("x"), {"x": images})

    assert result.dtype == "float16"
    expected = (wide - wide.mean(axis=(1, 2, 3), keepdims=True)) / wide.std(axis=(1, 2, 3), keepdims=True)
    np.testing.assert_allclose(result, expected, atol=2e-3)


@pytest.mark.parametrize("mean, std", [(3.0, 2.0), ([1.0, 2.0], [4.0, 8.0]), (np.float64(3), np.array([1, 2]))])
def test_standardize_by_given_values(run_xla, mean, std):
    result = run_xla(Standardize("x", mean, std), {"x": IMAGES})

    np.testing.assert_allclose(result, (IMAGES - np.array(mean)) / np.array(std), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "mean, std, seen", [(1.0, None, "one of mean and std"), (None, 1.0, "one of"), (0, [1, 0], "std is")]
)
def test_standardize_refuses_half_a_declaration(mean, std, seen):
    with pytest.raises(DeclarationError, match=seen):
        Standardize("x", mean, std)


def test_standardize_names_the_channels_it_was_given(call):
    with pytest.raises(
        TensorError, match=r"one for each channel\.\nIt was given 'x' \[5, 4, 3, 2\] uint8\.\nGive 2 of each"
    ):
        call(Standardize("x", [1, 2, 3], [1, 2, 3]), {"x": IMAGES})


def test_standardize_by_image_needs_an_image(call):
    with pytest.raises(TensorError, match="axes besides the batch"):
        call(Standardize("x"), {"x": np.ones(4)})


@pytest.mark.parametrize("axis", [-1, 0, 1, 3])
def test_expand_dims_is_numpys(run_xla, axis):
    result = run_xla(ExpandDims("x", axis), {"x": IMAGES[..., 0]})

    np.testing.assert_array_equal(result, np.expand_dims(IMAGES[..., 0], axis))


def test_expand_dims_says_which_axes_there_are(call):
    with pytest.raises(TensorError, match="Give an axis from -2 to 1"):
        call(ExpandDims("x", 2), {"x": np.ones(4)})


@pytest.mark.parametrize("dtype", ["uint8", "int64", "int32"])
@pytest.mark.parametrize("shape", [(6,), (2, 3)])
def test_one_hot_is_a_row_of_the_identity(run_xla, dtype, shape):
    ids = np.arange(6).reshape(shape) % 4

    result = run_xla(OneHot("x", 4), {"x": ids.astype(dtype)})

    np.testing.assert_array_equal(result, np.eye(4)[ids])


def test_one_hot_of_no_class_is_zeros(run):
    result = run(OneHot("x", 2, "int32"), {"x": np.array([-1, 2])})

    assert result.dtype == "int32"
    np.testing.assert_array_equal(result, np.zeros([2, 2]))


def test_one_hot_refuses_floats(call):
    with pytest.raises(
        TensorError, match=r"Class ids are integers(.|\n)*'x' \[2\] float32\.\nWrite ops.Cast\('x', 'int32'\)"
    ):
        call(OneHot("x", 4), {"x": np.ones(2, "float32")})


def test_one_hot_refuses_no_classes():
    with pytest.raises(DeclarationError, match="no classes"):
        OneHot("x", 0)


@pytest.mark.parametrize("op", [Cast, Scale, Standardize, ExpandDims])
def test_output_leaves_the_input_as_it_was(run, op):
    results = run(op("x", output="y"), {"x": IMAGES}, "x", "y")

    np.testing.assert_array_equal(results["x"], IMAGES)
    assert results["y"].size == IMAGES.size


@settings(deadline=None)  # a first call of a kernel is slow
@given(arrays.arrays("uint8", (3, 4, 2)))
def test_standardizing_shifted_images_changes_nothing(images):
    first, second = (Chunk({"x": images.astype("float32") + shift}, mode=Mode.ALL) for shift in (0, 64))

    Standardize("x")(first)
    Standardize("x")(second)

    np.testing.assert_allclose(first["x"], second["x"], atol=1e-3)


@settings(deadline=None)  # a first call of a kernel is slow
@given(st.integers(1, 12), st.data())
def test_one_hot_rows_sum_to_one_and_point_back(classes, data):
    ids = data.draw(arrays.arrays("int32", 5, elements=st.integers(0, classes - 1)))
    chunk = Chunk({"x": ids}, mode=Mode.ALL)

    OneHot("x", classes)(chunk)

    np.testing.assert_array_equal(np.argmax(np.asarray(chunk["x"]), -1), ids)
    np.testing.assert_array_equal(np.sum(np.asarray(chunk["x"]), -1), 1)


@pytest.mark.tensorflow
def test_the_number_of_channels_may_be_unknown():
    import tensorflow as tf

    def step(images):
        chunk = Chunk({"x": images}, mode=Mode.TRAIN)
        Standardize("x", mean=[1, 2], std=[4, 8])(chunk)
        return chunk["x"]

    step = tf.function(step, input_signature=[tf.TensorSpec([None, None, None])], autograph=False)
    np.testing.assert_array_equal(step(tf.constant([[[1.0, 6.0]]])), [[[0, 0.5]]])
