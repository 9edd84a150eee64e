"""What is computed again for its gradients: the same training in every number, with less memory."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from experimentator import Mode, Optimizers, Subset, build_experiment, chunk_processor, gradient, ops
from tests.frameworks import ON_JAX, QUICK, backend_of_keras, one_elsewhere

DRAW = np.random.default_rng(0)
WORDS, KINDS = DRAW.integers(0, 50, (48, 6)), DRAW.integers(0, 4, 48)


def as_it_is(function: Any) -> Any:
    return function


def trained(*processors: Any, rows: int = 40, evaluates: bool = False, **settings: Any) -> Any:
    """An experiment of two epochs of batches of eight, in calls of several."""
    data = {"words": WORDS[:rows], "kind": KINDS[:rows]}
    subsets = [Subset("training", Mode.TRAIN, data), *([Subset("validation", Mode.EVAL, data)] if evaluates else [])]
    loss = ops.SoftmaxCrossEntropy("batch_logits", "batch_kind")
    given = {"optimizer": keras.optimizers.SGD(0.1, momentum=0.9), "seed": 0, "hide_progress": True} | settings
    exp = build_experiment({"subsets": subsets, "batch_size": 8, "chunk_processors": [*processors, loss], **given})
    exp.train(2)
    return exp


def assert_same(one: Any, other: Any, rtol: float = 1e-4) -> None:
    weights = one.backend.weights(), other.backend.weights()
    assert list(weights[0]) == list(weights[1])
    for key, value in weights[0].items():
        np.testing.assert_allclose(weights[1][key], value, rtol, atol=1e-5, err_msg=key)
    for before, after in zip(one.history, other.history, strict=True):
        for name in [name for name in before if name.endswith("loss")]:
            assert after[name] == pytest.approx(before[name], rel=rtol)


def network() -> Any:
    """Layers that draw, that keep statistics, and that add to the loss."""
    keras.utils.set_random_seed(1)
    words = keras.Input((6,), dtype="int32")
    made = layers.Embedding(50, 8)(words)
    made = layers.BatchNormalization()(layers.Dropout(0.3, seed=2)(made))
    made = made + layers.MultiHeadAttention(2, 4, dropout=0.2, seed=3)(made, made)
    made = layers.Dense(8, activation="gelu", activity_regularizer="l2", kernel_regularizer="l2")(made)
    return keras.Model(words, layers.Dense(4)(layers.GlobalAveragePooling1D()(made)))


@pytest.mark.parametrize("mode", one_elsewhere("full", "list_of_layers"))
def test_a_network_made_under_a_scope_trains_as_without(mode):
    plain = network()
    chosen = [one.name for one in plain.layers if one.name.startswith(("dropout", "batch", "multi"))]
    with keras.RematScope(mode=mode, **({"layer_names": chosen} if mode == "list_of_layers" else {})):
        again = network()
    again.set_weights(plain.get_weights())

    names = {"inputs": "batch_words", "outputs": "batch_logits"}
    assert_same(*(trained(ops.Model(one, **names), rows=43, evaluates=True) for one in (plain, again)))


class Parts:
    """Layers called within functions, one of them with an option and a result of whole numbers; and one in another."""

    def __init__(self, remat: Any):
        keras.utils.set_random_seed(1)
        self.remat, self.calls = remat, 0
        self.words, self.normal, self.drop = layers.Embedding(50, 8), layers.BatchNormalization(), layers.Dropout(0.3)
        self.dense = layers.Dense(8, activation="tanh", activity_regularizer="l2")
        self.mix, self.head = layers.Conv1D(8, 3, activation="tanh"), layers.Dense(4)

    def __call__(self, chunk: Any) -> None:
        made, best = self.remat(self.first)(chunk["batch_words"], scale=2.0)
        chunk["batch_best"] = best
        chunk["batch_logits"] = self.head(self.remat(self.second)(made))

    def first(self, words: Any, *, scale: float) -> Any:
        self.calls += 1
        made = self.normal(self.drop(self.dense(self.words(words)))) * scale
        return made, keras.ops.argmax(made, axis=-1)

    def second(self, made: Any) -> Any:
        return keras.ops.mean(self.mix(self.drop(made + self.remat(self.drop)(made))), axis=1)


# Inductor takes a minute, JAX without a compiler half of one; XLA compiles what is in a step alone or in a loop alike.
WAYS: dict[str, Any] = {name: {"jit_compile": jit} for name, jit in QUICK.items() if name != "xla-step"}
WAYS |= {} if ON_JAX else {"eager": {"eager": True}}


@pytest.mark.parametrize("way", WAYS)
def test_functions_that_are_computed_again_where_there_are_gradients_train_as_without(way):
    """The last batch of an epoch is smaller."""
    found, counts = [], []
    for remat in (as_it_is, keras.remat):
        parts = Parts(remat)
        found.append(trained(parts, rows=43, evaluates=True, **WAYS[way]))
        trains = parts.calls
        found[-1].predict("validation")
        counts.append((trains, parts.calls - trains))
    (plain, predicts), (again, predicts_again) = counts

    assert_same(*found)
    assert way == "eager" or (again > plain) == (not ON_JAX)  # which goes by what it traced
    assert predicts_again == predicts > 0


@pytest.mark.parametrize("way", [*WAYS][-1 if ON_JAX else -2 :])
def test_layers_that_are_made_in_every_call_are_those_of_the_first_where_it_is_computed_again(way):
    def listed(remat: Any) -> Any:
        keras.utils.set_random_seed(1)

        def block(made: Any) -> Any:
            drawn = layers.Dropout(0.3, seed=2)(layers.LayerNormalization()(made))
            return made + remat(lambda drawn: layers.Dense(8, activation="tanh")(drawn))(drawn)

        def named(chunk: Any) -> None:
            made = layers.Embedding(50, 8)(chunk["batch_words"])
            for _ in range(2):
                made = layers.Dense(8)(remat(block)(made))
            chunk["batch_logits"] = layers.Dense(4)(keras.ops.mean(made, axis=1))

        return named

    plain, again = (trained(listed(remat), **WAYS[way]) for remat in (as_it_is, keras.remat))
    assert len(plain.backend.weights()) == 1 + 2 * (2 + 1 + 2 + 2) + 2
    assert_same(plain, again)


def test_what_is_computed_again_has_the_precision_that_it_had():
    losses = [
        trained(Parts(remat), precision="bfloat16").history[-1]["training_loss"] for remat in (as_it_is, keras.remat)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)


def test_a_loss_of_its_own_is_computed_again_for_its_weights_alone():
    def listed(remat: Any) -> list[Any]:
        keras.utils.set_random_seed(1)
        words, drop, one, other = layers.Embedding(50, 8), layers.Dropout(0.3), layers.Dense(4), layers.Dense(4)
        trunk = lambda given: drop(words(given))  # noqa: E731

        def left(chunk: Any) -> None:
            chunk["batch_made"] = remat(trunk)(chunk["batch_words"])
            chunk["batch_logits"] = keras.ops.mean(one(chunk["batch_made"]), axis=1)

        def right(chunk: Any) -> None:
            chunk["right_loss"] = keras.ops.mean(remat(other)(chunk["batch_made"]) ** 2)

        return [left, right]

    def optimizer() -> Any:
        return Optimizers(
            {"left": keras.optimizers.SGD(0.1), "right": keras.optimizers.SGD(0.2)}, losses={"right": "right_loss"}
        )

    assert_same(*(trained(*listed(one), optimizer=optimizer()) for one in (as_it_is, keras.remat)))


def test_within_a_gradient_of_a_processor_and_outside_of_experiments():
    layer = layers.Dense(1, activation="tanh")
    images = keras.ops.convert_to_tensor(np.ones((3, 2), np.float32))
    found = [keras.ops.stop_gradient(gradient(one(layer), images)) for one in (as_it_is, keras.remat)]
    np.testing.assert_allclose(*map(keras.ops.convert_to_numpy, found))


class Scaled(layers.Layer):
    """A layer that lets its weight decay while it is trained."""

    def build(self, shape: Any) -> None:
        self.scale = self.add_weight(shape=shape[1:], initializer="ones")

    def call(self, rows: Any, training: bool = False) -> Any:
        if training:
            self.scale.assign(self.scale * 0.9)
        return rows * self.scale


def rows_by(remat: Any, how: str) -> Any:
    """A processor that makes logits of one part, which is computed again in one of several ways."""
    keras.utils.set_random_seed(1)
    words, dense, side, head = layers.Embedding(50, 8), layers.Dense(8), layers.Dense(8), layers.Dense(4)
    scaled, matrix = Scaled(), keras.Variable(np.eye(8, dtype="float32"))
    dense.build((None, 8))

    def run(chunk: Any) -> None:
        rows = keras.ops.mean(words(chunk["batch_words"]), axis=1)
        again = remat(lambda given: keras.ops.tanh(dense(given)))
        if how == "closes over":
            by = side(rows)
            rows = remat(lambda given: keras.ops.tanh(dense(given)) * by)(rows)
        elif how == "gradient of":
            rows = gradient(lambda given: keras.ops.sum(again(given) ** 2), rows)
        elif how == "of gradient":
            rows = remat(lambda given: gradient(lambda one: keras.ops.sum(dense(one) ** 3), given))(rows)
        elif how == "in a loop":
            rows = keras.ops.fori_loop(0, 3, lambda place, given: again(given), rows)
        elif how == "in a branch":
            rows = keras.ops.cond(keras.ops.sum(rows) > 0, lambda: again(rows), lambda: rows)
        elif how == "of a variable":
            rows = remat(lambda given, by: keras.ops.tanh(given @ by))(rows, matrix)
        elif how == "assigns":
            rows = remat(lambda given: keras.ops.tanh(scaled(dense(given))))(rows)
        chunk["batch_logits"] = head(rows)

    return run


HOW = ["closes over", "gradient of", "of gradient", "in a loop", "in a branch", "of a variable", "assigns"]


@pytest.mark.parametrize("how", HOW)
def test_gradients_are_those_without_wherever_it_stands(how):
    optimizer = lambda: keras.optimizers.SGD(0.1, weight_decay=0.01)  # noqa: E731
    assert_same(*(trained(rows_by(one, how), optimizer=optimizer()) for one in (as_it_is, keras.remat)))


@pytest.mark.parametrize("way", [{}] if ON_JAX else [{}, {"eager": True}], ids=str)
def test_what_a_layer_keeps_for_one_call_is_drawn_anew_in_the_next(way):
    def listed(remat: Any) -> Any:
        keras.utils.set_random_seed(1)
        words, head = layers.Embedding(50, 8), layers.Dense(4)
        cell = layers.LSTM(5, dropout=0.2, recurrent_dropout=0.2, unroll=True)  # XLA takes long for a loop

        def run(chunk: Any) -> None:
            chunk["batch_logits"] = head(remat(lambda given: cell(words(given)))(chunk["batch_words"][:, :2]))

        return run

    assert_same(*(trained(listed(one), **way) for one in (as_it_is, keras.remat)))


MEMORY = """
import re
from pathlib import Path
import keras, numpy as np
from keras import layers
from experimentator import Mode, Subset, build_experiment

