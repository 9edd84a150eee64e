"""Checks: raising where values are at hand, a flag or the static shape where they are not."""

import pickle

import keras
import numpy as np
import pytest

from experimentator import gradient
from experimentator.graph import Chunk, DeclarationError, Graph, Mode
from experimentator.ops import AssertFinite, AssertShape, NotFiniteError, Print, Scale, SignatureError, TensorError

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
    graph = Graph([AssertFinite("x"), Scale("x", 2, output="y")], provided={"x"}).select("y")

    assert [node.name for node in graph.order] == ["AssertFinite", "Scale"]


def test_the_flags_and_their_error_are_there_for_the_engine():
    check = AssertFinite("loss")

    assert check.checks == ("loss_is_finite",)
    assert str(check.failure()).startswith("AssertFinite(name='loss') found NaN or infinity in 'loss'.\n")


# Shapes


@pytest.mark.parametrize("shape", [["B", 3, 3, 1], [2, "N", "N", None], (None, None, None, None)])
def test_shapes_that_fit_pass(call, shape):
    processors = [AssertShape("x", shape, dtype="uint8"), Scale("x")]

    assert call(processors, {"x": np.zeros([2, 3, 3, 1], "uint8")}, "x").shape == (2, 3, 3, 1)


@pytest.mark.parametrize(
    "check, told",
    [
        (
            AssertShape("x", ["B", 4, 3]),
            r"The shape is \[B, 4, 3\]\.\nIt was given 'x' \[(2|B), 3, 3\] float64\.\nChange",
        ),
        (AssertShape("x", ["B", 3]), r"The shape is \[B, 3\]"),
        (AssertShape("x", [None, 3, 3], dtype="uint8"), r"The shape is \[\?, 3, 3\] uint8"),
    ],
)
def test_shapes_are_checked_compiled_and_not(run, check, told):
    with pytest.raises(TensorError, match=told):
        run([check, Scale("x")], {"x": np.zeros([2, 3, 3])}, "x")


def test_a_letter_is_one_size(call):
    with pytest.raises(TensorError, match=r"The shape is \[N, N\](.|\n)*'x' \[2, 3\]"):
        call([AssertShape("x", ["N", "N"]), Scale("x")], {"x": np.zeros([2, 3])}, "x")


def test_a_shape_is_a_list():
    with pytest.raises(DeclarationError, match=r"its shape is 3\.\nGive one entry"):
        AssertShape("x", 3)


# Showing


def test_values_are_shown_where_they_are_at_hand(call):
    lines = []

    call(
        [Print(["x", "y"], to=lines.append), Scale("x"), Scale("y")],
        {"x": np.arange(3), "y": np.arange(60.0)},
        "x",
        "y",
    )

    assert lines == ["x [3] int64: [0 1 2]", "y [60] float64: 0 to 59, mean 29.5"]


def test_values_are_shown_of_what_a_gradient_is_taken_by():
    lines = []
    op = Print("x", to=lines.append)

    def squared(x):
        op(Chunk({"x": x}, mode=Mode.TRAIN))
        return keras.ops.sum(x**2)

    gradient(squared, keras.ops.convert_to_tensor(np.array([1.0, 2.0], "float32")))

    assert lines == ["x [2] float32: [1. 2.]"]


@pytest.mark.tensorflow
def test_compiled_code_shows_shapes_once():
    import tensorflow as tf

    lines = []
    graph = Graph([Print("x", to=lines.append), Scale("x")], provided={"x"}).select("x")
    step = tf.function(graph.run, input_signature=[{"x": tf.TensorSpec([None, 3])}], autograph=False, jit_compile=True)

    for _ in range(2):
        step({"x": tf.ones([2, 3])})

    assert lines == ["x [B, 3] float32: values are not known while code is compiled"]


@pytest.mark.tensorflow
def test_compiled_code_that_is_traced_again_says_nothing_new():
    import tensorflow as tf

    lines = []
    op = Print("x", to=lines.append)
    graph = Graph([op, Scale("x")], provided={"x"}).select("x")

    for sizes, dtype in [([None, 3], "float32"), ([2, 3], "float32"), ([2, 3], "int32")]:
        tf.function(graph.run, autograph=False).get_concrete_function({"x": tf.TensorSpec(sizes, dtype)})

    assert [line.split(":")[0] for line in lines] == ["x [B, 3] float32", "x [2, 3] int32"]


def test_what_is_no_tensor_is_shown_too():
    lines = []

    Print("key", to=lines.append)(Chunk({"key": ("a", 1)}, mode=Mode.ALL))

    assert lines == ["key ('a', 1)"]


@pytest.mark.parametrize("check", [Print("x"), AssertShape("x", [1])])
def test_checks_need_no_tensor_of_their_own(check):
    graph = Graph([check, Scale("y")], provided={"x", "y"}).select("y")

    assert [node.name for node in graph.order] == ["Scale"]


@pytest.mark.parametrize(
    "error",
    [
        NotFiniteError("AssertFinite()", name="loss", seen="[] float32"),
        TensorError("OneHot()", rule="Class ids are integers", tensors={"a": np.zeros(2)}, write="Cast."),
        SignatureError("Model()", takes="Its model takes a", given="b", write="Name it."),
    ],
)
def test_an_error_arrives_from_another_process_with_its_words(error):
    again = pickle.loads(pickle.dumps(error))

    assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))


def test_a_dtype_may_be_asserted_by_its_class(call):
    call([AssertShape("x", ["B"], dtype=np.float32), Scale("x", output="y")], {"x": np.ones(2, "float32")}, "y")

    with pytest.raises(DeclarationError, match="'floaty' is no dtype"):
        AssertShape("x", ["B"], dtype="floaty")
