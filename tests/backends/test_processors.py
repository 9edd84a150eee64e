"""Chunk processors of every kind, through an experiment that trains, evaluates and predicts."""

from __future__ import annotations

import gc
import random
import re
import shutil
import sys
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, cached_property, partial
from pathlib import Path
from threading import Thread
from types import FunctionType, SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from experimentator import (
    AverageMetrics,
    Callback,
    CallbackError,
    CheckpointEvery,
    ChunkProcessor,
    DataAugmentationDataset,
    GraphError,
    Mode,
    NonFiniteLossError,
    Optimizers,
    Subset,
    TerminateOnNaN,
    WeightsError,
    build_experiment,
    chunk_processor,
    ops,
)
from experimentator.attributes import Attributes
from experimentator.backends.keras.shapes import shapes_by_running
from experimentator.callbacks.freezing import Freeze
from experimentator.graph import DeclarationError
from experimentator.saving.manifest import numbered
from experimentator.saving.resume import Restored
from tests.frameworks import NAME, ON_JAX, ON_TENSORFLOW, one_elsewhere, variable

X = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
Y = X.sum(axis=1)
IMAGES = np.random.default_rng(1).normal(size=(24, 8, 8, 3)).astype(np.float32)


def squares(chunk: Any) -> None:
    error = keras.ops.cast(chunk["batch_prediction"][:, 0], "float32") - chunk["batch_target"]
    chunk["loss"] = keras.ops.mean(error**2)


def experiment(*processors: Any, items: Any = None, **settings: Any) -> Any:
    items = {"input": X, "target": Y} if items is None else items
    subsets = [
        Subset("training", Mode.TRAIN, items),
        Subset("validation", Mode.EVAL, items, keys=range(16)),
    ]
    settings = {"optimizer": keras.optimizers.SGD(0.05), "hide_progress": True, "jit_compile": False} | settings
    return build_experiment({"subsets": subsets, "batch_size": 8, "chunk_processors": [*processors], **settings})


def dense() -> Any:
    return ops.Model(layers.Dense(1), inputs="batch_input", outputs="batch_prediction")


# Kinds of processors: each writes batch_prediction [B, 1]


class AtFirstCall(ChunkProcessor):
    net: Any = None

    def __call__(self, chunk):
        if self.net is None:
            self.net = layers.Dense(1)
        chunk["batch_prediction"] = self.net(chunk["batch_input"])


class Anew:
    def __call__(self, chunk):
        hidden = layers.Dense(5, activation="relu")(chunk["batch_input"])
        chunk["batch_prediction"] = layers.Dense(1)(hidden)


class AnewInALoop:
    def __call__(self, chunk):
        tensor = chunk["batch_input"]
        for _ in range(2):
            tensor = layers.Dense(4)(tensor)
        chunk["batch_prediction"] = layers.Dense(1)(tensor)


class SomeAtFirstCallAndSomeAnew:
    net: Any = None

    def __call__(self, chunk):
        if self.net is None:
            self.net = keras.Sequential([layers.Dense(4)])
        chunk["batch_prediction"] = layers.Dense(1)(layers.Dense(4)(self.net(chunk["batch_input"])))


class SequentialAnew:
    def __call__(self, chunk):
        net = keras.Sequential(
            [layers.Dense(5), layers.BatchNormalization(momentum=0.5), layers.Dropout(0.1), layers.Dense(1)]
        )
        chunk["batch_prediction"] = net(chunk["batch_input"])


class FunctionalAnew:
    def __call__(self, chunk):
        given = keras.Input((4,))
        net = keras.Model(given, layers.Dense(1)(layers.Dense(3)(given)))
        chunk["batch_prediction"] = net(chunk["batch_input"])


class TiedAnew:
    """A layer made anew whose weights are read after its call."""

    def __call__(self, chunk):
        dense = layers.Dense(4)
        hidden = dense(chunk["batch_input"])
        chunk["batch_prediction"] = keras.ops.sum(hidden @ keras.ops.transpose(dense.kernel), axis=1, keepdims=True)


class Shared:
    """Hands a tensor to another processor past the chunk, as task files should not."""

    def __call__(self, chunk):
        self.hidden = layers.Dense(4)(chunk["batch_input"])
        chunk["batch_other"] = self.hidden


shared = Shared()


@dataclass
class ModelInACachedProperty:
    units: int = 3

    @cached_property
    def model(self):
        return keras.Sequential([layers.Dense(self.units), layers.Dense(1)])

    def __call__(self, chunk):
        chunk["batch_prediction"] = self.model(chunk["batch_input"])


class TableInACachedProperty:
    @cached_property
    def table(self):
        return {"ones": keras.ops.ones((4,))}

    def __call__(self, chunk):
        chunk["batch_prediction"] = layers.Dense(1)(chunk["batch_input"] * self.table["ones"])


class AroundAnother:
    def __init__(self, processor):
        self.processor = processor

    def __call__(self, chunk):
        self.ones = self.ones if hasattr(self, "ones") else keras.ops.ones((4,))
        chunk["batch_input"] = self.ones * chunk["batch_input"]
        self.processor(chunk)


def with_a_plain_variable(chunk):
    chunk["batch_prediction"] = chunk["batch_input"] @ variable(np.zeros((4, 1)))


class BuildsConstants(keras.Layer):
    def build(self, shape):
        self.constant = keras.ops.ones((4, 1))
        self.kernel = self.add_weight(shape=(4, 1), initializer="zeros")
        self.bias = variable(np.zeros(1))

    def call(self, tensor):
        return tensor @ (self.constant * self.kernel) + self.bias


class InTurn:
    """What Keras builds by calling it, for want of a `build`."""

    def __init__(self, *parts):
        super().__init__()
        self.parts = list(parts)

    def call(self, tensor):
        for part in self.parts:
            tensor = part(tensor)
        return tensor


class Holds(InTurn, layers.Layer):
    pass


class HoldsAsAModel(InTurn, keras.Model):
    pass


def functional(kind: str) -> Any:
    left, right = keras.Input((2,), name="left"), keras.Input((2,), name="right")
    made = layers.Dense(1)(layers.Concatenate()([left, right]))
    if kind == "dict":
        net = keras.Model({"left": left, "right": right}, {"score": made, "twice": 2 * made})
        return ops.Model(net, inputs={"left": "a", "right": "b"}, outputs={"score": "batch_prediction"})
    net = keras.Model([left, right], [made, 2 * made])
    return ops.Model(net, inputs=["a", "b"], outputs=["batch_prediction", "batch_twice"])


halves = ops.Apply(lambda x: (x[:, :2], x[:, 2:]), inputs=["batch_input"], outputs=["a", "b"])
KINDS: dict[str, Any] = {
    "layers made at the first call": lambda: [AtFirstCall()],
    "layers made anew in every call": lambda: [Anew()],
    "layers made anew in a loop": lambda: [AnewInALoop()],
    "some layers at the first call, some anew": lambda: [SomeAtFirstCallAndSomeAnew()],
    "a layer made anew, its weights read after the call": lambda: [TiedAnew()],
    "an attribute that hands a tensor on": lambda: [
        shared,
        lambda chunk: chunk.update(batch_prediction=layers.Dense(1)(0 * chunk["batch_other"] + shared.hidden)),
    ],
    "a sequential model made anew": lambda: [SequentialAnew()],
    "a functional model made anew": lambda: [FunctionalAnew()],
    "a dataclass with a model in a cached property": lambda: [ModelInACachedProperty()],
    "a table of the framework in a cached property": lambda: [TableInACachedProperty()],
    "a processor around another": lambda: [AroundAnother(Anew())],
    "a plain variable made in a function": lambda: [with_a_plain_variable],
    "a layer in a lambda": lambda: [lambda chunk: chunk.update(batch_prediction=layers.Dense(1)(chunk["batch_input"]))],
    "a partial": lambda: [
        partial(lambda net, chunk: chunk.update(batch_prediction=net(chunk["batch_input"])), layers.Dense(1))
    ],
    "a declared function": lambda: [
        chunk_processor(inputs=["batch_input"], outputs=["batch_prediction"])(lambda x: layers.Dense(1)(x))
    ],
    "an op with a function that makes layers": lambda: [
        ops.Model(lambda x: layers.Dense(1)(x), inputs="batch_input", outputs="batch_prediction")
    ],
    "a layer with constants and variables in build": lambda: [
        ops.Model(BuildsConstants(), inputs="batch_input", outputs="batch_prediction")
    ],
    "a layer whose call builds one with constants": lambda: [
        ops.Model(Holds(BuildsConstants()), inputs="batch_input", outputs="batch_prediction")
    ],
    "a model of single tensors": lambda: [
        ops.Model(keras.Sequential([layers.Dense(1)]), inputs="batch_input", outputs="batch_prediction")
    ],
    "a model of lists": lambda: [halves, functional("list")],
    "a model of dictionaries": lambda: [halves, functional("dict")],
}


# Ways to write the same calls of layers, which no framework can tell apart.
ALIKE = {
    "layers made anew in a loop",
    "a processor around another",
    "a layer in a lambda",
    "a partial",
    "a declared function",
    "an op with a function that makes layers",
    "a model of single tensors",
}
if not ON_TENSORFLOW:
    KINDS = {kind: made for kind, made in KINDS.items() if kind not in ALIKE}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_trained_is_what_is_evaluated_and_what_predicts(kind):
    exp = experiment(*KINDS[kind](), squares)
    before = exp.evaluate()["validation_loss"]
    exp.train(4)

    after = exp.evaluate()["validation_loss"]
    prediction = exp.predict({"batch_input": X})["batch_prediction"][:, 0]
    assert after < before / 2
    np.testing.assert_allclose(after, np.mean((prediction - Y)[:16] ** 2), rtol=1e-4, atol=1e-8)


class KeepsATable(layers.Layer):
    """A layer that makes a table at its first call, without a `build`."""

    table = None

    def call(self, tensor):
        if self.table is None:
            self.table = keras.ops.ones((4,))
        return tensor * self.table


def test_a_table_that_a_layer_keeps_of_its_first_call_is_made_anew_in_each_trace():
    keeps = ops.Model(KeepsATable(), inputs="batch_input", outputs="batch_input")
    exp = experiment(keeps, dense(), squares)
    (row,) = exp.train(1)

    assert exp.evaluate()["validation_loss"] == pytest.approx(row["validation_loss"])
    assert exp.predict({"batch_input": X})["batch_prediction"].shape == (40, 1)


@pytest.mark.parametrize("options", [{}, *[{"eager": True}] * (not ON_JAX)], ids=str)  # which takes seconds there
def test_a_recurrent_cell_in_a_loop_draws_its_dropout_once_for_all_steps_of_each_batch(options):
    cell, masks = layers.GRUCell(3, dropout=0.5, recurrent_dropout=0.5, seed=1), set()

    def unrolled(chunk):
        state, kept = keras.ops.zeros_like(chunk["batch_input"][:, :3]), []
        for _ in range(2):
            output, [state] = cell(chunk["batch_input"], [state], training=chunk.training)
            kept.append(cell.get_dropout_mask(chunk["batch_input"]))
        chunk["batch_prediction"], chunk["mask"] = output, keras.tree.flatten(kept[0])[0]
        assert kept[0] is kept[1]

    class Keeps(Callback):
        when = Mode.TRAIN

        def on_batch_end(self, mask, **_):
            masks.add(np.asarray(mask).tobytes())

    experiment(unrolled, squares, callbacks=[Keeps()], **options).train(2)

    assert len(masks) == 10


@pytest.mark.parametrize("kind", KINDS)
def test_shapes_are_known_of_the_recording_as_a_run_of_its_own_would_find_them(kind):
    exp = experiment(*KINDS[kind](), squares)
    for mode in (Mode.TRAIN, Mode.EVAL):
        graph, specs = exp.graph(mode), exp.program.specs(mode)
        assert exp.backend.seen(graph, specs) == shapes_by_running(exp.backend, graph, specs)


@pytest.mark.parametrize("odd", ["a text", {"half": 0.5}], ids=["text", "dict"])
def test_shapes_are_known_beside_what_is_no_tensor(odd):
    linear = ops.Model(layers.Dense(1), inputs="batch_input", outputs="batch_prediction")
    exp = experiment(lambda chunk: chunk.update(batch_odd=odd), linear, squares)

    seen = {tensor.name: tensor.shape for tensor in exp.describe("eval", "batch_odd", "loss").tensors}

    assert (seen["batch_input"][1:], seen["batch_prediction"][1:], seen["loss"]) == ((4,), (1,), ())


class Widen(ChunkProcessor):
    inputs, outputs = ["batch_input"], ["batch_wide"]
    calls = 0

    def __init__(self, times):
        self.times = times

    def __call__(self, chunk):
        type(self).calls += 1
        chunk["batch_wide"] = keras.ops.concatenate([chunk["batch_input"]] * self.times, axis=1)


def test_a_picture_runs_nothing_until_a_processor_is_changed():
    widen = Widen(2)
    exp = experiment(widen, ops.Model(layers.Dense(1), inputs="batch_wide", outputs="batch_prediction"), squares)

    def width():
        (tensor,) = [one for one in exp.describe("eval").tensors if one.name == "batch_wide"]
        return tensor.shape[-1]

    exp.train(1)
    before = Widen.calls
    assert (width(), Widen.calls) == (8, before)
    exp.chunk_processors[1] = ops.Model(layers.Dense(1), inputs="batch_wide", outputs="batch_prediction")
    widen.times = 3
    assert width() == 12


def test_a_picture_of_what_runs_in_python_is_of_what_it_is_now():
    widen = Widen(2)
    exp = experiment(widen, dense(), squares, eager=True)
    exp.train(1)
    widen.times = 3

    assert [one.shape[-1] for one in exp.describe("eval", "batch_wide").tensors if one.name == "batch_wide"] == [12]