keras.utils.set_random_seed(1)
ROWS = 3000
wide = [keras.Sequential([layers.Dense(256, activation="gelu"), layers.LayerNormalization(), layers.Dropout(0.1)])
        for _ in range(10)]

def most():
    return int(re.search("VmHWM:(.*)kB", Path("/proc/self/status").read_text())[1])

def peak(remat):
    def run(chunk):
        made = chunk["batch_input"]
        for part in wide:
            made = remat(part)(made)
        chunk["loss"] = keras.ops.mean(made**2)

    data = {"input": np.ones((ROWS, 256), np.float32)}
    build_experiment({
        "subsets": [Subset("training", Mode.TRAIN, data)], "batch_size": ROWS, "chunk_processors": [run],
        "optimizer": keras.optimizers.SGD(0.1), "hide_progress": True, "jit_compile": False,
    }).train(1)
    return most()

before = most()  # of this program, where `resource` begins with what its parent took
again = peak(keras.remat)
print((again - before) / (peak(lambda function: function) - before))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells it")
@pytest.mark.skipif(ON_JAX, reason="XLA on a CPU keeps the results of JAX all the same")
def test_it_takes_less_memory():
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, timeout=300)

    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split()[-1]) < 0.7


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="a graph of TensorFlow updates weights in place")
@pytest.mark.parametrize("kind", ["of layers", "of TensorFlow", "one within another"])
def test_what_is_computed_again_reads_weights_before_they_are_updated(kind):
    x = DRAW.normal(size=(70, 4)).astype("float32")
    data = {"x": x, "y": x.sum(1, keepdims=True)}

    def losses(remat: Any) -> tuple[float, ...]:
        keras.utils.set_random_seed(1)
        if kind == "of layers":
            first, second = layers.Dense(6, activation="tanh"), layers.Dense(5)
        else:
            import tensorflow as tf

            one, other, rows = (
                tf.Variable(np.linspace(-1, end, size).reshape(-1, width), dtype="float32")
                for end, size, width in ((1, 24, 6), (0.7, 30, 5), (0.4, 8, 4))
            )
            first = lambda batch: tf.tanh((batch + tf.gather(rows, [1])) @ one)  # noqa: E731
            second = lambda made: made @ other + 0.1 * tf.reduce_sum(rows) * tf.reduce_sum(one)  # noqa: E731
        within = remat(first) if kind == "one within another" else first
        again = remat(lambda batch: second(within(batch)))
        body = chunk_processor(inputs=["batch_x"], outputs=["batch_h"])(lambda batch_x: again(batch_x))
        head = ops.Model(layers.Dense(1), inputs="batch_h", outputs="batch_p")
        config = {"subsets": [Subset("training", Mode.TRAIN, data)], "optimizer": keras.optimizers.SGD(0.02)}
        config["chunk_processors"] = [body, head, ops.MeanSquaredError("batch_p", "batch_y")]
        settings = {"batch_size": 8, "jit_compile": False, "steps_per_call": 1, "seed": 1, "hide_progress": True}
        return tuple(row["training_loss"] for row in build_experiment(config | settings).train(4))

    backend_of_keras()  # `keras.remat` is Keras' own until there is one
    (found,) = {losses(keras.remat) for _ in range(8)}
    assert found == pytest.approx(losses(as_it_is), rel=1e-5)


