"""Rotation against numpy's quarter turns and planes."""

import numpy as np
import pytest

from experimentator.graph import DeclarationError
from experimentator.ops import RandomRotation

IMAGES = np.random.default_rng(1).integers(0, 255, (3, 6, 6, 2)).astype("uint8")


@pytest.mark.parametrize("interpolation", ["bilinear", "nearest"])
@pytest.mark.parametrize("quarters", [0, 1, 2, -1])
def test_quarter_turns_are_exact_and_counterclockwise(run, quarters, interpolation):
    op = RandomRotation("x", (90 * quarters, 90 * quarters), interpolation)

    np.testing.assert_array_equal(run(op, {"x": IMAGES}), np.rot90(IMAGES, quarters, axes=(1, 2)))


def test_nearest_pixels_keep_every_bit(run_xla):
    labels = (2**24 + 1 + np.arange(36).reshape(1, 6, 6)).astype("int32")

    result = run_xla(RandomRotation("x", (90, 90), "nearest"), {"x": labels})

    np.testing.assert_array_equal(result, np.rot90(labels, 1, axes=(1, 2)))


def test_half_a_turn_suits_images_that_are_not_square(run_xla):
    images = IMAGES[:, :5, :, 0].astype("float32")

    np.testing.assert_allclose(
        run_xla(RandomRotation("x", (180, 180)), {"x": images}), images[:, ::-1, ::-1], atol=1e-3
    )


def test_a_plane_stays_a_plane(run_xla):
    row, column = np.mgrid[:21, :21] - 10.0
    angle = np.radians(30)

    result = run_xla(RandomRotation("x", (30, 30)), {"x": (3 * row + column)[None]})[0]

    expected = 3 * (column * np.sin(angle) + row * np.cos(angle)) + column * np.cos(angle) - row * np.sin(angle)
    inside = np.hypot(row, column) < 9
    np.testing.assert_allclose(result[inside], expected[inside], atol=1e-4)


def test_what_comes_from_outside_is_filled(run):
    result = run(RandomRotation("x", (45, 45), fill=7), {"x": np.ones([2, 9, 9, 1], "int32")})

    assert (result[:, [0, 0, 8, 8], [0, 8, 0, 8]] == 7).all()
    assert (result[:, 4] == 1).all()


def test_angles_are_equally_likely_up_to_the_largest(call):
    ramp = np.tile(np.arange(-8.0, 9)[None, None, :], (2000, 17, 1))

    result = call(RandomRotation("x", 60, seed=3), {"x": ramp})

    sines = (result[:, 9, 8] - result[:, 7, 8]) / 2  # of one column, down the rows
    angles = np.degrees(np.arcsin(-sines))
    np.testing.assert_allclose(np.histogram(angles, 6, (-60, 60))[0] / 2000, 1 / 6, atol=0.04)


@pytest.mark.parametrize("degrees", [-10, (20, 10), (1, 2, 3)])
def test_angles_come_in_order(degrees):
    with pytest.raises(DeclarationError, match=r"its degrees are(.|\n)*the largest angle"):
        RandomRotation("x", degrees)


def test_interpolations_without_an_xla_form_are_refused():
    with pytest.raises(DeclarationError, match=r"no interpolation 'bicubic'\.\nWrite one of 'bilinear', 'nearest'"):
        RandomRotation("x", 10, "bicubic")