@pytest.mark.tensorflow
def test_a_picture_is_of_the_list_as_it_is_now():
    exp = experiment(dense(), squares)
    exp.train(1)
    exp.chunk_processors.insert(0, Times())
    assert [node.name for node in exp.graph("train").nodes] == ["Times", "Model", "squares"]

    exp.chunk_processors.pop(0)
    assert [box.name for box in exp.describe("train").boxes] == ["Model", "squares"]


class Times(ChunkProcessor):
    inputs, outputs = ["batch_input"], ["batch_input"]
    factor = 1.0

    def __call__(self, chunk):
        chunk["batch_input"] = self.factor * chunk["batch_input"]


def test_a_picture_in_the_midst_of_a_training_leaves_that_alone():
    times = Times()

    class Draws(Callback):
        def init(self, exp):
            self.exp = exp

        def on_batch_end(self, batch, **_):
            if batch == 2:
                times.factor += 0.1
                self.exp.describe("train")

    exp = experiment(times, dense(), squares, callbacks=[Draws()])
    exp.train(3)

    assert exp.program.counts()["training"]["batches"] == 3 * 5


@pytest.mark.tensorflow  # elsewhere, what compilers are given is what runs without them
@pytest.mark.parametrize("options", [{"jit_compile": True}, {"eager": True}], ids=str)
def test_layers_made_anew_are_shared_by_compilers_too(options):
    exp = experiment(SequentialAnew(), squares, **options)
    exp.train(4)

    prediction = exp.predict({"batch_input": X})["batch_prediction"][:, 0]
    np.testing.assert_allclose(
        exp.evaluate()["validation_loss"], np.mean((prediction - Y)[:16] ** 2), rtol=1e-4, atol=1e-8
    )


@pytest.mark.parametrize("settings", [{}, {"eager": True}], ids=["compiled", "eager"])
def test_seeds_of_what_is_made_in_every_call_are_drawn_once_however_often_it_is_traced(settings):
    def drops(chunk: Any) -> None:
        for _ in range(2):
            chunk["batch_input"] = layers.Dense(3)(layers.Dropout(0.5)(chunk["batch_input"]))

    exp = experiment(drops, dense(), squares, **({} if ON_JAX else settings))
    exp.program.prepare()
    drawn = random.getstate()
    exp.train(2)
    exp.batch_size = 5
    exp.train(3)

    assert random.getstate() == drawn


def test_nothing_is_made_twice_however_often_it_is_traced():
    exp = experiment(Anew(), squares)
    exp.train(1)
    keys = list(exp.backend.weights())
    exp.batch_size = 5
    exp.train(2)
    exp.predict({"batch_input": X[:3]})

    assert keys == list(exp.backend.weights()) == [
        "Anew/0/kernel", "Anew/1/bias", "Anew/2/kernel", "Anew/3/bias",
    ]  # fmt: skip


@pytest.mark.tensorflow
def test_objects_of_one_class_and_places_of_one_function_have_weights_of_their_own():
    def widen(chunk):
        chunk["batch_input"] = layers.Dense(4)(chunk["batch_input"])

    exp = experiment(widen, widen, Anew(), Anew(), squares)
    exp.train(1)

    owners = [key.partition("/")[0] for key in exp.backend.weights()]
    assert list(dict.fromkeys(owners)) == ["widen", "widen#2", "Anew", "Anew#2"]


@pytest.mark.tensorflow
def test_what_a_call_made_stays_with_its_processor_whatever_else_is_listed():
    def widen(width):
        def widen(chunk):
            chunk["batch_input"] = layers.Dense(width)(chunk["batch_input"])

        return widen

    exp = experiment(widen(4), widen(3), Anew(), squares)
    exp.train(1)
    before = exp.predict({"batch_input": X})["batch_prediction"]
    same = chunk_processor(inputs=["batch_input"], outputs=["batch_input"], node="widen")(
        lambda batch_input: batch_input
    )
    exp.chunk_processors.insert(0, same)
    exp.chunk_processors[3].node = "Last"

    assert np.array_equal(exp.predict({"batch_input": X})["batch_prediction"], before)
    assert exp.backend.weights().keys() >= {"widen#3/0/kernel", "Last/0/kernel"}


@pytest.mark.tensorflow
def test_weights_of_a_processor_that_left_are_gone_whatever_else_was_changed(caplog):
    hidden = ops.Model(layers.Dense(4), inputs="batch_input", outputs="batch_input", node="Hidden")
    exp = experiment(hidden, dense(), squares)
    exp.train(1)
    exp.chunk_processors.remove(hidden)
    exp.optimizer = keras.optimizers.SGD(0.01)
    exp.train(2)

    assert [*exp.backend.weights()] == ["Model/0/kernel", "Model/1/bias"]
    assert "No gradient reaches" not in caplog.text


def test_keys_of_weights_do_not_depend_on_what_was_made_before():
    def keys():
        def loss(chunk):
            error = chunk["batch_target"] * keras.Variable(1.0) + variable(1.0)
            chunk["loss"] = keras.ops.mean(error**2)

        exp = experiment(loss)
        exp.train(1)
        return list(exp.backend.weights())

    assert keys() == keys() == ["loss/0/variable", "loss/1/Variable" if ON_TENSORFLOW else "loss/1/variable"]


def test_a_layer_that_only_later_batches_call_is_told(caplog):
    first, later = layers.Dense(1), layers.Dense(1)

    def parted(chunk):
        hidden = first(chunk["batch_input"])
        is_first = values(chunk["batch_input"])[0, 0] == X[0, 0]
        chunk["batch_prediction"] = hidden if is_first else hidden + later(chunk["batch_input"])

    subsets = [Subset("training", Mode.TRAIN, {"input": X, "target": Y})]
    subsets[0].shuffled_keys = lambda: range(40)
    exp = experiment(parted, squares, subsets=subsets, eager=True)
    exp.train(2)

    assert caplog.text.count("#0 parted calls dense") == 1
    assert len(exp.backend.weights()) == 2


@pytest.mark.parametrize("eager", [False, True])
@pytest.mark.parametrize("read", [lambda one: one, keras.ops.convert_to_tensor])
def test_a_variable_that_is_written_shows_its_value_of_then(read, eager):
    weight, count = keras.Variable(1.0), keras.Variable(0.0, trainable=False)
    before = chunk_processor(inputs=[], outputs=["weight_now", "count_now"])(lambda: (read(weight), read(count)))
    counted = chunk_processor(inputs=["batch_input"], outputs=["n"])(lambda _: count.assign(count + 1.0) * 0.0 + 1.0)
    loss = chunk_processor(inputs=["n", "count_now"], outputs=["loss", "seen"])(lambda n, was: (n * weight, was * 1.0))
    exp = experiment(before, counted, loss, metrics=["weight_now", "count_now", "seen"], batch_size=20, eager=eager)
    exp.optimizer = keras.optimizers.SGD(0.1)
    exp.train(1)

    row = [exp.history[0][f"training_{name}"] for name in ("weight_now", "count_now", "seen", "loss")]
    assert row == pytest.approx([0.95, 0.5, 0.5, 0.95])  # of two batches: 1.0 and 0.9, 0 and 1


def test_a_variable_that_is_assigned_and_never_read_is_state_like_others():
    last = keras.Variable(0.0, trainable=False, name="last")

    def remember(chunk):
        last.assign(keras.ops.mean(chunk["batch_input"]))
        chunk["batch_input"] = 1 * chunk["batch_input"]

    exp = experiment(remember, dense(), squares)
    exp.train(1)

    assert list(exp.backend.weights()) == ["remember/0/last", "Model/0/kernel", "Model/1/bias"]
    assert float(keras.ops.convert_to_numpy(last)) == pytest.approx(X[8:16].mean())  # the last batch of the validation


class InALoop(ChunkProcessor):
    def __init__(self, *parts, depth=2, fails=False):
        self.parts, self.head, self.depth, self.fails = parts, layers.Dense(1), depth, fails

    def __call__(self, chunk):
        hidden = chunk["batch_input"]
        for place, part in enumerate(self.parts[: self.depth]):
            if place and self.fails:
                raise RuntimeError("once")
            hidden = part(hidden)
        chunk["batch_prediction"] = self.head(hidden)


class MakesInBuild(layers.Layer):
    def build(self, shape):
        self.dense = layers.Dense(4)
        super().build(shape)

    def call(self, tensor):
        return self.dense(tensor)


class Lazy:
    net: Any = None

    def __call__(self, tensor):
        if self.net is None:
            self.net = layers.Dense(4)
        return self.net(tensor)


@pytest.mark.parametrize("make", one_elsewhere(MakesInBuild, lambda: layers.Dense(4)))
def test_a_layer_that_is_called_from_later_on_has_weights_of_its_own(make):
    looped = InALoop(make(), make(), depth=1)
    exp = experiment(looped, squares)
    exp.train(1)
    looped.depth, exp.optimizer = 2, keras.optimizers.SGD(0.05)
    exp.train(2)

    assert len(exp.backend.weights()) == 6
    assert len({id(variable) for variable in exp.backend.variables}) == 6


@pytest.mark.parametrize("make", one_elsewhere(MakesInBuild, lambda: layers.Dense(4), Lazy))
def test_layers_share_no_weights_after_a_call_that_failed(make):
    looped = InALoop(make(), make(), fails=True)
    exp = experiment(looped, squares)
    with pytest.raises(RuntimeError, match="once"):
        exp.train(1)
    looped.fails = False
    exp.train(1)

    assert len(exp.backend.weights()) == 6


@pytest.mark.parametrize("first", ["train", "predict"])
def test_a_network_belongs_to_who_calls_it_not_to_who_averages_its_weights(first):
    student, teacher = (keras.Sequential([layers.Input((4,)), layers.Dense(1)]) for _ in range(2))

    @chunk_processor(inputs=["batch_input"], outputs=["batch_wanted"], mode=Mode.TRAIN, node="Teacher")
    def averaged(inputs: Any) -> Any:
        for mean, weight in zip(teacher.weights, student.weights, strict=True):
            mean.assign(0.9 * mean + 0.1 * weight)
        return teacher(inputs)

    exp = experiment(averaged, ops.Model(student, inputs="batch_input", outputs="batch_prediction"), squares)
    if first == "predict":
        exp.predict({"batch_input": X})
    exp.train(1)

    owners = {node: {key for key in exp.backend.weights() if key.startswith(node)} for node in ("Teacher", "Model")}
    assert owners == {
        "Teacher": {"Teacher/0/kernel", "Teacher/1/bias"}, "Model": {"Model/0/kernel", "Model/1/bias"},
    }  # fmt: skip
    assert exp.backend.shared() == {"Teacher": ("Model",)}
    np.testing.assert_array_equal(exp.backend.weights()["Model/0/kernel"], np.asarray(student.weights[0]))


def test_weights_of_layers_made_anew_travel_to_another_experiment(tmp_path):
    trained, other = experiment(Anew(), squares), experiment(Anew(), squares)
    trained.train(2)
    trained.save_weights(tmp_path / "weights.safetensors")
    other.load_weights(tmp_path / "weights.safetensors")

    same = {"batch_input": X}
    assert np.array_equal(trained.predict(same)["batch_prediction"], other.predict(same)["batch_prediction"])


def test_a_variable_owned_by_a_loss_is_trained():
    class Balanced:
        scale: Any = None

        def __call__(self, chunk):
            if self.scale is None:
                self.scale = variable(1.0, name="scale")
            error = keras.ops.mean((chunk["batch_prediction"][:, 0] - chunk["batch_target"]) ** 2)
            chunk["loss"] = error * keras.ops.exp(-self.scale) + self.scale

    loss = Balanced()
    exp = experiment(AtFirstCall(), loss)
    exp.train(2)

    assert np.array(loss.scale) != 1.0
    assert exp.backend.weights()["Balanced/0/scale"] == np.array(loss.scale)


def test_one_tensor_for_two_outputs_is_told_in_the_same_words_everywhere():
    one = chunk_processor(inputs=["batch_prediction"], outputs=["first", "second"])(keras.ops.abs)

    with pytest.raises(GraphError, match="it returned one tensor for 2 outputs") as raised:
        experiment(dense(), one, squares).train(1)
    assert "another framework" not in "".join(raised.value.__notes__)


def test_a_shape_that_a_network_refuses_is_not_taken_for_a_tensor_of_another_framework():
    network = keras.Sequential([layers.Flatten(), layers.Dense(1)])
    network(np.zeros((2, 5, 5)))
    model = ops.Model(network, inputs="batch_input", outputs="batch_prediction")

    with pytest.raises(ValueError, match="Expected shape") as raised:
        experiment(model, squares).train(1)
    assert "another framework" not in "".join(raised.value.__notes__)


def test_the_precision_reaches_layers_that_are_made_anew():
    exp = experiment(Anew(), squares, precision="bfloat16")
    exp.train(1)

    shapes = exp.backend.shapes(exp.graph("train"), exp.program.specs(Mode.TRAIN))
    assert {dtype for ref, (_, dtype) in shapes.items() if ref.name == "batch_prediction"} == {"bfloat16"}
    assert {weight.dtype.name for weight in exp.backend.weights().values()} == {"float32"}


def test_freezing_reaches_layers_that_are_made_anew():
    exp = experiment(
        SequentialAnew(),
        lambda chunk: chunk.update(batch_prediction=layers.Dense(1)(chunk["batch_prediction"])),
        squares,
        callbacks=[Freeze("SequentialAnew")],
    )
    exp.evaluate()
    before = exp.backend.weights()
    exp.train(2)

    moved = {key for key, value in exp.backend.weights().items() if not np.array_equal(value, before[key])}
    assert {key.partition("/")[0] for key in moved if "seed" not in key} == {"lambda"}


# Names, shapes, control flow


