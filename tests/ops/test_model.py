"""Layers, models and callables, several inputs and outputs by name."""

from collections import namedtuple
from dataclasses import dataclass

import keras
import numpy as np
import pytest

from experimentator.graph import Chunk, DeclarationError, Graph, Mode
from experimentator.ops import Apply, Model, SignatureError
from tests.frameworks import gradients_of

X, Y = np.arange(6.0).reshape(2, 3).astype("float32"), np.ones([2, 3], "float32")
PAIR = {"x": X, "y": Y}


def of_unnamed_inputs():
    inputs = [keras.Input((4,)), keras.Input((4,))]
    return keras.Model(inputs, keras.layers.Add()(inputs))


def two_inputs(struct=list, outputs=lambda left, right: [left + right, left - right]):
    left, right = keras.Input((3,), name="left"), keras.Input((3,), name="right")
    inputs = [left, right] if struct is list else {"left": left, "right": right}
    return keras.Model(inputs, outputs(left, right))


def by_key(left, right):
    return {"sum": left + right, "gap": left - right}


class Gap(keras.Layer):
    def call(self, left, right):
        return left - right


class Noisy(keras.Model):
    def __init__(self):
        super().__init__()
        self.drop = keras.layers.Dropout(0.5, seed=1)

    def call(self, x):  # no `training` of its own
        return self.drop(x)


def check(results):
    np.testing.assert_allclose(results["s"], X + Y)
    np.testing.assert_allclose(results["d"], X - Y)


def test_a_layer_is_one_in_one_out(run_xla):
    layer = keras.layers.Dense(4)
    layer.build([None, 3])

    result = run_xla(Model(layer, inputs="x", outputs="y"), {"x": X})

    np.testing.assert_allclose(result, X @ layer.kernel.numpy() + layer.bias.numpy(), rtol=1e-5)


def test_the_model_can_be_reached():
    layer = keras.layers.Dense(4)

    assert Model(layer, "x", "y").model is layer


@pytest.mark.parametrize("inputs", [["x", "y"], {"left": "x", "right": "y"}, {"right": "y", "left": "x"}])
@pytest.mark.parametrize("outputs", [["s", "d"], ("s", "d")])
def test_a_functional_model_takes_its_list_or_names(run_xla, inputs, outputs):
    check(run_xla(Model(two_inputs(), inputs=inputs, outputs=outputs), PAIR))


def test_a_functional_model_of_a_dictionary_takes_names(run):
    check(
        run(Model(two_inputs(dict, by_key), inputs={"right": "y", "left": "x"}, outputs={"gap": "d", "sum": "s"}), PAIR)
    )


def test_returned_keys_may_be_left_out(run):
    np.testing.assert_allclose(
        run(Model(two_inputs(list, by_key), inputs=["x", "y"], outputs={"gap": "d"}), PAIR), X - Y
    )


def test_returned_keys_may_be_the_tensors_names(run):
    results = run(Model(two_inputs(list, by_key), inputs=["x", "y"], outputs=["gap", "sum"]), PAIR)

    np.testing.assert_allclose(results["gap"], X - Y)


def test_a_functional_models_outputs_have_names_too(run):
    def named(left, right):
        return [keras.layers.Add(name="sum")([left, right]), keras.layers.Subtract(name="gap")([left, right])]

    check(run(Model(two_inputs(list, named), inputs=["x", "y"], outputs={"gap": "d", "sum": "s"}), PAIR))


@pytest.mark.parametrize("inputs", [["x", "y"], {"right": "y", "left": "x"}])
@pytest.mark.parametrize("model", [Gap(), lambda left, right: left - right], ids=["layer", "function"])
def test_several_parameters_take_several_tensors(run, model, inputs):
    np.testing.assert_allclose(run(Model(model, inputs=inputs, outputs="d"), PAIR), X - Y)


def test_one_parameter_takes_a_list(run):
    np.testing.assert_allclose(run(Model(keras.layers.Subtract(), inputs=["x", "y"], outputs="d"), PAIR), X - Y)


def test_one_parameter_takes_a_dictionary_of_other_keys(run):
    model = lambda features: {"s": features["left"] + features["right"], "d": features["left"] - features["right"]}

    check(run(Model(model, inputs={"left": "x", "right": "y"}, outputs=["s", "d"]), PAIR))


