"""The bench: what it measures adds up, and its verdict names the bottleneck that was planted."""

from __future__ import annotations

import json
import time
from ast import literal_eval
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from experimentator import Callback, Mode, Subset, build_experiment, chunk_processor, ops
from experimentator.bench.costs import Costs, costs_of, sample_of, with_costs_of
from experimentator.bench.faces import as_text
from experimentator.bench.hands import compiler_of, evaluating, hands_of
from experimentator.bench.report import measured
from experimentator.bench.rivals import rivals_of
from experimentator.bench.trainer import Trainer
from tests.frameworks import COMPILERS, NAME, ON_JAX

LONG = 100_000  # epochs over which compilation does not count


class Slow:
    """Items that take a loop in Python to make."""

    keys = range(32)

    def query_item(self, key: int) -> dict[str, Any]:
        total = sum(number * number % 7 for number in range(40_000))
        return {"input": np.full(8, total % 3 + key % 2, np.float32), "target": np.int32(key % 2)}


class Busy(Callback):
    """Looks at every batch for too long."""

    def on_batch_end(self, loss: float, **_: Any) -> None:
        self.seen = sum(number * number % 7 for number in range(40_000))


class Before(Callback):
    """Acts before every batch, and does nothing."""

    def on_batch_begin(self, **_: Any) -> None: ...


@chunk_processor(inputs=["batch_input"], outputs=["batch_input"])
def corner(batch_input):
    return keras.ops.cast(batch_input[:, 0, :8, 0], "float32")


def small(count: int = 256) -> dict[str, np.ndarray]:
    rows = np.arange(count)
    return {
        "input": np.random.default_rng(0).normal(size=(count, 8)).astype("float32"),
        "target": (rows % 2).astype("int32"),
    }


def large() -> dict[str, np.ndarray]:
    images = np.random.default_rng(0).integers(0, 256, (48, 128, 128, 3)).astype("float64")
    return {"input": images, "target": np.arange(48, dtype=np.int32) % 2}


def planted(dataset: Any, *first: Any, network: Any = None, **changes: Any) -> Any:
    keras.utils.set_random_seed(0)
    return build_experiment(
        {
            "subsets": [Subset("training", Mode.TRAIN, dataset)],
            "batch_size": 16,
            "chunk_processors": [
                *first,
                ops.Model(network or layers.Dense(2), inputs="batch_input", outputs="batch_logits"),
                ops.SoftmaxCrossEntropy("batch_logits", "batch_target"),
            ],
            "optimizer": keras.optimizers.SGD(1e-4),
            "jit_compile": False,
            **changes,
        }
    )


def two_by_two() -> Any:
    network = keras.Sequential([layers.Dense(256, activation="relu"), layers.Dense(256), layers.Dense(2)])
    return planted(small(4096), network=network, batch_size=2, jit_compile=True, optimizer=keras.optimizers.Adam(1e-4))


def wide(width: int = 1024, depth: int = 3) -> Any:
    return keras.Sequential([*(layers.Dense(width, activation="tanh") for _ in range(depth)), layers.Dense(2)])


def deep() -> Any:
    return planted(small(), network=wide(32, 8), jit_compile=True)


def large_items() -> Any:  # with XLA, which gathers the corner alone: else that would help, too
    return planted(large(), corner, residency="host", jit_compile=True)


def evaluated(validation: Any) -> Any:
    subsets = [Subset("training", Mode.TRAIN, small()), Subset("validation", Mode.EVAL, validation)]
    return planted(small(), subsets=subsets)


BOTTLENECKS = {
    "slow items": (lambda: planted(Slow()), LONG, "data", "residency='host'"),
    "slow callback": (lambda: planted(small(), callbacks=[Busy()]), LONG, "callbacks", "Busy.on_batch_end"),
    "a callback that acts first": (lambda: planted(small(), callbacks=[Before()]), LONG, "calls", "before every batch"),
    "a batch of two": (two_by_two, LONG, "batch", "batch_size=4"),
    "short epochs": (lambda: planted(small(16), jit_compile=True), LONG, "epochs", "repetitions=10"),
    "slow items to evaluate": (lambda: evaluated(Slow()), LONG, "data", "most of it to evaluate: set residency='host'"),
    "large items": (large_items, LONG, "bytes", "as uint8, an eighth of"),
}  # fmt: skip
if not ON_JAX:  # which cannot do without XLA
    BOTTLENECKS["a short training"] = (deep, 1, "compile", "jit_compile=False")


@pytest.fixture
def without_costs(monkeypatch):
    """What single processors cost takes long to find, and says nothing of what else the time is needed for."""
    nothing = Costs("train", "none", 16, step=1.0, rows=0.0, processors=(), rounds=5)
    monkeypatch.setattr("experimentator.bench.report.costs_of", lambda *_, **__: nothing)


