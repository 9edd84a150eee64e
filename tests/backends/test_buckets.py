"""Training on batches of a few lengths: the same bits however they are fed, and the same numbers as without."""

from __future__ import annotations

import json
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from experimentator import (
    Buckets,
    Callback,
    CheckpointEvery,
    FindLearningRate,
    GatherCycleMetrics,
    Mode,
    NonFiniteLossError,
    ResumeError,
    Subset,
    TerminateOnNaN,
    build_experiment,
    chunk_processor,
    ops,
)
from experimentator.records.predictions import Predictions
from experimentator.saving.manifest import numbered

SIZES = [4, 12]
RANDOM = np.random.default_rng(3)
LENGTHS = RANDOM.integers(1, 13, 90)
WORDS = [RANDOM.integers(1, 10, length).astype(np.int32) for length in LENGTHS]
ITEMS = {f"w{n}": {"letters": word, "target": np.int32(word.mean() > 5)} for n, word in enumerate(WORDS)}


def built(sizes: Any = SIZES, batch_sizes: Any = None, **settings: Any) -> Any:
    """A bag of letters, masked, and two linear layers."""
    keys, buckets = list(ITEMS), Buckets({"letters": sizes}, batch_sizes=batch_sizes)
    subsets = [
        Subset("training", Mode.TRAIN, ITEMS, keys[:70], buckets=buckets),
        Subset("validation", Mode.EVAL, ITEMS, keys[70:], buckets=buckets),
    ]
    network = keras.Sequential(
        [
            layers.Embedding(10, 4, mask_zero=True, embeddings_initializer=keras.initializers.RandomNormal(seed=1)),
            layers.GlobalAveragePooling1D(),
            layers.Dense(2, kernel_initializer=keras.initializers.GlorotUniform(seed=2)),
        ]
    )
    processors = [
        ops.Model(network, inputs="batch_letters", outputs="batch_logits"),
        ops.SoftmaxCrossEntropy("batch_logits", "batch_target"),
        ops.Accuracy("batch_logits", "batch_target"),
    ]
    return build_experiment(
        {
            "subsets": subsets,
            "chunk_processors": processors,
            "optimizer": keras.optimizers.Adam(0.05),
            "batch_size": 4,
            "seed": 5,
            "hide_progress": True,
            "jit_compile": "auto" if keras.backend.backend() == "jax" else False,  # which bits no measuring changes
            **settings,
        }
    )


def doubled() -> Any:
    """A processor whose output is as long as its input."""
    return chunk_processor(inputs=["batch_letters"], outputs=["batch_doubled"])(lambda letters: 2 * letters)


def bits(exp: Any) -> dict[str, bytes]:
    return {name: np.asarray(values).tobytes() for name, values in exp.backend.weights().items()}


@pytest.fixture(scope="module")
def reference() -> Any:
    exp = built()
    exp.train(3)
    return exp


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"steps_per_call": 1}, marks=pytest.mark.tensorflow),
        {"steps_per_call": 3},
        {"residency": "stream"},
        pytest.param({"residency": "stream", "workers": 1}, marks=pytest.mark.tensorflow),
    ],
    ids=str,
)
def test_how_they_are_fed_changes_no_bit(reference, settings):
    exp = built(**settings)
    exp.train(3)

    assert bits(exp) == bits(reference)
    assert [row | {"epoch_time": 0} for row in exp.history] == [row | {"epoch_time": 0} for row in reference.history]


def test_each_bucket_may_have_a_batch_size_of_its_own_and_averages_know(tmp_path):
    own, one = built(batch_sizes=[9, 3]), built()
    own.train(2)
    own.save_weights(tmp_path / "weights")
    one.load_weights(tmp_path / "weights")

    assert own.evaluate() == pytest.approx(one.evaluate(), rel=1e-5)
    assert own.batch_size == 4
    assert 70 // 9 < own.program.counts()["training"]["batches"] / 2 < 70 // 3


