"""What JAX alone has: no batch of any size, zeros where no gradient reaches, numbers of 32 bits."""

from __future__ import annotations

import logging
import re

import jax
import keras
import numpy as np
import pytest
from keras import layers

from experimentator import (
    GraphError,
    JaxExperiment,
    Mode,
    Subset,
    TensorflowExperiment,
    build_experiment,
    chunk_processor,
    ops,
)
from experimentator.backends import MissingFrameworkError
from tests.backends.test_steps import COLUMNS, INDEX, RATE, X, Y, linear, numpy_descent, squares, training_step
from tests.test_experiment import config


def test_what_no_gradient_reaches_is_not_decayed():
    idle = layers.Dense(1)
    unread = lambda chunk: chunk.update(other=idle(chunk["batch_x"]))  # noqa: E731
    aside = lambda chunk: keras.ops.stop_gradient(keras.ops.mean(chunk["other"]))  # noqa: E731
    reads = lambda chunk: chunk.update(loss=chunk["loss"] + aside(chunk))  # noqa: E731
    optimizer = keras.optimizers.SGD(RATE, weight_decay=0.5)
    backend, step = training_step([linear(), squares, unread, reads], optimizer=optimizer)
    before = np.asarray(idle.kernel)

    step(backend.put(COLUMNS), INDEX)

    assert np.array_equal(np.asarray(idle.kernel), before)
    assert any(np.any(value) for key, value in backend.weights().items() if key.startswith("lambda/"))


def test_a_variable_made_of_a_python_number_is_compiled_with_once():
    scale = keras.Variable(2.0)
    scaled = lambda chunk: chunk.update(loss=chunk["loss"] * keras.ops.convert_to_tensor(scale))  # noqa: E731
    exp = build_experiment(config())
    exp.chunk_processors.append(scaled)
    exp.train(20)

    counts = exp.counts["training"]
    assert counts["traces"] == 1
    assert counts["calls"] < counts["batches"]


def test_a_complex_weight_is_refused_by_name():
    turn = keras.Variable(np.ones(1, np.complex64), name="turn")
    turned = lambda chunk: chunk.update(batch_x=keras.ops.real(keras.ops.cast(chunk["batch_x"], "complex64") * turn))
    with pytest.raises(GraphError, match=r"trains the weight 'turn'\.\nSeen: complex64 \[1\]\.\nMake two float"):
        training_step([turned, linear(), squares])


def test_a_loss_behind_a_stopped_gradient_is_refused():
    exp = build_experiment(config())
    exp.chunk_processors.insert(1, ops.StopGradient("batch_logits"))

    with pytest.raises(ValueError, match="Nothing is trained: 'loss' depends on no trainable variable"):
        exp.train(1)


def test_integers_that_do_not_fit_are_refused_with_their_name():
    large = {**COLUMNS, "batch_key": np.arange(48) + (1 << 40)}
    reads = lambda chunk: chunk.update(loss=chunk["loss"] + chunk["batch_key"][0] * 0.0)  # noqa: E731
    _, step = training_step([linear(), squares, reads], columns=large)

    with pytest.raises(ValueError, match=r"'batch_key' holds numbers that JAX does not have.\nSeen: 1099511627776"):
        step(large, INDEX)


def test_rows_of_a_streamed_block_that_nothing_fills_are_no_numbers_of_the_dataset():
    dirty = [np.full(size, -(1 << 40)) for size in range(1, 200)]  # memory that is given back, and handed out again
    del dirty
    items = [{"input": np.ones(3, np.float32), "target": np.int64(n % 2)} for n in range(45)]
    exp = build_experiment(config(subsets=[Subset("training", Mode.TRAIN, items)], residency="stream", batch_size=8))

    assert exp.train(2)[-1]["training_loss"] > 0


def test_columns_do_not_share_the_memory_they_were_made_of():
    backend, _ = training_step([linear(), squares])
    for _ in range(50):
        given = np.zeros(1 << 16, np.float32)
        placed = backend.put({"batch_x": given})["batch_x"]
        given[:] = 1.0

        assert not np.asarray(placed).any()


def test_a_variable_made_of_the_batch_is_told():
    def centred(chunk):
        mean = keras.Variable(keras.ops.mean(chunk["batch_x"], axis=0), trainable=False)
        chunk["batch_x"] = chunk["batch_x"] - mean

    with pytest.raises(GraphError, match=r"#0 centred makes a variable whose initial value comes from the batch"):
        training_step([centred, linear(), squares])


