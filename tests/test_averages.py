"""What a pass amounts to, and when a loss ends it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import strategies as st

from experimentator import NonFiniteLossError
from experimentator.averages import Averages, check_finite
from tests.stand_ins import law

# Averages


@law(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 9), st.floats(-1e6, 1e6, width=32)), min_size=1))
def test_averages_are_the_mean_weighted_by_batch_size_for_any_split(blocks):
    averages, values, weights = Averages(), [], []
    for count, batch_size, value in blocks:
        block = np.arange(count, dtype=np.float32) + np.float32(value)
        averages.add({"loss": block}, batch_size=batch_size)
        values, weights = [*values, *block], [*weights, *[batch_size] * count]

    expected = np.average(np.array(values, np.float64), weights=weights)
    assert averages.means()["loss"] == pytest.approx(expected, rel=1e-9, abs=1e-6)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, np.float16, np.float32])
def test_sums_do_not_run_over_in_small_dtypes(dtype):
    averages = Averages()
    averages.add({"hits": np.ones(5000, dtype)}, batch_size=7)

    assert averages.means() == {"hits": 1.0}


def test_only_scalars_are_averaged():
    averages = Averages()
    averages.add({"batch_logits": np.zeros((2, 4, 3)), "names": np.array(["a", "b"]), "loss": np.ones(2)}, batch_size=4)

    assert averages.means() == {"loss": 1.0}
    assert Averages().means() == {}


# Losses


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_loss_that_is_not_finite_names_its_batch(bad):
    with pytest.raises(NonFiniteLossError) as caught:
        check_finite({"loss": np.array([1.5, 2.25, bad, 1.0])}, where="'training', epoch 3", first=10)

    assert str(caught.value) == (
        f"The loss became {bad} in batch 12 of 'training', epoch 3; the batch before had 2.25.\n"
        "Lower learning_rate, look at the data of that batch, or list ops.AssertFinite(name) behind the processors "
        "you suspect. To go on from good weights, give a new optimizer, too: this one's moments contain the bad batch."
    )


def test_the_first_batch_of_a_call_has_none_before_it():
    with pytest.raises(NonFiniteLossError, match=r"in batch 0 of 'x'\."):
        check_finite({"loss": np.array([np.nan, 1.0], np.float16)}, where="'x'", first=0)


@pytest.mark.parametrize("outputs", [{}, {"accuracy": np.array([np.nan])}, {"loss": np.array([1, 2])}])
def test_other_names_and_finite_losses_pass(outputs):
    check_finite(outputs, where="'x'", first=0)


def test_an_evaluation_is_not_told_to_learn_more_slowly():
    with pytest.raises(NonFiniteLossError, match=r"'x'\.\nLook at the data") as caught:
        check_finite({"loss": np.array([np.nan])}, where="'x'", first=0, training=False)

    assert "optimizer" not in str(caught.value)


def test_a_loss_for_each_row_is_told_by_batch_too():
    loss = np.ones((3, 4))
    loss[1, 2] = np.nan

    with pytest.raises(NonFiniteLossError, match="The loss became nan in batch 1 of 'x'; the batch before had 1"):
        check_finite({"loss": loss}, where="'x'", first=0)


def test_no_name_of_a_metric_is_taken_for_a_weight():
    averages = Averages()
    averages.add({"body weight": np.array([2.0, 4.0]), "body": np.ones(2)}, batch_size=2)

    assert averages.means() == {"body weight": 3.0, "body": 1.0}