@pytest.mark.usefixtures("without_costs")
@pytest.mark.parametrize("plant", BOTTLENECKS)
def test_the_verdict_names_the_bottleneck_and_what_to_write(plant):
    build, epochs, kind, words = BOTTLENECKS[plant]

    for _ in range(3):  # other work on this machine may spoil one measurement
        report = measured(build(), epochs, seconds=1, against=None, told=lambda _: None)
        if report["verdict"]["kind"] == kind:
            break

    assert report["verdict"]["kind"] == kind, report["verdict"]
    assert words in report["verdict"]["words"]
    json.dumps(report)


def test_a_large_network_is_what_the_time_is_needed_for_once_the_quicker_compiler_runs_it():
    exp = planted(small(2048), network=wide(), batch_size=512)

    for _ in range(5):  # which compiler is the quicker depends on the machine, and other work may spoil a measurement
        found = measured(exp, LONG, seconds=1, against=None, told=lambda _: None)["verdict"]
        if found["kind"] == "device":
            break
        if found["kind"] == "compiler":
            exp.jit_compile = literal_eval(found["words"].rpartition("jit_compile=")[2].rstrip("."))

    assert found["kind"] == "device", found
    assert "Model is" in found["words"]


@pytest.mark.usefixtures("without_costs")
def test_keras_fit_trains_the_same_graph_beside_it():
    report = measured(planted(small()), LONG, seconds=1, against="keras", told=lambda _: None)

    assert (
        list(report["keras"])
        == {
            "tensorflow": ["default", "50 steps per execution", "XLA, 50 steps per execution"],
            "jax": ["default", "XLA, 50 steps per execution"],
            "torch": ["default"],
        }[NAME]
    )
    assert all(rival["ratio"]["median"] > 1 for rival in report["keras"].values())


def test_keras_fit_changes_the_weights_as_a_training_does():
    exp = planted(small())
    exp.train(1)
    before = exp.backend.weights()
    data = {name: exp.batch("training", 64)[name] for name in exp.graph("train").inputs}

    exp.backend.fitted(exp.graph("train"), exp.optimizer, data, 16)(4)

    after = exp.backend.weights()
    assert all(not np.array_equal(before[key], after[key]) for key in before)
    assert int(exp.optimizer.iterations) == 256 // 16 + 4


@pytest.mark.parametrize(
    "first, is_passed_on",
    [
        (ops.Model(layers.Dense(8), inputs="batch_input", outputs="batch_input"), True),
        (ops.Scale("batch_input"), False),
    ],
)
def test_the_gradient_of_what_a_processor_reads_is_a_cost_of_its_own(first, is_passed_on):
    traced = []

    @keras.ops.custom_gradient
    def noting(value):
        def backward(*args, upstream=None):
            traced.append(value)
            return args[0] if upstream is None else upstream

        return value * 1.0, backward

    middle = chunk_processor(inputs=["batch_input"], outputs=["batch_input"])(lambda batch_input: noting(batch_input))
    exp = planted(small(), first, middle)
    exp.train(1)
    traced.clear()
    graph = exp.graph("train")

    run = exp.backend.by_hand(graph, exp.optimizer, compiler=compiler_of(exp), detach=1)
    run(*sample_of(exp, graph), 1)

    assert bool(traced) == is_passed_on


def test_processors_that_hand_on_what_is_no_dense_tensor_are_measured_together():
    @chunk_processor(inputs=["batch_input"], outputs=["parts"], node="Parting")
    def part(batch_input):
        return [{"halves": (batch_input[:, :4], batch_input[:, 4:]), "none": None, "factor": 2.0}]

    @chunk_processor(inputs=["parts"], outputs=["batch_input"], node="Joining")
    def join(parts):
        return parts[0]["factor"] * keras.ops.concatenate(parts[0]["halves"], axis=1)

    exp = planted(small(), ops.Model(layers.Dense(8), inputs="batch_input", outputs="batch_input"), part, join)
    exp.train(1)
    graph = exp.graph("train")

    costs = costs_of(exp, graph, sample_of(exp, graph), compiler=compiler_of(exp), seconds=0.5)

    assert [cost.names for cost in costs.processors][:3] == [("Model",), ("Parting", "Joining"), ("Model#2",)]


def test_measuring_leaves_the_weights_of_before_the_measurement_of_others():
    exp = planted(small(), jit_compile=False)
    exp.train(1)
    before = exp.backend.weights()

    with_costs_of(exp, exp.describe("train"), (), lambda _: None, seconds=0.2)

    assert all(np.array_equal(value, exp.backend.weights()[key]) for key, value in before.items())


def test_items_that_are_streamed_reach_keras_too():
    exp = planted(Slow(), jit_compile=False)
    trainer = Trainer(exp, 1)
    trainer.warm_up(0.5)

    (plain, *_) = rivals_of(exp, trainer)

    plain.round()
    assert plain.seconds[-1] > 0


