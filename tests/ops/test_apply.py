"""Any function, names in and names out."""

import keras
import numpy as np
import pytest

from experimentator.graph import Chunk, DeclarationError, Mode, UndeclaredWriteError, UnwrittenOutputError
from experimentator.ops import Apply

PAIR = {"a": np.array([1.0, 2.0]), "b": np.array([10.0, 20.0])}


def test_tensors_arrive_in_the_order_listed_whatever_the_parameters_are_called(run):
    result = run(Apply(lambda a, b: a - b, inputs=["b", "a"], outputs="gap"), PAIR)

    np.testing.assert_array_equal(result, [9, 18])


def test_one_input_may_fill_two_places(run):
    result = run(Apply(lambda x, y, z: x * y - z, inputs=["a", "b", "a"], outputs=["c"]), PAIR)

    np.testing.assert_array_equal(result, [9, 38])


@pytest.mark.parametrize("wrap", [tuple, list, lambda values: dict(zip(("sum", "gap"), values, strict=True))])
def test_several_outputs_come_as_a_tuple_a_list_or_by_name(run, wrap):
    results = run(Apply(lambda a, b: wrap((a + b, a - b)), inputs=["a", "b"], outputs=["sum", "gap"]), PAIR)

    np.testing.assert_array_equal(results["sum"], [11, 22])
    np.testing.assert_array_equal(results["gap"], [-9, -18])


def test_backend_functions_are_taken_as_they_are(run_xla):
    result = run_xla(Apply(keras.ops.add, inputs=["a", "b"], outputs="sum"), PAIR)

    np.testing.assert_array_equal(result, [11, 22])


@pytest.mark.parametrize("mode", [Mode.TRAIN, Mode.EVAL])
def test_training_reaches_a_function_that_asks_for_it(mode):
    chunk = Chunk({"a": 1}, mode=mode)

    Apply(lambda a, training=False: training, inputs="a", outputs="told")(chunk)

    assert chunk["told"] is (mode == Mode.TRAIN)


def test_a_function_without_outputs_is_a_probe():
    seen = []

    Apply(seen.append, inputs=["a"], outputs=[])(Chunk({"a": 3}, mode=Mode.ALL))

    assert seen == [3]


def test_too_few_inputs_are_refused_when_the_op_is_made():
    with pytest.raises(
        DeclarationError, match=r"takes \(a, b\) and it has 1 inputs?(.|\n)*one input for each parameter"
    ):
        Apply(lambda a, b: a, inputs=["a"], outputs="c")


def test_a_wrong_number_of_results_is_refused(call):
    with pytest.raises(UnwrittenOutputError, match="returned 2 values for 3 outputs"):
        call(Apply(lambda a: (a, a), inputs="a", outputs=["b", "c", "d"]), PAIR)


def test_a_result_under_another_name_is_refused(call):
    with pytest.raises(UndeclaredWriteError, match="'c'"):
        call(Apply(lambda a: {"c": a}, inputs="a", outputs=["b"]), PAIR)


def test_builtins_without_a_signature_are_taken_as_they_are():
    chunk = Chunk({"a": 3, "b": 5}, mode=Mode.ALL)

    Apply(max, inputs=["a", "b"], outputs="c")(chunk)

    assert chunk["c"] == 5


def test_what_cannot_be_called_is_refused():
    with pytest.raises(DeclarationError, match="cannot be called"):
        Apply(3, inputs="a", outputs="b")


class PerCall:
    """Gives a value for each call, and keeps what it saw, as metrics of other libraries do."""

    def __init__(self):
        self.seen = []

    def update(self, score, target):
        self.seen.append((score, target))

    def compute(self):
        return np.mean([np.mean(score == target) for score, target in self.seen])

    def reset(self):
        self.seen.clear()

    def __call__(self, score, target):
        self.update(score, target)
        return np.mean(score == target)


def test_a_metric_that_gives_a_value_for_each_call_is_told_to_be_averaged(caplog):
    Apply(PerCall(), inputs=["batch_scores", "batch_target"], outputs="score")

    assert "Apply: the history shows the mean of the values of" in caplog.text
    assert "not for AUROC, F1" in caplog.text
    caplog.clear()
    Apply(lambda score, target: score, inputs=["batch_scores", "batch_target"], outputs="score")
    assert not caplog.text