def test_a_setting_for_other_compilers_is_passed_over_and_that_is_said_once_in_a_training(caplog):
    with caplog.at_level(logging.WARNING):
        exp = build_experiment(config(jit_compile=False))
        exp.evaluate()
        assert not caplog.text
        exp.train(1), exp.evaluate()

    assert caplog.text.count("jit_compile=False is ignored") == 1
    assert set(exp.compilers.values()) == {"xla"}


def test_convolutions_on_a_cpu_are_compiled_for_each_step_and_other_networks_with_the_loop():
    network = keras.Sequential([layers.Reshape((3, 1)), layers.Conv1D(2, 2), layers.Flatten(), layers.Dense(2)])
    exp = build_experiment(config(jit_compile="auto"))
    exp.train(1)
    before = exp.compilers["training"]
    exp.chunk_processors = [ops.Model(network, inputs="batch_input", outputs="batch_logits"), *exp.chunk_processors[1:]]
    exp.optimizer = keras.optimizers.Adam(0.01)
    exp.train(2)

    assert (before, exp.compilers["training"], exp.compilers["validation"]) == ("xla", "xla-step", "xla-step")


def test_a_processor_that_asks_for_values_is_told_what_to_write():
    exp = build_experiment(config())
    exp.chunk_processors.insert(0, lambda chunk: chunk.update(batch_input=np.tanh(chunk["batch_input"])))

    with pytest.raises(jax.errors.TracerArrayConversionError) as caught:
        exp.train(1)

    assert any("Write keras.ops or jax.numpy" in note for note in caught.value.__notes__)


def test_a_tape_of_tensorflow_is_answered_with_the_gradient_of_jax():
    tensorflow = pytest.importorskip("tensorflow")

    def slope(chunk):
        with tensorflow.GradientTape() as tape:
            tape.watch(chunk["batch_input"])

    exp = build_experiment(config())
    exp.chunk_processors.insert(0, slope)
    with pytest.raises(ValueError, match="Tracer") as caught:
        exp.train(1)

    assert any("experimentator.gradient" in note for note in caught.value.__notes__)


def test_many_numbers_of_rows_are_told_of_once(caplog):
    exp = build_experiment(config(batch_size=64))
    for rows in range(1, 16):
        exp.predict({"batch_input": np.ones((rows, 3), np.float32)})

    assert caplog.text.count("Compiled separately for 12 numbers of rows") == 1


def test_a_step_compiles_for_each_number_of_rows_that_it_sees():
    exp = build_experiment(config(batch_size=16))
    exp.train(1)
    outputs = [exp.predict({"batch_input": np.ones((rows, 3), np.float32)}) for rows in (40, 20, 1)]

    assert [len(one["batch_logits"]) for one in outputs] == [40, 20, 1]
    assert [step.traces for step in exp.program.predictor.steps.values()] == [4]  # of 16, 8, 4 and 1 rows


def test_loss_scaling_skips_a_batch_of_infinite_gradients_and_halves_the_scale():
    optimizer = keras.optimizers.LossScaleOptimizer(
        keras.optimizers.SGD(RATE), initial_scale=8.0, dynamic_growth_steps=3
    )
    columns = {**COLUMNS, "batch_x": COLUMNS["batch_x"].copy()}
    columns["batch_x"][INDEX[5]] = np.inf
    backend, step = training_step([linear(), squares], optimizer=optimizer, columns=columns)

    step(backend.put(columns), INDEX)

    assert all(np.isfinite(value).all() for value in backend.weights().values())
    assert int(optimizer.iterations) == 11
    assert (
        float(optimizer.dynamic_scale) == 8.0 * 2 * 0.5 * 2 * 2
    )  # after 3 batches, at the sixth, after 3, after 6 more


def test_features_of_a_framework_are_refused_under_the_other():
    with pytest.raises(MissingFrameworkError, match="Set KERAS_BACKEND=tensorflow before Keras is imported"):
        build_experiment(config(experiment_type=[TensorflowExperiment])).train(1)

    assert build_experiment(config(experiment_type=[JaxExperiment])).backend.name == "jax"