@pytest.mark.tensorflow
def test_an_optional_input_is_read_where_the_items_have_it():
    def weigh(chunk):
        if "batch_weight" in chunk:
            chunk["batch_input"] = chunk["batch_input"] * chunk["batch_weight"][:, None]

    weight = np.zeros(40, np.float32)
    without = experiment(weigh, AtFirstCall(), squares)
    zeroed = experiment(weigh, AtFirstCall(), squares, items={"input": X, "target": Y, "weight": weight})
    without.train(1), zeroed.train(1)

    assert np.ptp(without.predict({"batch_input": X})["batch_prediction"]) > 0
    assert np.ptp(zeroed.predict({"batch_input": X, "batch_weight": weight})["batch_prediction"]) == 0
    assert np.ptp(zeroed.predict({"batch_input": X})["batch_prediction"]) > 0


def test_a_processor_of_the_whole_chunk_takes_what_is_there():
    def halve(chunk):
        for name in list(chunk):
            chunk[name] = chunk[name] / 2

    net = layers.Dense(1, use_bias=False, kernel_initializer="ones")
    exp = experiment(halve, lambda c: c.update(batch_prediction=net(c["batch_input"])), squares)

    assert exp.evaluate()["validation_loss"] == pytest.approx(0, abs=1e-9)  # the target was halved, too
    np.testing.assert_allclose(exp.predict({"batch_input": X})["batch_prediction"][:, 0], Y / 2, rtol=1e-4)
    assert exp.train(2)[-1]["training_loss"] < 1e-9


class OfImages:
    def __call__(self, chunk):
        _, height, width, _ = chunk["batch_image"].shape
        assert (height, width) != (None, None)
        features = layers.Conv2D(4, 3, padding="same")(chunk["batch_image"])
        chunk["batch_prediction"] = layers.Dense(1)(layers.GlobalAveragePooling2D()(features))


def test_one_process_predicts_images_of_any_shape_and_number(caplog):
    exp = experiment(OfImages(), squares, items={"image": IMAGES, "target": IMAGES.mean((1, 2, 3))})
    exp.train(1)

    for size in (8, 12, 5):
        for count in (1, 5, 8, 30, 3):
            images = np.random.default_rng(count).normal(size=(count, size, size + 1, 3)).astype(np.float32)
            whole = exp.predict({"batch_image": images})["batch_prediction"]
            np.testing.assert_allclose(
                whole[-1:], exp.predict({"batch_image": images[-1:]})["batch_prediction"], atol=1e-5
            )
    assert "Traced again" not in caplog.text
    if ON_TENSORFLOW:  # others know no batch of any size
        assert max(step.traces for step in exp.program.predictor.steps.values()) <= 3


def test_a_loop_of_evaluation_stays_out_of_training_and_a_smaller_last_batch_counts_as_much_less():
    def total(chunk):
        values = chunk["batch_prediction"][:, 0]
        _, chunk["total"] = keras.ops.while_loop(
            lambda place, _: place < keras.ops.shape(values)[0],
            lambda place, total: (place + 1, total + values[place]),
            (keras.ops.convert_to_tensor(0), keras.ops.convert_to_tensor(0.0)),
        )

    looping = chunk_processor(mode=Mode.EVAL | Mode.INFER)(total)
    items = {"input": X, "target": Y}
    subsets = [Subset("training", Mode.TRAIN, items), Subset("validation", Mode.EVAL, items, keys=range(10))]
    exp = experiment(AtFirstCall(), squares, looping, metrics=["total"], subsets=subsets)
    exp.train(1)
    first, second = exp.predict({"batch_input": X[:8]}), exp.predict({"batch_input": X[8:10]})

    totals = [first["batch_prediction"].sum(), second["batch_prediction"].sum()]
    np.testing.assert_allclose(exp.evaluate()["validation_total"], (8 * totals[0] + 2 * totals[1]) / 10, rtol=1e-4)
    assert "total" not in {name for node in exp.graph("train").nodes for name in node.outputs}


# Attributes


class Scaled:
    by = 1.0

    def __init__(self):
        self.calls = 0

    def __call__(self, chunk):
        self.calls += 1
        net = layers.Dense(1, use_bias=False, kernel_initializer="ones")
        chunk["batch_prediction"] = self.by * net(chunk["batch_input"])


def scale_of(exp: Any) -> float:
    return float(np.median(exp.predict({"batch_input": X})["batch_prediction"][:, 0] / Y))


def test_attributes_may_be_changed_until_first_use(caplog):
    scaled = Scaled()
    exp = experiment(scaled, squares)
    scaled.by = 3.0

    assert scale_of(exp) == pytest.approx(3.0)
    assert "Changed" not in caplog.text


def test_a_later_change_of_an_attribute_is_told_and_acts(caplog):
    scaled = Scaled()
    exp = experiment(scaled, squares)
    scale_of(exp)
    scaled.by = 3.0

    assert scale_of(exp) == pytest.approx(3.0)
    assert (
        "Changed after first use: #0 Scaled: by was 1.0, is 3.0. Layers that were already made are kept." in caplog.text
    )
    assert caplog.text.count("Changed") == 1


class Slotted(Scaled):
    __slots__ = ("by", "calls")

    def __init__(self):
        self.by, self.calls = 1.0, 0


class Hidden(Scaled):
    """Has its factor behind a property."""

    def __init__(self):
        super().__init__()
        self.by = 1.0

    @property
    def by(self) -> float:
        return self._by

    @by.setter
    def by(self, factor: float) -> None:
        self._by = factor


@dataclass(slots=True)
class Factors:
    by: float = 1.0


KEPT = Factors()


def scaled_by_others(chunk: Any) -> None:
    Scaled.__call__(SimpleNamespace(by=KEPT.by, calls=0), chunk)


@pytest.mark.tensorflow
@pytest.mark.parametrize("make, named", [
    (lambda: (Slotted(),) * 2, "#0 Slotted: by"),
    (lambda: (Hidden(),) * 2, "#0 Hidden: by"),
    (lambda: (scaled_by_others, KEPT), "#0 scaled_by_others: global KEPT.by"),
], ids=["in a slot", "behind a property", "in a slot of another object"])  # fmt: skip
def test_attributes_in_slots_and_behind_properties_may_be_changed_too(make, named, caplog):
    processor, owner = make()
    exp = experiment(processor, squares)
    scale_of(exp)
    assert "Changed" not in caplog.text
    owner.by = 3.0

    assert scale_of(exp) == pytest.approx(3.0)
    assert scale_of(exp) == pytest.approx(3.0)
    assert caplog.text.count(f"Changed after first use: {named} was 1.0, is 3.0") == 1
    owner.by = 1.0


class Fresh(Scaled):
    """Makes what is behind its properties anew each time they are read."""

    @property
    def factor(self) -> Any:
        return np.full(100_000, self.by)

    @factor.setter
    def factor(self, factor: Any) -> None:
        self.by = factor[0]

    @property
    def parts(self) -> Any:
        return [object(), self.by]

    @parts.setter
    def parts(self, parts: Any) -> None:
        self.by = parts[1]


def test_what_a_property_makes_anew_each_time_is_no_change():
    fresh = Fresh()
    attributes = Attributes([fresh])
    assert not attributes.changes()
    fresh.by = 2.0

    assert attributes.changes() == ["#0 Fresh: by was 1.0, is 2.0"]


@pytest.mark.tensorflow
def test_a_class_whose_attributes_were_compared_may_end():
    class Ending:
        by = 1.0

    ending = weakref.ref(Ending)
    assert not Attributes([Ending()]).changes()
    del Ending
    gc.collect()

    assert ending() is None


def test_a_callback_that_changes_an_attribute_reaches_the_next_pass(caplog):
    scaled = Scaled()

    class Raise:
        def on_epoch_end(self, **_):
            scaled.by = 2.0

    exp = experiment(scaled, squares, callbacks=[Raise()], optimizer=keras.optimizers.Adam(0.0))
    losses = [row["training_loss"] for row in exp.train(3)]

    np.testing.assert_allclose(losses, [0, np.mean(Y**2), np.mean(Y**2)], rtol=1e-4, atol=1e-9)
    assert caplog.text.count("by was 1.0, is 2.0") == 1


class AfterOne(Callback):
    """Does something once, after the first epoch."""

    def __init__(self, change: Any):
        self.change = change

    def on_epoch_end(self, epoch: int, **_: Any) -> None:
        if epoch == 1:
            self.change()


FACTOR, FACTORS, UNUSED = 1.0, {"loss": 1.0, "more": [2, 3]}, 1


def weighted(chunk: Any) -> None:
    chunk["loss"] = helped(chunk["loss"]) * FACTORS["loss"]


def helped(loss: Any) -> Any:
    return (lambda: FACTOR * loss)()


@pytest.mark.tensorflow
@pytest.mark.parametrize("change, told", [
    (lambda: globals().update(FACTOR=2.0), "global FACTOR was 1.0, is 2.0"),
    (lambda: FACTORS.update(loss=2.0), r"global FACTORS was {'loss': 1.0, 'more': \[2, 3\]}, is {'loss': 2.0"),
    (lambda: globals().update(UNUSED=2), ""),
], ids=["a number", "within a dictionary", "not read"])  # fmt: skip
def test_a_changed_global_that_a_processor_reads_is_told_and_acts(change, told, caplog):
    exp = experimentation(weighted, AfterOne(change))
    try:
        losses = [row["training_loss"] for row in exp.train(3)]
    finally:
        globals().update(FACTOR=1.0, UNUSED=1)
        FACTORS.update(loss=1.0)

    after = 2.0 if told else 1.0
    np.testing.assert_allclose(losses, np.mean(Y**2) * np.array([1.0, after, after]), rtol=1e-4)
    assert caplog.text.count("Changed after first use") == bool(told)
    assert re.search(told, caplog.text)


@pytest.mark.tensorflow
def test_a_changed_closure_is_told_and_acts(caplog):
    factor = 1.0

    def scaled(chunk: Any) -> None:
        chunk["loss"] = factor * chunk["loss"]

    class Raise:
        def on_epoch_end(self, epoch: int, **_: Any) -> None:
            nonlocal factor
            factor = epoch + 1.0

    exp = experimentation(scaled, Raise())
    losses = [row["training_loss"] for row in exp.train(4)]

    np.testing.assert_allclose(losses, np.mean(Y**2) * np.arange(1, 5), rtol=1e-4)
    assert "#2 scaled: enclosed factor was 1.0, is 2.0" in caplog.text
    assert caplog.text.count("keras.Variable(..., trainable=False)") == 1


LATER: Any = None
HOLDER = SimpleNamespace(later=None, by=lambda loss: loss)


def by_later(loss: Any) -> Any:
    return loss if LATER is None else known(LATER) * loss


def by_held(loss: Any) -> Any:
    return loss if HOLDER.later is None else known(HOLDER.later) * loss


def by_function(loss: Any) -> Any:
    return HOLDER.by(loss)


def known(factor: Any) -> Any:
    return factor(keras.ops.ones(())) if isinstance(factor, layers.Layer) else factor


@pytest.mark.parametrize("make", [
    layers.Rescaling, lambda by: keras.Variable(by, trainable=False), lambda by: keras.ops.full((), by)
], ids=["a layer", "a variable", "a tensor"])  # fmt: skip
@pytest.mark.parametrize("function, change", one_elsewhere(
    (by_later, lambda one: globals().update(LATER=one)),
    (by_held, lambda one: setattr(HOLDER, "later", one)),
    (by_function, lambda one: setattr(HOLDER, "by", lambda loss: known(one) * loss)),
))  # fmt: skip
def test_another_object_where_code_reads_one_is_told_and_acts(function, change, make, caplog):
    processor, one = chunk_processor(inputs=["loss"], outputs=["loss"])(function), HOLDER.by
    exp = experimentation(processor, Callback())
    try:
        losses = [exp.train(1)[-1]["training_loss"]]
        for epoch in (2, 3):
            change(make(float(epoch)))
            losses.append(exp.train(epoch)[-1]["training_loss"])
    finally:
        globals().update(LATER=None)
        HOLDER.later, HOLDER.by = None, one

    np.testing.assert_allclose(losses, np.mean(Y**2) * np.array([1.0, 2.0, 3.0]), rtol=1e-4)
    assert caplog.text.count("Changed after first use") == 2


MADE: Any = None
ONE = AtFirstCall()


def by_made(batch_input: Any) -> Any:
    keras.tree.flatten(MADE)
    return batch_input


def by_rate_of_made(batch_input: Any) -> Any:
    return MADE.rate * batch_input


@pytest.mark.parametrize("function, make", one_elsewhere(
    (by_made, lambda: {1, 2}),
    (by_made, lambda: slice(0, 4)),
    (by_made, lambda: Path("/tmp")),
    (by_made, lambda: partial(known, factor=2.0)),
    (by_made, lambda: cache(lambda x: x)),
    (by_made, lambda: ONE.__call__),
    (by_rate_of_made, lambda: SimpleNamespace(rate=1.0, epoch=object())),
))  # fmt: skip
def test_what_is_made_anew_alike_is_no_change(function, make, monkeypatch, caplog):
    monkeypatch.setattr(sys.modules[__name__], "MADE", make())
    processor = chunk_processor(inputs=["batch_input"], outputs=["batch_input"])(function)
    exp = experiment(processor, AtFirstCall(), squares)
    exp.train(1)
    monkeypatch.setattr(sys.modules[__name__], "MADE", make())
    exp.train(2)

    assert "Changed" not in caplog.text


ROUND: list[Any] = [1.0]
ROUND.append(ROUND)
TREE: dict[str, Any] = {"value": 1.0, "child": {}}
TREE["child"]["parent"] = TREE
HUGE, LARGE = 10**5000, {"value": 1.0, "all": list(range(1_000_000))}


@pytest.mark.tensorflow
@pytest.mark.parametrize("held", [ROUND, TREE, HUGE, LARGE, float("nan"), "x" * 10_000_000], ids=type)
def test_globals_of_every_kind_may_be_read(held, caplog, monkeypatch):
    monkeypatch.setitem(globals(), "HELD", held)

    def reads(chunk: Any) -> None:
        chunk["loss"] = chunk["loss"] * float(HELD is not None)

    start = time.perf_counter()
    rows = experimentation(reads, Callback()).train(3)

    assert len(rows) == 3
    assert "Changed" not in caplog.text
    assert time.perf_counter() - start < 20


