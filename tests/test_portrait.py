"""What an experiment shows of itself: its graphs with shapes and weights, and its summary."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from experimentator import AsyncExperiment, BaseExperiment, Mode, Subset, build_experiment, ops
from experimentator.diagram import picture
from experimentator.graph import GraphError, chunk_processor
from tests.pictures import needs_pictures
from tests.test_experiment import config

MEAN = chunk_processor(inputs=["batch_x"], outputs=["batch_mean"])(lambda x: x.mean(axis=1))
TOTAL = chunk_processor(inputs=["batch_mean"], outputs=["loss"])(lambda mean: mean.sum())


def shapes(description):
    return {str(tensor.ref): (tensor.shape, tensor.dtype) for tensor in description.tensors}


def light(processors, **changes):
    data = {"x": np.zeros((6, 3), np.float32)}
    return BaseExperiment(
        {"subsets": [Subset("validation", Mode.EVAL, data)], "chunk_processors": processors, **changes}
    )


def test_shapes_follow_the_batch_without_a_framework():
    described = light([MEAN, TOTAL]).describe("eval")

    assert shapes(described) == {
        "batch_x@0": ((None, 3), "float32"), "batch_mean@1": ((None,), "float32"), "loss@1": ((), "float32"),
    }  # fmt: skip


def test_shapes_and_weights_of_layers_are_known_before_training():
    exp = build_experiment(config())
    described = exp.describe("train")

    assert shapes(described)["batch_logits@1"] == ((None, 2), "float32")
    assert [(box.trainable, box.frozen) for box in described.boxes if box.name == "Model"] == [(50, 0)]
    assert exp.program.feeds == {}


def test_of_a_tensor_of_unknown_rank_the_dtype_is_known():
    odd = lambda chunk: chunk.update(batch_odd=tf.py_function(lambda x: x, [chunk["batch_input"]], tf.float32))  # noqa: E731
    exp = build_experiment(config())
    exp.chunk_processors.insert(1, odd)
    described = exp.describe("train", view="list")

    assert shapes(described)["batch_odd@1"] == (None, "float32")
    assert "batch_odd" in str(described)


def test_a_list_without_data_is_described_without_shapes():
    described = build_experiment({"chunk_processors": [MEAN, TOTAL]}).describe("eval")

    assert len(described.boxes) == 2
    assert all(tensor.shape is None for tensor in described.tensors)


@pytest.mark.parametrize("view, count", [("graph", 2), ("plan", 3), ("list", 3)])
def test_a_plan_and_a_list_hold_what_was_pruned(view, count):
    exp = light([MEAN, TOTAL, ops.Scale("batch_x", output="batch_scaled")])

    assert len(exp.describe("eval", view=view).boxes) == count


def test_a_metric_of_a_plain_processor_is_drawn_as_one():
    spread = chunk_processor(inputs=["batch_x"], outputs=["spread"])(lambda batch_x: batch_x.std())
    exp = light([MEAN, TOTAL, spread], metrics=["spread"])

    assert [(port.name, port.role) for port in exp.describe("eval").outputs] == [("loss", "loss"), ("spread", "metric")]


def test_names_that_are_overwritten_need_no_data_to_be_bound():
    steps = [chunk_processor(inputs=["x"], outputs=["x"], node=node)(lambda x: x) for node in "ab"]
    described = build_experiment({"chunk_processors": steps}).describe("infer", "x")

    assert [(port.name, port.role) for port in described.inputs] == [("x", "input")]
    assert [str(ref) for box in described.boxes for ref in box.reads] == ["x@0", "x@1"]


def test_without_data_a_list_with_undeclared_callables_is_shown_whole():
    exp = build_experiment({"chunk_processors": [MEAN, lambda chunk: chunk.update(y=1)]})

    assert [box.declared for box in exp.describe("train").boxes] == [True, False]
    with pytest.raises(GraphError, match="declares no inputs and outputs"):
        exp.describe("train", "loss")


def test_a_processor_that_uses_weights_of_another_says_whose():
    layer = keras.layers.Dense(2)
    twins = [ops.Model(layer, inputs="batch_input", outputs=f"batch_{name}", node=name) for name in ("first", "second")]
    processors = config()["chunk_processors"]
    exp = build_experiment(config(chunk_processors=[*processors, *twins]))

    boxes = exp.describe("infer", "batch_first", "batch_second").boxes

    assert [(box.trainable, box.shares) for box in boxes] == [(8, ()), (None, ("first",))]


def test_names_narrow_a_description():
    assert [box.index for box in light([MEAN, TOTAL]).describe("eval", "batch_mean").boxes] == [0]


def test_the_summary_tells_subsets_graphs_parameters_and_place():
    exp = build_experiment(config())
    before = str(exp)
    exp.train(1)

    assert "training    TRAIN  48 items  not read yet  batch_input [B, 3] float32, batch_target [B] int32" in before
    assert "Model  50 trained  0 not" in before
    assert "on the device" in str(exp)
    assert "training with graph, validation with graph" in str(exp)


def test_a_notebook_gets_the_summary_as_a_table_and_names_are_escaped():
    exp = light([MEAN, TOTAL], project_name="<b>")
    bundle = exp._repr_mimebundle_()

    assert "<table>" in bundle["text/html"]
    assert "&lt;b&gt;" in bundle["text/html"]
    assert bundle["text/plain"] == str(exp)


def test_an_empty_experiment_has_a_summary_too():
    assert str(AsyncExperiment({})) == "experiment: 0 epochs trained\nruns on     numpy  CPU  nothing compiled"


def test_weights_that_are_not_finite_are_told_by_node():
    exp = build_experiment(config())
    exp.train(1)
    exp.backend.set_weights({key: values * np.nan for key, values in exp.backend.weights().items()})

    assert exp.troubles(ArithmeticError("nan")) == {"Model": "weights are not finite"}
    assert exp.troubles(ValueError("something else")) == {}


def test_versions_have_shapes_of_their_own():
    exp = build_experiment(config(chunk_processors=[ops.Cast("batch_input", "float16"), *config()["chunk_processors"]]))

    seen = shapes(exp.describe("train"))
    assert [seen[f"batch_input@{number}"][1] for number in (0, 1)] == ["float32", "float16"]


def test_lists_of_the_configuration_are_groups():
    exp = build_experiment("""
from experimentator import chunk_processor
first, second, third = [chunk_processor(inputs=["x"], outputs=[name])(lambda x: x) for name in "abc"]
heads = [second, third]
chunk_processors = [first, None, *heads]
""")

    assert [box.group for box in exp.describe("eval", view="list").boxes] == [None, "heads", "heads"]


@needs_pictures
def test_the_graph_of_an_experiment_shows_what_is_known():
    exp = build_experiment(config())

    assert "batch_logits [B, 2] float32" in str(exp.graph("train"))
    assert "[B, 2] float32" in exp.graph("eval")._repr_mimebundle_()["image/svg+xml"]
    assert b"[B, 2] float32" in picture(exp.graph("eval"))


def test_an_unknown_view_lists_those_there_are():
    with pytest.raises(ValueError, match=r"There is no view 'all'.\nSeen: 'all'.\nWrite one of 'graph', 'plan'"):
        light([MEAN, TOTAL]).describe("eval", view="all")
