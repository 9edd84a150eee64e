"""What TensorFlow alone has: its variables, a choice of compilers, operations without an XLA form."""

from __future__ import annotations

import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from experimentator import ChunkProcessor, Freeze, Mode, Subset, TensorflowExperiment, build_experiment, ops
from experimentator.backends.tensorflow import loop
from experimentator.backends.tensorflow.placement import LARGE, placed
from experimentator.graph import GraphError, chunk_processor
from tests.backends.test_steps import COLUMNS, INDEX, RATE, linear, noisy, numpy_descent, squares, training_step
from tests.frameworks import backend_of_keras


def test_plain_tensorflow_variables_are_trained_too():
    factor = tf.Variable(3.0, name="factor")
    backend, step = training_step([lambda c: c.update(loss=tf.reduce_mean((factor * c["batch_y"]) ** 2))])

    step(backend.put(COLUMNS), INDEX)

    assert factor.numpy() < 3.0
    assert list(backend.weights()) == ["lambda/0/factor"]


def test_a_complex_weight_is_refused_by_name():
    turn = tf.Variable(tf.ones([3], tf.complex64), name="turn")
    turned = lambda chunk: chunk.update(batch_x=tf.math.real(tf.cast(chunk["batch_x"], tf.complex64) * turn))
    with pytest.raises(GraphError, match=r"trains the weight 'turn:0'\.\nSeen: complex64 \[3\]\.\nMake two float"):
        training_step([turned, linear(), squares])


class Moving(ChunkProcessor):
    """Counts its calls and draws, in variables of TensorFlow's that nothing trains."""

    inputs = outputs = ("batch_x",)

    def __init__(self):
        self.calls = tf.Variable(0, trainable=False, name="calls")
        self.draws = tf.random.Generator.from_seed(3)

    def __call__(self, chunk):
        self.calls.assign_add(1)
        chunk["batch_x"] += self.draws.normal(tf.shape(chunk["batch_x"]))


def moving(**settings):
    columns = {name.removeprefix("batch_"): column for name, column in COLUMNS.items()}
    subsets = [Subset("training", Mode.TRAIN, columns)]
    processors = [Moving(), linear(), squares]
    settings = {"optimizer": keras.optimizers.SGD(RATE), "hide_progress": True, "seed": 0} | settings
    return build_experiment({"subsets": subsets, "batch_size": 4, "chunk_processors": processors, **settings})


def test_choosing_a_compiler_changes_no_variable_that_is_not_trained():
    processor = Moving()
    backend, step = training_step([processor, linear(), squares], jit_compile="auto")
    assert list(backend.weights())[:2] == ["Moving/0/calls", "Moving/1/StateVar"]
    state = processor.draws.state.numpy().tolist()
    step.choose(backend.put(COLUMNS), INDEX, remaining=10**9)

    assert (processor.calls.numpy(), processor.draws.state.numpy().tolist()) == (0, state)
    step(backend.put(COLUMNS), INDEX)
    assert processor.calls.numpy() == len(INDEX)
    assert processor.draws.state.numpy().tolist() != state


def test_what_predict_draws_without_a_seed_of_its_own_follows_the_setting():
    def drawn(seed):
        noise = chunk_processor(outputs=["batch_y"])(lambda batch_x: batch_x + tf.random.uniform(tf.shape(batch_x)))
        exp = build_experiment({"chunk_processors": [noise], "seed": seed, "experiment_type": [TensorflowExperiment]})
        return exp.predict({"batch_x": np.zeros(8, "float32")})["batch_y"].tolist()

    assert drawn(1) == drawn(1) != drawn(2)


def test_a_settled_compiler_stays_where_a_setting_of_a_layer_changes_and_not_where_the_batch_size_does():
    bent = keras.layers.LeakyReLU(0.3)
    exp = moving(jit_compile="auto")
    exp.chunk_processors.insert(1, ops.Model(bent, inputs="batch_x", outputs="batch_x"))
    exp.train(1)
    assert exp.compilers == {"training": "graph"}  # so short a training tries no other
    (runner,) = exp.program.runners.values()
    runner.step.chosen = "xla"

    bent.negative_slope = 0.1
    exp.train(2)
    assert exp.compilers == {"training": "xla"}
    exp.batch_size = 2
    exp.train(3)
    assert exp.compilers == {"training": "graph"}