@pytest.mark.parametrize("compiler", ["xla", "xla-step"])
def test_a_loop_by_hand_descends_as_the_step_does(compiler):
    backend, step = training_step([linear(), squares])
    backend.by_hand(step.graph, keras.optimizers.SGD(RATE), compiler=compiler)(backend.put(COLUMNS), INDEX, 12)

    kernel, bias = backend.weights().values()
    w, b, _ = numpy_descent(12)
    np.testing.assert_allclose([*kernel[:, 0], *bias], [*w, b], rtol=1e-4, atol=1e-6)


def test_a_loop_by_hand_leaves_weights_in_front_of_a_detached_node():
    backend, step = training_step([linear(), squares])
    backend.by_hand(step.graph, keras.optimizers.SGD(RATE), compiler="xla", detach=2)(backend.put(COLUMNS), INDEX, 3)

    assert max(np.abs(value).max() for value in backend.weights().values()) < 1e-20  # one number takes part, a little


def test_keras_fit_descends_the_same_graph():
    backend, step = training_step([linear(), squares])
    epoch = backend.fitted(step.graph, keras.optimizers.SGD(RATE), COLUMNS, 4, steps_per_execution=3)
    for _ in range(5):
        epoch(12)

    np.testing.assert_allclose(
        np.concatenate([value.ravel() for value in backend.weights().values()]), [1, -2, 0.5, 0.3], atol=0.1
    )


def test_a_table_of_rates_rules_the_batches_that_follow_and_its_last_entry_those_behind():
    optimizer = keras.optimizers.SGD(RATE)
    backend, step = training_step([linear(), squares], optimizer=optimizer)
    factors = np.array([1.0, 0.5, 0.0, 2.0, 0.25], np.float32)
    backend.rates(optimizer)(factors)

    step(backend.put(COLUMNS), INDEX[:8])

    weights = np.zeros(4)
    for number, rows in enumerate(INDEX[:8]):
        inputs = np.hstack([X[rows], np.ones((len(rows), 1))])
        slope = 2 * inputs.T @ (inputs @ weights - Y[rows]) / len(rows)
        weights = weights - RATE * factors[min(number, 4)] * slope
    kernel, bias = backend.weights().values()
    np.testing.assert_allclose([*kernel[:, 0], *bias], weights, rtol=1e-4, atol=1e-6)
    assert float(optimizer.learning_rate) == pytest.approx(0.25 * RATE)


def test_the_state_lies_where_jax_computes():
    exp = build_experiment(config())
    exp.train(1)

    assert all(isinstance(variable.value, jax.Array) for variable in exp.backend.variables)


def test_a_gradient_through_a_loop_of_any_length_is_refused_with_what_to_write():
    term = chunk_processor(inputs=["loss"], outputs=["loss"], mode=Mode.TRAIN)(
        lambda loss: keras.ops.while_loop(lambda loss: loss < 1.0, lambda loss: (2 * loss,), (loss,))[0]
    )
    exp = build_experiment(config())
    exp.chunk_processors.append(term)

    with pytest.raises(ValueError, match="Reverse-mode") as raised:
        exp.train(1)
    assert "Write fori_loop with whole numbers" in "".join(raised.value.__notes__)


def test_a_draw_within_a_loop_is_refused_with_where_to_draw():
    draws = keras.random.SeedGenerator(1)

    @chunk_processor(inputs=["batch_input"], outputs=["batch_walked"], mode=Mode.INFER)
    def walk(batch_input):
        step = lambda _, x: x + keras.random.normal(keras.ops.shape(x), seed=draws)  # noqa: E731
        return keras.ops.fori_loop(0, 3, step, batch_input)

    exp = build_experiment(config())
    exp.chunk_processors.append(walk)

    with pytest.raises(
        GraphError, match=r"draws within a loop or a branch(.|\n)*Draw before it, for all turns at once"
    ):
        exp.predict({"batch_input": np.zeros((4, 3), np.float32)}, outputs=["batch_walked"])