@pytest.mark.parametrize(
    "model",
    [
        lambda *tensors, **named: by_key(*tensors, **named),
        lambda left, **named: by_key(left, **named),
        lambda *, left, right: by_key(left, right),
        lambda features, **options: by_key(**features, **options),
    ],
    ids=["any", "some", "by name alone", "one dictionary"],
)
def test_what_takes_any_names_is_handed_them_unless_it_lacks_one(run, model):
    check(run(Model(model, inputs={"left": "x", "right": "y"}, outputs={"sum": "s", "gap": "d"}), PAIR))


@dataclass
class Both:
    sum: object
    gap: object


Pair = namedtuple("Pair", "sum gap")


@pytest.mark.parametrize("kind", [Both, Pair])
def test_fields_of_what_is_returned_are_chosen_by_name(run, kind):
    model = lambda left, right: kind(left + right, left - right)

    check(run(Model(model, inputs=["x", "y"], outputs={"gap": "d", "sum": "s"}), PAIR))


def test_attention_takes_its_tensors_by_position_or_name(run_xla):
    layer = keras.layers.MultiHeadAttention(1, 2)
    tensors = {"x": np.ones([2, 3, 4], "float32"), "y": np.ones([2, 5, 4], "float32")}
    layer(tensors["x"], tensors["y"])

    first = run_xla(Model(layer, inputs=["x", "y"], outputs="z"), tensors)
    second = run_xla(Model(layer, inputs={"value": "y", "query": "x"}, outputs="z"), tensors)

    np.testing.assert_allclose(first, second)


def test_builtins_without_a_signature_take_a_list():
    chunk = Chunk({"x": 3, "y": 5}, mode=Mode.ALL)

    Model(max, inputs=["x", "y"], outputs="z")(chunk)

    assert chunk["z"] == 5


def test_any_number_of_parameters_takes_tensors_by_position():
    chunk = Chunk({"x": 3, "y": 5}, mode=Mode.ALL)

    Model(lambda *tensors: sum(tensors), inputs=["x", "y"], outputs="z")(chunk)

    assert chunk["z"] == 8


def test_a_subclassed_model_that_was_called_on_keras_inputs_is_still_one():
    model = Noisy()
    model(keras.Input((3,)))
    chunk = Chunk({"x": X}, mode=Mode.EVAL)

    Model(model, inputs=["x"], outputs="y")(chunk)

    np.testing.assert_array_equal(chunk["y"], X)


def test_the_same_tensor_may_fill_two_inputs(run):
    np.testing.assert_allclose(run(Model(two_inputs(), inputs=["x", "x"], outputs=["s", "d"]), PAIR, "d"), 0 * X)


def test_integer_images_reach_a_layer_as_its_floats(run):
    layer = keras.layers.Flatten()

    result = run(Model(layer, inputs="x", outputs="x"), {"x": np.ones([2, 3, 3], "uint8")})

    assert result.shape == (2, 9)


@pytest.mark.parametrize(
    "model",
    [keras.layers.Dropout(0.5, seed=1), keras.Sequential([keras.layers.Dropout(0.5, seed=1)]), Noisy()],
    ids=["layer", "sequential", "model without training"],
)
@pytest.mark.parametrize("mode", [Mode.TRAIN, Mode.EVAL, Mode.INFER])
def test_training_reaches_layers_in_train_only(model, mode):
    chunk = Chunk({"x": np.ones([64, 8], "float32")}, mode=mode)

    Model(model, inputs="x", outputs="y")(chunk)

    assert bool(np.any(np.asarray(chunk["y"]) == 0)) is (mode == Mode.TRAIN)


@pytest.mark.parametrize("mode", [Mode.TRAIN, Mode.EVAL])
def test_training_reaches_a_function_that_asks_for_it(mode):
    chunk = Chunk({"x": 1}, mode=mode)

    Model(lambda x, training: training, inputs="x", outputs="told")(chunk)

    assert chunk["told"] is (mode == Mode.TRAIN)