def test_what_is_resumed_goes_on_from_variables_that_are_not_trained(tmp_path):
    straight, parted, resumed = moving(), moving(), moving()
    straight.train(3)
    parted.train(1)
    parted.save_checkpoint(tmp_path / "checkpoint")
    resumed.resume(tmp_path / "checkpoint")
    resumed.train(3)

    bits = [{key: value.tobytes() for key, value in exp.backend.weights().items()} for exp in (straight, resumed)]
    assert bits[0] == bits[1]
    assert resumed.chunk_processors[0].calls.numpy() == 3 * len(INDEX)


def test_variables_of_tensorflows_own_are_frozen_and_thaw():
    factor, counter = tf.Variable(3.0, name="factor"), tf.Variable(0.0, trainable=False, name="counter")
    scaled = lambda chunk: chunk.update(batch_x=factor * chunk["batch_x"] + 0 * counter.assign_add(1.0))
    freeze = Freeze("*/factor", epochs=2)
    exp = moving(
        chunk_processors=[scaled, linear(), squares], callbacks=[freeze], optimizer=keras.optimizers.Adam(RATE)
    )
    seen = []
    for epoch in range(3):
        exp.train(epoch + 1)
        seen.append((factor.numpy(), factor.trainable))

    assert seen[:2] == [(3.0, True)] * 2
    assert seen[2][0] != 3.0
    assert [one.path for one in exp.optimizer.variables if "counter" in one.path] == []


def test_recording_under_eager_leaves_variables_as_they_were():
    exp = moving(eager=True)
    exp.graph(Mode.TRAIN)

    assert exp.chunk_processors[0].calls.numpy() == 0
    exp.train(1)
    assert exp.chunk_processors[0].calls.numpy() == len(INDEX)


def test_variables_stand_in_the_order_in_which_they_were_made_whoever_tells_them():
    factors = [tf.Variable(1.0, name=f"factor_{place}", trainable=place < 4) for place in range(8)]
    product = tf.function(lambda tensor: tf.add_n([one * tensor for one in reversed(factors)]), reduce_retracing=True)
    for count in (1, 2, 3):
        product(tf.ones([count, 3]))
    exp = moving(chunk_processors=[lambda chunk: chunk.update(batch_x=product(chunk["batch_x"])), linear(), squares])
    exp.graph(Mode.TRAIN)

    assert list(exp.backend.weights())[:8] == [f"lambda/{place}/factor_{place}" for place in range(8)]


def remembering(**settings):
    """Remembers the last batch, of any size, a text and a complex number."""
    last = tf.Variable(tf.zeros([1, 3]), shape=[None, 3], trainable=False, name="last")
    text, turn = tf.Variable("none", trainable=False), tf.Variable(1 + 0j, trainable=False)

    def remember(chunk):
        text.assign("some")
        turn.assign(1j * turn)
        chunk["batch_x"] = 1 * last.assign(chunk["batch_x"])

    adam = keras.optimizers.Adam(RATE)
    return last, text, turn, moving(chunk_processors=[remember, linear(), squares], optimizer=adam, **settings)


def test_variables_that_no_file_of_weights_can_hold_are_left_out(tmp_path):
    last, *_, exp = remembering()
    exp.train(1)
    exp.save_checkpoint(tmp_path / "checkpoint")
    *_, resumed = remembering()
    resumed.resume(tmp_path / "checkpoint")
    resumed.train(2)

    assert list(exp.backend.weights()) == ["lambda/0/kernel", "lambda/1/bias"]
    assert last.shape.as_list() == [None, 3]


def test_recording_under_eager_leaves_variables_of_any_kind_as_they_were():
    last, text, turn, exp = remembering(eager=True)
    exp.graph(Mode.TRAIN)

    assert (last.numpy().tolist(), text.numpy(), complex(turn)) == ([[0, 0, 0]], b"none", 1)


def test_averages_of_an_optimizer_never_take_the_place_of_what_is_not_trained():
    exp = moving(optimizer=keras.optimizers.SGD(RATE, use_ema=True, ema_overwrite_frequency=2))
    counter = tf.Variable(0.0, trainable=False, name="counter")
    count = lambda chunk: chunk.update(batch_x=chunk["batch_x"] + 0 * counter.assign_add(1.0))
    exp.chunk_processors = [count, *exp.chunk_processors]
    exp.train(1)

    assert counter.numpy() == len(INDEX)