def test_an_assignment_within_a_loop_or_a_branch_is_refused_with_what_to_write():
    network = keras.Sequential([layers.Dense(1), layers.BatchNormalization()])
    one, model = (
        lambda x: keras.ops.mean(network(x) ** 2),
        ops.Model(network, inputs="batch_input", outputs="batch_out"),
    )

    def train(repeat, **told):
        term = chunk_processor(inputs=["batch_input"], outputs=["loss"], mode=Mode.TRAIN)(repeat)
        build_experiment(config(chunk_processors=[model, term], subsets=config()["subsets"][:1], **told)).train(1)

    def branch(x):
        return keras.ops.cond(keras.ops.sum(x) > 0, lambda: one(x), lambda: 0.0)

    def loop(x):
        return keras.ops.fori_loop(0, 3, lambda _, loss: loss + one(x), 0.0)

    for repeat, name in ((branch, "cond"), (loop, "fori_loop")):
        with pytest.raises(GraphError, match=rf"assigns a variable within(?s:.*)test_jax.py(?s:.*)keras.ops.{name}"):
            train(repeat)
    train(lambda x: sum(one(x) for _ in range(3)))
    train(lambda x: keras.ops.where(keras.ops.sum(x) > 0, one(x), 0.0))


def test_what_depends_on_weights_may_be_looked_at_in_eager_with_its_gradient_stopped():
    seen = []

    def looks(chunk):
        seen.append(float(chunk["loss"]))

    def looks_at_its_value(chunk):
        seen.append(float(keras.ops.stop_gradient(chunk["loss"])))

    def experiment(look, **options):
        return build_experiment(config(chunk_processors=[*config()["chunk_processors"], look], **options))

    with pytest.raises(jax.errors.ConcretizationTypeError, match=r"has no value: look at keras\.ops\.stop_gradient"):
        experiment(looks, eager=True).train(1)
    with pytest.raises(
        jax.errors.ConcretizationTypeError, match=r"with eager=True, and look at keras\.ops\.stop_gradient"
    ):
        experiment(looks_at_its_value).train(1)
    seen.clear()
    row = experiment(looks_at_its_value, eager=True).train(1)[0]
    assert np.isfinite(row["training_loss"])
    assert seen
    assert np.isfinite(seen).all()


@pytest.mark.parametrize("way", ["step", True])
def test_what_the_optimizer_keeps_is_updated_where_it_lies(way):
    network = keras.Sequential(
        [layers.Dense(8, activation="relu"), layers.Dense(8), layers.Dense(2)]
    )  # shapes that repeat
    processors = [ops.Model(network, inputs="batch_input", outputs="batch_logits"), *config()["chunk_processors"][1:]]
    exp = build_experiment(config(chunk_processors=processors, optimizer=keras.optimizers.Adam(), jit_compile=way))
    exp.train(1)

    steps = {runner.name: runner.step for runner in exp.program.runners.values()}
    (text,) = steps["training"].programs()
    memory = re.findall(
        r"\{(\d+)\}: \((\d+), ", text.partition("\n")[0]
    )  # places of results, and of arguments whose it is
    weights, slots = (len(values) for values in steps["training"].batch.state()[:2])
    assert {(int(to), int(of)) for to, of in memory} == {(n, weights + n) for n in range(slots)}


@pytest.mark.parametrize("first", [0, 1])
def test_what_an_optimizer_keeps_may_be_assigned_to_another_ones(first):
    """As populations do whose best member replaces the worst; either may be the first to train on."""
    pairs = [training_step([linear(), squares], optimizer=keras.optimizers.Adam(RATE)) for _ in range(2)]
    optimizers = [step.batch.optimizer for _, step in pairs]
    for backend, step in pairs:
        step(backend.put(COLUMNS), INDEX)
    for mine, other in zip(*(optimizer.variables for optimizer in optimizers), strict=True):
        mine.assign(other)

    for place in (first, 1 - first):
        backend, step = pairs[place]
        step(backend.put(COLUMNS), INDEX)

    mine, other = ([np.asarray(one) for one in optimizer.variables] for optimizer in optimizers)
    assert all(map(np.array_equal, mine, other))
    assert [id(one) for one in step.batch.state()[1]] == [id(one.value) for one in step.batch.slots]  # none is copied


def test_keys_of_jax_may_stand_in_the_chunk():
    def key(chunk):
        chunk["key"] = jax.random.key(1)

    def noise(chunk):
        chunk["batch_input"] = chunk["batch_input"] + jax.random.normal(chunk["key"], chunk["batch_input"].shape)

    exp = build_experiment(config(chunk_processors=[key, noise, *config()["chunk_processors"]]))
    exp.train(1)

    (told,) = [one for one in exp.describe("train").tensors if one.name == "key"]
    assert (told.shape, told.dtype) == ((), "key<fry>")