HELD: Any = None
COUNTED = 0


@pytest.mark.tensorflow
def test_methods_that_the_graph_does_not_call_may_change_globals(caplog):
    class Both(ChunkProcessor):
        inputs, outputs = ["loss"], ["loss"]

        def __call__(self, chunk: Any) -> None:
            chunk["loss"] = self.factor() * chunk["loss"]

        def factor(self) -> float:
            return FACTOR

        def on_epoch_end(self, **_: Any) -> None:
            global COUNTED
            COUNTED += 1

    both = Both()
    exp = experimentation(both, both)
    exp.train(3)
    assert COUNTED == 3
    assert "Changed" not in caplog.text

    globals().update(FACTOR=2.0)
    exp.train(4)
    globals().update(FACTOR=1.0)
    assert "#2 Both: global FACTOR was 1.0, is 2.0" in caplog.text


@pytest.mark.tensorflow
def test_a_bound_method_is_read_like_a_function(caplog):
    class Scales:
        def work(self, chunk: Any) -> None:
            chunk["loss"] = FACTOR * chunk["loss"]

    exp = experimentation(Scales().work, Callback())
    exp.train(1)
    globals().update(FACTOR=2.0)
    exp.train(2)
    globals().update(FACTOR=1.0)
    assert "#2 work: global FACTOR was 1.0, is 2.0" in caplog.text


class Rated:
    rate = unread = 1.0

    def work(self, chunk: Any) -> None:
        chunk["loss"] = self.rate * chunk["loss"]


ARGUMENTS = SimpleNamespace(rate=1.0, unread=1.0)


@chunk_processor(inputs=["loss"], outputs=["loss"])
def by_arguments(loss: Any) -> Any:
    return ARGUMENTS.rate * loss


@chunk_processor(inputs=["loss"], outputs=["loss"])
def by_class(loss: Any) -> Any:
    return Rated.rate * loss


class ByItsOwn(ChunkProcessor):
    inputs, outputs = ["loss"], ["loss"]

    def __init__(self, arguments: Any):
        self.arguments = arguments

    def __call__(self, chunk: Any) -> None:
        chunk["loss"] = self.arguments.rate * chunk["loss"]


def closed_over(rated: Any) -> Any:
    return lambda chunk: chunk.update(loss=rated.rate * chunk["loss"])


def nested(rated: Any) -> Any:
    settings = SimpleNamespace(loss=rated)
    return lambda chunk: chunk.update(loss=settings.loss.rate * chunk["loss"])


class Weighs:
    """A loss as one may write it: an object to be called."""

    rate = unread = 1.0

    def __call__(self, loss: Any) -> Any:
        return self.weighed(loss)

    def weighed(self, loss: Any) -> Any:
        return self.rate * loss


class WeighsAsKeras(keras.losses.Loss):
    rate = unread = 1.0

    def call(self, loss: Any, prediction: Any) -> Any:
        return self.rate * loss


def applied(one: Any) -> Any:
    return ops.Apply(one, inputs="loss", outputs="loss")


def declared(weighs: Any) -> Any:
    return chunk_processor(inputs=["loss"], outputs=["loss"])(weighs.weighed)


def called(weighs: Any) -> Any:
    return lambda chunk: chunk.update(loss=weighs(chunk["loss"]))


@pytest.mark.parametrize(
    "kind, make, holder, told",
    one_elsewhere(
        (Rated, lambda one: by_arguments, lambda one: ARGUMENTS, "by_arguments: global ARGUMENTS.rate was 1.0, is 2.0"),
        (Rated, lambda one: by_class, lambda one: Rated, "#2 by_class: global Rated.rate was 1.0, is 2.0"),
        (Rated, ByItsOwn, lambda one: one, "#2 ByItsOwn: arguments.rate was 1.0, is 2.0"),
        (Rated, closed_over, lambda one: one, "enclosed rated.rate was 1.0, is 2.0"),
        (Rated, nested, lambda one: one, "enclosed settings.loss.rate was 1.0, is 2.0"),
        (Rated, lambda one: one.work, lambda one: one, "#2 work: self.rate was 1.0, is 2.0"),
        (Weighs, declared, lambda one: one, "#2 weighed: self.rate was 1.0, is 2.0"),
        (Weighs, applied, lambda one: one, "fn.rate was 1.0, is 2.0"),
        (Weighs, lambda one: applied(one.weighed), lambda one: one, "fn.rate was 1.0, is 2.0"),
        (Weighs, lambda one: applied(partial(one.weighed)), lambda one: one, "fn.rate was 1.0, is 2.0"),
        (Weighs, called, lambda one: one, "enclosed weighs.rate was 1.0, is 2.0"),
        (
            WeighsAsKeras,
            lambda one: ops.Apply(one, inputs=["loss", "loss"], outputs="loss"),
            lambda one: one,
            "fn.rate was 1.0, is 2.0",
        ),
    ),
)
def test_a_changed_attribute_of_an_object_that_a_processor_reads_is_told_and_acts(
    kind, make, holder, told, caplog, monkeypatch
):
    one = kind()
    exp = experimentation(make(one), Callback())
    losses = [exp.train(1)[-1]["training_loss"]]
    monkeypatch.setattr(holder(one), "unread", 3.0)
    exp.train(2)
    assert "Changed" not in caplog.text
    monkeypatch.setattr(holder(one), "rate", 2.0)
    losses.append(exp.train(3)[-1]["training_loss"])

    np.testing.assert_allclose(losses, np.mean(Y**2) * np.array([1.0, 2.0]), rtol=1e-4)
    assert told in caplog.text


def experimentation(processor: Any, callback: Any) -> Any:
    """The mean of squared targets as loss, for a processor to change."""
    zeros = layers.Dense(1, kernel_initializer="zeros")
    nothing = ops.Model(zeros, inputs="batch_input", outputs="batch_prediction")
    settings = {"callbacks": [callback], "optimizer": keras.optimizers.SGD(0.0)}
    return experiment(nothing, squares, processor, **settings)


TABLE = np.array([1.0, 1.0])


def helper(loss: Any) -> Any:
    return TABLE[0] * loss


def helped_anew(loss: Any) -> Any:
    return 2.0 * loss


@pytest.mark.tensorflow
@pytest.mark.parametrize("change, told", [
    (lambda: globals().update(helper=helped_anew), "global helper was helper of line [0-9]+, is helped_anew of line"),
    (lambda: TABLE.fill(2.0), r"global TABLE was array\(\[1., 1.\]\), is array\(\[2., 2.\]\)"),
    (lambda: globals().update(helper=FunctionType(helper.__code__, globals(), "helper")), ""),
], ids=["a function", "within an array", "the same once more"])  # fmt: skip
def test_changed_code_and_arrays_that_a_processor_reads_are_told_and_act(change, told, caplog):
    original = helper
    exp = experimentation(lambda chunk: chunk.update(loss=helper(chunk["loss"])), AfterOne(change))
    try:
        losses = [row["training_loss"] for row in exp.train(3)]
    finally:
        globals().update(helper=original)
        TABLE.fill(1.0)

    after = 2.0 if told else 1.0
    np.testing.assert_allclose(losses, np.mean(Y**2) * np.array([1.0, after, after]), rtol=1e-4)
    assert caplog.text.count("Changed after first use") == bool(told)
    assert re.search(told, caplog.text)


@pytest.mark.tensorflow
def test_a_method_that_takes_the_place_of_another_is_told_and_acts(caplog):
    class Doubles(ChunkProcessor):
        inputs, outputs = ["loss"], ["loss"]

        def __call__(self, chunk: Any) -> None:
            chunk["loss"] = self.doubled(chunk["loss"])

        def doubled(self, loss: Any) -> Any:
            return 2.0 * loss

    exp = experimentation(Doubles(), Callback())
    exp.train(1)
    assert "Changed" not in caplog.text
    Doubles.doubled = lambda self, loss: 3.0 * loss
    exp.train(2)

    assert exp.history[1]["training_loss"] == pytest.approx(1.5 * exp.history[0]["training_loss"])
    assert "#2 Doubles: the code of" in caplog.text


def test_a_changed_attribute_of_a_layer_or_an_optimizer_is_told_and_acts(caplog):
    drop = layers.Dropout(0.1, seed=1)
    exp = experiment(ops.Model(drop, inputs="batch_input", outputs="batch_kept"), dense(), squares)
    exp.chunk_processors.append(lambda chunk: chunk.update(kept=keras.ops.mean(chunk["batch_kept"] != 0)))
    exp.metrics = ["kept"]
    exp.train(1), exp.train(2)
    assert not caplog.messages[1:]
    drop.rate, exp.optimizer.clipvalue = 0.5, 1e-9
    before = exp.backend.weights()
    row = exp.train(3)[-1]

    assert row["training_kept"] < 0.7
    for key, value in exp.backend.weights().items():
        assert "seed" in key or np.allclose(value, before[key], atol=1e-6)
    assert "Dropout: rate was 0.1, is 0.5; SGD: clipvalue was None, is 1e-09. Compiled again" in caplog.text


def test_an_attribute_of_a_layer_that_comes_and_goes_acts_each_time():
    class Gate(layers.Layer):
        is_open = True

        def call(self, tensor: Any) -> Any:
            return tensor if self.is_open else 0.0 * tensor

    gate = Gate()
    gate.is_open = True
    exp = experiment(ops.Model(gate, inputs="batch_input", outputs="batch_kept"), dense(), squares)
    exp.chunk_processors.append(lambda chunk: chunk.update(kept=keras.ops.mean(chunk["batch_kept"] != 0)))
    exp.metrics = ["kept"]
    for epoch, gate.is_open in enumerate([True, False, True, False, True], start=1):
        exp.train(epoch)

    assert [round(row["training_kept"]) for row in exp.history] == [1, 0, 1, 0, 1]


class Counting(keras.optimizers.SGD):
    """Counts its traces, in a parameter of its own."""

    def __init__(self, *given: Any, traced: int = 0, **options: Any):
        super().__init__(*given, **options)
        self.traced = traced

    def update_step(self, *given: Any) -> None:
        self.traced += 1
        super().update_step(*given)


class Sizes(layers.Layer):
    """Keeps what it sees while it is traced."""

    def call(self, tensor: Any) -> Any:
        self.dtype_seen, self.times = str(tensor.dtype), getattr(self, "times", 0) + 1
        return tensor


def test_what_layers_and_optimizers_change_by_themselves_compiles_nothing_anew(caplog):
    sizes = ops.Model(Sizes(), inputs="batch_input", outputs="batch_input")
    exp = experiment(sizes, dense(), squares, optimizer=Counting(0.05))
    for epoch in range(1, 5):
        exp.train(epoch), exp.evaluate()

    assert "Changed" not in caplog.text
    assert exp.counts["training"]["traces"] <= 2


@pytest.mark.parametrize("dtype", one_elsewhere("O", "datetime64[D]", "timedelta64[s]", "U4", "V8", "?"))
def test_arrays_of_every_kind_may_be_attributes(dtype):
    processor = Scaled()
    processor.table = np.zeros(3, dtype)

    assert len(experiment(dense(), squares, processor).train(2)) == 2


def test_a_network_that_failed_may_be_replaced():
    class Fails(layers.Layer):
        def build(self, shape: Any) -> None:
            raise ValueError("no such shape")

    network = keras.Sequential([layers.Dense(3), Fails()])
    exp = experiment(ops.Model(network, inputs="batch_input", outputs="batch_input"), dense(), squares)
    with pytest.raises(ValueError, match="no such shape"):
        exp.train(1)
    exp.chunk_processors[0] = None

    assert len(exp.train(1)) == 1


def test_a_sequential_of_ones_own_is_built_once():
    class Grows(keras.Sequential):
        def build(self, shape: Any = None) -> None:
            self.add(layers.Dense(1))
            super().build(shape)

    network = Grows([layers.Dense(4)])
    experiment(ops.Model(network, inputs="batch_input", outputs="batch_prediction"), squares).train(1)

    assert len(network.layers) == 2


def test_an_optimizer_that_lacks_moments_for_a_change_is_refused():
    exp = experiment(dense(), squares)
    exp.train(1)
    exp.optimizer.momentum = 0.9

    with pytest.raises(ValueError, match=r"keeps no moments for what it was changed to.\nSeen: SGD"):
        exp.train(2)


def test_a_network_that_was_built_in_training_infers_where_one_calls_it_oneself():
    inner = keras.Sequential([layers.Dense(8), layers.Dropout(0.5)])
    network = keras.Sequential([inner, layers.Dropout(0.5), layers.Dense(1)])
    exp = experiment(ops.Model(network, inputs="batch_input", outputs="batch_prediction"), squares)
    exp.train(1)

    inferred = keras.ops.convert_to_numpy(network(X))
    np.testing.assert_allclose(inferred, exp.predict({"batch_input": X})["batch_prediction"], rtol=1e-5, atol=1e-6)


def test_experiments_and_layers_in_several_threads_keep_out_of_each_others_way():
    def task() -> Any:
        network = keras.Sequential([layers.Dense(8, activation="relu"), layers.Dense(1)])
        return experiment(ops.Model(network, inputs="batch_input", outputs="batch_prediction"), squares)

    experiments, made, failures = [task() for _ in range(3)], [], []

    def train(exp: Any) -> None:
        try:
            exp.train(2)
        except Exception as error:
            failures.append(error)

    threads = [Thread(target=train, args=(exp,)) for exp in experiments]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        layer = layers.Dense(2)
        layer.build((None, 3))
        made.append(layer)

    assert not failures
    assert len({id(one) for layer in made for one in layer.weights}) == 2 * len(made)
    assert all(len(exp.backend.weights()) == 4 for exp in experiments)


