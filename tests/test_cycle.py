"""How many batches a call runs, what a pass amounts to, and when a loss ends it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import strategies as st

from experimentator import NonFiniteLossError
from experimentator.cycle import CALL_SECONDS, LIMIT, Averages, Pace, Stopwatch, check_finite
from tests.stand_ins import law


def run(pace, step_seconds, *, overhead=0.0):
    """Train at a constant speed until the pace settles, and one call more; returns the sizes of all calls."""
    calls, left = [], 0
    while len(calls) < 50 and not (pace.settled and calls):
        left = left or pace.steps
        calls.append(min(pace.count, left))
        pace.saw(calls[-1], overhead + calls[-1] * step_seconds + (3.0 if len(calls) == 1 else 0.0))
        left -= calls[-1]
    pace.saw(pace.count, overhead + pace.count * step_seconds)
    return [*calls, pace.count]


# Pace


@law(st.integers(1, 20_000), st.floats(1e-7, 2.0), st.floats(0, 0.1))
def test_a_pace_settles_within_a_few_calls_and_they_stay_short(steps, step_seconds, overhead):
    pace = Pace(steps, fixed=None)
    calls = run(pace, step_seconds, overhead=overhead)

    assert pace.settled
    assert 1 <= pace.count <= pace.capacity <= min(steps, LIMIT)
    assert max(calls) == 1 or max(calls) * step_seconds <= CALL_SECONDS * 1.01


@law(st.integers(1, 20_000), st.floats(1e-7, 0.1))
def test_settled_calls_divide_a_pass_into_nearly_equal_blocks(steps, step_seconds):
    pace = Pace(steps, fixed=None)
    run(pace, step_seconds)

    calls = -(-steps // pace.count)
    assert steps > (calls - 1) * pace.count
    assert calls * pace.count - steps < calls  # the last block misses less than one batch per call


@law(st.integers(1, 100), st.integers(1, 200))
def test_a_fixed_count_is_kept_whatever_is_measured(steps, fixed):
    pace = Pace(steps, fixed=fixed)
    run(pace, 5.0)

    assert pace.settled
    assert pace.count == pace.capacity == min(steps, fixed)


def test_a_clock_that_stands_still_breaks_nothing():
    pace = Pace(64, fixed=None)
    run(pace, 0.0)

    assert pace.count == 64


def test_the_first_call_counts_as_compilation_only():
    pace = Pace(100, fixed=None)
    pace.saw(1, 9.0)

    assert (pace.count, pace.settled, pace.compile_seconds) == (1, False, 9.0)


def test_a_remainder_says_nothing_about_the_size_of_calls():
    pace = Pace(100, fixed=None)
    pace.saw(1, 9.0)
    pace.saw(1, 0.001)
    pace.saw(1, 0.001)  # the last batch of an epoch, where two were allowed

    assert (pace.count, pace.settled) == (2, False)


def test_a_fixed_count_is_compiled_for_when_enough_batches_remain():
    pace = Pace(10, fixed=None)
    pace.saw(1, 2.0)
    run(pace, 0.2)

    pace.expect(10)
    assert not pace.is_fixed(pace.count)
    pace.expect(1000)
    assert pace.is_fixed(pace.count)
    assert not pace.is_fixed(pace.count + 1)
    pace.expect(1)  # what was compiled stays in use
    assert pace.is_fixed(pace.count)


def test_nothing_is_compiled_for_a_count_before_the_pace_settles():
    pace = Pace(10, fixed=None)
    pace.expect(10**9)

    assert not pace.is_fixed(1)


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
        "you suspect. To go on from good weights, give a new optimizer, too: this one keeps moments of what was seen."
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


def test_a_stopwatch_runs_forward():
    watch = Stopwatch()

    assert 0 <= watch.seconds <= watch.seconds
