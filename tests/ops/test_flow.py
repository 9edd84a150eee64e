"""What passes values on unchanged."""

import numpy as np
import tensorflow as tf

from experimentator.graph import Chunk, Graph, Mode
from experimentator.ops import Rename, Scale, StopGradient


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

    x = tf.constant(values)
    with tf.GradientTape() as tape:
        tape.watch(x)
        chunk = Chunk({"x": x}, mode=Mode.TRAIN)
        StopGradient("x", output="y")(chunk)
        total = tf.reduce_sum(chunk["y"] + 3 * x)
    np.testing.assert_array_equal(tape.gradient(total, x), [3, 3])
