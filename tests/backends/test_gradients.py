"""Gradients that processors compute themselves: of any order, by inputs and by weights, inside compiled steps."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from experimentator import Mode, Subset, build_experiment, chunk_processor, gradient, ops
from experimentator.graph import GraphError
from tests.frameworks import ON_JAX, ON_TORCH, quick_compilers

X = np.random.default_rng(0).normal(size=(32, 3)).astype("float32")
Y = (X @ np.array([1.0, -2.0, 0.5]) + 0.3).astype("float32")


def plain(tensor: Any) -> np.ndarray:
    return np.array(keras.ops.convert_to_numpy(tensor))


def trained(*processors: Any, epochs: int = 1, **settings: Any) -> Any:
    settings = {"batch_size": 32, "optimizer": keras.optimizers.SGD(0.1), "hide_progress": True, **settings}
    subset = Subset("training", Mode.TRAIN, {"x": X, "y": Y})
    exp = build_experiment({"subsets": [subset], "chunk_processors": processors, **settings})
    exp.train(epochs)
    return exp


@chunk_processor(inputs=["batch_out", "batch_y"], outputs=["loss"])
def squares(batch_out, batch_y):
    return keras.ops.mean((batch_out[:, 0] - batch_y) ** 2)


def test_a_gradient_has_gradients():
    def squares(x: Any) -> Any:
        return keras.ops.sum(gradient(lambda y: y**3, x) ** 2)

    np.testing.assert_allclose(plain(gradient(squares, X)), 36 * X**3, rtol=1e-5)


def test_inputs_that_are_not_used_have_zeros_and_rows_do_not_mix():
    first, second = gradient(lambda x, y: keras.ops.sin(x), X, X)
    np.testing.assert_allclose(plain(first), np.cos(X), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(plain(second), 0 * X)
    np.testing.assert_array_equal(plain(gradient(lambda x: keras.ops.ones(3), X)), 0 * X)


def test_only_what_is_handed_over_counts():
    """Not the same tensor where the function has it from elsewhere."""
    x = keras.ops.convert_to_tensor(X)
    np.testing.assert_allclose(plain(gradient(lambda own: own * x, x)), X)


@pytest.mark.parametrize("inputs, seen", [((np.arange(3),), "int"), ((X, X > 0), "float32, bool")])
def test_only_floats_have_gradients(inputs, seen):
    with pytest.raises(TypeError, match=f"takes float tensors.\nSeen: {seen}(.|\n)*keras.ops.cast"):
        gradient(lambda *tensors: 0.0, *inputs)


def test_no_input_at_all_is_told_as_weights_of_a_network_that_has_none_yet():
    with pytest.raises(TypeError, match=r"was given no input(.|\n)*once it was called"):
        gradient(lambda *weights: 0.0, *layers.Dense(1).trainable_variables)


@pytest.mark.parametrize("group", [[X, X[:2]], (X, X), {"x": X}])
def test_a_list_or_a_dictionary_of_inputs_is_told_to_be_given_one_by_one(group):
    with pytest.raises(TypeError, match=rf"one by one.\nSeen: a \w+ of {len(group)}.\nWrite gradient\(function, \*"):
        gradient(lambda *weights: 0.0, group)


@pytest.mark.parametrize("give", [lambda x: keras.ops.argmax(x, axis=1), lambda x: (x, x), lambda x: {"x": x}])
def test_what_is_no_float_tensor_has_no_gradient(give):
    with pytest.raises(TypeError, match="needs a function that returns one float tensor"):
        gradient(give, X)


def test_what_was_gathered_from_has_a_gradient_like_itself():
    found = gradient(lambda table: keras.ops.take(table, [0, 0, 2], axis=0), X[:4])

    np.testing.assert_array_equal(plain(found**2)[:, 0], [4, 0, 1, 0])


@pytest.mark.skipif(not ON_TORCH, reason="torch alone has such a mode")
def test_where_torch_only_infers_there_is_a_gradient_all_the_same():
    import torch

    with torch.inference_mode():
        np.testing.assert_allclose(plain(gradient(lambda x: x**2, X)), 2 * X, rtol=1e-6)


def test_what_layers_within_add_to_the_loss_is_minimised():
    dense = layers.Dense(1, use_bias=False, kernel_initializer="ones", activity_regularizer=keras.regularizers.L2(1.0))
    dense.build((None, 3))

    @chunk_processor(inputs=["batch_x"], outputs=["loss"])
    def only_that(x):
        return 0.0 * keras.ops.mean(gradient(dense, x))

    trained(only_that)

    slope = 2 * X.T @ (X @ np.ones(3)) / len(X)
    np.testing.assert_allclose(plain(dense.kernel)[:, 0], 1 - 0.1 * slope, rtol=1e-4)


@quick_compilers
def test_a_step_on_the_gradient_of_weights_is_that_of_numpy(jit):
    """Sharpness-aware minimisation of a mean of squares: the gradient at weights further up."""
    dense = layers.Dense(1, use_bias=False, kernel_initializer="ones")
    dense.build((None, 3))

    def error(kernel: Any, x: Any, y: Any) -> Any:
        return keras.ops.mean((keras.ops.matmul(x, kernel)[:, 0] - y) ** 2)

    @chunk_processor(inputs=["batch_x", "batch_y"], outputs=["loss"])
    def away(x, y):
        kernel = keras.ops.convert_to_tensor(dense.kernel)
        slope = gradient(lambda kernel: error(kernel, x, y), kernel)
        up = keras.ops.stop_gradient(0.05 * slope / keras.ops.sqrt(keras.ops.sum(slope**2)))
        return error(kernel + up, x, y)

    trained(away, jit_compile=jit, epochs=4)

    kernel = np.ones(3)
    for _ in range(4):
        slope = 2 * X.T @ (X @ kernel - Y) / len(X)
        there = kernel + 0.05 * slope / np.linalg.norm(slope)
        kernel = kernel - 0.1 * 2 * X.T @ (X @ there - Y) / len(X)
    np.testing.assert_allclose(plain(dense.kernel)[:, 0], kernel, rtol=1e-4)


@quick_compilers
def test_each_row_has_a_gradient_by_weights_of_its_own(jit):
    """As for privacy, or for a step on each task: what `vectorized_map` calls row by row, and what evaluates so."""
    dense = layers.Dense(1, use_bias=False, kernel_initializer="ones")

    @chunk_processor(inputs=["batch_x"], outputs=["batch_slope", "loss"])
    def stepped(x):
        kernel = keras.ops.convert_to_tensor(dense.kernel)
        slopes = keras.ops.vectorized_map(
            lambda row: gradient(lambda w: keras.ops.sum(keras.ops.matmul(row, w) ** 2), kernel), x
        )
        return slopes, keras.ops.mean(keras.ops.sum(slopes**2, axis=(1, 2)))

    exp = trained(ops.Model(dense, inputs="batch_x", outputs="batch_out"), stepped, jit_compile=jit)

    slope = 8 * np.mean((X**2).sum(axis=1)[:, None] * (X @ np.ones(3))[:, None] * X, axis=0)
    np.testing.assert_allclose(plain(dense.kernel)[:, 0], 1 - 0.1 * slope, rtol=1e-4)
    wanted = 2 * X[:, :, None] * (X @ plain(dense.kernel))[:, None]
    np.testing.assert_allclose(exp.predict({"batch_x": X})["batch_slope"], wanted, rtol=1e-3, atol=1e-4)


@quick_compilers
def test_layers_within_go_on_as_elsewhere(jit):
    """Statistics of a BatchNormalization and the draws of a Dropout are assigned while the gradient is taken."""
    norm, drop = layers.BatchNormalization(momentum=0.5), layers.Dropout(0.5, seed=1)

    @chunk_processor(inputs=["batch_x"], outputs=["batch_slope", "loss"])
    def slope(x, training):
        found = gradient(lambda x: drop(norm(x, training=training) ** 2, training=training), x)
        return found, keras.ops.mean(found**2)

    exp = trained(slope, jit_compile=jit, epochs=2)

    np.testing.assert_allclose(plain(norm.moving_mean), 0.75 * X.mean(axis=0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(plain(norm.moving_variance), 0.25 + 0.75 * X.var(axis=0), rtol=1e-4)
    losses = [row["training_loss"] for row in exp.history]
    assert losses[0] != losses[1]


def test_an_attack_raises_the_loss_of_what_it_attacks():
    network = keras.Sequential([layers.Dense(8, activation="tanh"), layers.Dense(1)])

    def error(x: Any, y: Any) -> Any:
        return (network(x)[:, 0] - y) ** 2

    @chunk_processor(inputs=["batch_x", "batch_y"], outputs=["clean", "attacked"], mode=Mode.EVAL)
    def attack(x, y):
        worse = x + 0.1 * keras.ops.sign(gradient(lambda x: error(x, y), x))
        return keras.ops.mean(error(x, y)), keras.ops.mean(error(worse, y))

    model = ops.Model(network, inputs="batch_x", outputs="batch_prediction")
    exp = trained(model, ops.MeanSquaredError("batch_prediction", "batch_y"), attack, epochs=20, metrics=["clean"])
    exp.cfg["metrics"] = ["clean", "attacked"]
    measured = exp.evaluate(Subset("validation", Mode.EVAL, {"x": X, "y": Y}))

    assert measured["validation_clean"] == pytest.approx(measured["validation_loss"], rel=1e-4)
    assert measured["validation_attacked"] > 1.2 * measured["validation_clean"]


@pytest.mark.skipif(not ON_JAX, reason="other frameworks assign in the midst of a gradient")
def test_gradients_in_the_words_of_jax_that_assign_are_ours_or_are_told_ours():
    import jax

    def slope(take):
        norm = layers.BatchNormalization()

        @chunk_processor(inputs=["batch_x"], outputs=["loss"])
        def slope(x, training):
            return keras.ops.mean(take(lambda x: keras.ops.sum(norm(x, training=training) ** 3), x) ** 2)

        return list(trained(slope).backend.weights().values())

    for one, other in zip(slope(gradient), slope(lambda function, x: jax.grad(function)(x)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)
    with pytest.raises(GraphError, match=r"BatchNormalization, can leave keras.remat(?s:.*)experimentator.gradient"):
        slope(lambda function, x: jax.jit(jax.grad(function))(x))


@pytest.mark.skipif(not ON_JAX, reason="other frameworks take a variable for a tensor")
def test_a_variable_where_a_tensor_is_wanted_is_told_how_to_become_one():
    kept, now = keras.Variable(np.ones(3), trainable=False), keras.Variable(np.zeros(3))

    @chunk_processor(inputs=["batch_x"], outputs=["loss"])
    def target(x):
        kept.assign(keras.ops.where(keras.ops.sum(x) > 0, now, kept))
        return keras.ops.mean((x * now - kept) ** 2)

    with pytest.raises(ValueError, match="__jax_array__") as caught:
        trained(target)
    assert any("keras.ops.convert_to_tensor(variable)" in note for note in caught.value.__notes__)


@pytest.mark.skipif(not ON_TORCH, reason="others say it in their words")
def test_a_function_of_numpy_is_told_to_be_one_of_keras():
    sort = chunk_processor(inputs=["batch_out"], outputs=["batch_sorted"], mode=Mode.EVAL)(lambda out: np.sort(out))
    model = ops.Model(layers.Dense(1), inputs="batch_x", outputs="batch_out")

    with pytest.raises(RuntimeError, match="requires grad") as caught:
        trained(model, sort, squares).evaluate(Subset("validation", Mode.EVAL, {"x": X, "y": Y}))
    assert any("write the function of keras.ops instead" in note for note in caught.value.__notes__)


@pytest.mark.skipif(not ON_TORCH, reason="others record what they are asked to")
def test_a_gradient_in_the_words_of_pytorch_is_told_ours_in_an_evaluation():
    import torch

    def slope(x):
        own = x.detach().requires_grad_()
        return torch.autograd.grad(model.model(own).sum(), own)[0].mean()

    model = ops.Model(layers.Dense(1), inputs="batch_x", outputs="batch_out")
    slopes = chunk_processor(inputs=["batch_x"], outputs=["slope"])(slope)
    exp = trained(model, slopes, squares, metrics=["slope"])

    with pytest.raises(RuntimeError, match="does not require grad") as caught:
        exp.evaluate(Subset("validation", Mode.EVAL, {"x": X, "y": Y}))
    assert any("write experimentator.gradient(function, tensor)" in note for note in caught.value.__notes__)


@pytest.mark.skipif(not ON_TORCH, reason="others write it")
def test_what_pytorch_cannot_write_is_told(tmp_path):
    dense = layers.Dense(1, activation="tanh")
    force = chunk_processor(inputs=["batch_x"], outputs=["batch_force"])(lambda x: -gradient(dense, x))
    exp = trained(ops.Model(dense, inputs="batch_x", outputs="batch_out"), force, squares)

    with pytest.raises(ValueError, match=r"A gradient within the graph is not written: leave it out by outputs"):
        exp.export(tmp_path / "forces.pt2", outputs=["batch_force"])
    exp.export(tmp_path / "out.pt2", outputs=["batch_out"])


def test_no_gradient_passes_an_assignment_within():
    weight = keras.Variable(1.0, name="weight")

    @chunk_processor(inputs=["batch_x"], outputs=["loss"])
    def nested(x):
        def assigned(own):
            weight.assign(2.0 * weight + keras.ops.mean(own))
            return weight * own**2

        return keras.ops.mean(gradient(assigned, x))

    trained(nested)
    assert float(plain(weight)) == pytest.approx(2.0 + X.mean() - 0.1 * 2 * X.mean(), rel=1e-5)
