"""MixUp and CutMix: input and target change together, by shares as likely as the papers say."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experimentator.graph import Chunk, DeclarationError, Graph, Mode
from experimentator.ops import CutMix, MixUp, TensorError

COUNT = 4000
IDS = np.arange(COUNT) % 4
FLAT = np.broadcast_to(np.eye(4, dtype="float32")[IDS][:, None, None, :], (COUNT, 6, 5, 4))  # each shows its class
FEW = {"x": FLAT[:12], "t": IDS[:12]}
both = pytest.mark.parametrize("op", [MixUp, CutMix])


@both
def test_targets_tell_what_the_image_is_made_of(run_xla, op):
    results = run_xla(op("x", "t", num_classes=4, seed=1), FEW)

    assert (results["t"].shape, results["t"].dtype) == ((12, 4), "float32")
    np.testing.assert_allclose(results["x"].mean((1, 2)), results["t"], atol=1e-5)


@both
def test_soft_targets_and_ids_are_mixed_alike(call, op):
    tensors = {"x": FLAT[:12], "t": np.eye(4)[IDS[:12]]}

    soft, ids = call(op("x", "t", seed=1), tensors), call(op("x", "t", num_classes=4, seed=1), FEW)

    np.testing.assert_allclose(soft["t"], ids["t"])


@both
def test_every_sample_is_a_partner_once(call, op):
    results = call(op("x", "t", num_classes=4, seed=2), {"x": FLAT, "t": IDS})
    numbers = call(op("x", "t", seed=2), {"x": FLAT, "t": np.arange(COUNT, dtype="float64")})["t"]

    np.testing.assert_allclose(results["t"].sum(1), 1, atol=1e-5)
    assert len(np.unique(numbers.round(3))) > 0.8 * COUNT


@pytest.mark.parametrize("alpha", [0.1, 0.2, 1.0, 3.0, 10.0])
def test_shares_follow_the_beta_distribution(call, alpha):
    tensors = {"x": np.zeros([COUNT, 1, 1]), "t": np.eye(COUNT, dtype="float32")}

    shares = np.diag(call(MixUp("x", "t", alpha=alpha, seed=5), tensors)["t"])

    expected = np.random.default_rng(0).beta(alpha, alpha, 100000)
    for q in (0.2, 0.4, 0.5, 0.6, 0.8):
        assert np.mean(shares <= np.quantile(expected, q)) == pytest.approx(q, abs=0.03)


def test_cut_windows_are_rectangles_of_the_shape_of_the_image(call):
    images = np.arange(8, dtype="float32")[:, None, None] * np.ones([8, 20, 30], "float32")
    mixed = call(CutMix("x", "t", num_classes=8, seed=4), {"x": images, "t": np.arange(8)})["x"]

    for own, image in enumerate(mixed):
        rows, columns = np.nonzero(image != own)
        assert len(rows) == len(set(rows)) * len(set(columns))  # which also have no gaps:
        assert all(np.ptp(ends) + 1 == len(set(ends)) for ends in (rows, columns) if len(ends))


def test_cut_windows_are_found_everywhere(call):
    mixed = call(CutMix("x", "t", seed=3), {"x": np.arange(COUNT)[:, None, None] * np.ones([8, 8]), "t": FLAT[:, 0, 0]})

    covered = (mixed["x"] != np.arange(COUNT)[:, None, None]).mean(0)
    assert covered.min() > 0.1
    np.testing.assert_allclose(covered, covered[::-1, ::-1], atol=0.05)


@both
@pytest.mark.parametrize("dtype", ["uint8", "float16", "int32"])
def test_the_dtype_of_images_stays(call, op, dtype):
    images = (9 * FEW["x"]).astype(dtype)

    assert call(op("x", "t", num_classes=4), {"x": images, "t": FEW["t"][:, None]})["x"].dtype == dtype


@both
@settings(deadline=None, max_examples=20)  # a first call of a kernel is slow
@given(seed=st.integers(0, 2**31 - 1))
def test_the_sum_of_all_targets_of_a_class_that_all_share_stays(op, seed):
    chunk = Chunk({"x": FEW["x"], "t": np.zeros(12, "int64")}, mode=Mode.TRAIN)

    op("x", "t", num_classes=2, seed=seed)(chunk)

    np.testing.assert_allclose(chunk["t"], np.eye(2)[np.zeros(12, int)], atol=1e-6)


@both
def test_a_seed_repeats_and_calls_differ(call, op):
    first, second = (op("x", "t", num_classes=4, seed=4) for _ in range(2))

    a, b, c = (call(one, FEW)["t"] for one in (first, second, first))

    np.testing.assert_array_equal(a, b)
    assert np.any(a != c)


@both
def test_mixing_is_for_training(op):
    assert not Graph([op("x", "t")], provided={"x", "t"}, mode=Mode.EVAL).nodes


@both
def test_ids_need_a_number_of_classes(call, op):
    with pytest.raises(TensorError, match=r"cannot be mixed(.|\n)*'t' \[12\] int64\.\nWrite num_classes"):
        call(op("x", "t"), FEW)


@both
@pytest.mark.parametrize("alpha", [0, 11])
def test_alpha_is_in_its_range(op, alpha):
    with pytest.raises(DeclarationError, match=f"its alpha is {alpha}"):
        op("x", "t", alpha=alpha)


@pytest.mark.parametrize("kind", [MixUp, CutMix])
def test_an_id_that_is_no_class_has_no_shares(run, kind):
    tensors = {"x": np.zeros([1, 4, 4]), "t": np.array([3])}

    assert np.isnan(run(kind("x", "t", num_classes=3), tensors, "t")).all()
    tensors["t"] = np.array([2], "uint8")
    np.testing.assert_allclose(run(kind("x", "t", num_classes=3), tensors, "t"), [[0, 0, 1]], atol=1e-6)
