"""Focal and Dice against their papers' formulas."""

import numpy as np
import pytest

from experimentator.graph import DeclarationError
from experimentator.ops import Dice, Focal, SigmoidCrossEntropy, TensorError

RNG = np.random.default_rng(12)
LOGITS = RNG.normal(0, 3, (6, 5))
YES = RNG.integers(0, 2, (6, 5))
MAPS = RNG.normal(0, 2, (4, 6, 7, 3))


def focal(logits, answers, gamma, alpha):
    p = 1 / (1 + np.exp(-logits))
    true = np.where(answers == 1, p, 1 - p)
    share = 1 if alpha is None else np.where(answers == 1, alpha, 1 - alpha)
    return -share * (1 - true) ** gamma * np.log(true)


def dice(scores, answers, smooth, axes):
    return 1 - (2 * (scores * answers).sum(axes) + smooth) / ((scores**2).sum(axes) + (answers**2).sum(axes) + smooth)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("alpha", [None, 0.25])
def test_focal_is_its_formula(run_xla, gamma, alpha):
    result = run_xla(Focal("p", "t", gamma=gamma, alpha=alpha), {"p": LOGITS.astype("float32"), "t": YES})

    np.testing.assert_allclose(result, focal(LOGITS, YES, gamma, alpha).mean(), rtol=1e-5)


def test_focal_asks_one_question_for_each_class(run):
    ids = np.array([0, 4, 2, 2, 1, 3])

    expected = run(Focal("p", "t"), {"p": LOGITS, "t": np.eye(5)[ids]})

    np.testing.assert_allclose(run(Focal("p", "t"), {"p": LOGITS, "t": ids}), expected, rtol=1e-6)


def test_focal_without_focus_is_cross_entropy(run):
    tensors = {"p": LOGITS, "t": RNG.uniform(0, 1, (6, 5))}

    plain = run(Focal("p", "t", gamma=0, alpha=None), tensors)

    np.testing.assert_allclose(plain, run(SigmoidCrossEntropy("p", "t"), tensors), rtol=1e-5)


def test_focal_is_exact_for_huge_logits(run_xla):
    result = run_xla(Focal("p", "t", alpha=None), {"p": np.array([1e4, -1e4, 1e4]), "t": np.array([0, 0, 1])})

    np.testing.assert_allclose(result, 1e4 / 3, rtol=1e-6)


@pytest.mark.parametrize("smooth", [0.0, 1.0])
def test_dice_is_its_formula_for_each_image(run_xla, smooth):
    answers = RNG.integers(0, 2, MAPS.shape)
    scores = 1 / (1 + np.exp(-MAPS))

    result = run_xla(Dice("p", "t", smooth=smooth), {"p": MAPS, "t": answers})

    np.testing.assert_allclose(result, dice(scores, answers, smooth, (1, 2, 3)).mean(), rtol=1e-5)


def test_dice_of_classes_is_the_mean_over_classes(run_xla):
    ids, powers = RNG.integers(0, 3, MAPS.shape[:3]), np.exp(MAPS)
    scores = powers / powers.sum(-1, keepdims=True)

    result = run_xla(Dice("p", "t"), {"p": MAPS, "t": ids})

    np.testing.assert_allclose(result, dice(scores, np.eye(3)[ids], 1.0, (1, 2)).mean(), rtol=1e-5)
    np.testing.assert_allclose(run_xla(Dice("p", "t"), {"p": MAPS, "t": ids[..., None]}), result, rtol=1e-6)


@pytest.mark.parametrize("smooth, loss", [(0.0, 1.0), (1.0, 0.0)])
def test_two_empty_images_overlap_if_smoothed(run, smooth, loss):
    result = run(Dice("p", "t", smooth=smooth), {"p": np.full([1, 3, 3, 1], -200.0), "t": np.zeros([1, 3, 3])})

    np.testing.assert_allclose(result, loss, atol=1e-6)


def test_images_weigh_what_they_are_given(run):
    answers, weights = RNG.integers(0, 2, MAPS.shape), np.array([1.0, 0, 2, 0])

    result = run(Dice("p", "t", weight="w"), {"p": MAPS, "t": answers, "w": weights})

    values = dice(1 / (1 + np.exp(-MAPS)), answers, 1.0, (1, 2, 3))
    np.testing.assert_allclose(result, np.average(values, weights=weights), rtol=1e-5)


@pytest.mark.parametrize(
    "make, told",
    [
        (lambda: Focal("p", "t", gamma=-1), "its gamma is -1"),
        (lambda: Focal("p", "t", alpha=2), "its alpha is 2"),
        (lambda: Dice("p", "t", smooth=-1), "its smooth is -1"),
    ],
)
def test_impossible_declarations_are_refused(make, told):
    with pytest.raises(DeclarationError, match=told):
        make()


@pytest.mark.parametrize("op", [Focal("p", "t"), Dice("p", "t")])
@pytest.mark.parametrize("target", [np.zeros([6, 4]), np.zeros([6, 5, 2]), np.zeros(6)])
def test_targets_that_do_not_fit_are_named_with_their_shapes(call, op, target):
    with pytest.raises(TensorError, match=r"'p' \[6, 5\] float64 and 't' \[6"):
        call(op, {"p": LOGITS, "t": target})


def test_overlaps_are_of_images(call):
    with pytest.raises(TensorError, match="Overlaps are of images"):
        call(Dice("p", "t"), {"p": np.zeros(3), "t": np.zeros(3)})
