"""Sizes and dtypes of images against numpy."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experimentator.graph import Chunk, DeclarationError, Mode
from experimentator.ops import CenterCrop, Pad, Resize, Scale, TensorError, ToUint8
from tests.frameworks import compiled, gradients

BYTES = np.random.default_rng(1).integers(0, 256, (2, 6, 9, 3)).astype("uint8")


def bilinear(images, size):
    """With pixels as areas: the middle of pixel i lies at (i + 1/2) / size of the image."""
    for axis, count in zip((1, 2), size):
        length = images.shape[axis]
        at = ((np.arange(count) + 0.5) * length / count - 0.5).clip(0, length - 1)
        low = np.floor(at).astype(int)
        share = (at - low).reshape([-1 if a == axis else 1 for a in range(images.ndim)])
        high = np.minimum(low + 1, length - 1)
        images = images.take(low, axis) * (1 - share) + images.take(high, axis) * share
    return images


@pytest.mark.parametrize("size", [(12, 18), (4, 5), (6, 9)])
def test_bilinear_resizing_is_its_formula(run_xla, size):
    images = BYTES.astype("float32")

    np.testing.assert_allclose(run_xla(Resize("x", size), {"x": images}), bilinear(images, size), atol=1e-2)


def test_bytes_are_resized_and_rounded(run):
    result = run(Resize("x", [4, 18]), {"x": BYTES})

    assert result.dtype == "uint8"
    assert np.abs(result - bilinear(BYTES.astype("float64"), (4, 18))).max() < 0.51


@pytest.mark.parametrize("images", [BYTES, BYTES[..., 0].astype("float16")])
def test_nearest_repeats_pixels(run, images):
    result = run(Resize("x", (12, 27), "nearest"), {"x": images})

    np.testing.assert_array_equal(result, images.repeat(2, 1).repeat(3, 2))


@pytest.mark.parametrize("dtype", ["int32", "int64", "float64", "bool"])
def test_nearest_pixels_keep_every_bit(run_xla, dtype):
    images = (2**24 + 1 + np.arange(12).reshape(2, 2, 3)).astype(dtype)

    result = run_xla(Resize("x", (3, 2), "nearest"), {"x": images})

    assert result.dtype == dtype
    np.testing.assert_array_equal(result, images[:, [0, 1, 1]][:, :, [0, 2]])


def test_the_nearest_pixel_has_the_gradient():
    def total(images):
        chunk = Chunk({"x": images}, mode=Mode.TRAIN)
        Resize("x", (2, 3), "nearest")(chunk)
        return keras.ops.sum(chunk["x"])

    slopes = gradients(compiled(total), np.ones([1, 1, 2, 1], "float32"))[0]

    np.testing.assert_array_equal(slopes.ravel(), [2, 4])


def test_the_largest_integer_stays_large(run):
    largest = np.full([1, 2, 2], 2**31 - 1, "int32")

    assert run(Resize("x", (4, 4)), {"x": largest}).min() > 2**31 - 200


@pytest.mark.parametrize(
    "padding, sides", [(2, (2, 2, 2, 2)), ((1, 0), (1, 1, 0, 0)), ([(1, 2), (3, 0)], (1, 2, 3, 0))]
)
def test_padding_is_that_of_numpy(run_xla, padding, sides):
    expected = np.pad(BYTES, ((0, 0), sides[:2], sides[2:], (0, 0)), constant_values=9)

    np.testing.assert_array_equal(run_xla(Pad("x", padding, value=9), {"x": BYTES}), expected)


@settings(deadline=None, max_examples=25)  # a first call of a kernel is slow
@given(st.integers(0, 4), st.integers(0, 4))
def test_cropping_undoes_padding(rows, columns):
    chunk = Chunk({"x": BYTES}, mode=Mode.ALL)

    Pad("x", (rows, columns))(chunk)
    CenterCrop("x", BYTES.shape[1:3])(chunk)

    np.testing.assert_array_equal(chunk["x"], BYTES)


def test_the_middle_is_cut_out(run_xla):
    np.testing.assert_array_equal(run_xla(CenterCrop("x", (2, 4)), {"x": BYTES}), BYTES[:, 2:4, 2:6])


@pytest.mark.tensorflow
def test_sizes_may_be_unknown():
    import tensorflow as tf

    def step(images):
        chunk = Chunk({"x": images}, mode=Mode.ALL)
        for op in (Pad("x", 2), CenterCrop("x", (3, 4)), Resize("x", (2, 2))):
            op(chunk)
        return chunk["x"]

    step = tf.function(step, input_signature=[tf.TensorSpec([None, None, None, 3], "uint8")], autograph=False)
    assert step(tf.constant(BYTES)).shape == (2, 2, 2, 3)


def test_bytes_survive_scaling_and_back(run_xla):
    every = np.arange(256, dtype="uint8")

    np.testing.assert_array_equal(run_xla([Scale("x"), ToUint8("x")], {"x": every}, "x"), every)


def test_values_beyond_are_clipped_and_nan_is_black(run_xla):
    values = np.array([-0.5, 1.5, np.nan, np.inf, 0.25], "float32")

    np.testing.assert_array_equal(run_xla(ToUint8("x", 100), {"x": values}), [0, 150, 0, 255, 25])


@pytest.mark.parametrize(
    "make, told",
    [
        (lambda: Resize("x", 4), r"its size is 4\.\nGive \(height, width\)"),
        (lambda: Resize("x", (4, 4), "cubic"), "no interpolation 'cubic'"),
        (lambda: CenterCrop("x", (0, 4)), r"its size is \(0, 4\)"),
        (lambda: Pad("x", -1), "its padding is -1"),
        (lambda: Pad("x", (1, 2, 3)), "its padding is"),
        (lambda: ToUint8("x", 0), "its scale is 0"),
    ],
)
def test_impossible_declarations_are_refused(make, told):
    with pytest.raises(DeclarationError, match=told):
        make()


@pytest.mark.parametrize("op", [Resize("x", (2, 2)), Pad("x", 1), CenterCrop("x", (2, 2))])
def test_what_is_no_image_is_refused(call, op):
    with pytest.raises(TensorError, match=r"Images (.|\n)*'x' \[4, 4\] float64"):
        call(op, {"x": np.ones([4, 4])})


def test_a_window_larger_than_the_image_is_refused(call):
    with pytest.raises(TensorError, match=r"fits its image(.|\n)*write Pad above"):
        call(CenterCrop("x", (7, 2)), {"x": BYTES})


def test_booleans_are_the_nearest_when_they_are_resized(run):
    image = np.array([[[False, True, True, False]]])

    assert run(Resize("x", (1, 8)), {"x": image})[0, 0].astype(int).tolist() == [0, 0, 1, 1, 1, 1, 0, 0]


@pytest.mark.parametrize("given", [np.int64(1), np.array([1, 1]), [1, (1, 1)]])
def test_a_padding_may_be_of_numpy(run, given):
    assert run(Pad("x", given), {"x": np.ones([1, 2, 2])}).shape == (1, 4, 4)


@pytest.mark.parametrize("given", [None, 2.5, ((1.5, 2), (0, 0)), "ab"])
def test_a_padding_of_another_form_is_refused(given):
    with pytest.raises(DeclarationError, match="its padding is"):
        Pad("x", given)
