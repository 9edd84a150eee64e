"""Precision, accumulation, clipping, schedules, averages of weights: each inside the loop, each against numpy."""

from __future__ import annotations

import traceback
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from experimentator import Optimizers, Subset, build_experiment, ops
from experimentator.graph import ChunkProcessor, Graph, GraphError, Mode, chunk_processor
from experimentator.loading.blocks import specs_of
from tests.backends.test_steps import COLUMNS, INDEX, RATE, X, Y, linear, squares
from tests.frameworks import COMPILERS, ON_TORCH, QUICK, backend_of_keras, compilers, one_elsewhere, quick_compilers


def trained(optimizer: Any, *, jit: Any, precision: str | None = None, processors: Any = None) -> tuple[Any, Any]:
    """The backend and the losses after twelve batches in one call."""
    backend = backend_of_keras()
    backend.precision = precision
    recorded = backend.record(processors or [linear(), squares], specs_of(COLUMNS), Mode.TRAIN, {})
    graph = Graph(recorded, provided=COLUMNS, mode=Mode.TRAIN).select("loss")
    step = backend.compile(graph, specs_of(COLUMNS), optimizer, jit_compile=jit)
    return backend, np.asarray(step(backend.put(COLUMNS), INDEX)["loss"])


def gradient(weights: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Of the mean of squares, for the three weights and the bias, in float64."""
    inputs = np.hstack([X[rows], np.ones((len(rows), 1))])
    return 2 * inputs.T @ (inputs @ weights - Y[rows]) / len(rows)


def weights_of(backend: Any) -> np.ndarray:
    kernel, bias = (value for key, value in backend.weights().items() if "lambda/" in key)
    return np.concatenate([kernel[:, 0], bias])


@compilers
def test_accumulated_gradients_are_applied_as_their_mean(jit):
    backend, _ = trained(keras.optimizers.SGD(RATE, gradient_accumulation_steps=3), jit=jit)

    weights = np.zeros(4)
    for start in range(0, 12, 3):
        weights = weights - RATE * np.mean([gradient(weights, rows) for rows in INDEX[start : start + 3]], axis=0)
    np.testing.assert_allclose(weights_of(backend), weights, rtol=1e-4, atol=1e-6)


@quick_compilers
def test_gradients_are_clipped_by_their_global_norm(jit):
    backend, _ = trained(keras.optimizers.SGD(RATE, global_clipnorm=0.5), jit=jit)

    weights = np.zeros(4)
    for rows in INDEX:
        step = gradient(weights, rows)
        weights = weights - RATE * step * min(1, 0.5 / np.linalg.norm(step))
    np.testing.assert_allclose(weights_of(backend), weights, rtol=1e-4, atol=1e-6)


def looked_up(optimizer, jit):
    """Three rows of a table, of which every batch looks up the first twice and the second once."""
    table = keras.Variable(np.zeros((3, 1)), dtype="float32", name="table")

    @chunk_processor(inputs=["batch_x"], outputs=["loss"])
    def total(batch_x):
        return keras.ops.sum(keras.ops.take(table, [0, 0, 1], axis=0)) + 0 * keras.ops.sum(batch_x)

    trained(optimizer, jit=jit, processors=[total])
    return keras.ops.convert_to_numpy(table)


@compilers
def test_a_row_that_a_batch_looks_up_twice_has_one_gradient(jit):
    """TensorFlow hands it over in two parts, of which Keras would clip, or square, each by itself."""
    way = np.array([[2.0], [1.0], [0.0]])
    wanted = -12 * RATE * way / np.linalg.norm(way)
    np.testing.assert_allclose(looked_up(keras.optimizers.SGD(RATE, global_clipnorm=1.0), jit), wanted, rtol=1e-5)


@quick_compilers
def test_rows_are_looked_up_where_the_loss_has_a_scale_of_its_own(jit):
    scaled = keras.optimizers.SGD(RATE, loss_scale_factor=8.0)
    np.testing.assert_allclose(looked_up(scaled, jit), -12 * RATE * np.array([[2.0], [1.0], [0.0]]), rtol=1e-5)


@quick_compilers
def test_a_schedule_with_warm_up_acts_on_every_batch_of_a_call(jit):
    schedule = keras.optimizers.schedules.CosineDecay(0.0, 8, warmup_target=RATE, warmup_steps=4)
    backend, _ = trained(keras.optimizers.SGD(schedule), jit=jit)

    weights = np.zeros(4)
    for number, rows in enumerate(INDEX):
        rate = RATE * number / 4 if number < 4 else RATE * (1 + np.cos(np.pi * min(number - 4, 8) / 8)) / 2
        weights = weights - rate * gradient(weights, rows)
    np.testing.assert_allclose(weights_of(backend), weights, rtol=1e-3, atol=1e-5)


def test_a_schedule_that_takes_the_place_of_a_rate_acts_and_is_told(caplog):
    subsets = [Subset("training", Mode.TRAIN, {"x": X, "y": Y})]
    config = {"subsets": subsets, "chunk_processors": [linear(), squares], "optimizer": keras.optimizers.SGD(RATE)}
    exp = build_experiment(config, hide_progress=True)
    exp.train(1)
    before = weights_of(exp.backend)
    exp.optimizer.learning_rate = keras.optimizers.schedules.CosineDecay(0.0, 8)
    exp.train(2)

    np.testing.assert_array_equal(weights_of(exp.backend), before)
    assert "SGD: learning_rate was 'a number', is CosineDecay. Compiled again at the next call." in caplog.text


@quick_compilers
def test_a_schedule_that_begins_anew_does_so_later_each_time(jit):
    schedule = keras.optimizers.schedules.CosineDecayRestarts(RATE, 2)
    backend, _ = trained(keras.optimizers.SGD(schedule), jit=jit)

    weights = np.zeros(4)
    for number, rows in enumerate(INDEX):
        done = number / 2 if number < 2 else (number - 2) / 4 if number < 6 else (number - 6) / 8
        weights = weights - RATE * (1 + np.cos(np.pi * done)) / 2 * gradient(weights, rows)
    np.testing.assert_allclose(weights_of(backend), weights, rtol=1e-3, atol=1e-5)


@quick_compilers
def test_decay_of_weights_acts_inside_the_loop(jit):
    backend, _ = trained(keras.optimizers.SGD(RATE, weight_decay=0.1), jit=jit)

    weights = np.zeros(4)
    for rows in INDEX:
        step = gradient(weights, rows)
        weights = weights * (1 - 0.1 * RATE) - RATE * step
    np.testing.assert_allclose(weights_of(backend), weights, rtol=1e-3, atol=1e-5)


@quick_compilers
def test_an_exponential_average_of_weights_follows_every_batch(jit):
    optimizer = keras.optimizers.SGD(RATE, use_ema=True, ema_momentum=0.5)
    backend, _ = trained(optimizer, jit=jit)
    optimizer.finalize_variable_values([v for v in backend.variables if v.trainable])

    weights, average = np.zeros(4), None
    for number, rows in enumerate(INDEX):
        weights = weights - RATE * gradient(weights, rows)
        average = weights if not number else 0.5 * average + 0.5 * weights
    np.testing.assert_allclose(weights_of(backend), average, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "kind, jit",  # the averages of several are those of one, and compiled as they are
    [
        *(("one", jit) for jit in QUICK.values()),
        *((kind, [*COMPILERS.values()][-1]) for kind in ("several", "turns")),
    ],
)
def test_weights_that_become_their_averages_leave_what_is_not_trained(kind, jit):
    averaging = keras.optimizers.SGD(RATE, use_ema=True, ema_momentum=0.5, ema_overwrite_frequency=2)
    every = {"*": 2} if kind == "turns" else None
    optimizer = averaging if kind == "one" else Optimizers({"*": averaging}, every=every)
    count, layer = keras.Variable(0.0, trainable=False, name="count"), layers.BatchNormalization(momentum=0.5)

    @chunk_processor(inputs=["batch_x"], outputs=["batch_x", "counted"])
    def counts(x):
        count.assign_add(1.0)
        return x, keras.ops.convert_to_tensor(count)

    normal = ops.Model(layer, inputs="batch_x", outputs="batch_x")
    trained(optimizer, jit=jit, processors=[counts, normal, linear(), squares])

    mean = np.zeros(3)
    for rows in INDEX:
        mean = 0.5 * mean + 0.5 * X[rows].mean(axis=0)
    np.testing.assert_allclose(np.asarray(layer.moving_mean), mean, rtol=1e-4, atol=1e-6)
    assert float(count.numpy()) == len(INDEX)


@quick_compilers
def test_a_regularizer_counts_only_for_weights_that_the_training_graph_reads(jit):
    aside = layers.Dense(1, kernel_regularizer=keras.regularizers.L2(0.1))
    aside.build((None, 3))
    before = aside.get_weights()[0]
    optional = ops.Model(aside, inputs="batch_x", outputs="batch_aside")
    trained(keras.optimizers.SGD(RATE), jit=jit, processors=[optional, linear(), squares])

    np.testing.assert_array_equal(aside.get_weights()[0], before)


def test_averages_go_to_their_own_weights_in_whatever_order_these_are_listed():
    first, second = (layers.Dense(1, kernel_initializer=keras.initializers.Constant(value)) for value in (0.1, 0.7))
    optimizer = keras.optimizers.SGD(RATE, use_ema=True, ema_momentum=0.5)
    listed = [
        ops.Model(first, inputs="batch_x", outputs="batch_first"),
        ops.Model(second, inputs="batch_x", outputs="batch_second"),
        lambda chunk: chunk.update(batch_prediction=chunk["batch_first"] + chunk["batch_second"]),
        squares,
    ]
    trained(optimizer, jit=False, processors=listed)
    backend, _ = trained(optimizer, jit=False, processors=[listed[1], listed[0], *listed[2:]])
    pairs = zip(optimizer._trainable_variables, optimizer._model_variables_moving_average, strict=True)
    averages = [(variable, np.array(average)) for variable, average in pairs]

    backend.take_averages(optimizer)
    for variable, average in averages:
        np.testing.assert_array_equal(np.asarray(variable), average)

    alone = lambda chunk: chunk.update(batch_prediction=chunk["batch_first"])  # noqa: E731
    backend, _ = trained(optimizer, jit=False, processors=[listed[0], alone, squares])
    kept = second.get_weights()
    backend.take_averages(optimizer)
    np.testing.assert_array_equal(second.get_weights()[0], kept[0])


def test_several_losses_share_one_step_counter():
    optimizer = keras.optimizers.SGD(RATE)
    parts = [
        lambda chunk: chunk.update(first=keras.ops.mean(chunk["batch_prediction"] ** 2)),
        lambda chunk: chunk.update(second=keras.ops.mean(chunk["batch_y"] ** 2)),
        lambda chunk: chunk.update(loss=chunk["first"] + chunk["second"]),
    ]
    trained(optimizer, jit=False, processors=[linear(), *parts])

    assert int(np.array(optimizer.iterations)) == 12


@pytest.mark.parametrize(
    "jit, precision, tolerance",
    [*((jit, "float16", 0.01) for jit in COMPILERS.values()), *((jit, "bfloat16", 0.05) for jit in QUICK.values())],
)
def test_mixed_precision_follows_the_float32_training(jit, precision, tolerance):
    exact, losses = trained(keras.optimizers.SGD(RATE), jit=jit)
    scaled = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(RATE), initial_scale=16.0)
    mixed, close = trained(
        scaled if precision == "float16" else keras.optimizers.SGD(RATE), jit=jit, precision=precision
    )

    assert close.dtype == np.float32
    assert {str(weight.dtype) for weight in mixed.weights().values()} == {"float32"}
    np.testing.assert_allclose(close, losses, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(weights_of(mixed), weights_of(exact), rtol=tolerance, atol=tolerance)


def test_layers_compute_in_the_precision_asked_for_and_back():
    dense, seen = layers.Dense(1), []
    watch = lambda chunk: (chunk.update(batch_prediction=dense(chunk["batch_x"])), seen.append(dense.compute_dtype))  # noqa: E731
    for precision in ("bfloat16", "float32"):
        trained(keras.optimizers.SGD(RATE), jit=False, precision=precision, processors=[watch, squares_in_float32])
        assert seen[-1] == precision


def test_layers_made_with_a_dtype_keep_it_and_others_compute_in_the_precision():
    chosen = {
        layers.Dense(1, dtype="float32"): "float32",
        layers.Dense(1, dtype="mixed_bfloat16"): "bfloat16",
        layers.SimpleRNN(1, dtype="float32"): "float32",
        layers.Activation("linear", dtype="float32"): "float32",
    }
    copied = layers.Dense.from_config(layers.Dense(1, dtype="float32").get_config())
    others = [layers.Dense(1), layers.SimpleRNN(1), layers.Bidirectional(layers.SimpleRNN(1)), copied]
    keras.config.set_dtype_policy("float32")  # as `keras.utils.clear_session` does: layers made now have another object

    def network(chunk):
        results = []
        for layer in (*chosen, *others):
            is_recurrent = isinstance(layer, layers.RNN | layers.Bidirectional)
            results.append(layer(chunk["batch_x"][..., None] if is_recurrent else chunk["batch_x"]))
        chunk["batch_prediction"] = sum(keras.ops.cast(result[:, :1], "float32") for result in results)

    policies = ("float16", "mixed_float16"), ("bfloat16", "mixed_bfloat16"), (None, "float32")
    for precision, policy in one_elsewhere(*policies):
        trained(keras.optimizers.SGD(RATE), jit=False, precision=precision, processors=[network, squares_in_float32])
        for layer, own in chosen.items():
            assert {part.compute_dtype for part in layer._flatten_layers()} == {own}
        for layer in others:
            assert {part.dtype_policy.name for part in layer._flatten_layers()} == {policy}


class Whole(layers.Layer):
    """Whole numbers, as keras.layers.Hashing gives them."""

    def __init__(self) -> None:
        super().__init__(dtype="int32", autocast=False)

    def call(self, values: Any) -> Any:
        return keras.ops.cast(values, self.compute_dtype)


def test_layers_of_whole_numbers_and_quantized_ones_stay_what_they_are():
    whole, quantized, scale, found = Whole(), layers.Dense(1), keras.Variable([1.0, 1.0, 1.0]), []
    quantized.build((None, 3))
    quantized.quantize("int8")
    own = quantized.dtype_policy.name

    def network(chunk):
        chunk["batch_prediction"] = quantized(chunk["batch_x"]) + keras.ops.sum(chunk["batch_x"] * scale, -1, True)
        chunk["batch_x"] = whole(chunk["batch_x"])
        found.append(keras.backend.standardize_dtype(chunk["batch_x"].dtype))

    trained(keras.optimizers.SGD(RATE), jit=False, precision="bfloat16", processors=[network, squares_in_float32])
    assert (whole.dtype_policy.name, quantized.dtype_policy.name) == ("int32", own)
    assert "int" in found[-1]


squares_in_float32 = lambda chunk: chunk.update(  # noqa: E731
    loss=keras.ops.mean((keras.ops.cast(chunk["batch_prediction"][:, 0], "float32") - chunk["batch_y"]) ** 2)
)


def test_tiny_gradients_survive_float16_by_loss_scaling():
    """1e-8 is below what float16 can hold; scaled by 2**15 it is not."""
    tiny = lambda chunk: chunk.update(  # noqa: E731
        loss=keras.ops.mean(keras.ops.cast(chunk["batch_prediction"], "float32")) * 1e-8
    )
    moved = {}
    for precision in ("float32", "float16"):
        backend, _ = trained(keras.optimizers.SGD(1e7), jit=False, precision=precision, processors=[linear(), tiny])
        moved[precision] = weights_of(backend)

    np.testing.assert_allclose(moved["float16"], moved["float32"], rtol=0.02, atol=1e-3)
    assert np.abs(moved["float16"]).max() > 0.1


def test_layers_that_are_made_for_float16_have_their_loss_scaled_too():
    """As `keras.mixed_precision.set_global_policy("mixed_float16")` makes them."""
    dense = layers.Dense(1, kernel_initializer="zeros", dtype="mixed_float16")
    processors = [
        lambda chunk: chunk.update(batch_prediction=dense(chunk["batch_x"])),
        lambda chunk: chunk.update(
            loss=keras.ops.mean(keras.ops.cast(chunk["batch_prediction"], "float32")) * 1e-8,
        ),
    ]
    trained(keras.optimizers.SGD(1e7), jit=False, processors=processors)

    assert np.abs(np.array(dense.kernel)).max() > 0.1


class Adds(layers.Layer):
    """Adds a loss by itself, as the layers of variational autoencoders do."""

    def call(self, values):
        self.add_loss(3.0 * keras.ops.mean(values**2))
        return values


def adding(kind: str) -> Any:
    options = {"activity_regularizer": keras.regularizers.L2(0.5)} if kind == "activity regularizer" else {}
    if kind == "weight regularizer":
        options = {"kernel_regularizer": keras.regularizers.L1(0.5)}
    dense = layers.Dense(1, kernel_initializer=keras.initializers.Constant(0.5), **options)
    return keras.Sequential([layers.Input((3,)), dense, *([Adds(), Adds()] if kind == "two of its layers" else [])])


@quick_compilers
@pytest.mark.parametrize("kind", ["nothing", "weight regularizer", "activity regularizer", "two of its layers"])
def test_what_layers_add_to_the_loss_is_minimised_as_keras_does(kind, jit):
    ours, of_keras = adding(kind), adding(kind)
    processors = [
        ops.Model(ours, inputs="batch_x", outputs="batch_scores"), ops.MeanSquaredError("batch_scores", "batch_y")
    ]  # fmt: skip
    columns = {"batch_x": X[:8].astype(np.float32), "batch_y": Y[:8].astype(np.float32)[:, None]}
    backend = backend_of_keras()
    recorded = backend.record(processors, specs_of(columns), Mode.TRAIN, {})
    graph = Graph(recorded, provided=columns, mode=Mode.TRAIN).select("loss")
    step = backend.compile(graph, specs_of(columns), keras.optimizers.SGD(0.01), jit_compile=jit)
    for _ in range(2):
        step(backend.put(columns), np.tile(np.arange(8), (3, 1)))

    of_keras.compile(keras.optimizers.SGD(0.01), "mse")
    of_keras.fit(*columns.values(), batch_size=8, epochs=6, verbose=0)
    for own, theirs in zip(ours.get_weights(), of_keras.get_weights(), strict=True):
        np.testing.assert_allclose(own, theirs, rtol=1e-5, atol=1e-6)


def test_a_loss_that_is_added_within_a_branch_is_told():
    class Sometimes(layers.Layer):
        def call(self, values):
            def branch():
                self.add_loss(keras.ops.mean(values**2))
                return values

            return keras.ops.cond(keras.ops.sum(values) > 0, branch, lambda: values)

    network = keras.Sequential([layers.Input((3,)), layers.Dense(1), Sometimes()])
    processors = [
        ops.Model(network, inputs="batch_x", outputs="batch_scores"), ops.MeanSquaredError("batch_scores", "batch_y")
    ]  # fmt: skip
    told = "looks at values of tensors, `return keras.ops.cond" if ON_TORCH else "add_loss"
    with pytest.raises((GraphError, ValueError), match=told):
        trained(keras.optimizers.SGD(0.1), jit=True, processors=processors)


class Looks(ChunkProcessor):
    inputs, outputs = ["batch_x"], ["batch_x"]

    def __init__(self) -> None:
        self.seen: list[list[float]] = []

    def __call__(self, chunk: Any) -> None:
        self.seen.append(keras.ops.convert_to_numpy(chunk["batch_x"])[:, 0].tolist())
        if keras.ops.sum(chunk["batch_x"]) > 1e9:
            raise ValueError("far too large")
        chunk["batch_x"] = chunk["batch_x"] + 0.0


def experiment(first: Any, x: Any = X, **settings: Any) -> Any:
    rows = Subset("training", Mode.TRAIN, {"x": x, "y": Y})
    doubles = lambda chunk: chunk.update(batch_double=chunk["batch_x"] * 2.0)  # noqa: E731
    processors = [first, doubles, linear(), squares]
    config = {"subsets": [rows], "chunk_processors": processors, "optimizer": keras.optimizers.SGD(RATE)}
    return build_experiment({**config, "batch_size": 4, "seed": 1, "hide_progress": True, **settings})


def test_eager_steps_through_processors_on_real_values_and_trains_the_same():
    looks = Looks()
    exp, other = experiment(looks, eager=True), experiment(None)
    exp.train(2)
    other.train(2)

    assert {value for batch in looks.seen for value in batch} == set(X[:, 0].tolist())  # no zeros in recording, either
    assert len({tuple(batch) for batch in looks.seen}) >= 2 * (len(X) // 4)
    weights = [list(one.backend.weights().values()) for one in (exp, other)]
    for value, expected in zip(*weights, strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)


def test_eager_averages_a_plain_number_that_a_processor_writes():
    exp = experiment(lambda chunk: chunk.update(share=0.5, count=3), eager=True, metrics=["share", "count"])
    (row,) = exp.train(1)

    assert (row["training_share"], row["training_count"]) == (0.5, 3.0)


LOOKING = {
    "a part": lambda x: x[:, : keras.ops.argmax(x[0]) + 1],
    "those that hold": lambda x: x[x > 0],
    "an entry of a list": lambda x: [1.0, 2.0, 3.0][keras.ops.argmax(x[0])],
}


@pytest.mark.parametrize("look", LOOKING.values(), ids=list(LOOKING))
def test_eager_runs_what_takes_a_tensor_for_a_place(look):
    def first(chunk):
        chunk["batch_x"] = chunk["batch_x"] * keras.ops.mean(keras.ops.convert_to_tensor(look(chunk["batch_x"])))

    exp = experiment(first, eager=True)
    exp.train(1)

    scaled = exp.predict({"batch_x": X[:4]}, outputs=["batch_x"])["batch_x"]
    np.testing.assert_allclose(scaled, X[:4] * np.mean(look(X[:4])), rtol=1e-5)


def test_what_fails_in_eager_is_told_without_the_frames_of_a_framework():
    x = X.copy()
    x[-1] += 1e12  # recording sees the first
    with pytest.raises(ValueError, match="far too large") as raised:
        experiment(Looks(), x, eager=True).train(1)

    files = [frame.filename for frame in traceback.extract_tb(raised.value.__traceback__)]
    assert files[-1] == __file__
    assert not [
        name for name in files if any(f"/site-packages/{one}/" in name for one in ("tensorflow", "jax", "torch"))
    ]