@pytest.mark.parametrize("eager", [False, True])
def test_variables_in_a_function_that_was_traced_before_are_found(eager):
    calls, factor = tf.Variable(0.0, trainable=False, name="calls"), tf.Variable(1.0, name="factor")
    scaled = tf.function(lambda tensor: factor * tensor + 0 * calls.assign_add(1.0), reduce_retracing=True)
    for count in (1, 2, 3):
        scaled(tf.ones([count, 3]))
    exp = moving(eager=eager, chunk_processors=[lambda c: c.update(batch_x=scaled(c["batch_x"])), linear(), squares])
    exp.graph(Mode.TRAIN)

    assert {"lambda/0/factor", "lambda/1/calls"} <= exp.backend.weights().keys()


def test_a_large_array_is_copied_once_and_later_changes_of_it_do_not_arrive(monkeypatch):
    array, copies = np.ones((LARGE // 4, 4), np.uint8), []
    monkeypatch.setattr(tf, "convert_to_tensor", lambda *_: copies.append("numpy's, and TensorFlow's"))

    tensor = placed(array)
    array[:] = 0

    assert (copies, tensor.shape, tensor.dtype) == ([], array.shape, tf.uint8)
    assert tensor.numpy().min() == 1


@pytest.mark.parametrize("dtype", ["bool", "int64", "float16", ">f4", "complex64", "bfloat16"])
def test_a_large_array_of_any_kind_is_placed_as_it_is(dtype):
    array = np.arange(LARGE).reshape(4, -1).T % 3
    array = tf.cast(array, dtype).numpy() if dtype == "bfloat16" else array.astype(dtype)

    tensor = placed(array[::2])

    np.testing.assert_array_equal(tensor.numpy(), array[::2])


def test_choosing_a_compiler_changes_no_state():
    backend, step = training_step([linear(), squares], optimizer=keras.optimizers.Adam(RATE), jit_compile="auto")
    state = {key: value.tobytes() for key, value in backend.weights().items()}
    step.choose(backend.put(COLUMNS), INDEX, remaining=10**9)

    assert {key: value.tobytes() for key, value in backend.weights().items()} == state
    assert step.optimizer.iterations.numpy() == 0
    assert step.timings.keys() >= {"graph", "xla"}  # and where XLA loses, each step by itself


@pytest.mark.parametrize(
    "seconds, compiler",
    [
        ({"graph": 3e-3, "xla": 4e-3, "xla-step": 2e-3}, "xla-step"),  # as with convolutions
        ({"graph": 1e-3, "xla": 2e-5, "xla-step": 9e-9}, "xla"),  # a call for each batch alone takes longer
        ({"graph": 3e-3, "xla": 2.9e-3, "xla-step": 2.9e-3}, "graph"),  # a toss-up must not decide about bits
    ],
    ids=["xla-step", "xla", "graph"],
)
def test_the_clearly_quickest_compiler_is_chosen(seconds, compiler, monkeypatch):
    backend, step = training_step([linear(), squares], jit_compile="auto")
    monkeypatch.setattr(step, "_timed", lambda one, columns, index: seconds[one])

    step.choose(backend.put(COLUMNS), INDEX, remaining=10**9)

    assert step.compiler == compiler
    np.testing.assert_allclose(np.asarray(step(backend.put(COLUMNS), INDEX)["loss"]), numpy_descent(12)[2], rtol=1e-4)


def test_xla_is_not_tried_for_a_few_seconds_of_work():
    backend, step = training_step([linear(), squares], jit_compile="auto")

    step.choose(backend.put(COLUMNS), INDEX, remaining=1)

    assert step.timings.keys() == {"graph"}
    assert step.compiler == "graph"


def test_a_short_training_is_not_timed_for_longer_than_it_lasts(monkeypatch):
    backend, step = training_step([linear(), squares], jit_compile="auto")
    calls, finish = [], step._finish
    monkeypatch.setattr(step, "_finish", lambda *given: calls.append(finish(*given)))

    step.choose(backend.put(COLUMNS), INDEX, remaining=1)

    assert len(calls) == 2  # to compile, and to time


def test_a_training_in_many_short_parts_tries_xla_in_the_end():
    backend, step = training_step([linear(), squares], jit_compile="auto")
    columns, calls = backend.put(COLUMNS), 0
    while "xla" not in step.timings and calls < 10**5:
        step.choose(columns, INDEX, remaining=1)
        step(columns, INDEX)
        calls += 1

    assert 1 < calls < 10**5


def test_trying_a_compiler_on_a_short_block_traces_nothing_again(caplog):
    backend, step = training_step([linear(), squares], jit_compile="auto")
    step(backend.put(COLUMNS), INDEX[:5], fixed=False)
    traced = step.traces

    step.choose(backend.put({name: column[:24] for name, column in COLUMNS.items()}), INDEX[:6], remaining=10**9)

    assert "xla" in step.timings
    assert "Traced again" not in caplog.text
    assert step.traces == traced + len(step.timings) - 1  # for XLA, on a busy machine around each step as well


@chunk_processor(inputs=["batch_x"], outputs=["batch_x"], node="To text")
def strings(batch_x):
    return tf.strings.to_number(tf.strings.as_string(batch_x))


def test_asking_again_about_a_short_training_touches_no_variable(monkeypatch):
    backend, step = training_step([linear(), squares], jit_compile="auto")
    step.choose(backend.put(COLUMNS), INDEX, remaining=1)
    monkeypatch.setattr(tf, "identity", lambda tensor: pytest.fail("the state was copied"))

    step.choose(backend.put(COLUMNS), INDEX, remaining=1)


def test_a_graph_that_xla_cannot_compile_falls_back_and_names_the_processor(caplog):
    backend, step = training_step([strings, linear(), squares], jit_compile="auto")
    step.choose(backend.put(COLUMNS), INDEX, remaining=10**9)

    assert step.compiler == "graph"
    told = "operation AsString of chunk processor #0 To text: strings(batch_x) has no XLA form"
    assert caplog.text.count(told) == 1


@pytest.mark.parametrize("jit_compile", [True, "step"])
def test_xla_that_was_asked_for_and_cannot_compile_says_which_processor_and_what_to_write(jit_compile):
    backend, step = training_step([strings, linear(), squares], jit_compile=jit_compile)

    with pytest.raises(ValueError, match=r"(?s)AsString of chunk processor #0 To text.*Write jit_compile='auto'"):
        step(backend.put(COLUMNS), INDEX)


def test_xla_and_a_loop_that_may_run_any_number_of_times_say_what_to_write():
    factor = keras.Variable(0.9)

    @chunk_processor(inputs=["batch_x"], outputs=["batch_x"])
    def summed(x):
        return x + keras.ops.scan(lambda total, row: (total * factor + row, total), x[0], x)[0]

    backend, step = training_step([summed, linear(), squares], jit_compile=True)

    with pytest.raises(ValueError, match=r"(?s)summed.* any number of times.*maximum_iterations=n"):
        step(backend.put(COLUMNS), INDEX)


def test_a_first_call_with_xla_on_its_own_account_falls_back_too(caplog):
    backend, step = training_step([strings, linear(), squares], jit_compile="auto")
    step.chosen = "xla"  # as on a GPU, where "auto" does not measure

    losses = np.asarray(step(backend.put(COLUMNS), INDEX)["loss"])

    np.testing.assert_allclose(losses, numpy_descent(12)[2], rtol=1e-3)
    assert "To text" in caplog.text


def test_a_gpu_whose_cuda_lacks_a_part_that_xla_needs_trains_without_xla(caplog, monkeypatch):
    backend, step = training_step([linear(), squares], jit_compile="auto", like="xla")
    call, lacking = step._call, "Graph execution error:\n\nlibdevice not found at ./libdevice.10.bc [[{{node while}}]]"

    def without_cuda(compiler, *arguments, **options):
        if compiler == "xla":
            raise tf.errors.InternalError(None, None, lacking)
        return call(compiler, *arguments, **options)

    monkeypatch.setattr(step, "_call", without_cuda)
    losses = np.asarray(step(backend.put(COLUMNS), INDEX)["loss"])

    np.testing.assert_allclose(losses, numpy_descent(12)[2], rtol=1e-3)
    assert "runs without it: libdevice not found at ./libdevice.10.bc, a part of CUDA; XLA_FLAGS=" in caplog.text


def test_a_graph_at_which_the_compiler_itself_fails_runs_without_it(caplog):
    @chunk_processor(inputs=["batch_prediction"], outputs=["batch_prediction"])
    def cut(prediction):
        count = tf.cast(tf.reduce_sum(tf.abs(prediction)), tf.int32) % 5 + 2
        return prediction + 0 * tf.reduce_sum(tf.reshape(prediction[:4], [2, -1])[:count])

    backend, step = training_step([linear(), cut, squares], jit_compile="auto", like="xla")
    losses = np.asarray(step(backend.put(COLUMNS), INDEX)["loss"])

    np.testing.assert_allclose(losses, numpy_descent(12)[2], rtol=1e-3)
    assert "which runs without it: the compiler itself fails" in caplog.text


def test_gpus_that_were_hidden_count_for_nothing(monkeypatch):
    hidden = tf.config.PhysicalDevice("/physical_device:GPU:0", "GPU")
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: [hidden])
    backend = backend_of_keras()

    assert (backend.device, backend.peak_memory()) == ("CPU", None)
    assert backend.room() > 0


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("eager", [False, True])
def test_on_a_gpu_an_id_without_a_row_would_give_nan(eager, jit_compile, monkeypatch):
    calls = []

    @chunk_processor(inputs=["batch_x"], outputs=["batch_x"])
    def looked_up(x):
        calls.append(keras.layers.Embedding.call.__qualname__)
        return x

    backend, step = training_step([looked_up, linear(), squares], eager=eager, jit_compile=jit_compile)
    monkeypatch.setattr(loop, "has_gpu", lambda: True)
    step(backend.put(COLUMNS), INDEX)

    assert "odd_ids_are_nan" in calls[-1]


def test_evaluation_that_follows_xla_falls_back_where_it_cannot(caplog):
    backend, step = training_step([strings, linear(), squares], jit_compile="auto", like="xla")

    losses = np.asarray(step(backend.put(COLUMNS), INDEX)["loss"])

    np.testing.assert_allclose(losses, numpy_descent(12)[2], rtol=1e-3)
    assert step.compiler == "graph"
    assert "To text" in caplog.text


@pytest.mark.parametrize(
    "jit, algorithms", [(True, {2}), ("step", {2}), (False, {3})], ids=["xla", "xla-step", "graph"]
)
def test_draws_under_xla_on_a_cpu_use_the_algorithm_that_is_quick_there(jit, algorithms):
    backend, step = training_step([noisy(), linear(), squares], jit_compile=jit)
    step(backend.put(COLUMNS), INDEX)

    (function,) = step._functions.values()
    program = function.get_concrete_function(backend.put(COLUMNS), INDEX).graph.as_graph_def()
    bodies = {field.name: value for field, value in program.ListFields()}["library"].function
    draws = [node for body in bodies for node in body.node_def if node.op == "StatelessRandomNormalV2"]
    values = {node.name: node.attr["value"].tensor.int_val for body in bodies for node in body.node_def}
    assert {value for node in draws for value in values[node.input[3].partition(":")[0]]} == algorithms


def test_what_an_experiment_within_another_draws_is_told_of_the_outer_processor(caplog):
    data = Subset("training", Mode.TRAIN, {"input": np.zeros((8, 4), "float32"), "target": np.zeros(8, "int32")})
    draw = chunk_processor(inputs=["batch_input"], outputs=["batch_drawn"], node="Model")(
        lambda batch_input: batch_input + tf.random.normal(tf.shape(batch_input))
    )
    shared = {"subsets": [data], "optimizer": keras.optimizers.SGD(0.1), "hide_progress": True, "jit_compile": False}
    inner = build_experiment({**shared, "chunk_processors": [draw]})
    head = ops.Model(keras.layers.Dense(2), inputs="batch_drawn", outputs="batch_logits")
    loss = ops.SoftmaxCrossEntropy("batch_logits", "batch_target")
    listed = [inner.as_processor("batch_drawn", node="Inner"), head, loss]

    build_experiment({**shared, "chunk_processors": listed}).train(1)

    assert "#0 Inner.as_processor(batch_drawn) draws by RandomStandardNormal" in caplog.text
    assert "#1 Model" not in caplog.text


@pytest.mark.parametrize(
    "mixed", [lambda a, b: a * b, lambda a, b: tf.where(a > 0, b, a), lambda a, b: tf.concat([a, b], 0)]
)
@pytest.mark.parametrize("eager", [False, True])
def test_dtypes_that_meet_are_told_what_casts_them(eager, mixed):
    whole = tf.Variable([1, 2, 3], trainable=False)
    inner = chunk_processor(inputs=["batch_x"], outputs=["loss"])(lambda batch_x: tf.reduce_sum(mixed(batch_x, whole)))
    exp = build_experiment(
        {
            "chunk_processors": [inner],
            "subsets": [Subset("validation", Mode.EVAL, {"x": np.ones([4, 3], np.float32)})],
            "hide_progress": True,
            "eager": eager,
        }
    )

    with pytest.raises((TypeError, tf.errors.InvalidArgumentError)) as caught:
        exp.evaluate()
    assert sum("Write keras.ops.cast(one, other.dtype)" in note for note in caught.value.__notes__) == 1


def test_a_ragged_tensor_has_a_shape_and_is_refused_by_name_where_it_is_asked_for():
    @chunk_processor(outputs=["batch_ragged"])
    def ragged(batch_input):
        return tf.RaggedTensor.from_tensor(batch_input, padding=0.0)

    items = Subset("training", Mode.TRAIN, {"input": np.ones((8, 4), "float32")})
    exp = build_experiment({"chunk_processors": [ragged], "subsets": [items]})

    assert [tensor.shape for tensor in exp.describe("infer").tensors] == [(None, 4), (None, None)]
    with pytest.raises(GraphError, match=r"'batch_ragged' is asked for, .*\nSeen: a RaggedTensor"):
        exp.predict("training")


@pytest.mark.parametrize(
    "drawn, kind",
    [
        (lambda x: tf.cond(x[0, 0] > 2, lambda: x, lambda: x + tf.random.normal(tf.shape(x))), "RandomStandardNormal"),
        (tf.function(lambda x: keras.ops.map(lambda row: row + tf.random.uniform([3]), x)), "RandomUniform"),
        (
            lambda x: x + tf.cast(tf.random.log_uniform_candidate_sampler([[1]], 1, 3, True, 9)[0], x.dtype),
            "LogUniformCandidateSampler",
        ),
    ],
    ids=["in a branch", "in a function", "of classes"],
)
def test_draws_whose_state_cannot_be_saved_are_told_wherever_they_stand(drawn, kind, caplog):
    node = chunk_processor(inputs=["batch_x"], outputs=["batch_x"], node="Draws")(drawn)
    exp = moving(chunk_processors=[node, linear(), squares])
    exp.train(1)

    assert re.search(rf"Draws: .* draws by {kind}, whose state", caplog.text)


def test_a_tensor_of_unknown_rank_may_be_a_result():
    @chunk_processor(inputs=["batch_y"], outputs=["size"])
    def sized(y):
        return tf.numpy_function(lambda values: np.abs(values).mean(dtype="float32"), [y], tf.float32)

    row = moving(chunk_processors=[linear(), squares, sized], metrics=["size"], jit_compile=False).train(1)[0]
    assert row["training_size"] == pytest.approx(np.abs(COLUMNS["batch_y"]).mean(), rel=1e-5)


def test_a_tensor_that_lost_its_axes_is_told_how_to_get_them_back():
    @chunk_processor(inputs=["batch_x"], outputs=["batch_x"])
    def summed(x):
        return keras.ops.associative_scan(keras.ops.add, keras.ops.tile(x[:, None], (1, 10, 1)), axis=1)

    with pytest.raises(ValueError, match="unknown rank") as caught:
        training_step([summed, ops.MeanSquaredError("batch_x", "batch_x")])
    assert any("keras.ops.reshape(tensor, keras.ops.shape(like))" in note for note in caught.value.__notes__)


@pytest.mark.parametrize(
    "sized",
    [
        lambda x: keras.ops.reshape(x, (x.shape[0], 2, 1)),
        lambda x: keras.ops.reshape(x, (x.shape[0] * 2, 1)),
        lambda x: x + keras.ops.zeros((x.shape[0], 2)),
        lambda x: x + keras.random.normal(x.shape),
        lambda x: x + keras.ops.arange(x.shape[0]),
        lambda x: x + keras.ops.eye(x.shape[0]),
        lambda x: keras.ops.tile(x, (x.shape[0], 1)),
        lambda x: x / x.shape[0],
        lambda x: x / len(x),
        lambda x: sum(x[place] for place in range(x.shape[0])),
    ],
)
def test_a_size_that_is_none_is_told_how_to_be_read(sized):
    with pytest.raises((TypeError, ValueError)) as caught:
        training_step([chunk_processor(inputs=["batch_x"], outputs=["batch_x"])(sized), linear(), squares])
    assert any("Write keras.ops.shape(tensor)[0]" in note for note in caught.value.__notes__)


@pytest.mark.parametrize(
    "other", [lambda x: vars(keras).get("no")[x], lambda x: vars(keras).get("no")(x), lambda x: x @ tf.zeros((7, 3))]
)
def test_other_errors_are_told_nothing_of_sizes(other):
    with pytest.raises((TypeError, ValueError)) as caught:
        training_step([chunk_processor(inputs=["batch_x"], outputs=["batch_x"])(other), linear(), squares])
    assert not any("size" in note for note in caught.value.__notes__)


def test_a_quotient_of_two_dtypes_is_told_to_cast():
    mean = chunk_processor(inputs=["batch_x"], outputs=["batch_x"])(lambda x: x / keras.ops.shape(x)[0])

    with pytest.raises(TypeError, match="same dtype") as caught:
        training_step([mean, linear(), squares])
    assert any("keras.ops.cast" in note for note in caught.value.__notes__)


def test_a_variable_in_a_list_is_told_how_to_become_a_tensor():
    place = keras.Variable(0, dtype="int32", trainable=False)

    @chunk_processor(inputs=["batch_x"], outputs=["batch_x"])
    def shifted(x):
        return keras.ops.slice_update(x, (place, 0), x[:1])

    with pytest.raises(AttributeError, match="base_dtype") as caught:
        training_step([shifted, linear(), squares])
    assert any("write variable.value" in note for note in caught.value.__notes__)


def test_an_operation_that_fails_as_it_runs_names_its_processor():
    state = keras.Variable(np.zeros((8, 1), "float32"), trainable=False, name="state")
    carried = chunk_processor(inputs=["batch_x"], outputs=["loss"], node="Carried")(
        lambda x: tf.reduce_mean(x + tf.convert_to_tensor(state))
    )
    subset = Subset("validation", Mode.EVAL, {"x": np.ones((12, 1), "float32")})
    exp = build_experiment(
        {
            "subsets": [subset],
            "chunk_processors": [carried],
            "batch_size": 8,
            "jit_compile": False,
            "hide_progress": True,
        }
    )

    with pytest.raises(tf.errors.InvalidArgumentError, match="Incompatible shapes") as caught:
        exp.evaluate()
    assert any(note.startswith("In chunk processor #0 Carried") for note in caught.value.__notes__)
    assert exp.troubles(caught.value) == {"Carried": "failed in EVAL: InvalidArgumentError"}


def test_a_stateful_recurrent_layer_says_how_to_fix_the_batch_size_and_then_trains():
    def trained(*first):
        network = keras.Sequential([*first, keras.layers.GRU(2, stateful=True), keras.layers.Dense(1)])
        items = {"x": np.ones((16, 3, 1), "float32"), "y": np.ones((16, 1), "float32")}
        processors = [
            ops.Model(network, inputs="batch_x", outputs="batch_out"),
            ops.MeanSquaredError("batch_out", "batch_y"),
        ]
        subsets = [Subset("training", Mode.TRAIN, items)]
        settings = {"optimizer": keras.optimizers.SGD(0.1), "batch_size": 8, "hide_progress": True}
        build_experiment({"subsets": subsets, "chunk_processors": processors, **settings}).train(1)
        return np.abs(network.layers[0].states[0]).max()

    with pytest.raises(ValueError, match="must be static") as caught:
        trained()
    assert any("keras.Input((None,), batch_size=32)" in note for note in caught.value.__notes__)
    assert trained(keras.Input((3, 1), batch_size=8)) > 0
