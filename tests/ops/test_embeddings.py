"""NT-Xent and the triplet loss against loops over their formulas."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experimentator.graph import Chunk, DeclarationError, Mode
from experimentator.ops import Contrastive, TensorError, Triplet

RNG = np.random.default_rng(13)
A, B, C = RNG.normal(size=(3, 6, 4)).astype("float32")


def nt_xent(first, second, temperature):
    """One value for each pair, as equation 1 reads."""
    views = np.concatenate([first, second]).astype("float64")
    views /= np.linalg.norm(views, axis=1, keepdims=True)
    count, values = len(first), []
    for i, view in enumerate(views):
        powers = np.exp(views @ view / temperature)
        values.append(-np.log(powers[(i + count) % (2 * count)] / (powers.sum() - powers[i])))
    return np.mean(np.split(np.array(values), 2), axis=0)


@pytest.mark.parametrize("temperature", [0.1, 0.5, 5.0])
def test_contrastive_is_its_formula(run_xla, temperature):
    result = run_xla(Contrastive("a", "b", temperature=temperature), {"a": A, "b": B})

    np.testing.assert_allclose(result, nt_xent(A, B, temperature).mean(), rtol=1e-4)


def test_pairs_weigh_what_they_are_given(run):
    weights = np.array([1.0, 0, 2, 0, 0, 0.5])

    result = run(Contrastive("a", "b", weight="w"), {"a": A, "b": B, "w": weights})

    np.testing.assert_allclose(result, np.average(nt_xent(A, B, 0.5), weights=weights), rtol=1e-5)


@settings(deadline=None, max_examples=25)  # a first call of a kernel is slow
@given(st.permutations(range(6)), st.floats(0.1, 10), st.booleans())
def test_order_length_and_sides_do_not_matter(order, length, swapped):
    first, second = (B, A) if swapped else (A, B)
    chunk = Chunk({"a": length * first[list(order)], "b": second[list(order)]}, mode=Mode.TRAIN)

    Contrastive("a", "b")(chunk)

    np.testing.assert_allclose(chunk["loss"], nt_xent(A, B, 0.5).mean(), rtol=1e-4)


def test_an_embedding_of_length_zero_stays_finite(run_xla):
    assert np.isfinite(run_xla(Contrastive("a", "b"), {"a": 0 * A, "b": B}))


@pytest.mark.parametrize("margin", [0.0, 0.2, 5.0])
def test_triplet_is_its_formula(run_xla, margin):
    result = run_xla(Triplet("a", "p", "n", margin=margin), {"a": A, "p": B, "n": C})

    values = np.maximum(0, ((A - B) ** 2).sum(1) - ((A - C) ** 2).sum(1) + margin)
    np.testing.assert_allclose(result, values.mean(), rtol=1e-5)


@pytest.mark.parametrize("op", [Contrastive("a", "b"), Triplet("a", "b", "b")])
@pytest.mark.parametrize("other", [np.ones([6, 3]), np.ones([5, 4]), np.ones([6, 4, 1])])
def test_other_shapes_are_named(call, op, other):
    with pytest.raises(TensorError, match=r"alike in all of them\.\nIt was given 'a' \[6, 4\] float32 and 'b' \["):
        call(op, {"a": A, "b": other})


def test_impossible_declarations_are_refused():
    with pytest.raises(DeclarationError, match="its temperature is 0"):
        Contrastive("a", "b", temperature=0)
    with pytest.raises(DeclarationError, match="its margin is -1"):
        Triplet("a", "b", "c", margin=-1)