def test_rounds_do_not_add_up_to_a_training_for_which_another_compiler_would_pay(monkeypatch):
    exp = planted(small())
    trainer = Trainer(exp, 2)
    trainer.warm_up(0.5)
    (runner,) = (one for one in exp.program.runners.values() if one.name == "training")
    weighed = []
    choose = runner.step.choose

    def noted(columns: Any, index: Any, *, remaining: int) -> None:
        weighed.append(runner.step.batches + remaining)
        choose(columns, index, remaining=remaining)

    monkeypatch.setattr(runner.step, "choose", noted)
    for _ in range(3):
        trainer.round(0.2)

    assert len(weighed) > 3
    assert max(weighed) <= 2 * trainer.steps


@pytest.mark.tensorflow
def test_a_graph_that_xla_refuses_is_measured_without_it():
    import tensorflow as tf

    strings = chunk_processor(inputs=["batch_input"], outputs=["batch_input"])(
        lambda batch_input: tf.strings.to_number(tf.strings.as_string(batch_input))
    )
    report = measured(planted(small(), strings), 1, seconds=1, against=None, told=lambda _: None)

    assert "xla" not in report["by_hand"]
    assert "AsString of chunk processor #0" in report["refused"]["xla"]
    assert report["compiler"] == "graph"


@pytest.mark.tensorflow
@pytest.mark.parametrize("mode, is_kept", [("EVAL", False), ("INFER", True)])
def test_a_quicker_compiler_that_cannot_run_evaluation_is_not_advised(mode, is_kept):
    import tensorflow as tf

    strings = chunk_processor(inputs=["batch_input"], outputs=["batch_input"], mode=mode)(
        lambda batch_input: tf.strings.to_number(tf.strings.as_string(batch_input))
    )
    subsets = [Subset("training", Mode.TRAIN, small()), Subset("validation", Mode.EVAL, small())]
    trainer, refused = Trainer(planted(small(), strings, subsets=subsets), 1), dict[str, str]()
    trainer.warm_up(0)
    hands = list(hands_of(trainer.exp, trainer.ledger.block, refused))
    for hand in hands:
        hand.seconds = [1e-3 if hand.name == "xla" else 1.0]  # so that it is advised, whatever this machine prefers

    kept = [hand.name for hand in evaluating(trainer.exp, hands, refused)]

    assert kept == ["graph", *["xla"] * is_kept, "xla-step", "twice the batch"]
    assert is_kept or refused["xla"].startswith("in EVAL, operation AsString of chunk processor #0")


def test_a_graph_that_takes_batches_of_one_size_is_measured_in_that_one():
    columns = small()
    kept = keras.Variable(np.zeros((16, *columns["input"].shape[1:]), np.float32), trainable=False)

    def remember(chunk):
        chunk["batch_input"] = chunk["batch_input"] + 0 * kept
        kept.assign(chunk["batch_input"])

    report = measured(planted(columns, remember), 1, seconds=1, against=None, told=lambda _: None)

    assert "twice the batch" not in report["by_hand"]
    assert "32" in report["refused"]["twice the batch"]
    assert "twice the batch, cannot run" in as_text(report)


def test_what_depends_on_data_alone_is_run_in_every_step_of_a_loop_by_hand():
    dear = chunk_processor(inputs=["batch_input"], outputs=["batch_input"])(
        lambda batch_input: batch_input + 1e-9 * keras.ops.sum(_power(keras.ops.tile(batch_input, (16, 40))))
    )
    exp = planted(small(), dear)
    exp.train(1)
    run = exp.backend.by_hand(exp.graph("train"), exp.optimizer, compiler=next(iter(COMPILERS)))
    columns = {name: exp.batch("training", 32)[name] for name in exp.graph("train").inputs}

    def seconds(rows: np.ndarray) -> float:
        run(columns, rows, 1)
        start = time.perf_counter()
        run(columns, rows, 30)
        return time.perf_counter() - start

    assert seconds(np.arange(16)[None]) > 0.4 * seconds(np.arange(32).reshape(2, 16))


def _power(matrix: Any) -> Any:
    for _ in range(6):
        matrix = keras.ops.tanh(matrix @ keras.ops.transpose(matrix) @ matrix * 1e-3)
    return matrix


@pytest.mark.parametrize("changes", [{"precision": "float16", "batch_size": 512}, {"eager": True}])
def test_other_ways_to_train_are_measured_too(changes):
    report = measured(planted(small(), **changes), LONG, seconds=0.5, against=None, told=lambda _: None)

    assert (report["verdict"]["kind"] == "eager") == ("eager" in changes)
    costs = report["costs"]
    added = costs["rows"] + sum(cost["forward"] + cost["backward"] for cost in costs["processors"])
    assert added == pytest.approx(costs["step"])
    assert min(cost[part] for cost in costs["processors"] for part in ("forward", "backward")) >= 0
    assert sum(report["time"]["whole"].values()) > 0