def test_it_learns_and_compiles_for_each_length_once(reference, caplog):
    assert reference.history[-1]["training_loss"] < 0.8 * reference.history[0]["training_loss"]
    assert "Traced again" not in caplog.text
    exp = built(steps_per_call=2)
    exp.train(2)
    traces = exp.program.counts()["training"]["traces"]
    exp.train(5)

    assert exp.program.counts()["training"]["traces"] == traces <= 2 * len(SIZES)
    assert exp.program.counts()["training"]["batches"] == 5 * (70 // 4)


def test_what_it_computes_is_what_it_does_without(reference, tmp_path):
    whole = built(sizes=[12])
    reference.save_weights(tmp_path / "weights")
    whole.load_weights(tmp_path / "weights")

    assert whole.evaluate() == pytest.approx(reference.evaluate(), rel=1e-5)


@pytest.mark.tensorflow
def test_uncompiled_it_is_the_same_to_the_last_bits(reference):
    exp = built(eager=True)
    exp.train(3)
    for name, values in reference.backend.weights().items():
        np.testing.assert_allclose(exp.backend.weights()[name], values, rtol=2e-4, atol=1e-5)


def test_resumed_within_an_epoch_it_is_the_same_in_every_bit(tmp_path):
    def saved(name):
        exp = built(output_folder=str(tmp_path), project_name="p", experiment_id=name, steps_per_call=1)
        exp.callbacks.append(CheckpointEvery(seconds=1e-9, keep=1000))
        return exp

    whole = saved("whole")
    whole.train(2)
    folders = numbered(whole.folder / "checkpoints")
    steps = {json.loads((folder / "MANIFEST.json").read_text())["step"]: folder for folder in folders}
    again = saved("again")
    again.resume(steps[17 + 9])
    again.train(2)

    assert bits(again) == bits(whole)
    other = built([6, 12], output_folder=str(tmp_path), project_name="p", experiment_id="other")
    with pytest.raises(ResumeError, match=r"training \(subsets\): was .*buckets of letters 4, 12.*, is .*6, 12"):
        other.resume(steps[17 + 9])
    for changed in (Buckets({"letters": SIZES}, fill=9), Buckets({"letters": SIZES}, by=len)):
        other = built(output_folder=str(tmp_path), project_name="p", experiment_id="filled")
        other.subset("training").buckets = changed
        with pytest.raises(ResumeError, match=r"is .*letters 4, 12; (letters filled with 9|by len)"):
            other.resume(steps[17 + 9])


@pytest.mark.tensorflow
def test_predictions_are_in_the_order_of_keys_and_what_varies_has_zeros_behind_it():
    exp = built(outputs=["batch_doubled"])
    exp.chunk_processors.append(doubled())
    found = Predictions.of(exp, exp.subset("validation"))
    lengths = [len(ITEMS[key]["letters"]) for key in found.keys]

    assert found.keys == list(ITEMS)[70:]
    longest = next(size for size in SIZES if size >= max(lengths))
    assert found.outputs["batch_doubled"].shape == (20, longest)
    for key, values, length in zip(found.keys, found.outputs["batch_doubled"], lengths, strict=True):
        assert values.tolist() == [*(2 * ITEMS[key]["letters"]).tolist(), *[0] * (longest - length)]


@pytest.mark.tensorflow
def test_a_named_output_is_the_number_that_it_is_unnamed_and_rows_keep_their_order():
    """A network that minds what it is padded with, and keys that are visited twice."""

    @chunk_processor(inputs=["batch_letters"], outputs=["batch_mean"])
    def mean(letters):
        return keras.ops.mean(keras.ops.cast(letters, "float32"), axis=1)

    exp, plain = built(), built()
    for one, buckets in ((exp, Buckets({"letters": SIZES})), (plain, Buckets({"letters": [12]}))):
        one.chunk_processors.append(mean)
        one.subset("validation").repetitions = 2
        one.subset("validation").buckets = buckets
        one.outputs = ["batch_mean", "batch_target"]
    found, named = (Predictions.of(exp, exp.subset("validation"), outputs) for outputs in ((), ["batch_mean"]))

    assert found.keys == named.keys == 2 * list(ITEMS)[70:]
    np.testing.assert_array_equal(found.outputs["batch_mean"], named.outputs["batch_mean"])
    whole = Predictions.of(plain, plain.subset("validation")).outputs["batch_mean"]
    assert whole.shape == (40,)
    assert not np.allclose(found.outputs["batch_mean"], whole)


@pytest.mark.parametrize("residency", ["host", pytest.param("stream", marks=pytest.mark.tensorflow)])
def test_predictions_from_within_a_pass_disturb_nothing(residency, reference):
    class Looks(Callback):
        def init(self, exp):
            self.exp, self.seen = exp, []

        def on_batch_end(self, batch, cycle_name, **_):
            if cycle_name == "training" and batch % 5 == 2:
                self.seen.append(len(self.exp.predict("training")["batch_logits"]))

    looks = Looks()
    exp = built(residency=residency, callbacks=[looks], steps_per_call=2)
    exp.train(3)

    assert set(looks.seen) == {70}
    assert bits(exp) == bits(reference)


def test_buckets_that_are_called_alike_have_steps_of_their_own(caplog):
    items = [{"a": np.ones(2, "float32"), "b": np.ones(n, "float32"), "c": np.ones(4, "float32")} for n in (2, 4) * 8]
    total = chunk_processor(inputs=["batch_a", "batch_b", "batch_c"], outputs=["loss"])
    subset = Subset("s", Mode.EVAL, items, buckets={"a": [2, 2], "b": [2, 4], "c": [4, 4]})
    exp = build_experiment({"subsets": [subset], "hide_progress": True, "batch_size": 4, "chunk_processors": [
        total(lambda *parts: sum(keras.ops.sum(part) for part in parts))]})  # fmt: skip

    assert exp.evaluate() == {"s_loss": 4 * (2 + 3 + 4)}
    assert sorted(exp.compilers) == ["s (2, 2, 4)", "s (2, 4, 4)"]
    assert "Traced again" not in caplog.text


@pytest.mark.tensorflow
def test_gathered_outputs_of_several_lengths_come_together():
    gather = GatherCycleMetrics(["batch_doubled"], when=Mode.EVAL)
    exp = built(callbacks=[gather])
    exp.chunk_processors.append(doubled())
    exp.evaluate()

    found = gather.cycles["validation"]
    assert found["batch_doubled"].shape[0] == 20
    for key, values in zip(found["keys"], found["batch_doubled"], strict=True):
        assert values[values > 0].tolist() == (2 * ITEMS[key]["letters"]).tolist()


def test_a_rate_is_searched_over_all_lengths_and_leaves_no_trace():
    exp, search = built(), FindLearningRate(batches=30)
    exp.program.build()
    before = bits(exp)
    search.init(exp)
    search.find(exp)

    assert len(search.rates) > 20
    assert bits(exp) == before


@pytest.mark.tensorflow
def test_a_loss_that_is_not_finite_is_traced_to_its_processor():
    @chunk_processor(inputs=["batch_logits", "batch_letters"], outputs=["batch_logits"])
    def spoilt(logits, letters):
        return logits + keras.ops.where(letters.shape[1] == SIZES[0], np.float32("nan"), 0.0)

    exp = built(callbacks=[TerminateOnNaN()])
    exp.chunk_processors.insert(1, spoilt)
    with pytest.raises(NonFiniteLossError, match="'batch_logits' holds NaN or infinity first, made by #1 spoilt"):
        exp.train(1)


@pytest.mark.tensorflow
def test_the_bucket_with_most_of_the_work_chooses_the_compiler_for_all():
    class Once(Callback):
        def on_epoch_end(self, epoch, state, **_):
            state["stop"] = "one epoch is enough" if epoch >= 2 else None

    exp = built(jit_compile="auto", callbacks=[Once()])
    exp.train(50_000)  # so many that a trial is worth it on any machine
    runners = [runner for runner in exp.program.runners.values() if runner.name == "training"]

    assert [runner.bucket for runner in runners if runner.step.timings] == ["12"]
    assert all(runner.step.is_settled for runner in runners)
    assert len({runner.step.compiler for runner in runners}) == 1