AT_THE_TOP = """
import keras
import numpy as np
from keras import layers
from experimentator import Mode, Subset, build_experiment, chunk_processor
from experimentator.ops import MeanSquaredError

def function():
    keras.utils.set_random_seed(1)
    first, drop, second = layers.Dense(6), layers.Dropout(0.3, seed=3), layers.Dense(1)
    return lambda batch: second(drop(first(batch)))

again, plain = keras.remat(function()), function()
x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
for network in (again, plain):
    body = chunk_processor(inputs=["batch_x"], outputs=["p"])(lambda batch_x: network(batch_x))
    print([row["training_loss"] for row in build_experiment({
        "subsets": [Subset("training", Mode.TRAIN, {"x": x, "y": x.sum(1, keepdims=True)})], "batch_size": 8,
        "chunk_processors": [body, MeanSquaredError("p", "batch_y")], "seed": 1, "jit_compile": False,
        "optimizer": keras.optimizers.SGD(0.02), "hide_progress": True,
    }).train(2)])
"""


@pytest.mark.tensorflow
def test_what_is_made_at_the_top_of_a_configuration_trains_as_without():
    done = subprocess.run([sys.executable, "-c", AT_THE_TOP], capture_output=True, text=True, timeout=300)

    assert done.returncode == 0, done.stderr
    again, plain = (json.loads(line) for line in done.stdout.splitlines()[-2:])
    assert again == pytest.approx(plain, rel=1e-6)
