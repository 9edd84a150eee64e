"""How many batches a call runs."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
from hypothesis import strategies as st

from experimentator import chunk_processor
from experimentator.backends.numpy import NumpyBackend
from experimentator.graph import Graph
from experimentator.loading.blocks import Block
from experimentator.pace import CALL_SECONDS, LIMIT, Pace
from experimentator.runner import Runner
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


def test_a_later_call_that_compiles_anew_does_not_make_all_others_short():
    pace = Pace(100, fixed=None)
    pace.saw(1, 9.0, traced=True)
    pace.saw(1, 5.0, traced=True)
    while not pace.settled:
        pace.saw(pace.count, pace.count * 0.001)

    assert (pace.count, pace.compile_seconds) == (100, 5.0)


@law(st.integers(64, 20_000), st.floats(1e-6, 1e-3), st.integers(1, 4))
def test_one_slow_call_does_not_make_all_others_short(steps, step_seconds, slow):
    pace, usual = Pace(steps, fixed=None), Pace(steps, fixed=None)
    run(usual, step_seconds)
    for call in range(40):
        pace.saw(pace.count, pace.count * step_seconds + 2.0 * (call == slow))

    assert pace.settled
    assert usual.count / 2 <= pace.count <= usual.count * 2


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


def test_what_was_compiled_to_choose_a_compiler_counts_as_compilation(monkeypatch):
    now = [0.0]
    double = chunk_processor(inputs=["x"], outputs=["y"])(lambda x: now.append(now.pop() + 1.0) or 2 * x)
    step = NumpyBackend().compile(Graph([double], provided={"x"}).select("y"), {})
    step.choose = lambda columns, index, *, remaining: now.append(now.pop() + 9.0)
    monkeypatch.setattr("experimentator.runner.time", SimpleNamespace(perf_counter=lambda: now[0]))
    runner = Runner(step, Pace(100, fixed=None))
    for _ in range(2):
        runner.run(Block({"x": np.arange(4)}, np.array([[0, 1]]), [(0, 1)], {}), remaining=50)

    assert (runner.pace.compile_seconds, runner.pace.step_seconds, runner.seconds) == (10.0, 1.0, 2.0)