def test_what_a_processor_changes_by_itself_is_its_own_affair(caplog):
    exp = experiment(Scaled(), AtFirstCall(), squares)
    exp.train(1), exp.evaluate(), scale_of(exp), exp.train(2)

    assert "Changed" not in caplog.text


class Tracked(ChunkProcessor):
    """Keeps a mean and a count, as code would that runs for each batch."""

    inputs, outputs = ["batch_input"], ["batch_input"]
    mean: Any = 0.0
    step = 0

    def __call__(self, chunk):
        self.step += 1
        self.mean = 0.9 * self.mean + 0.1 * keras.ops.mean(chunk["batch_input"])
        chunk["batch_input"] = chunk["batch_input"] - self.mean


class Noted(ChunkProcessor):
    """Keeps what others read in the same batch, and what it finds out once, or anew in each trace."""

    inputs, outputs = ["batch_input"], ["batch_input"]
    mean: Any = 0.0
    width, rate, rows = 0, 0.0, 0
    _seen = 0.0
    table = np.zeros(1)

    def __init__(self):
        self.notes = {"share": 0.0}

    def __call__(self, chunk):
        self.width = self.width or chunk["batch_input"].shape[-1]
        self.rate, self.rows = (1.0 if chunk.training else 0.5), chunk["batch_input"].shape[0]
        if self._seen != self.rate:  # what was worked out last is kept
            self._seen, self.table = self.rate, np.full(4, self.rate, np.float32)
        self.notes["share"] = self.rate
        chunk["batch_input"] += 0.0 * self.table * self.notes["share"]
        self.mean = keras.ops.mean(chunk["batch_input"])
        chunk["batch_input"] = self.shifted(chunk["batch_input"])

    def shifted(self, tensor):
        return tensor - self.rate * self.mean

    @property
    def twice(self):
        return 2 * self.mean


def test_what_a_processor_notes_for_the_batch_or_for_a_trace_is_not_told(caplog):
    exp = experiment(Noted(), AtFirstCall(), squares)
    exp.train(1), exp.evaluate(), exp.train(2)
    exp.batch_size = 10
    exp.train(3)

    assert "Noted" not in caplog.text


@pytest.mark.parametrize("eager", [False, True])
def test_what_a_processor_would_keep_from_batch_to_batch_is_told_where_it_ends_with_the_trace(eager, caplog):
    exp = experiment(Tracked(), AtFirstCall(), squares, eager=eager)
    exp.train(1), exp.evaluate(), exp.train(2)

    mean = "Tracked assigns a tensor to self.mean that ends with the batch: compiled, each begins with 0.0. Write"
    assert caplog.text.count(mean) == (not eager)
    assert caplog.text.count("Tracked changes the number step while it is traced") == (not eager)


def counting(counts):
    def processor(chunk):
        counts[0] += 1
        chunk["loss"] = chunk["loss"] * counts[0]

    return processor


class CountsInPrivate(ChunkProcessor):
    inputs, outputs = ["loss"], ["loss"]

    def __init__(self, counts):
        self._count, self._counts = counts[0], np.array(counts[:1])

    def __call__(self, chunk):
        self._count += 1
        self._counts[0] += 1
        chunk["loss"] = chunk["loss"] * self._count * self._counts[0]


def timed(times):
    def processor(chunk):
        times[0] = time.perf_counter()
        chunk["loss"] = 1.0 * chunk["loss"]

    return processor


@pytest.mark.parametrize("eager", [False, True])
@pytest.mark.parametrize(
    "make, told",
    one_elsewhere(
        (
            CountsInPrivate,
            ["CountsInPrivate changes the number _count", "CountsInPrivate changes the number in _counts"],
        ),
        (counting, ["processor changes the number in enclosed counts"]),
        (timed, []),
    ),
)
def test_counts_that_end_with_the_trace_are_told(make, told, eager, caplog):
    exp = experiment(AtFirstCall(), squares, make([0, "a text"]), eager=eager)
    exp.train(1), exp.train(2)

    warned = [one.getMessage() for one in caplog.records if "while it is traced" in one.getMessage()]
    assert sorted(one.partition(" while")[0] for one in warned) == ([] if eager else told)


# Mistakes


def test_a_bare_layer_in_the_list_is_refused_with_what_to_write():
    exp = experiment(layers.Dense(1), squares)

    with pytest.raises(GraphError, match=re.escape("Write ops.Model(layer, inputs=[...], outputs=[...]).")):
        exp.train(1)


def test_a_tensor_kept_from_an_earlier_trace_is_told_with_its_processor():
    kept: list[Any] = []

    def leaky(chunk):
        if not kept:
            kept.append(keras.ops.ones((1, 4)))
        chunk["batch_input"] = chunk["batch_input"] * kept[0]

    told = {
        "jax": r"keeps a tensor of an earlier trace(?s:.*)Seen: float32\[1,4\], made in .*leaky",
        "torch": r"keeps a tensor of an earlier trace(?s:.*)Seen: float32\[1, 4\].",
        "tensorflow": r"#0 leaky keeps a tensor of an earlier trace(?s:.*)Seen: ones, float32 \(1, 4\)",
    }[NAME]
    with pytest.raises(GraphError, match=told):
        experiment(leaky, AtFirstCall(), squares).train(1)


@pytest.mark.skipif(NAME == "torch", reason="PyTorch takes no gradient there, and says nothing")
@pytest.mark.parametrize("eager", [False, True])
def test_a_function_with_its_own_gradient_that_reads_a_weight_is_told_to_be_given_it(eager):
    weight = keras.Variable(2.0, name="weight")

    @keras.ops.custom_gradient
    def twice(tensor):
        def grad(*args, upstream=None):
            return (args[0] if upstream is None else upstream) * keras.ops.convert_to_tensor(weight)

        return tensor * keras.ops.convert_to_tensor(weight), grad

    @chunk_processor(inputs=["batch_prediction"], outputs=["batch_prediction"])
    def scaled(prediction):
        return twice(prediction)

    with pytest.raises((GraphError, TypeError)) as caught:
        experiment(AtFirstCall(), scaled, squares, eager=eager).train(1)

    said = "\n".join([str(caught.value), *getattr(caught.value, "__notes__", [])])
    assert "function(tensor, keras.ops.copy(weight))" in said


def test_a_variable_that_depends_on_the_size_of_images_is_told():
    def sized(chunk):
        _, height, width, depth = chunk["batch_image"].shape
        kernel = keras.Variable("ones", shape=(height * width * depth, 1), name="kernel")
        chunk["batch_prediction"] = keras.ops.reshape(chunk["batch_image"], (-1, height * width * depth)) @ kernel

    exp = experiment(sized, squares, items={"image": IMAGES, "target": IMAGES.mean((1, 2, 3))})
    exp.evaluate()

    with pytest.raises(GraphError, match=re.escape("Seen: kernel [432, 1], which was [192, 1].")):
        exp.predict({"batch_image": np.zeros((2, 12, 12, 3), np.float32)})


# Layers without a `build`, whose call builds what they hold


class Shaken(layers.Layer):
    def __init__(self, draws):
        super().__init__()
        self.draws = draws

    def call(self, tensor, training=False):
        return tensor + keras.random.uniform(keras.ops.shape(tensor), seed=self.draws) if training else tensor


def averaging() -> Any:
    layer = layers.BatchNormalization()
    layer.build((None, 4))
    return layer


HELD: dict[str, Any] = {
    "dropout": lambda: layers.Dropout(0.5, seed=3),
    "noise": lambda: layers.GaussianNoise(0.5, seed=3),
    "draws of its own": lambda: Shaken(keras.random.SeedGenerator(3)),
    "a sequential that drops": lambda: keras.Sequential([layers.Dense(4), layers.Dropout(0.5, seed=3)]),
    "a layer that drops": lambda: Holds(layers.Dense(4), layers.Dropout(0.5, seed=3)),
    "a part that is built": averaging,
}


# Each kind, and each way.
IN_WAYS = [
    *((kind, Holds, {}) for kind in HELD),
    ("a layer that drops", HoldsAsAModel, {}),
    ("a layer that drops", Holds, {"eager": True}),
]


@pytest.mark.parametrize("kind, holder, way", IN_WAYS)
def test_a_layer_that_its_call_builds_trains_like_one_that_was_built(kind, holder, way):
    def trained(is_built: bool) -> tuple[Any, ...]:
        keras.utils.set_random_seed(0)
        network = holder(layers.Dense(4), HELD[kind](), layers.Dense(1))
        network(X) if is_built else None
        exp = experiment(ops.Model(network, inputs="batch_input", outputs="batch_prediction"), squares, **way)
        losses = [row["training_loss"] for row in exp.train(2)]
        return pytest.approx(losses, rel=1e-5), exp.backend.seeds(), list(exp.backend.weights())

    (losses, *known), (expected, *usual) = trained(False), trained(True)
    assert losses.expected == expected
    assert known == usual


# Draws of evaluation


def noisy(eval_epochs: Any = None, **settings: Any) -> Any:
    """An experiment whose evaluation draws noise, as its training does."""
    draws = keras.random.SeedGenerator(5)
    keras.utils.set_random_seed(0)

    def noise(chunk: Any) -> None:
        inputs = chunk["batch_input"]
        chunk["batch_input"] = inputs + keras.random.normal(keras.ops.shape(inputs), seed=draws)

    network = ops.Model(layers.Dense(1), inputs="batch_input", outputs="batch_prediction")
    return experiment(noise, network, squares, eval_epochs=eval_epochs, **settings)


def test_what_an_evaluation_draws_changes_nothing_of_the_training():
    often, never = noisy(), noisy(eval_epochs=0)
    losses = [[row["training_loss"] for row in exp.train(3)] for exp in (often, never)]

    assert losses[0] == losses[1]
    assert often.evaluate() == often.evaluate()
    seeds = [list(exp.backend.seeds().values()) for exp in (often, never)]
    assert seeds[0] == seeds[1] == [[5, 15]]
    samples = [often.predict({"batch_input": X})["batch_prediction"] for _ in range(2)]
    assert not np.array_equal(*samples)


def test_what_a_callback_predicts_changes_nothing_of_the_training():
    class Samples(Callback):
        def init(self, exp: Any) -> None:
            self.exp = exp

        def on_epoch_end(self, **_: Any) -> None:
            self.seen = self.exp.predict({"batch_input": X})

    losses = [[row["training_loss"] for row in noisy(callbacks=own).train(3)] for own in ([], [Samples()])]
    assert losses[0] == losses[1]


def test_each_prediction_of_a_callback_draws_anew_and_does_so_again_after_a_resume(tmp_path):
    """Dropout that stays on, samples of a model: from them, several are averaged."""

    class Samples(Callback):
        def init(self, exp: Any) -> None:
            self.exp, self.seen = exp, []

        def look(self, **_: Any) -> None:
            self.seen += [self.exp.predict({"batch_input": X})["batch_prediction"] for _ in range(3)]

        on_epoch_begin = on_cycle_begin = on_batch_end = on_cycle_end = on_epoch_end = look

        def state_dict(self) -> dict[str, Any]:
            return {"seen": self.seen}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            self.seen = list(state["seen"])

    def made() -> Any:
        saving = CheckpointEvery(seconds=1e-9, keep=1000, folder=tmp_path)
        return noisy(steps_per_call=2, callbacks=[Samples(), saving])

    whole = made()
    whole.train(2)
    seen = whole.callbacks[0].seen
    assert len({one.tobytes() for one in seen}) == len(seen) > 60
    assert np.std(seen, axis=0).min() > 0

    for path in numbered(tmp_path)[:: 3 if ON_TENSORFLOW else 9]:
        again = made()
        again.resume(path)
        again.train(2)
        np.testing.assert_array_equal(again.callbacks[0].seen, seen)


@pytest.mark.parametrize("dropped", one_elsewhere(False, True))
def test_resumed_within_an_evaluation_training_draws_what_it_would_have(tmp_path, monkeypatch, dropped):
    def made() -> Any:
        return noisy(steps_per_call=1, callbacks=[CheckpointEvery(seconds=1e-9, keep=1000, folder=tmp_path)])

    whole = made()
    losses = [row["training_loss"] for row in whole.train(2)]
    for path in numbered(tmp_path):
        if int(path.name) > 6:  # five batches trained, one evaluated
            shutil.rmtree(path)
    make = Restored.__init__
    if dropped:
        monkeypatch.setattr(Restored, "__init__", lambda self, read: make(self, read) or self.position.seeds.clear())
    resumed = made()
    resumed.resume(tmp_path)
    assert resumed.walk.position.subset == "validation"

    same = [row["training_loss"] for row in resumed.train(2)] == losses
    assert same != dropped


# What a pass amounts to where batches differ in how many labels they have

LABELS = {
    "input": np.array([3.0, -2.0, 1.5, -1.0, 2.0, -3.0, 1.0, 4.0, -0.5, 0.5], np.float32)[:, None],
    "target": np.array([1, 1, 0, 0, 1, np.nan, np.nan, np.nan, np.nan, 1], np.float32),
    "known": np.array([1, 1, 0, 1, 0, 0, 0, 0, 1, 1], bool),
    "share": np.array([0.5, 0, 2, 1, 0, 0, 0, 0, 3, 1], np.float32),
}


def measured(*processors: Any, batch_size: int, **settings: Any) -> Any:
    """The validation measures of a single weight that is 1, over items of which the last batch holds fewer."""
    network = layers.Dense(1, use_bias=False, kernel_initializer="ones")
    clean = {**LABELS, "sure": np.nan_to_num(LABELS["target"]), "never": np.zeros(10, bool)}
    subsets = [Subset("training", Mode.TRAIN, clean), Subset("validation", Mode.EVAL, clean)]
    listed = [ops.Model(network, inputs="batch_input", outputs="batch_logit"), *processors]
    options = {"subsets": subsets, "batch_size": batch_size, "optimizer": keras.optimizers.SGD(0.0)}
    return build_experiment({"hide_progress": True, "chunk_processors": listed, **options, **settings})