@pytest.mark.parametrize("mode", [Mode.TRAIN, Mode.EVAL, Mode.INFER])
@pytest.mark.parametrize("training", [False, True])
def test_training_may_be_settled_for_all_modes(mode, training):
    chunk = Chunk({"x": np.ones([64, 8], "float32"), "one": 1}, mode=mode)

    Model(keras.layers.Dropout(0.5, seed=1), inputs="x", outputs="y", training=training)(chunk)
    Model(lambda x, training: training, inputs="one", outputs="told", training=training)(chunk)

    assert bool(np.any(np.asarray(chunk["y"]) == 0)) is training
    assert chunk["told"] is training


def test_a_model_that_cannot_be_told_of_training_is_refused():
    with pytest.raises(DeclarationError, match=r"its model has no parameter `training`(.|\n)*eval\(\)"):
        Model(lambda x: x, inputs="x", outputs="y", training=False)
    with pytest.raises(DeclarationError, match="`training` is one of its inputs"):
        Model(lambda x, training: x, inputs={"x": "x", "training": "x"}, outputs="y", training=False)
    with pytest.raises(DeclarationError, match="its training is 'no'"):
        Model(keras.layers.Dense(1), inputs="x", outputs="y", training="no")


def test_batch_normalization_learns_its_statistics_in_train_only():
    layer = keras.layers.BatchNormalization()
    graph = {
        mode: Graph([Model(layer, inputs="x", outputs="y")], provided={"x"}, mode=mode)
        for mode in (Mode.TRAIN, Mode.EVAL)
    }

    graph[Mode.EVAL].run({"x": X})
    before = layer.moving_mean.numpy()
    graph[Mode.TRAIN].run({"x": X})

    np.testing.assert_array_equal(before, 0)
    assert np.any(layer.moving_mean.numpy() != 0)


def test_gradients_reach_the_weights():
    layer = keras.layers.Dense(1, use_bias=False)
    layer.build(X.shape)

    def total():
        chunk = Chunk({"x": X}, mode=Mode.TRAIN)
        Model(layer, inputs="x", outputs="y")(chunk)
        return keras.ops.sum(chunk["y"])

    np.testing.assert_allclose(gradients_of(total, [layer.kernel])[0][:, 0], X.sum(0))


@pytest.mark.parametrize(
    "make, told",
    [
        (
            lambda: Model(two_inputs(), inputs="x", outputs=["s", "d"]),
            r"takes left, right; the processor names x\.\nWrite inputs=\{'left': ",
        ),
        (
            lambda: Model(two_inputs(), inputs={"left": "x", "rigth": "y"}, outputs="s"),
            r"names \{'left': 'x', 'rigth': 'y'\}",
        ),
        (lambda: Model(two_inputs(dict), inputs=["x", "y"], outputs=["s", "d"]), "takes a dictionary of left, right"),
        (lambda: Model(Gap(), inputs={"left": "x", "up": "y"}, outputs="d"), "parameters are left, right"),
        (lambda: Model(two_inputs(), inputs=["x", "y"], outputs="s"), "returns 2 tensors; the processor names s"),
        (
            lambda: Model(keras.layers.Dense(2), inputs="x", outputs=["a", "b"]),
            "returns one tensor; the processor names a, b",
        ),
        (
            lambda: Model(two_inputs(list, by_key), inputs=["x", "y"], outputs=["s", "d"]),
            "returns (sum, gap|gap, sum); the processor names s, d",
        ),
        (
            lambda: Model(two_inputs(list, by_key), inputs=["x", "y"], outputs={"product": "p"}),
            "returns (sum, gap|gap, sum);",
        ),
        (lambda: Model(lambda x: (x, x), inputs="x", outputs={"a": "b"}), "2 tensors without names"),
        (lambda: Model(lambda x: Both(x, x), inputs="x", outputs="s"), r"returns sum, gap; (?s:.*)outputs=\{'sum': "),
        (
            lambda: Model(of_unnamed_inputs(), inputs="x", outputs="s"),
            r"takes keras_tensor\w*, keras_tensor\w*; (?s:.*)Write inputs=\[\.\.\.\] with one name for each",
        ),
        (lambda: Model(lambda *, a: a, inputs="x", outputs="s"), r"only by name; (?s:.*)Write inputs=\{'a': \.\.\.\}"),
    ],
)
def test_names_that_do_not_fit_are_listed_on_both_sides(call, make, told):
    with pytest.raises(SignatureError, match=told):
        call(make(), PAIR)


