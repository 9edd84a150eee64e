"""Heat maps and their peaks, and pooling, against numpy."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from experimentator.graph import Chunk, DeclarationError, Mode
from experimentator.ops import GlobalAveragePool, GlobalMaxPool, Heatmap, TensorError, TopKPeaks
from tests.frameworks import gradients

RNG = np.random.default_rng(8)
POINTS = RNG.uniform(-2, 14, (3, 4, 2)).astype("float32")
MAPS = RNG.permutation(2 * 9 * 8 * 3).reshape(2, 9, 8, 3).astype("float32")


def bells(points, size, sigma):
    rows, columns = np.mgrid[: size[0], : size[1]][..., None]
    squares = (rows - points[:, None, None, :, 0]) ** 2 + (columns - points[:, None, None, :, 1]) ** 2
    return np.exp(-squares / (2 * sigma**2))


def peaks_by_hand(image, radius):
    """(value, row, column, channel) of each, strongest first."""
    found = []
    for row, column, channel in np.ndindex(*image.shape):
        window = image[max(0, row - radius) : row + radius + 1, max(0, column - radius) : column + radius + 1, channel]
        value = image[row, column, channel]
        if value == window.max() and np.sum(window == value) == 1:
            found.append((value, row, column, channel))
    return sorted(found, reverse=True)


@pytest.mark.parametrize("sigma", [0.7, 2.0])
def test_each_point_has_a_bell(run_xla, sigma):
    result = run_xla(Heatmap("x", (10, 13), sigma), {"x": POINTS})

    assert (result.shape, result.dtype) == ((3, 10, 13, 4), "float32")
    np.testing.assert_allclose(result, bells(POINTS, (10, 13), sigma), atol=1e-6)


def test_merged_bells_are_the_largest(run):
    result = run(Heatmap("x", (10, 13), merged=True), {"x": POINTS})

    np.testing.assert_allclose(result, bells(POINTS, (10, 13), 2.0).max(-1), atol=1e-6)


def test_a_merged_map_of_no_points_is_empty(run_xla):
    result = run_xla(Heatmap("x", (4, 5), merged=True), {"x": np.zeros((2, 0, 2), "float32")})

    np.testing.assert_array_equal(result, np.zeros((2, 4, 5)))


@pytest.mark.parametrize("missing", [(np.nan, np.nan), (1.0, np.nan), (np.nan, 1.0)])
def test_nan_is_no_point(run_xla, missing):
    points = np.array([[missing, (2.0, 3.0)]])

    result = run_xla(Heatmap("x", (5, 5)), {"x": points})

    assert (result[..., 0] == 0).all()
    np.testing.assert_array_equal(run_xla(Heatmap("x", (5, 5), merged=True), {"x": points}), result[..., 1])


@pytest.mark.parametrize("radius", [1, 2])
def test_peaks_are_found_strongest_first(run_xla, radius):
    results = run_xla(TopKPeaks("x", k=5, channels="c", radius=radius), {"x": MAPS})

    for image, position, value, channel in zip(
        MAPS, *(results[name] for name in ("batch_positions", "batch_values", "c"))
    ):
        found = zip(value, *position.T, channel)
        np.testing.assert_array_equal(list(found), peaks_by_hand(image, radius)[:5])


def test_fewer_peaks_than_asked_for_leave_nan(run_xla):
    results = run_xla(TopKPeaks("x", "p", "v", k=3, channels="c"), {"x": np.array([[[0.0, 5, 0]]])})

    np.testing.assert_array_equal(results["p"], [[[0, 1], [np.nan, np.nan], [np.nan, np.nan]]])
    np.testing.assert_array_equal(results["v"], [[5, np.nan, np.nan]])
    np.testing.assert_array_equal(results["c"], [[0, -1, -1]])


def test_a_flat_image_has_one_peak(run):
    results = run(TopKPeaks("x", "p", "v", k=2), {"x": np.full([1, 4, 4, 1], -3.0)})

    np.testing.assert_array_equal(results["p"], [[[0, 0], [np.nan, np.nan]]])
    np.testing.assert_array_equal(results["v"], [[-3, np.nan]])


@settings(deadline=None, max_examples=30)  # a first call of a kernel is slow
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=5, unique=True))
def test_peaks_of_a_heat_map_are_its_points(cells):
    points = 8.0 * np.array(cells) + 4
    chunk = Chunk({"points": points[None]}, mode=Mode.ALL)

    Heatmap("points", (32, 32), 1.0, merged=True, output="map")(chunk)
    TopKPeaks("map", k=len(cells), radius=2)(chunk)

    assert {tuple(point) for point in np.asarray(chunk["batch_positions"][0])} == {tuple(point) for point in points}


@settings(deadline=None, max_examples=30)  # the same
@given(arrays.arrays("float32", (1, 5, 6), elements=st.integers(0, 3)))
def test_peaks_are_nowhere_below_a_neighbour(image):
    chunk = Chunk({"x": image}, mode=Mode.ALL)

    TopKPeaks("x", k=30)(chunk)

    positions = np.asarray(chunk["batch_positions"][0])
    for row, column in positions[~np.isnan(positions[:, 0])].astype(int):
        assert image[0, row, column] == image[0, max(0, row - 1) : row + 2, max(0, column - 1) : column + 2].max()


@pytest.mark.parametrize("op, pool", [(GlobalMaxPool("x"), np.max), (GlobalAveragePool("x"), np.mean)])
@pytest.mark.parametrize("shape", [(4, 7, 3), (4, 6, 5, 3), (4, 3, 3, 3, 3)])
def test_pooling_is_over_all_places(run_xla, op, pool, shape):
    features = RNG.normal(size=shape).astype("float32")

    np.testing.assert_allclose(run_xla(op, {"x": features}), pool(features, tuple(range(1, len(shape) - 1))), atol=1e-6)


def test_bytes_are_pooled_without_overflow(run):
    features = np.full([1, 9, 9, 2], 250, "uint8")

    np.testing.assert_array_equal(run(GlobalAveragePool("x"), {"x": features}), [[250, 250]])
    assert run(GlobalMaxPool("x"), {"x": features}).dtype == "uint8"
    assert run(GlobalAveragePool("x"), {"x": features.astype("float16")}).dtype == "float16"


@pytest.mark.parametrize(
    "op, told",
    [
        (Heatmap("x", (4, 4)), r"Points are \[B, N, 2\](.|\n)*'x' \[4, 6\] float64"),
        (TopKPeaks("x", k=2), "as many pixels or more"),
        (GlobalMaxPool("x"), r"over places(.|\n)*Give \[B, H, W, C\]"),
    ],
)
def test_other_shapes_are_refused(call, op, told):
    with pytest.raises(TensorError, match=told):
        call(op, {"x": np.zeros([4, 6])})


def test_more_peaks_than_pixels_are_refused(call):
    with pytest.raises(TensorError, match="best 7 are chosen"):
        call(TopKPeaks("x", k=7), {"x": np.zeros([1, 2, 3])})


@pytest.mark.parametrize(
    "make, told",
    [
        (lambda: Heatmap("x", 4), "its size is 4"),
        (lambda: Heatmap("x", (4, 4), 0), "its sigma is 0"),
        (lambda: TopKPeaks("x", k=0), "its k is 0"),
        (lambda: TopKPeaks("x", k=1, radius=0), "its radius is 0"),
    ],
)
def test_impossible_declarations_are_refused(make, told):
    with pytest.raises(DeclarationError, match=told):
        make()


@pytest.mark.tensorflow
def test_sizes_may_be_unknown():
    import tensorflow as tf

    def step(maps):
        chunk = Chunk({"x": maps}, mode=Mode.INFER)
        TopKPeaks("x", k=3)(chunk)
        return chunk["batch_values"]

    step = tf.function(step, input_signature=[tf.TensorSpec([None, None, None])], autograph=False)
    assert step(tf.constant(MAPS[..., 0])).shape == (2, 3)


@pytest.mark.parametrize("shape", [(0, 3, 2), (2, 0, 2)])
def test_maps_of_no_points_are_empty(run, shape):
    maps = run(Heatmap("x", (4, 5), merged=True), {"x": np.ones(shape, "float32")})

    assert (maps.shape, float(maps.sum())) == ((shape[0], 4, 5), 0)


def test_a_point_that_is_none_has_no_gradient():
    def total(points):
        chunk = Chunk({"x": points}, mode=Mode.TRAIN)
        Heatmap("x", (3, 4))(chunk)
        return keras.ops.sum(chunk["x"])

    found = gradients(total, np.array([[[0, 1], [np.nan, 1], [np.nan, np.nan]]], "float32"))[0]
    assert np.isfinite(found).all()
    assert np.abs(found[0, 0]).min() > 0
    np.testing.assert_array_equal(found[0, 1:], 0)


def test_a_batch_without_rows_has_a_largest(run):
    assert run(GlobalMaxPool("x"), {"x": np.zeros([0, 2, 2, 3], "uint8")}).shape == (0, 3)


def test_nan_hides_no_peak_beside_it(run_xla):
    image = np.array([[[1.0, np.nan, 5.0, 4.0], [np.nan, np.nan, 3.0, np.nan]]], "float32")

    results = run_xla(TopKPeaks("x", "p", "v", k=3), {"x": image}, "p", "v")

    np.testing.assert_array_equal(results["v"], [[5, 1, np.nan]])
    np.testing.assert_array_equal(results["p"], [[[0, 2], [0, 0], [np.nan, np.nan]]])
