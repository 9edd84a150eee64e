"""Joining, splitting and picking against numpy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experimentator.graph import Chunk, DeclarationError, Mode
from experimentator.ops import Concatenate, Drop, NamedOutputs, Select, Split, Stack, TensorError

RNG = np.random.default_rng(3)
LEFT, RIGHT = RNG.normal(size=(2, 4, 5, 6)).astype("float32")
AXES = st.sampled_from([1, 2, -1, -2])


@pytest.mark.parametrize("axis", [0, 1, 3, -1])
def test_stacking_is_that_of_numpy(run_xla, axis):
    result = run_xla(Stack(["a", "b"], "c", axis), {"a": LEFT, "b": RIGHT})

    np.testing.assert_array_equal(result, np.stack([LEFT, RIGHT], axis))


@pytest.mark.parametrize("axis", [0, 2, -1])
def test_concatenating_is_that_of_numpy(run_xla, axis):
    result = run_xla(Concatenate(["a", "b", "a"], "c", axis), {"a": LEFT, "b": RIGHT})

    np.testing.assert_array_equal(result, np.concatenate([LEFT, RIGHT, LEFT], axis))


@settings(deadline=None, max_examples=25)  # a first call of a kernel is slow
@given(st.integers(1, 4), AXES)
def test_splitting_undoes_concatenating(count, axis):
    chunk = Chunk({f"part_{n}": RNG.normal(size=(3, 2, 5)) for n in range(count)}, mode=Mode.ALL)
    parts = dict(chunk)

    Concatenate(list(parts), "whole", axis)(chunk)
    Split("whole", list(parts), axis)(chunk)

    assert all(np.array_equal(chunk[name], part) for name, part in parts.items())


@settings(deadline=None, max_examples=25)  # the same
@given(st.lists(st.integers(1, 4), min_size=1, max_size=5))
def test_concatenating_undoes_named_outputs(sizes):
    chunk = Chunk({"head": RNG.normal(size=(3, 2, sum(sizes)))}, mode=Mode.ALL)

    NamedOutputs("head", {f"part_{n}": size for n, size in enumerate(sizes)})(chunk)
    Concatenate([f"part_{n}" for n in range(len(sizes))], "again")(chunk)

    np.testing.assert_array_equal(chunk["again"], chunk["head"])


def test_named_outputs_are_slices_in_order(run_xla):
    results = run_xla(NamedOutputs("x", {"batch_logits": 5, "batch_size": 1}), {"x": LEFT})

    np.testing.assert_array_equal(results["batch_logits"], LEFT[..., :5])
    np.testing.assert_array_equal(results["batch_size"], LEFT[..., 5:])


@pytest.mark.parametrize("places", [0, -1, [2], [3, 0, 0, -1], np.int64(1), np.array([3, 0])], ids=repr)
@pytest.mark.parametrize("axis", [1, -1])
def test_places_are_selected(run_xla, places, axis):
    np.testing.assert_array_equal(run_xla(Select("x", places, axis), {"x": LEFT}), LEFT.take(places, axis))


@pytest.mark.parametrize("places", [0, -1, [3, 0, 0], np.array([3, 0])], ids=repr)
@pytest.mark.parametrize("axis", [1, -1])
def test_places_are_dropped(run_xla, places, axis):
    np.testing.assert_array_equal(run_xla(Drop("x", places, axis), {"x": LEFT}), np.delete(LEFT, places, axis))


@settings(deadline=None, max_examples=25)  # the same
@given(st.sets(st.integers(0, 5), min_size=1, max_size=5))
def test_what_is_selected_and_what_is_dropped_make_the_whole(places):
    chunk = Chunk({"x": LEFT}, mode=Mode.ALL)

    Select("x", sorted(places), output="kept")(chunk)
    Drop("x", sorted(places), output="rest")(chunk)

    order = np.argsort([*sorted(places), *(place for place in range(6) if place not in places)])
    np.testing.assert_array_equal(np.concatenate([chunk["kept"], chunk["rest"]], -1)[..., order], LEFT)


@pytest.mark.parametrize(
    "op, told",
    [
        (Stack(["x", "y"], "z"), r"one shape are stacked(.|\n)*'x' \[4, 6\] float64 and 'y' \[4, 3\]"),
        (Stack(["x", "x"], "z", 4), "an axis from -3 to 2"),
        (Concatenate(["x", "y"], "z", 0), "joined along axis 0(.|\n)*alike in all other axes"),
        (Concatenate(["x", "v"], "z"), "alike in all other axes"),
        (Split("x", ["a", "b", "c", "d"]), r"cut into 4 equal parts(.|\n)*\[4, 6\](.|\n)*NamedOutputs"),
        (Split("x", ["a"], 2), "Axis 2"),
        (NamedOutputs("x", {"a": 4}), r"add up to 4\.\nIt was given 'x' \[4, 6\] float64\.\nLet the layer above"),
        (Select("x", 6), "Axis -1 must have place 6"),
        (Drop("x", [0], 5), "Axis 5"),
    ],
)
def test_shapes_that_do_not_go_together_are_named(call, op, told):
    with pytest.raises(TensorError, match=told):
        call(op, {"x": np.zeros([4, 6]), "y": np.zeros([4, 3]), "v": np.zeros([6])})


@pytest.mark.parametrize(
    "make, told",
    [
        (lambda: Stack("x", "z"), r"its names are 'x'\.\nGive a list of names"),
        (lambda: Concatenate([], "z"), "its names are"),
        (lambda: Split("x", "ab"), "its parts are 'ab'"),
        (lambda: Split("x", ["a", "a"]), "Name every output differently"),
        (lambda: NamedOutputs("x", {}), "its sizes are {}"),
        (lambda: NamedOutputs("x", {"a": 0}), "its sizes are"),
        (lambda: NamedOutputs("x", {"a": 1.5, "b": 1.5}), "its sizes are"),
        (lambda: Select("x", []), "its places are"),
        (lambda: Select("x", None), "its places are None"),
        (lambda: Select("x", [True, False]), "its places are"),
        (lambda: Drop("x", [0.5]), "its places are"),
    ],
)
def test_impossible_declarations_are_refused(make, told):
    with pytest.raises(DeclarationError, match=told):
        make()


def test_all_places_may_be_left_out(run):
    assert run(Drop("x", [0, 1]), {"x": np.ones([2, 2])}).shape == (2, 0)
