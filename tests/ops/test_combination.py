"""Learned weights of tasks against the paper's formula."""

import numpy as np
import pytest

from experimentator.graph import Chunk, DeclarationError, Graph, Mode
from experimentator.ops import TensorError, UncertaintyWeighting
from tests.frameworks import gradients, gradients_of

PARTS = {"a": "regression", "b": "classification"}


@pytest.fixture
def op():
    op = UncertaintyWeighting(PARTS)
    for variable, value in zip(op.log_variances.values(), (0.5, -0.3)):
        variable.assign(value)
    return op


def test_the_sum_is_that_of_the_paper(run_xla, op):
    result = run_xla(op, {"a": np.array(3.0, "float32"), "b": np.array(2, "int32")})

    expected = 3 / (2 * np.exp(0.5)) + 0.25 + 2 / np.exp(-0.3) - 0.15
    np.testing.assert_allclose(result, expected, rtol=1e-6)
    assert (result.shape, result.dtype) == ((), "float32")


def test_gradients_reach_the_weights_and_the_parts(op):
    def loss(a=3.0):
        chunk = Chunk({"a": a, "b": 2.0}, mode=Mode.TRAIN)
        op(chunk)
        return chunk["loss"]

    slopes = [*gradients(loss, np.float32(3)), *gradients_of(loss, list(op.log_variances.values()))]
    np.testing.assert_allclose(slopes, [np.exp(-0.5) / 2, 0.5 - 1.5 * np.exp(-0.5), 0.5 - 2 * np.exp(0.3)], rtol=1e-5)


def test_learned_variances_settle_where_the_paper_says():
    op = UncertaintyWeighting(PARTS)
    variables = list(op.log_variances.values())

    def loss():
        chunk = Chunk({"a": 4.0, "b": 0.25}, mode=Mode.TRAIN)
        op(chunk)
        return chunk["loss"]

    for _ in range(300):
        for variable, slope in zip(variables, gradients_of(loss, variables)):
            variable.assign_sub(0.2 * slope)

    np.testing.assert_allclose(np.exp(list(map(np.asarray, variables))), [4, 0.5], rtol=1e-3)  # L, and 2 L


def test_each_part_has_a_trainable_weight_of_its_own(op):
    assert list(op.log_variances) == ["a", "b"]
    assert all(variable.trainable and variable.shape == () for variable in op.log_variances.values())
    assert UncertaintyWeighting({"task/loss": "regression"}).log_variances["task/loss"].name == "log_variance_task_loss"


def test_parts_keep_their_names(op):
    graph = Graph([op], provided={"a", "b"}, mode=Mode.TRAIN).select("loss", "a")

    assert graph.run({"a": 1.0, "b": 2.0})["a"] == 1.0
    assert op.is_metric


@pytest.mark.parametrize("parts", [{}, ["a"], {"a": "ranking"}])
def test_other_parts_are_refused(parts):
    with pytest.raises(DeclarationError, match=r"its parts are (.|\n)*'regression' or 'classification'"):
        UncertaintyWeighting(parts)


def test_only_single_numbers_are_combined(call, op):
    with pytest.raises(TensorError, match=r"A loss is one number(.|\n)*'a' \[2\] float32"):
        call(op, {"a": np.ones(2, "float32"), "b": 1.0})
