"""What passes values on unchanged, or chooses among them."""

import keras
import numpy as np
import pytest

from experimentator.graph import Chunk, DeclarationError, Graph, Mode
from experimentator.ops import Mask, Pad, Rename, Scale, StopGradient, TensorError, Where
from tests.frameworks import gradients


def test_rename_then_read_is_the_same_tensor(run):
    results = run(Rename("a", "b"), {"a": np.arange(3)}, "a", "b")

    np.testing.assert_array_equal(results["b"], results["a"])


def test_rename_hands_over_any_object():
    key = object()
    chunk = Chunk({"a": key}, mode=Mode.ALL)

    Rename("a", "b")(chunk)

    assert chunk["b"] is key


def test_a_renamed_tensor_keeps_its_value_when_the_old_name_is_overwritten():
    graph = Graph([Rename("x", "raw"), Scale("x", 2)], provided={"x"}).select("raw", "x")

    results = graph.run({"x": np.array([4.0])})

    assert (float(results["raw"][0]), float(results["x"][0])) == (4.0, 2.0)


def test_stop_gradient_passes_values_and_no_gradient(run_xla):
    values = np.array([1.5, -2.0])

    np.testing.assert_array_equal(run_xla(StopGradient("x"), {"x": values}), values)

    def total(x):
        chunk = Chunk({"x": x}, mode=Mode.TRAIN)
        StopGradient("x", output="y")(chunk)
        return keras.ops.sum(chunk["y"] + 3 * x)

    np.testing.assert_array_equal(gradients(total, values)[0], [3, 3])


# Choosing


@pytest.mark.parametrize("shape", [(4,), (4, 3), (4, 3, 2)])
@pytest.mark.parametrize("dtype", ["bool", "int32"])
def test_where_chooses_by_the_leading_axes(run_xla, shape, dtype, rng):
    condition = rng.integers(0, 2, shape).astype(dtype)
    yes, no = rng.normal(size=(2, 4, 3, 2))

    result = run_xla(Where("c", "yes", "no", "out"), {"c": condition, "yes": yes, "no": no})

    wide = condition.astype(bool).reshape(shape + (1,) * (3 - len(shape)))
    np.testing.assert_array_equal(result, np.where(wide, yes, no))


@pytest.mark.parametrize("number, dtype", [(7, "int32"), (7.0, "int32"), (0.5, "float32"), (float("nan"), "float32")])
def test_a_number_takes_the_dtype_of_the_tensor_if_it_fits(run, number, dtype):
    tensors = {"c": np.array([True, False]), "x": np.array([3, 4], "int32")}

    left, right = run(Where("c", number, "x", "out"), tensors), run(Where("c", "x", number, "out"), tensors)

    np.testing.assert_array_equal((left[0], left[1], right[0], right[1]), (number, 4, 3, number))
    assert left.dtype == right.dtype == dtype


def test_masked_values_are_filled(run_xla):
    tensors = {"x": np.arange(6).reshape(3, 2), "m": np.array([1, 0, 1], "uint8")}

    np.testing.assert_array_equal(run_xla(Mask("x", "m", -1), tensors), [[0, 1], [-1, -1], [4, 5]])
    np.testing.assert_array_equal(run_xla(Mask("x", "m", np.nan, output="y"), tensors)[1], [np.nan, np.nan])


def test_no_gradient_reaches_what_is_masked():
    def total(x):
        chunk = Chunk({"x": x, "m": np.array([True, False])}, mode=Mode.TRAIN)
        Mask("x", "m", np.nan)(chunk)
        return chunk["x"][0] ** 2 + chunk["x"][1]

    np.testing.assert_array_equal(gradients(total, np.array([1.0, 2.0]))[0], [2, 0])


@pytest.mark.parametrize("condition", [np.ones(4), np.ones([4, 2], bool), np.ones([4, 3, 1], bool)])
def test_conditions_that_fit_nothing_are_named(call, condition):
    with pytest.raises(TensorError, match=r"A condition is bool or integer(.|\n)*'c' \[4.*\] (float|bool)"):
        call(Where("c", "x", "x", "out"), {"c": condition, "x": np.ones([4, 3])})


def test_two_numbers_are_no_choice():
    with pytest.raises(DeclarationError, match=r"between two numbers\.\nName a tensor"):
        Where("c", 1, 0, "out")


@pytest.mark.parametrize(
    "make", [lambda c: Mask("x", "m", c), lambda c: Where("m", "x", c, "x"), lambda c: Pad("x", 1, value=c)]
)
@pytest.mark.parametrize("dtype, number", [("uint8", 300), ("uint8", -1.0), ("int8", 128), ("bool", 2)])
def test_a_number_that_integers_cannot_hold_is_refused_and_another_changes_the_dtype(call, make, dtype, number):
    tensors = {"x": np.ones([1, 2, 2], dtype), "m": np.array([False])}

    with pytest.raises(
        TensorError, match=rf"{number:g} is no {dtype}, which is -?\d+ to \d+(.|\n)*Write ops.Cast\('x'"
    ):
        call(make(number), tensors)
    for fits, expected in ((1, dtype), (0.5, "float32"), (np.float32(1), dtype)):
        result = call(make(fits), tensors)
        assert (str(result.dtype), float(result[0, 0, 0])) == (expected, float(fits))


@pytest.mark.parametrize(
    "make", [lambda c: Mask("x", "m", c), lambda c: Where("m", "x", c, "x"), lambda c: Pad("x", 1, value=c)]
)
def test_a_number_that_would_be_infinite_in_float16_is_refused_and_infinity_is_not(call, make):
    tensors = {"x": np.ones([1, 2, 2], "float16"), "m": np.array([False])}

    with pytest.raises(TensorError, match=r"-1e\+09 is no float16, which is -65504 to 65504(.|\n)*Write ops.Cast\('x'"):
        call(make(-1e9), tensors)
    for number in (-65504, 0.1, float("-inf")):
        assert call(make(number), tensors)[0, 0, 0] == np.float16(number)
    assert call(make(-1e9), {**tensors, "x": np.ones([1, 2, 2], "float32")})[0, 0, 0] == np.float32(-1e9)