def truth(hits: Any, shares: Any) -> float:
    return float(np.sum(hits * shares) / np.sum(shares))


@pytest.mark.parametrize("batch_size", one_elsewhere(4, 1, 3, 10))
def test_a_measure_with_labels_missing_is_over_the_labels_of_the_whole_pass(batch_size):
    exp = measured(
        ops.Accuracy("batch_logit", "batch_sure", "masked", mask="batch_known"),
        ops.Accuracy("batch_logit", "batch_target", "nan", nan_is_no_label=True),
        ops.Accuracy("batch_logit", "batch_sure", "weighted", weight="batch_share"),
        ops.PrecisionRecall("batch_logit", "batch_sure"),
        ops.SigmoidCrossEntropy("batch_logit", "batch_target", nan_is_no_label=True),
        batch_size=batch_size,
    )
    logit, target, known = LABELS["input"][:, 0], LABELS["target"], ~np.isnan(LABELS["target"])
    sure = np.nan_to_num(target)
    hits = (logit > 0) == (sure > 0.5)
    surprise = np.log1p(np.exp(-np.where(sure > 0.5, logit, -logit)))

    results = exp.evaluate()

    assert results == pytest.approx(
        {
            "validation_masked": truth(hits, LABELS["known"]),
            "validation_nan": truth(hits, known),
            "validation_weighted": truth(hits, LABELS["share"]),
            "validation_precision": np.sum((logit > 0) & (sure > 0.5)) / np.sum(logit > 0),
            "validation_recall": np.sum((logit > 0) & (sure > 0.5)) / np.sum(sure > 0.5),
            "validation_loss": truth(surprise, known),
        },
        rel=1e-5,
    )
    if 10 % batch_size == 0:  # no item is left out of the epoch
        assert exp.train(1)[0]["training_loss"] == pytest.approx(truth(surprise, known), rel=1e-5)


