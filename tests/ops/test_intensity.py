"""Brightness, contrast, gamma and noise against their formulas."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experimentator.graph import Chunk, DeclarationError, Mode
from experimentator.ops import Gamma, Noise, RandomBrightness, RandomContrast, RandomRotation, TensorError
from tests.frameworks import gradients

RNG = np.random.default_rng(2)
FLOATS = RNG.uniform(0, 1, (4, 5, 6, 3)).astype("float32")
BYTES = RNG.integers(0, 256, (4, 5, 6, 3)).astype("uint8")
MANY = np.full([3000, 1, 1], 0.5, "float32")


def contrast(images, factor):
    mean = images.mean((1, 2), keepdims=True)
    return mean + factor * (images - mean)


CERTAIN = {
    "brightness": (RandomBrightness("x", (0.3, 0.3)), lambda x: x + 0.3),
    "contrast": (RandomContrast("x", (1.7, 1.7)), lambda x: contrast(x, 1.7)),
    "gamma": (Gamma("x", (1.5, 1.5)), lambda x: x**1.5),
    "no noise": (Noise("x", 0.0), lambda x: x),
}
certain = pytest.mark.parametrize("op, formula", CERTAIN.values(), ids=CERTAIN)


@certain
def test_a_certain_change_is_its_formula_clipped_to_the_range(run_xla, op, formula):
    np.testing.assert_allclose(run_xla(op, {"x": FLOATS}), formula(FLOATS).clip(0, 1), atol=1e-5)


@certain
def test_bytes_are_changed_as_their_shares_of_255_and_rounded(run, op, formula):
    result = run(op, {"x": BYTES})

    assert result.dtype == "uint8"
    assert np.abs(result - 255 * formula(BYTES / 255).clip(0, 1)).max() < 0.501


@pytest.mark.parametrize("op", [RandomBrightness("x", 0.0), RandomContrast("x", 0.0), Gamma("x", (1, 1))])
def test_no_amount_changes_nothing(run, op):
    np.testing.assert_array_equal(run(op, {"x": BYTES}), BYTES)


def test_brightness_is_uniform(call):
    changes = call(RandomBrightness("x", 0.4, seed=1), {"x": MANY})[:, 0, 0] - 0.5

    np.testing.assert_allclose(np.histogram(changes, 5, (-0.4, 0.4))[0] / 3000, 0.2, atol=0.035)


def test_contrast_factors_are_uniform(call):
    images = np.tile(np.array([[[0.4, 0.6]]]), (3000, 1, 1))

    factors = np.ptp(call(RandomContrast("x", 0.5, seed=1), {"x": images}), axis=(1, 2)) / 0.2

    np.testing.assert_allclose(np.histogram(factors, 5, (0.5, 1.5))[0] / 3000, 0.2, atol=0.035)


def test_gamma_brightens_as_often_as_it_darkens(call):
    exponents = np.log(call(Gamma("x", (0.5, 2.0), seed=1), {"x": MANY})[:, 0, 0]) / np.log(0.5)

    np.testing.assert_allclose(np.histogram(np.log2(exponents), 4, (-1, 1))[0] / 3000, 0.25, atol=0.035)


def test_noise_is_normal_and_of_its_own_in_every_value(run_xla):
    noise = run_xla(Noise("x", 0.1, seed=1), {"x": np.full([4, 40, 40, 3], 0.5, "float32")}) - 0.5

    assert (noise.mean(), noise.std()) == pytest.approx((0, 0.1), abs=0.004)
    assert np.mean(np.abs(noise) < 0.1) == pytest.approx(0.683, abs=0.02)
    assert len(np.unique(noise)) > 0.95 * noise.size


@settings(deadline=None, max_examples=25)  # a first call of a kernel is slow
@given(st.integers(0, 2**31 - 1), st.sampled_from([RandomBrightness, RandomContrast, Noise]), st.floats(0, 1))
def test_results_stay_in_range(seed, op, amount):
    chunk = Chunk({"x": FLOATS}, mode=Mode.TRAIN)

    op("x", amount, seed=seed)(chunk)

    values = np.asarray(chunk["x"])
    assert 0 <= values.min() <= values.max() <= 1


def test_another_range_may_be_given(run):
    result = run(RandomBrightness("x", (0.1, 0.1), scale=1000), {"x": np.array([[[0, 500, 950]]])})

    np.testing.assert_array_equal(result, [[[100, 600, 1000]]])


@pytest.mark.parametrize(
    "make, told",
    [
        (lambda: RandomBrightness("x", -1), "its amount is -1"),
        (lambda: RandomBrightness("x", (1, 0)), r"its amount is \(1, 0\)"),
        (lambda: RandomContrast("x", 2), r"its amount is 2\.\nGive the largest change"),
        (lambda: Gamma("x", (0, 1)), r"its exponents is \(0, 1\)\.\nGive \(least, largest\), above 0"),
        (lambda: Gamma("x", 2), "its exponents is 2"),
        (lambda: Noise("x", -0.1), "its deviation is -0.1"),
        (lambda: Noise("x", scale=0), "its scale is 0"),
    ],
)
def test_impossible_declarations_are_refused(make, told):
    with pytest.raises(DeclarationError, match=told):
        make()


@certain
def test_what_has_no_rows_and_columns_is_refused(call, op, formula):
    with pytest.raises(TensorError, match=r"rows and columns(.|\n)*'x' \[4, 4\] float64"):
        call(op, {"x": np.ones([4, 4])})


def test_an_amount_of_numpy_is_a_number_too():
    assert RandomContrast("x", np.float32(0.5))._factors() == RandomContrast("x", 0.5)._factors()


def test_black_has_a_gradient_where_tones_are_brightened():
    def total(images):
        chunk = Chunk({"x": images}, mode=Mode.TRAIN)
        Gamma("x", (0.5, 0.5))(chunk)
        return keras.ops.sum(chunk["x"])

    np.testing.assert_allclose(gradients(total, np.array([[[0.0, 0.25]]], "float32"))[0], [[[0, 1]]], rtol=1e-6)


def test_a_pixel_that_is_no_number_stays_none(call):
    assert np.isnan(call(Gamma("x", (0.5, 0.5)), {"x": np.full([1, 1, 1], np.nan, "float32")})).all()


@pytest.mark.parametrize("kind", [RandomBrightness, RandomContrast, Gamma, RandomRotation])
@pytest.mark.parametrize("given", [None, "ab", ("a", "b")])
def test_what_is_no_number_is_refused(kind, given):
    with pytest.raises(DeclarationError, match="Give "):
        kind("x", given)