def test_a_class_is_not_a_layer():
    with pytest.raises(DeclarationError, match=r"is a class\.\nWrite Dense\(\.\.\.\)"):
        Model(keras.layers.Dense, inputs="x", outputs="y")


def test_what_cannot_be_called_is_refused():
    with pytest.raises(DeclarationError, match="is a int, which cannot be called"):
        Model(3, inputs="x", outputs="y")


def test_two_outputs_need_two_names():
    with pytest.raises(DeclarationError, match="outputs are y, y"):
        Model(two_inputs(), inputs=["x", "y"], outputs=["y", "y"])


class WithSteps(keras.Model):
    def call(self, tensor):
        return tensor

    def train_step(self, data):
        raise NotImplementedError

    def compute_loss(self, *args, **options):
        raise NotImplementedError


def test_steps_of_a_model_for_the_loop_of_keras_are_told_not_to_be_called(caplog):
    Model(WithSteps(), inputs="x", outputs="y")
    Model(Noisy(), inputs="x", outputs="y")

    (told,) = caplog.messages
    assert told.startswith("WithSteps has compute_loss, train_step, which nothing calls here: compute the same in")


@pytest.mark.parametrize("called", [keras.metrics.AUC(), keras.metrics.AUC().update_state], ids=["metric", "method"])
def test_a_metric_is_refused_where_nothing_would_set_it_back(called):
    for make in (Model, Apply):
        with pytest.raises(
            DeclarationError, match=r"a metric, whose state would not be reset(.|\n)*Write ops.KerasMetric\(metric"
        ):
            make(called, inputs=["target", "logits"], outputs="auc")


def test_a_mask_is_given_by_name():
    lstm, known = keras.layers.LSTM(2), np.array([[True, True, False]] * 2)
    sequences = np.stack([X, Y], axis=-1)
    chunk = Chunk({"x": sequences, "known": known}, mode=Mode.EVAL)

    Model(lstm, inputs={"sequences": "x", "mask": "known"}, outputs="y")(chunk)

    np.testing.assert_allclose(*map(keras.ops.convert_to_numpy, (chunk["y"], lstm(sequences[:, :2]))), rtol=1e-5)


def test_a_dictionary_with_a_mask_in_it_may_be_the_input_itself():
    class Masked(keras.Layer):
        def call(self, inputs, mask=None):
            return inputs["x"] * inputs["mask"]

    chunk = Chunk({"x": X, "known": 2 * Y}, mode=Mode.EVAL)

    Model(Masked(), inputs={"x": "x", "mask": "known"}, outputs="y")(chunk)

    np.testing.assert_allclose(chunk["y"], 2 * X)


@pytest.mark.tensorflow
def test_a_module_of_pytorch_asks_for_pytorch():
    kind = type("Module", (), {"__module__": "torch.nn.modules.module", "__call__": lambda self, x: x})
    with pytest.raises(DeclarationError, match=r"Keras runs on tensorflow(.|\n)*Set KERAS_BACKEND=torch"):
        Model(type("Mine", (kind,), {})(), inputs="batch_x", outputs="batch_y")


def test_a_normalization_that_predictions_would_change_is_told_with_what_holds_it(caplog):
    norm, drop = keras.layers.BatchNormalization(name="norm"), keras.layers.Dropout(0.5)
    network, names = keras.Sequential([norm, drop], name="net"), {"inputs": "x", "outputs": "y"}
    Model(network, **names)
    Model(drop, **names, training=True)
    Model(network, **names, training=True, mode=Mode.TRAIN)
    assert not caplog.messages

    drawn = Model(network, **names, training=True, mode=Mode.INFER)
    (told,) = caplog.messages
    assert "norm of net normalizes by the batch, and changes its statistics, in evaluations and predictions" in told

    norm.trainable = False  # as is told
    network(X)
    before = [keras.ops.convert_to_numpy(one).copy() for one in norm.weights]
    drawn(chunk := Chunk({"x": X + 1}, mode=Mode.INFER))
    assert 0.0 in keras.ops.convert_to_numpy(chunk["y"])
    for one, other in zip(before, norm.weights, strict=True):
        np.testing.assert_array_equal(one, keras.ops.convert_to_numpy(other))
    Model(network, **names, training=True)
    assert len(caplog.messages) == 1