@pytest.mark.parametrize("batch_size", one_elsewhere(5, 1, 10))
def test_a_sum_of_losses_with_labels_missing_is_that_of_what_each_is_over_the_pass(batch_size):
    exp = measured(
        ops.SigmoidCrossEntropy("batch_logit", "batch_target", "first", nan_is_no_label=True),
        ops.SigmoidCrossEntropy("batch_logit", "batch_sure", "other", mask="batch_known"),
        ops.SigmoidCrossEntropy("batch_logit", "batch_sure", "none", mask="batch_never"),
        ops.CombineLosses({"first": 1.0, "other": 0.5, "none": 3.0}, "sum"),
        ops.Rename("sum", "loss"),
        ops.CombineLosses(["none"], "empty"),
        batch_size=batch_size,
    )
    row = exp.train(1)[0]

    assert np.isnan(row["validation_none"])
    assert np.isnan(row["validation_empty"])
    for subset in ("training", "validation"):
        expected = row["validation_first"] + 0.5 * row["validation_other"]
        assert row[f"{subset}_loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.tensorflow
@pytest.mark.parametrize("renamed", [False, True])
def test_a_sum_that_has_no_label_counts_as_little_in_other_sums_as_a_loss_does(renamed):
    exp = measured(
        ops.SigmoidCrossEntropy("batch_logit", "batch_target", "first", nan_is_no_label=True),
        ops.SigmoidCrossEntropy("batch_logit", "batch_sure", "none", mask="batch_never"),
        ops.Rename("none", "empty") if renamed else ops.CombineLosses({"none": 2.0}, "empty"),
        ops.CombineLosses(["first", "empty"]),
        batch_size=5,
        metrics=["empty"],
    )
    row = exp.train(1)[0]

    assert np.isnan(row["validation_empty"])
    for subset in ("training", "validation"):
        assert row[f"{subset}_loss"] == pytest.approx(row[f"{subset}_first"], rel=1e-5)


@pytest.mark.tensorflow
@pytest.mark.parametrize("metrics", [[], ["first"], ["first", "own"]])
def test_a_sum_is_that_of_its_parts_whatever_metrics_lists(metrics):
    @chunk_processor(inputs=["batch_logit"], outputs=["own"])
    def own(logit):
        return keras.ops.mean(keras.ops.square(logit))

    exp = measured(
        ops.SigmoidCrossEntropy("batch_logit", "batch_target", "first", nan_is_no_label=True),
        own,
        ops.CombineLosses({"first": 1.0, "own": 0.5}, "sum"),
        ops.CombineLosses({"sum": 2.0}),
        batch_size=4,
        metrics=metrics,
    )
    row = exp.evaluate()

    logit, target = LABELS["input"][:, 0], LABELS["target"]
    first = np.nanmean(np.log1p(np.exp(-np.where(np.isnan(target), np.nan, np.where(target > 0.5, logit, -logit)))))
    assert row["validation_loss"] == pytest.approx(2 * (first + 0.5 * np.mean(logit**2)), rel=1e-5)
    assert row["validation_own"] == pytest.approx(np.mean(logit**2), rel=1e-5)


@pytest.mark.tensorflow
def test_a_metric_under_another_name_is_that_of_the_pass_in_training_too():
    exp = measured(
        ops.KerasMetric(keras.metrics.AUC(from_logits=True), "batch_logit", "batch_sure"),
        ops.Rename("auc", "score"),
        ops.SigmoidCrossEntropy("batch_logit", "batch_sure"),
        batch_size=5,
        metrics=["score"],
    )
    row = exp.train(1)[0]

    assert row["training_score"] == row["validation_score"] == pytest.approx(row["validation_auc"])


OPTIMIZERS = {
    "one": lambda: keras.optimizers.SGD(0.1),
    "one that clips": lambda: keras.optimizers.SGD(0.1, global_clipnorm=0.001),
    "one that scales": lambda: keras.optimizers.SGD(0.1, loss_scale_factor=1024.0),
    "several": lambda: Optimizers({"Head": keras.optimizers.SGD(0.1), "*": keras.optimizers.SGD(0.1)}),
}


def with_norms(**changes: Any) -> Any:
    """A network that looks numbers up, so that TensorFlow has sparse gradients, and its gradient's length."""
    keras.utils.set_random_seed(1)
    table, head = layers.Embedding(10, 4), layers.Dense(3)
    processors = [
        ops.Model(table, inputs="batch_place", outputs="batch_rows", node="Table"),
        ops.Model(head, inputs="batch_rows", outputs="batch_logits", node="Head"),
        ops.SoftmaxCrossEntropy("batch_logits", "batch_target"),
        ops.GradientNorm(),
        ops.GradientNorm(["Head/*"], "head_gradient"),
    ]
    data = {"place": np.arange(12, dtype=np.int32) % 7, "target": np.arange(12) % 3}
    subsets = [Subset("training", Mode.TRAIN, data), Subset("validation", Mode.EVAL, data)]
    options = {"subsets": subsets, "batch_size": 12, "chunk_processors": processors, "hide_progress": True}
    return build_experiment({"optimizer": keras.optimizers.SGD(0.1), **options, **changes})


@pytest.mark.parametrize(
    "kind, options",
    [
        *((kind, {}) for kind in OPTIMIZERS),
        *(("several", {"jit_compile": jit}) for jit in [True] * ON_TENSORFLOW),  # others give it the same program
        *(("several", options) for options in ({"eager": True}, {"precision": "float16"})),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:Converting sparse IndexedSlices")
def test_the_length_of_the_gradient_stands_in_the_history(kind, options):
    exp = with_norms(optimizer=OPTIMIZERS[kind](), **options)
    exp.evaluate()
    before = {key: np.array(value) for key, value in exp.backend.weights().items()}
    row = exp.train(1)[0]
    moved = {key: (before[key] - value) / 0.1 for key, value in exp.backend.weights().items()}
    seen = row["training_gradient_norm"], row["training_head_gradient"]

    if kind == "one that clips":  # what is told is what it was before
        assert 0 < np.linalg.norm([np.linalg.norm(one) for one in moved.values()]) < 0.00101
        other = with_norms(**options).train(1)[0]
        expected = other["training_gradient_norm"], other["training_head_gradient"]
    else:
        own = [one for key, one in moved.items() if key.startswith("Head/")]
        expected = tuple(np.linalg.norm([np.linalg.norm(one) for one in part]) for part in (moved.values(), own))
    assert seen == pytest.approx(expected, rel=1e-3)
    assert seen[0] > seen[1] > 0
    assert not [name for name in row if name.startswith("validation") and "gradient" in name]


@pytest.mark.parametrize(
    "other",
    [
        lambda chunk: chunk.update(other=chunk["gradient_norm"]),
        ops.AssertFinite("gradient_norm"),
        ops.GradientNorm("Head/*"),
    ],
    ids=["a reader", "an op that writes it anew", "another of that name"],
)
def test_what_is_known_of_gradients_is_for_no_processor(other):
    with pytest.raises(GraphError, match=r"GradientNorm(.|\n)* is available only after all(.|\n)*'gradient_norm' in #"):
        with_norms(chunk_processors=[*with_norms().chunk_processors, other]).train(1)


def test_a_gradient_is_of_training_alone():
    with pytest.raises(DeclarationError, match="its mode is ALL"):
        ops.GradientNorm(mode=Mode.ALL)


def test_the_length_of_the_gradient_of_no_weight_is_refused():
    processors = [*with_norms().chunk_processors, ops.GradientNorm("Heat/*", "other")]

    with pytest.raises(WeightsError, match=r"'Heat/\*' names no weights(.|\n)*Did you mean 'Head/\*'"):
        with_norms(chunk_processors=processors).train(1)


@pytest.mark.tensorflow
def test_of_no_label_at_all_there_is_no_mean():
    exp = measured(
        ops.MeanSquaredError("batch_logit", "batch_sure"),
        ops.Accuracy("batch_logit", "batch_sure", mask="batch_never"),
        batch_size=4,
    )

    assert np.isnan(exp.evaluate()["validation_accuracy"])


@pytest.mark.tensorflow
def test_a_name_of_somebody_is_not_taken_for_a_weight():
    exp = measured(
        lambda chunk: chunk.update(loss_weight=keras.ops.convert_to_tensor(0.5)),
        ops.MeanSquaredError("batch_logit", "batch_sure", mask="batch_known"),
        lambda chunk: chunk.update(loss=chunk["loss"] * chunk["loss_weight"]),
        batch_size=10,
    )
    logit, known = LABELS["input"][:, 0], LABELS["known"]

    squares = np.where(known, (logit - np.nan_to_num(LABELS["target"])) ** 2, 0)
    assert exp.evaluate()["validation_loss"] == pytest.approx(0.5 * squares.sum() / known.sum(), rel=1e-5)


@pytest.mark.tensorflow
def test_one_number_may_weigh_several_and_what_weighs_nothing_may_be_nan():
    class Ratios(ChunkProcessor):
        is_metric = True
        inputs, outputs = ["batch_sure", "batch_known"], ["hits", "misses", "counted"]
        weights_of = {"hits": "counted", "misses": "counted"}

        def __call__(self, chunk):
            known = keras.ops.cast(chunk["batch_known"], "float32")
            counted = keras.ops.sum(known)
            hits = keras.ops.sum(known * chunk["batch_sure"]) / counted
            chunk.update(hits=hits, misses=1 - hits, counted=counted)

    exp = measured(
        Ratios(), ops.MeanSquaredError("batch_logit", "batch_sure"), batch_size=2, callbacks=[AverageMetrics("hits")]
    )
    known, sure = LABELS["known"], np.nan_to_num(LABELS["target"])
    share = float(sure[known].mean())

    results = exp.evaluate()
    assert (results["validation_hits"], results["validation_misses"]) == pytest.approx((share, 1 - share))


@pytest.mark.tensorflow
def test_what_is_written_over_a_weighed_measure_is_not_weighed():
    exp = measured(
        ops.MeanSquaredError("batch_logit", "batch_sure", mask="batch_known"),
        lambda chunk: chunk.update(loss=0.0 * chunk["loss"] + keras.ops.sum(chunk["batch_input"][:, 0])),
        batch_size=5,
    )

    assert exp.evaluate() == {"validation_loss": pytest.approx(LABELS["input"].sum() / 2, rel=1e-5)}


@pytest.mark.tensorflow
def test_weights_of_measures_are_nobodys_business():
    exp = measured(
        ops.MeanSquaredError("batch_logit", "batch_sure", mask="batch_known"),
        ops.Accuracy("batch_logit", "batch_sure", mask="batch_known"),
        batch_size=4,
    )
    seen = {}

    class Witness(Callback):
        inputs = ("accuracy",)

        def on_batch_end(self, state, **_):
            seen.update(state)

    exp.callbacks.append(Witness())
    exp.train(1)

    given = {name: LABELS[name.removeprefix("batch_")] for name in ("batch_input", "batch_known")}
    assert exp.metrics == ["accuracy"]
    assert {*exp.predict({**given, "batch_sure": np.zeros(10, np.float32)})} == {"batch_logit", "loss", "accuracy"}
    assert not [name for name in (*seen, *exp.history[0]) if name.endswith(".weight")]


@pytest.mark.tensorflow
def test_a_pass_that_was_stopped_goes_on_with_its_weights(tmp_path):
    class Stop(Callback):
        def state_dict(self):
            return {}

        def on_batch_end(self, batch, **_):
            if batch == 1 and exp.epoch == 1 and not tmp_path.joinpath("stopped").exists():
                tmp_path.joinpath("stopped").touch()
                raise KeyboardInterrupt

    def built():
        loss = ops.SigmoidCrossEntropy("batch_logit", "batch_target", nan_is_no_label=True)
        callbacks = [Stop(), CheckpointEvery(steps=1, folder=tmp_path / "checkpoints")]
        settings = {"seed": 0, "callbacks": callbacks, "optimizer": keras.optimizers.SGD(0.1), "jit_compile": False}
        return measured(loss, batch_size=3, **settings)

    exp = built()
    with pytest.raises(KeyboardInterrupt):
        exp.train(3)
    exp = built()
    exp.resume(tmp_path / "checkpoints")
    resumed = exp.train(3)
    exp = built()

    whole = exp.train(3)
    assert [{n: v for n, v in row.items() if n != "epoch_time"} for row in resumed] == [
        {n: v for n, v in row.items() if n != "epoch_time"} for row in whole
    ]


# What is told of numbers that are not what they seem


@pytest.mark.parametrize(
    "draw, source",
    one_elsewhere(
        (np.random.normal, "np.random"),
        (random.random, "Python's random"),
        (np.random.default_rng(1).normal, "a np.random.Generator"),
        (np.random.RandomState(1).normal, "a np.random.RandomState"),
        (random.Random(1).random, "a random.Random"),
    ),
)
def test_numbers_drawn_on_the_host_in_a_processor_are_told_to_be_drawn_once(caplog, draw, source):
    def noisy(chunk):
        chunk["batch_input"] = chunk["batch_input"] + draw()

    exp = experiment(noisy, dense(), squares)
    exp.train(2)

    (told,) = [record.getMessage() for record in caplog.records if "draws from" in record.getMessage()]
    assert told.startswith(f"#0 noisy draws from {source} while it is recorded")
    caplog.clear()
    experiment(noisy, dense(), squares, eager=True).train(1)
    assert not [record for record in caplog.records if "draws from" in record.getMessage()]


@pytest.mark.tensorflow
def test_numbers_drawn_for_items_that_are_read_meanwhile_are_not_taken_for_a_processors(caplog):
    def shifted(key, item):
        np.random.normal(), random.random(), time.sleep(0.005)
        return item | {"input": item["input"] + np.random.normal()}

    def slowly_traced(chunk):
        for _ in range(200):
            chunk["batch_input"] = 1.0 * chunk["batch_input"]

    items = [{"input": row, "target": target} for row, target in zip(X, Y, strict=True)]
    drawing = DataAugmentationDataset(items, [shifted])
    exp = experiment(slowly_traced, dense(), squares, items=drawing, steps_per_call=1, batch_size=2)
    exp.train(2)

    assert not [record for record in caplog.records if "draws from" in record.getMessage()]


@pytest.mark.tensorflow
def test_a_processor_may_have_items_read_in_other_threads():
    def shifted(key, item):
        return item | {"input": item["input"] + np.random.normal()}

    items = [{"input": row, "target": target} for row, target in zip(X, Y, strict=True)]
    drawing = Subset("training", Mode.TRAIN, DataAugmentationDataset(items, [shifted]))

    def centred(chunk):
        rows = list(ThreadPoolExecutor(2).map(drawing.query_item, range(4), timeout=10))
        chunk["batch_input"] = chunk["batch_input"] - float(np.mean([row["input"] for row in rows]))

    experiment(centred, dense(), squares).train(1)


@pytest.mark.tensorflow
def test_a_processor_may_reach_its_experiment_and_a_generator_without_a_state(caplog):
    reached = {"random": random.SystemRandom()}

    def scaled(chunk):
        chunk["batch_input"] = chunk["batch_input"] * float("exp" in reached)

    exp = reached["exp"] = experiment(scaled, dense(), squares)
    exp.train(1)

    assert not [record for record in caplog.records if "draws from" in record.getMessage()]


def test_layers_that_draw_their_seeds_themselves_are_not_told_to_draw_once(caplog):
    def dropped(chunk):
        chunk["batch_input"] = layers.Dropout(0.5)(layers.Dense(1)(chunk["batch_input"]))

    experiment(dropped, dense(), squares).train(2)

    assert not [record for record in caplog.records if "draws from" in record.getMessage()]


class Kept(keras.constraints.Constraint):
    """Where the mask is 0, weights are 0 after every update."""

    def __init__(self):
        self.mask = keras.Variable(np.ones((4, 1), "float32"), trainable=False, name="mask")

    def __call__(self, weights):
        return weights * self.mask


def test_a_mask_in_a_constraint_is_saved_and_acts_once_it_is_changed(tmp_path):
    layer = layers.Dense(1, kernel_constraint=(kept := Kept()))
    exp = experiment(ops.Model(layer, inputs="batch_input", outputs="batch_prediction", node="Net"), squares)
    exp.train(1)
    kept.mask.assign([[1], [0], [1], [0]])
    exp.train(2)

    assert (keras.ops.convert_to_numpy(layer.kernel.value)[:, 0] != 0).tolist() == [True, False, True, False]
    assert exp.backend.sizes() == {"Net": (5, 4)}
    exp.save_weights(tmp_path / "net.safetensors")
    kept.mask.assign(np.ones((4, 1)))
    exp.load_weights(tmp_path / "net.safetensors")
    assert keras.ops.convert_to_numpy(kept.mask.value)[:, 0].tolist() == [1, 0, 1, 0]


class Pull(keras.regularizers.Regularizer):
    """Adds the sum of the weights to the loss, so many times."""

    def __init__(self):
        self.strength = keras.Variable(0.0, trainable=False, name="strength")

    def __call__(self, weights):
        return keras.ops.convert_to_tensor(self.strength) * keras.ops.sum(weights)


def test_the_strength_of_a_regularizer_acts_once_it_is_changed_and_is_saved():
    layer = layers.Dense(1, kernel_regularizer=(pull := Pull()))
    model = ops.Model(layer, inputs="batch_input", outputs="batch_prediction", node="Net")
    optimizer = keras.optimizers.SGD(0.1)
    exp = experiment(model, squares, items={"input": 0 * X, "target": 0 * Y}, optimizer=optimizer)
    exp.train(1)
    before = keras.ops.convert_to_numpy(layer.kernel.value)
    pull.strength.assign(0.5)
    exp.train(2)

    steps = exp.counts["training"]["batches"] // 2
    moved = before - keras.ops.convert_to_numpy(layer.kernel.value)
    assert moved == pytest.approx(np.full((4, 1), 0.1 * 0.5 * steps), rel=1e-5)
    assert exp.backend.weights()["Net/2/strength"] == 0.5


def test_a_class_that_the_logits_do_not_have_is_named():
    items = {"input": X, "target": np.arange(40) % 3}
    items["target"][5] = 3
    exp = experiment(
        ops.Model(layers.Dense(3), inputs="batch_input", outputs="batch_logits"),
        ops.SoftmaxCrossEntropy("batch_logits", "batch_target"),
        items=items,
    )

    for run in (exp.evaluate, lambda: exp.train(1)):
        with pytest.raises(NonFiniteLossError) as caught:
            run()
        told = "'batch_target' holds 3, which is no class: 'batch_logits' has 3, 0 to 2"
        assert str(caught.value).splitlines()[-2].startswith(told)


def test_a_class_that_the_logits_do_not_have_is_named_where_masks_are_flipped_with_their_images():
    items = {"input": np.ones((8, 2, 2, 1), "float32"), "mask": np.full((8, 2, 2), 255, "uint8")}
    exp = experiment(
        ops.RandomFlip("batch_mask", seed=1),
        ops.Model(layers.Dense(3), inputs="batch_input", outputs="batch_logits"),
        ops.SoftmaxCrossEntropy("batch_logits", "batch_mask"),
        items=items,
    )

    with pytest.raises(NonFiniteLossError) as caught:
        exp.train(1)

    told = "'batch_mask' holds 255, which is no class, unless #0 RandomFlip(seed=1) makes it one: 'batch_logits' has 3"
    (said,) = [line for line in str(caught.value).splitlines() if line.startswith(told)]
    assert said.endswith("leave it out by mask=.")


@pytest.mark.parametrize("jit_compile", [False, True, "step"] if NAME == "tensorflow" else [False])
def test_an_id_that_an_embedding_has_no_row_for_is_named(jit_compile):
    exp = experiment(
        ops.Model(keras.Sequential([layers.Embedding(5, 2), layers.Flatten()]), inputs="batch_id", outputs="batch_out"),
        ops.MeanSquaredError("batch_out", "batch_target"),
        items={"id": np.arange(40)[:, None] % 6, "target": np.zeros((40, 2), "float32")},
        jit_compile=jit_compile,
    )

    with pytest.raises((NonFiniteLossError, IndexError)) as caught:
        exp.train(1)
    said = "\n".join([str(caught.value), *getattr(caught.value, "__notes__", [])])
    assert "'batch_id' holds 5, and the Embedding in #0" in said


class WithUnknown(layers.Embedding):
    """Has one more row, for an id that is unknown."""

    def build(self, input_shape=None):
        self.input_dim, count = self.input_dim + 1, self.input_dim
        super().build(input_shape)
        self.input_dim = count


@pytest.mark.parametrize("table", [
    lambda: layers.Embedding(6, 2, dtype="int32", trainable=False, embeddings_initializer="ones"),
    lambda: WithUnknown(5, 2, embeddings_initializer="ones"),
])  # fmt: skip
def test_a_row_that_is_there_is_taken_whatever_the_table(table):
    model = ops.Model(table(), inputs="batch_id", outputs="batch_row")
    exp = experiment(model, items={"id": np.arange(40) % 6}, jit_compile=True)

    assert np.array_equal(exp.predict({"batch_id": np.array([0, 5])})["batch_row"], np.ones((2, 2)))


def test_ids_below_zero_count_from_the_end_however_the_step_is_compiled():
    table = np.arange(10, dtype="float32").reshape(5, 2)

    def rows(**settings):
        network = keras.Sequential([keras.Input((1,), dtype="int32"), layers.Embedding(5, 2), layers.Flatten()])
        network.set_weights([table])
        return experiment(ops.Model(network, inputs="batch_id", outputs="batch_out"), items=ids, **settings).predict(
            {"batch_id": ids["id"]}
        )

    ids = {"id": np.array([[-1], [-5], [4], [0]] * 10)}
    for setting in (False, True):
        np.testing.assert_array_equal(rows(jit_compile=setting)["batch_out"], table[ids["id"][:, 0]])


@pytest.mark.parametrize(
    "loss, options",
    [(ops.SigmoidCrossEntropy, {}), (ops.MeanSquaredError, {}), (ops.SoftmaxCrossEntropy, {"mask": "batch_known"})],
)
def test_what_is_no_class_is_not_taken_for_one_that_is_missing(loss, options):
    x = X.copy()
    x[3, 1] = np.nan
    target = np.where(np.arange(40) % 2, 1, -1 if options else 0)
    exp = experiment(
        ops.Model(layers.Dense(2 if options else 1), inputs="batch_input", outputs="batch_logits"),
        loss("batch_logits", "batch_target", **options),
        items={"input": x, "target": target, "known": target >= 0},
    )
    with pytest.raises(NonFiniteLossError) as caught:
        exp.evaluate()
    assert "no class" not in str(caught.value)


def test_weights_that_become_nan_behind_a_finite_loss_end_the_training(caplog, tmp_path):
    x = X.copy()
    x[3, 1] = np.nan

    def known_squares(chunk):
        squares = (chunk["batch_prediction"][:, 0] - chunk["batch_target"]) ** 2
        chunk["loss"] = keras.ops.mean(keras.ops.where(keras.ops.isnan(squares), 0.0, squares))

    for callbacks, where in (([], ""), ([TerminateOnNaN()], " of 'training'")):
        network = ops.Model(layers.Dense(1), inputs="batch_input", outputs="batch_prediction")
        exp = experiment(network, known_squares, items={"input": x, "target": Y}, callbacks=callbacks)
        with pytest.raises(NonFiniteLossError, match=f"after epoch 1{where}.\nSeen: NaN in weights of Model"):
            exp.train(3)
        assert not exp.history
    exp.save_weights(tmp_path / "weights.safetensors")
    exp.save_weights(tmp_path / "weights.safetensors")
    (told,) = [one.getMessage() for one in caplog.records if "are NaN" in one.getMessage()]
    assert told.startswith("Weights of Model are NaN, whatever the loss says")


@pytest.mark.parametrize("callbacks", one_elsewhere([TerminateOnNaN()], []))
def test_weights_that_are_nan_from_the_start_are_told_and_end_nothing(callbacks, caplog):
    unknown = layers.Dense(1, bias_initializer=keras.initializers.Constant(np.nan))
    unused = ops.Model(unknown, inputs="batch_input", outputs="batch_unused", node="Unused")
    exp = experiment(unused, dense(), squares, callbacks=callbacks)
    exp.train(2)
    exp.train(3)

    assert len(exp.history) == 3
    assert caplog.text.count("Weights of Unused are NaN, whatever the loss says") == 1


def test_a_callback_of_keras_is_answered_with_ours():
    exp = experiment(dense(), squares, callbacks=[keras.callbacks.EarlyStopping()])

    with pytest.raises(CallbackError, match=r"is a callback of Keras(.|\n)*Write experimentator\.EarlyStopping"):
        exp.train(1)


# An experiment within another


def wide() -> Any:
    """One that regularises, keeps statistics and drops, trained a little."""
    network = keras.Sequential(
        [layers.Dense(8, kernel_regularizer="l2"), layers.BatchNormalization(), layers.Dropout(0.5), layers.Dense(1)]
    )
    exp = experiment(ops.Model(network, inputs="batch_input", outputs="batch_prediction"), squares)
    exp.train(2)
    return exp


def distances(chunk: Any) -> None:
    chunk["loss"] = keras.ops.mean((chunk["batch_prediction"] - chunk["batch_wanted"]) ** 2)


@pytest.mark.parametrize("eager", one_elsewhere(False, True))
def test_an_experiment_infers_within_another_and_is_not_trained_there(eager):
    teacher = wide()
    before, wanted = teacher.backend.weights(), teacher.predict({"batch_input": X})["batch_prediction"]
    before = {key: value.copy() for key, value in before.items()}
    node = teacher.as_processor({"batch_prediction": "batch_wanted"}, node="Teacher")
    decaying = keras.optimizers.AdamW(0.05, weight_decay=0.5)
    student = experiment(node, dense(), distances, optimizer=decaying, outputs=["batch_wanted"], eager=eager)
    rows = student.train(5)

    assert rows[-1]["training_loss"] < rows[0]["training_loss"]
    assert np.allclose(student.predict({"batch_input": X})["batch_wanted"], wanted, atol=1e-6)
    assert all(np.array_equal(before[key], value) for key, value in teacher.backend.weights().items())
    assert {key.split("/")[0] for key in student.backend.weights()} == {"Teacher", "Model"}
    assert len(decaying.variables) == 2 + 2 * 2  # its count and rate, and moments for a kernel and a bias
    assert student.backend.sizes()["Teacher"][0] == 0


def test_gradients_pass_through_an_experiment_to_what_it_is_given():
    judge = wide()
    before = {key: value.copy() for key, value in judge.backend.weights().items()}
    maker = ops.Model(layers.Dense(4), inputs="batch_input", outputs="batch_made")
    judged = judge.as_processor({"batch_prediction": "batch_score"}, inputs={"batch_input": "batch_made"})
    rows = experiment(maker, judged, lambda chunk: chunk.update(loss=keras.ops.mean(chunk["batch_score"]))).train(4)

    losses = [row["training_loss"] for row in rows]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0] - 0.1
    assert all(np.array_equal(before[key], value) for key, value in judge.backend.weights().items())


def test_one_that_has_no_optimizer_is_not_trained_within_another_either():
    encoder = keras.Sequential([layers.Input((4,)), layers.Dense(3)])
    before = encoder.get_weights()
    encoding = build_experiment({"chunk_processors": [ops.Model(encoder, inputs="batch_input", outputs="batch_code")]})
    head = ops.Model(layers.Dense(1), inputs="batch_code", outputs="batch_prediction")
    experiment(encoding.as_processor("batch_code"), head, squares).train(2)

    assert all(map(np.array_equal, before, encoder.get_weights()))


def test_a_variable_of_the_framework_s_own_is_held_too():
    table = variable(np.eye(4, dtype=np.float32))
    scaled = lambda chunk: chunk.update(batch_code=keras.ops.matmul(chunk["batch_input"], table))
    teacher = experiment(scaled, ops.Model(layers.Dense(1), inputs="batch_code", outputs="batch_prediction"), squares)
    teacher.train(1)
    before = keras.ops.convert_to_numpy(table).copy()
    head = ops.Model(layers.Dense(1), inputs="batch_code", outputs="batch_prediction")
    experiment(teacher.as_processor("batch_code"), head, squares).train(2)

    assert not np.array_equal(before, np.eye(4))
    assert np.array_equal(keras.ops.convert_to_numpy(table), before)


@pytest.mark.tensorflow
def test_a_part_of_an_experiment_may_begin_in_the_midst_of_its_list():
    encoder = ops.Model(layers.Dense(2), inputs="batch_input", outputs="batch_code")
    decoder = ops.Model(layers.Dense(1), inputs="batch_code", outputs="batch_prediction")
    whole = experiment(encoder, decoder, squares)
    whole.train(1)
    decoding = whole.as_processor("batch_prediction", inputs={"batch_code": "batch_mine"})
    mine = ops.Model(layers.Dense(2), inputs="batch_input", outputs="batch_mine")
    other = experiment(mine, decoding, squares, outputs=["batch_mine", "batch_prediction"])
    other.train(1)
    given = other.predict({"batch_input": X})

    assert decoding.inputs == ("batch_mine",)
    wanted = given["batch_mine"] @ np.asarray(decoder.model.kernel) + np.asarray(decoder.model.bias)
    assert np.allclose(given["batch_prediction"], wanted, atol=1e-5)


def test_what_an_experiment_within_another_draws_goes_on():
    draw = keras.random.SeedGenerator(5)
    noisy = lambda chunk: chunk.update(batch_noise=keras.random.normal((), seed=draw) + 0 * chunk["batch_input"][:, 0])
    teacher = experiment(noisy, dense(), squares)
    student = experiment(teacher.as_processor("batch_noise"), dense(), squares, metrics=["first"])
    student.chunk_processors.append(lambda chunk: chunk.update(first=chunk["batch_noise"][0]))
    drawn = []

    class Look(Callback):
        when = Mode.TRAIN  # an evaluation puts back what it draws from

        def on_batch_end(self, first, **_):
            drawn.append(float(first))

    student.callbacks.append(Look())
    student.train(2)

    assert len(set(drawn)) == len(drawn) == 10


def test_an_experiment_without_weights_is_refused_within_another():
    unbuilt = build_experiment({"chunk_processors": [dense()]}).as_processor("batch_prediction")

    with pytest.raises(
        GraphError, match=r"An experiment within another has no weights yet(.|\n)*Give that experiment a"
    ):
        experiment(unbuilt, squares).train(1)


def test_a_change_within_an_experiment_within_another_acts_and_is_told(caplog):
    scale = ops.Scale("batch_prediction", 1.0, output="batch_wanted")
    teacher = experiment(dense(), scale, squares)
    student = experiment(teacher.as_processor("batch_wanted"), dense(), distances, optimizer=keras.optimizers.SGD(0.0))
    before = student.train(1)[-1]["training_loss"]
    scale.scale = 0.5
    after = student.train(2)[-1]["training_loss"]

    assert after != pytest.approx(before, rel=1e-3)
    assert "scale was 1.0, is 0.5" in caplog.text


def test_nodes_that_wait_for_names_own_what_they_make_and_have_their_place():
    shared = layers.Dense(1, name="shared")

    def waits(chunk: Any) -> None:
        chunk["batch_prediction"] = (
            layers.Dense(1)(chunk["batch_input"]) + shared(chunk["batch_input"]) + chunk["batch_more"]
        )

    def more(chunk: Any) -> None:
        chunk["batch_more"] = shared(chunk["batch_input"]) + layers.Dense(1)(chunk["batch_input"])

    exp = experiment(waits, more, squares)
    exp.train(1)

    owners = [key.split("/")[0] for key in exp.backend.weights()]
    assert owners == ["waits"] * 4 + ["more"] * 2
    assert exp.backend.shared() == {"more": ("waits",)}


@pytest.mark.tensorflow
def test_a_name_that_an_experiment_does_not_infer_is_told_when_it_is_asked_for():
    with pytest.raises(
        GraphError, match=r"No tensor named 'batch_predicted' to select \[INFER\](.|\n)*batch_prediction"
    ):
        wide().as_processor("batch_predicted")
    with pytest.raises(
        GraphError, match=r"Nothing reads 'batch_inptu' to make batch_prediction.\nKnown here: batch_input"
    ):
        wide().as_processor("batch_prediction", inputs={"batch_inptu": "batch_made"})


def test_a_loss_of_bfloat16_stands_in_the_history():
    def coarse(chunk: Any) -> None:
        chunk["loss"] = keras.ops.mean(keras.ops.cast(chunk["batch_prediction"], "bfloat16") ** 2)

    row = experiment(dense(), coarse).train(1)[0]
    assert 0 < row["training_loss"] < 100
    assert 0 < row["validation_loss"] < 100


def test_a_processor_may_read_how_many_batches_the_optimizer_has_seen():
    """A loss weighed by the step, as a KL term that sets in: of 5 batches an epoch, the first epoch has 0 to 4."""
    optimizer = keras.optimizers.Adam(1e-3)

    @chunk_processor(inputs=["batch_input"], outputs=["step"])
    def step(batch_input: Any) -> Any:
        return keras.ops.cast(optimizer.iterations, "float32")

    exp = experiment(dense(), squares, step, optimizer=optimizer, metrics=["step"])
    exp.train(2)

    assert [row["training_step"] for row in exp.history] == [2.0, 7.0]
    assert [row["validation_step"] for row in exp.history] == [5.0, 10.0]


def values(variable: Any) -> np.ndarray:
    return np.array(keras.ops.convert_to_numpy(variable))


def test_weights_that_a_layer_gets_after_first_use_are_trained_and_saved(tmp_path, caplog):
    """As adapters are made: loaded, then `enable_lora`, then trained on."""
    base = experiment(dense(), squares)
    base.train(1)
    base.save_weights(tmp_path / "base.safetensors")
    layer = layers.Dense(1)
    exp = experiment(ops.Model(layer, inputs="batch_input", outputs="batch_prediction"), squares)
    exp.load_weights(tmp_path / "base.safetensors", only="Model/*")
    layer.enable_lora(2)
    kernel = values(layer._kernel).copy()
    exp.train(2)

    assert "Dense has other weights or layers" in caplog.text
    assert np.abs(values(layer.lora_kernel_b)).max() > 0
    assert np.array_equal(values(layer._kernel), kernel)
    exp.save_weights(tmp_path / "adapters.safetensors", only="*/lora_*")
    again = layers.Dense(1)
    other = experiment(ops.Model(again, inputs="batch_input", outputs="batch_prediction"), squares)
    other.evaluate()
    again.enable_lora(2)
    other.load_weights(tmp_path / "base.safetensors", only=["*/kernel", "*/bias"])
    other.load_weights(tmp_path / "adapters.safetensors", only="*/lora_*")
    assert np.array_equal(values(again.kernel), values(layer.kernel))


@pytest.mark.parametrize("eager", [False, True])
def test_a_layer_that_takes_the_place_of_another_is_found_compiled_or_not(eager):
    network = keras.Sequential([layers.Dense(3), layers.Dense(1)])
    exp = experiment(
        ops.Model(network, inputs="batch_input", outputs="batch_prediction", node="Net"), squares, eager=eager
    )
    exp.train(1)
    network.pop()
    network.add(layers.Dense(1, use_bias=False))
    exp.optimizer = keras.optimizers.SGD(0.05)
    before = values(network.layers[1].kernel)
    exp.train(2)

    assert np.abs(values(network.layers[1].kernel) - before).max() > 0
    assert sorted(value.shape for value in exp.backend.weights().values()) == [(3,), (3, 1), (4, 3)]


def stronger(layer):
    layer.kernel_regularizer.l1 = 1.0


def another(layer):
    layer.kernel.regularizer = keras.regularizers.L1(1.0)


def bounds(layer):
    layer.kernel.constraint = keras.constraints.NonNeg()


@pytest.mark.parametrize(
    "change, told",
    [
        (stronger, "L1: l1 was .*, is 1.0"),
        (another, "Dense has other constraints or regularizers"),
        (bounds, "Dense has other constraints or regularizers"),
    ],
)
def test_a_regularizer_or_constraint_that_is_changed_acts_from_the_next_pass_on(change, told, caplog):
    layer = layers.Dense(1, kernel_initializer=keras.initializers.Constant(-0.5), kernel_regularizer="l1")
    layer.build((None, 4))
    layer.kernel.regularizer.l1 = 0.0
    model = ops.Model(layer, inputs="batch_input", outputs="batch_prediction")
    exp = experiment(model, squares, items={"input": 0 * X, "target": 0 * Y})
    exp.train(1)
    assert values(layer.kernel) == pytest.approx(np.full((4, 1), -0.5))
    change(layer)
    exp.train(2)

    assert (values(layer.kernel) > -0.5 + 1e-3).all()
    assert re.search(told, caplog.text)


def test_an_optimizer_that_was_made_before_a_layer_got_weights_is_refused():
    layer = layers.Dense(1)
    exp = experiment(ops.Model(layer, inputs="batch_input", outputs="batch_prediction"), squares)
    exp.train(1)
    layer.enable_lora(2)

    with pytest.raises(ValueError, match=r"made for other weights.*\nSeen: SGD, .* or of layers in them"):
        exp.train(2)
    exp.optimizer = keras.optimizers.SGD(0.05)
    exp.train(2)
    assert np.abs(values(layer.lora_kernel_b)).max() > 0


def test_a_layer_that_is_added_to_a_network_after_first_use_is_trained():
    network = keras.Sequential([layers.Dense(2)])
    exp = experiment(ops.Model(network, inputs="batch_input", outputs="batch_prediction", node="Net"), squares)
    exp.evaluate()
    network.add(layers.Dense(1))
    before = values(network.layers[1].kernel).copy()
    exp.train(1)

    assert len(exp.backend.weights()) == 4
    assert np.abs(values(network.layers[1].kernel) - before).max() > 0


def test_no_gradient_passes_an_assignment():
    weight = keras.Variable(1.0, name="weight")

    @chunk_processor(inputs=["batch_x"], outputs=["loss"])
    def doubled(x):
        weight.assign(2.0 * weight)
        return keras.ops.mean(3.0 * x * weight)

    subset = Subset("training", Mode.TRAIN, {"x": np.ones(4, "float32")})
    optimizer = keras.optimizers.SGD(0.1)
    build_experiment(
        {"subsets": [subset], "chunk_processors": [doubled], "optimizer": optimizer, "hide_progress": True}
    ).train(1)

    assert float(keras.ops.convert_to_numpy(weight)) == pytest.approx(2.0 - 0.1 * 3.0)


@pytest.mark.tensorflow
def test_metrics_that_declare_no_names_are_averaged_by_their_weights():
    class Hits(ChunkProcessor):
        is_metric = True
        weights_of = {"hits": "counted"}

        def __call__(self, chunk):
            known = keras.ops.cast(chunk["batch_known"], "float32")
            chunk["counted"] = keras.ops.sum(known)
            chunk["hits"] = keras.ops.sum(known * chunk["batch_sure"]) / keras.ops.maximum(chunk["counted"], 1.0)

    results = measured(Hits(), ops.MeanSquaredError("batch_logit", "batch_sure"), batch_size=4).evaluate()

    assert results["validation_hits"] == pytest.approx(truth(np.nan_to_num(LABELS["target"]), LABELS["known"]))


def test_a_sum_with_a_variable_for_a_factor_is_a_number_in_the_history():
    parts = ops.MeanSquaredError("batch_logit", "batch_sure", "part", mask="batch_known")
    results = measured(parts, ops.CombineLosses({"part": keras.Variable(0.5)}), batch_size=4).evaluate()

    assert type(results["validation_loss"]) is float
    assert results["validation_loss"] == 0.5 * results["validation_part"]
