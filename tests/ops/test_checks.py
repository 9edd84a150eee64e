"""AssertFinite: raising where values are at hand, a flag where they are not."""

import numpy as np
import pytest

from experimentator.ops import AssertFinite, NotFiniteError, Scale

BAD = [np.nan, np.inf, -np.inf]


def test_finite_tensors_pass_unchanged(run_xla):
    results = run_xla(AssertFinite("x"), {"x": np.arange(3.0)})

    np.testing.assert_array_equal(results["x"], np.arange(3.0))
    assert results["x_is_finite"] == 1


@pytest.mark.parametrize("bad", BAD)
def test_eagerly_it_names_the_tensor_and_the_node(call, bad):
    with pytest.raises(
        NotFiniteError, match=r"Watch the logits found NaN or infinity in 'x'\.\nIt was given \[2\] float"
    ) as error:
        call(AssertFinite("x", node="Watch the logits"), {"x": np.array([0, bad])}, "x")

    assert isinstance(error.value, FloatingPointError)
    assert error.value.name == "x"


@pytest.mark.parametrize("bad", BAD)
def test_compiled_it_lowers_a_flag(run_xla, bad):
    if run_xla.way == "eager":  # where values are at hand it raises instead
        with pytest.raises(NotFiniteError):
            run_xla(AssertFinite("x"), {"x": np.array([0, bad])})
        return

    results = run_xla(AssertFinite("x"), {"x": np.array([0, bad])})

    np.testing.assert_array_equal(results["x"], [0, bad])
    assert (results["x_is_finite"], results["x_is_finite"].dtype) == (0, "float32")


def test_integers_are_always_finite(run):
    assert run(AssertFinite("x"), {"x": np.array([2**31 - 1])}, "x_is_finite") == 1


def test_it_stays_in_the_dataflow_of_whoever_reads_the_name(call):
    from experimentator.graph import Graph

    graph = Graph([AssertFinite("x"), Scale("x", 2, output="y")], provided={"x"}).select("y")

    assert [node.name for node in graph.order] == ["AssertFinite", "Scale"]


def test_the_flags_and_their_error_are_there_for_the_engine():
    check = AssertFinite("loss")

    assert check.checks == ("loss_is_finite",)
    assert str(check.failure()).startswith("AssertFinite(name='loss') found NaN or infinity in 'loss'.\n")
