"""Several optimizers in one: whose weights each updates, by which loss, with callbacks and checkpoints."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import layers
from keras.optimizers import SGD, Adam, AdamW

from experimentator import (
    ConfigError,
    ExponentialMovingAverage,
    FindLearningRate,
    Freeze,
    GraphError,
    LearningRateWarmUp,
    Mode,
    Optimizers,
    ResumeError,
    SaveLearningRate,
    Subset,
    WeightsError,
    build_experiment,
    chunk_processor,
    ops,
)
from tests.frameworks import COMPILERS, compilers, one_elsewhere, quick_compilers

RANDOM = np.random.default_rng(5)
X = RANDOM.normal(size=(48, 1)).astype(np.float32)
Y = (1.5 * X + 0.3 * RANDOM.normal(size=X.shape)).astype(np.float32)
LEFT, RIGHT = "Left/0/kernel", "Right/0/kernel"
BATCH = 4
OWN_LOSSES = {"Left": "left_loss", "Right": "right_loss"}


@chunk_processor(inputs=["batch_scaled", "batch_target"], outputs=["left_loss", "right_loss", "loss"])
def losses(scaled, target):
    scaled = keras.ops.cast(scaled, "float32")
    left, right = keras.ops.mean((scaled - target) ** 2), keras.ops.mean(scaled**2)
    return left, right, left + right


def factor(node: str, source: str, output: str, **options: Any) -> ops.Model:
    """A processor that multiplies by a number, which starts at one half."""
    dense = layers.Dense(1, use_bias=False, kernel_initializer=keras.initializers.Constant(0.5), **options)
    return ops.Model(dense, inputs=source, outputs=output, node=node)


def built(optimizer: Any, **overrides: Any) -> Any:
    config = {
        "subsets": [Subset("training", Mode.TRAIN, {"input": X, "target": Y})],
        "chunk_processors": [
            factor("Left", "batch_input", "batch_half"), factor("Right", "batch_half", "batch_scaled"), losses,
        ],
        "optimizer": optimizer,
        "batch_size": BATCH,
        "hide_progress": True,
    }  # fmt: skip
    return build_experiment(config | overrides)


def values(exp: Any) -> tuple[float, float]:
    weights = exp.backend.weights()
    return weights[LEFT].item(), weights[RIGHT].item()


def by_hand(
    exp: Any, rates: Any, *, epochs: int, own: bool, turns: int = 1, last: bool = False, momentum: float = 0.0
) -> tuple[float, float]:
    """Both factors after so many epochs of gradient descent, in numpy; `rates` of the batches that were done.

    The right one moves every `turns` batches, by its mean gradient in them, or by that of the last of them.
    """
    gradients: list[float] = []
    left = right = 0.5
    velocity = 0.0
    done = 0
    (subset,) = exp.subsets
    for epoch in range(epochs):
        subset.seed, subset.epoch = 0, epoch
        keys = list(subset.shuffled_keys())
        for start in range(0, len(keys) - BATCH + 1, BATCH):
            x, y = X[keys[start : start + BATCH]].astype(float), Y[keys[start : start + BATCH]].astype(float)
            error, scaled = 2 * (left * right * x - y), 2 * left * right * x
            to_left, to_right = (error, scaled) if own else (error + scaled, error + scaled)
            of_left, of_right = rates(done)
            gradients.append(np.mean(to_right * left * x))
            left = left - of_left * np.mean(to_left * right * x)
            done += 1
            if done % turns == 0:
                velocity = momentum * velocity - of_right * (gradients[-1] if last else np.mean(gradients))
                right, gradients = right + velocity, []
    return left, right


@quick_compilers
def test_each_weight_has_the_rate_of_the_first_pattern_that_names_it(jit):
    exp = built(Optimizers({"Left": SGD(0.01), "*": SGD(0.05)}), jit_compile=jit)
    exp.train(2)

    assert values(exp) == pytest.approx(by_hand(exp, lambda _: (0.01, 0.05), epochs=2, own=False), rel=1e-5)


@quick_compilers
def test_each_minimises_its_own_loss_in_one_step(jit):
    exp = built(Optimizers({"Left": SGD(0.05), "Right": SGD(0.02)}, losses=OWN_LOSSES), jit_compile=jit)
    exp.train(2)

    assert values(exp) == pytest.approx(by_hand(exp, lambda _: (0.05, 0.02), epochs=2, own=True), rel=1e-5)


@quick_compilers
def test_one_may_update_once_for_several_of_the_other(jit):
    slow = SGD(0.02, gradient_accumulation_steps=4)
    exp = built(Optimizers({"Left": SGD(0.05), "Right": slow}, losses=OWN_LOSSES), jit_compile=jit)
    exp.train(2)

    wanted = by_hand(exp, lambda _: (0.05, 0.02), epochs=2, own=True, turns=4)
    assert values(exp) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("jit, eager", [*((jit, False) for jit in COMPILERS.values()), (False, True)])
def test_one_may_act_in_some_batches_alone_and_keeps_its_state_between(jit, eager):
    now_and_then = SGD(0.02, momentum=0.9)
    optimizer = Optimizers({"Left": SGD(0.05), "Right": now_and_then}, losses=OWN_LOSSES, every={"Right": 5})
    exp = built(optimizer, jit_compile=jit, eager=eager)
    exp.train(2)

    wanted = by_hand(exp, lambda _: (0.05, 0.02), epochs=2, own=True, turns=5, last=True, momentum=0.9)
    assert values(exp) == pytest.approx(wanted, rel=1e-5)
    assert (int(now_and_then.iterations), int(optimizer["Left"].iterations)) == (24 // 5, 24)


@quick_compilers
def test_one_that_acts_in_some_batches_has_the_rate_of_the_batch_at_hand(jit):
    parts = {"Left": SGD(0.05), "Right": SGD(0.02)}
    optimizer = Optimizers(parts, losses=OWN_LOSSES, every={"Right": 5})
    exp = built(optimizer, jit_compile=jit, callbacks=[LearningRateWarmUp(2, initial=0.0)])
    exp.train(2)  # of 12 batches each

    wanted = by_hand(exp, lambda done: (0.05 * done / 24, 0.02 * done / 24), epochs=2, own=True, turns=5, last=True)
    assert values(exp) == pytest.approx(wanted, rel=1e-5)


@quick_compilers
def test_one_that_accumulates_has_the_rate_of_the_batch_in_which_it_updates(jit):
    optimizer = Optimizers({"Left": SGD(0.05), "Right": SGD(0.02, gradient_accumulation_steps=5)}, losses=OWN_LOSSES)
    exp = built(optimizer, jit_compile=jit, callbacks=[LearningRateWarmUp(2, initial=0.0)])
    exp.train(2)  # of 12 batches each: the third update is of gradients from both

    wanted = by_hand(exp, lambda done: (0.05 * done / 24, 0.02 * done / 24), epochs=2, own=True, turns=5)
    assert values(exp) == pytest.approx(wanted, rel=1e-5)


def average_by_hand(exp: Any) -> float:
    """Of the right factor over 12 batches, in the 6th and the 12th of which it moves; half of it is the last weight."""
    first = by_hand(exp, lambda done: (0.0, 0.02 * (done < 6)), epochs=1, own=True, turns=6, last=True)[1]
    second = by_hand(exp, lambda _: (0.0, 0.02), epochs=1, own=True, turns=6, last=True)[1]
    average = 0.5
    for weight in [0.5] * 5 + [first] * 6 + [second]:
        average = 0.5 * average + 0.5 * weight
    return average


@quick_compilers
def test_averages_of_one_that_acts_in_some_batches_take_in_every_batch(jit):
    parts = {"Left": SGD(0.0), "Right": SGD(0.02)}
    averaging = ExponentialMovingAverage(0.5)
    exp = built(Optimizers(parts, losses=OWN_LOSSES, every={"Right": 6}), jit_compile=jit, callbacks=[averaging])
    exp.train(1)  # of 12 batches

    with averaging.averaged():
        assert values(exp)[1] == pytest.approx(average_by_hand(exp), rel=1e-5)


@quick_compilers
def test_weights_of_one_that_acts_in_some_batches_become_their_averages_every_so_many_updates(jit):
    averaged = SGD(0.02, use_ema=True, ema_momentum=0.5, ema_overwrite_frequency=2)
    parts = {"Left": SGD(0.0), "Right": averaged}
    exp = built(Optimizers(parts, losses=OWN_LOSSES, every={"Right": 6}), jit_compile=jit)
    exp.train(1)  # of 12 batches

    assert values(exp)[1] == pytest.approx(average_by_hand(exp), rel=1e-5)


def test_uncompiled_it_is_the_same():
    exp = built(Optimizers({"Left": SGD(0.05), "Right": SGD(0.02)}, losses=OWN_LOSSES), eager=True)
    exp.train(1)

    assert values(exp) == pytest.approx(by_hand(exp, lambda _: (0.05, 0.02), epochs=1, own=True), rel=1e-5)


@compilers
def test_two_alike_are_as_one_to_the_last_bit(jit):
    two = built(Optimizers({"Left": Adam(0.01), "*": Adam(0.01)}), jit_compile=jit)
    one = built(Adam(0.01), jit_compile=jit)

    assert [row["training_loss"] for row in two.train(3)] == [row["training_loss"] for row in one.train(3)]
    assert values(two) == values(one)


def test_a_weight_that_its_own_loss_does_not_reach_is_left_alone():
    exp = built(Optimizers({"*": AdamW(0.01, weight_decay=0.5)}, losses={"*": "other"}), chunk_processors=[
        factor("Left", "batch_input", "batch_half"), factor("Right", "batch_half", "batch_scaled"), losses,
        chunk_processor(inputs=["batch_half"], outputs=["other"])(lambda half: keras.ops.mean(half**2)),
    ])  # fmt: skip
    exp.train(2)

    assert values(exp)[1] == 0.5 != values(exp)[0]


def test_schedules_multiply_the_rate_of_each():
    optimizer = Optimizers({"Left": SGD(0.02), "*": SGD(0.1)})
    exp = built(optimizer, callbacks=[LearningRateWarmUp(1.5, initial=0.1), SaveLearningRate()])
    rows = exp.train(2)
    factors = 0.1 + 0.9 * np.minimum(np.arange(24) / 18, 1)
    wanted = by_hand(exp, lambda done: (0.02 * factors[done], 0.1 * factors[done]), epochs=2, own=False)

    assert values(exp) == pytest.approx(wanted, rel=1e-4)
    assert rows[-1]["learning_rate"] == pytest.approx(0.1)


def rates_of(optimizer: Any) -> list[float]:
    return [float(part.learning_rate) for part in optimizer.parts.values()]


def test_setting_the_rate_sets_the_last_and_keeps_the_proportions():
    optimizer = Optimizers({"Left": SGD(0.02), "*": SGD(0.1)})
    exp = built(optimizer)
    exp.set_learning_rate(0.05)
    assert rates_of(optimizer) == pytest.approx([0.01, 0.05])

    optimizer["Left"].learning_rate = 0.005
    exp.learning_rate = 0.0
    exp.learning_rate = 0.1
    assert rates_of(optimizer) == pytest.approx([0.01, 0.1])


@pytest.mark.parametrize("last", [0.1, 0.01])
def test_a_rate_of_the_configuration_that_one_of_them_was_made_with_changes_none(last, caplog):
    optimizer = Optimizers({"Left": SGD(0.1 * 0.01 / last), "*": SGD(last)})
    exp = built(optimizer, learning_rate=0.01 if last == 0.01 else 0.1)
    exp.train(1)

    assert rates_of(optimizer) == pytest.approx([0.1 * 0.01 / last, last])
    assert "replaces the optimizer" not in caplog.text


def test_a_rate_in_proportion_to_nothing_is_refused():
    exp = built(Optimizers({"Left": SGD(0.02), "*": SGD(0.0)}))
    with pytest.raises(ConfigError, match=r"cannot be written to the optimizer.\nSeen: the rate of the last .* is 0"):
        exp.learning_rate = 0.1


def test_a_rate_is_searched_for_all_and_put_back():
    search = FindLearningRate(low=1e-4, high=1.0, batches=20)
    exp = built(Optimizers({"Left": Adam(0.003), "*": Adam(0.05)}), callbacks=[LearningRateWarmUp(2)])
    exp.train(1)
    rates, before = rates_of(exp.optimizer), values(exp)
    search.find(exp)

    assert len(search.rates) > 5
    assert (rates_of(exp.optimizer), values(exp)) == (rates, before)


def test_frozen_weights_thaw_with_their_own_optimizer():
    exp = built(Optimizers({"Left": Adam(0.02), "*": Adam(0.1)}), callbacks=[Freeze("Left", epochs=1)])
    exp.train(1)
    assert values(exp)[0] == 0.5 != values(exp)[1]

    exp.train(2)
    assert values(exp)[0] != 0.5


def test_an_average_of_the_weights_is_kept_by_each():
    average = ExponentialMovingAverage(0.5)
    exp = built(Optimizers({"Left": SGD(0.01), "*": SGD(0.05)}), callbacks=[average], batch_size=len(X))
    seen = []
    for epoch in range(1, 4):  # of one batch
        exp.train(epoch)
        seen.append(np.array(values(exp)))
    wanted = seen[0]  # Keras begins its average with the first values
    for pair in seen[1:]:
        wanted = (wanted + pair) / 2

    with average.averaged():
        assert values(exp) == pytest.approx(tuple(wanted), rel=1e-5)
    assert values(exp) == tuple(seen[-1])


@pytest.mark.parametrize("kind", ["one", "several", "scaled"])
def test_weights_that_are_loaded_are_evaluated_with_though_an_average_is_kept(kind, tmp_path):
    average = ExponentialMovingAverage(0.9)
    optimizer = SGD(0.02) if kind == "one" else Optimizers({"Left": SGD(0.01), "*": SGD(0.05)})
    optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=2.0) if kind == "scaled" else optimizer
    exp = built(optimizer, callbacks=[average])
    exp.train(1)
    exp.save_weights(tmp_path / "w.safetensors")
    saved = values(exp)
    exp.train(3)
    with average.averaged():
        before = values(exp)
    exp.load_weights(tmp_path / "w.safetensors", only="Left")

    with average.averaged():
        assert values(exp) == (saved[0], before[1])
    exp.load_weights(tmp_path / "w.safetensors")
    with average.averaged():
        assert values(exp) == saved
    exp.train(4)


@pytest.mark.parametrize("scaled", [False, True])
def test_an_average_of_what_is_frozen_is_what_it_is(scaled):
    average = ExponentialMovingAverage(0.9)
    optimizer = Optimizers({"Left": SGD(0.01), "*": SGD(0.05)})
    optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=2.0) if scaled else optimizer
    exp = built(optimizer, callbacks=[average, Freeze("Left")])
    exp.train(2)

    with average.averaged():
        left, right = values(exp)
    assert left == 0.5
    assert right not in (0.5, values(exp)[1])


def test_half_precision_scales_both_losses():
    exp = built(Optimizers({"Left": SGD(0.05), "Right": SGD(0.02)}, losses=OWN_LOSSES), precision="float16")
    exp.train(1)

    assert values(exp) == pytest.approx(by_hand(exp, lambda _: (0.05, 0.02), epochs=1, own=True), rel=0.02)


def pair_of(left: float = 0.01) -> Optimizers:
    return Optimizers({"Left": Adam(left), "Right": AdamW(0.02)}, losses=OWN_LOSSES)


def test_a_training_is_resumed_to_the_same_bits(tmp_path):
    whole = built(pair_of(), output_folder=tmp_path / "whole", callbacks=[LearningRateWarmUp(2.5)])
    whole.train(4)
    begun = built(pair_of(), output_folder=tmp_path / "begun", callbacks=[LearningRateWarmUp(2.5)])
    begun.train(2)
    resumed = built(pair_of(), callbacks=[LearningRateWarmUp(2.5)])
    resumed.resume(begun.folder)
    resumed.train(4)

    assert values(resumed) == values(whole)
    state, wanted = (exp.backend.optimizer_state(exp.optimizer) for exp in (resumed, whole))
    assert state.keys() == wanted.keys()
    assert sum("rates/" in key for key in state) == 6
    assert all(np.array_equal(state[key], wanted[key]) for key in state)


@pytest.mark.parametrize(
    "optimizer", [pytest.param(lambda: Adam(0.01), marks=pytest.mark.tensorflow), pair_of], ids=["one", "two"]
)
@pytest.mark.parametrize("place", [0, 100])
def test_processors_with_variables_that_join_between_trainings_may_join_before_a_resume(tmp_path, optimizer, place):
    def joined(exp):
        share = keras.Variable(1.0, trainable=False, name="share")
        scaled = chunk_processor(inputs=["loss"], outputs=["scaled"])(lambda loss: loss * share)
        mean = ops.KerasMetric(keras.metrics.Mean(name="mean"), "batch_scaled")
        exp.chunk_processors[place:place] = [scaled, mean]
        exp.metrics = ["scaled", "mean"]
        return exp

    whole = built(optimizer(), output_folder=tmp_path)
    whole.train(2)
    joined(whole).train(4)
    resumed = joined(built(optimizer()))
    resumed.resume(whole.folder)
    resumed.train(5)
    whole.train(5)

    assert values(resumed) == values(whole)
    state, wanted = (exp.backend.optimizer_state(exp.optimizer) for exp in (resumed, whole))
    assert state.keys() == wanted.keys()
    assert all(np.array_equal(state[key], wanted[key]) for key in state)


class Given(keras.optimizers.schedules.LearningRateSchedule):
    """The rate is a variable, which its owner sets, and that has the name of a table's."""

    def __init__(self, rate: float):
        self.factors = keras.Variable(rate, trainable=False)

    def __call__(self, step: Any) -> Any:
        return keras.ops.convert_to_tensor(self.factors)


def test_a_variable_that_a_schedule_reads_acts_once_it_is_changed_and_is_resumed(tmp_path):
    rate = Given(0.01)
    exp = built(SGD(rate), output_folder=tmp_path)
    exp.train(1)
    rate.factors.assign(0.0)
    before = values(exp)
    exp.train(2)
    resumed = built(SGD(Given(0.01)))
    resumed.resume(exp.folder)
    resumed.train(3)

    assert values(exp) == values(resumed) == before


def set_rate(exp, rate):
    exp.learning_rate = rate


def set_rate_of_optimizer(exp, rate):
    exp.optimizer.learning_rate = rate


@pytest.mark.parametrize("change", [set_rate, set_rate_of_optimizer])
@pytest.mark.parametrize("callbacks", [list, lambda: [LearningRateWarmUp(2.5)]])
@pytest.mark.parametrize("optimizer", [lambda: SGD(0.02), lambda: Optimizers({"Left": SGD(0.01), "*": SGD(0.02)})])
def test_a_rate_that_is_set_after_a_resume_is_trained_with(optimizer, callbacks, change, tmp_path):
    whole = built(optimizer(), callbacks=callbacks())
    whole.train(2)
    set_rate(whole, 0.03)
    whole.save_checkpoint(tmp_path)
    resumed = built(optimizer(), callbacks=callbacks())
    resumed.resume(tmp_path)
    for exp in (whole, resumed):
        change(exp, 0.005)
        exp.train(4)

    assert resumed.get_learning_rate() == pytest.approx(0.005)
    assert values(resumed) == values(whole)


@pytest.mark.parametrize("other", one_elsewhere(
    Adam,
    lambda rate: Optimizers({"Left": Adam(rate), "Right": AdamW(0.02)}),
    lambda rate: Optimizers({"Left": Adam(rate), "*": AdamW(0.02)}, losses={"Left": "left_loss"}),
    lambda rate: Optimizers({"Left": SGD(rate), "Right": AdamW(0.02)}, losses=OWN_LOSSES),
    lambda rate: Optimizers({"Left": Adam(rate), "Right": AdamW(0.02)}, losses=OWN_LOSSES, every={"Left": 5}),
))  # fmt: skip
def test_other_optimizers_do_not_go_on_with_a_training(tmp_path, other):
    begun = built(pair_of(), output_folder=tmp_path)
    begun.train(1)

    with pytest.raises(ResumeError, match="optimizer"):
        built(other(0.01)).resume(begun.folder)


def test_an_optimizer_within_another_is_compared_too(tmp_path):
    scaled = keras.optimizers.LossScaleOptimizer
    begun = built(scaled(SGD(0.01)), output_folder=tmp_path)
    begun.train(1)

    built(scaled(SGD(0.01))).resume(begun.folder)
    with pytest.raises(ResumeError, match=r"SGD\.clipnorm"):
        built(scaled(SGD(0.01, clipnorm=0.1))).resume(begun.folder)


def test_they_may_be_given_to_a_training_that_went_on_without(caplog):
    exp = built(SGD(0.01))
    exp.train(1)
    before = values(exp)
    exp.optimizer = Optimizers({"Left": SGD(0.0), "Right": SGD(0.05)}, losses=OWN_LOSSES)
    exp.train(2)

    assert values(exp)[0] == before[0]
    assert values(exp)[1] != before[1]


@pytest.mark.parametrize("parts, losses, told", [
    ({}, None, r"Optimizers\(\{\}\) cannot be used.\nSeen: dict.\nWrite Optimizers"),
    ([Adam()], None, "Seen: list"),
    ({"Left": "adamm"}, None, "'Left' has 'adamm', which is not a plain Keras optimizer"),
    ({"Left": Adam}, None, "'Left' has <class"),
    ({"Left": Optimizers({"*": Adam()})}, None, "not a plain Keras optimizer"),
    ({"Left": keras.optimizers.LossScaleOptimizer(Adam())}, None, "not a plain Keras optimizer"),
    ({"Left": Adam(loss_scale_factor=8.0)}, None, "not a plain Keras optimizer without loss_scale_factor"),
    ({"Left": Adam()}, {"Leftt": "left_loss"}, "by the same patterns"),
    ({"Left": Adam()}, "left_loss", "by the same patterns"),
])  # fmt: skip
def test_what_is_no_optimizer_is_refused_at_once(parts, losses, told):
    with pytest.raises(ValueError, match=told):
        Optimizers(parts, losses=losses)


@pytest.mark.parametrize("every", [{"Left": 0}, {"Left": 2.5}, {"Left": True}, {"Leftt": 2}, 5])
def test_what_is_no_number_of_batches_is_refused_at_once(every):
    with pytest.raises(
        ValueError, match=r"every=.* cannot be used.\nSeen: optimizers for 'Left'.\nGive numbers of batches"
    ):
        Optimizers({"Left": Adam()}, every=every)


def test_one_optimizer_under_two_patterns_has_one_rhythm():
    shared = Adam()

    assert Optimizers({"Left": shared, "Right": shared}, every={"Left": 5, "Right": 5}).every["Right"] == 5
    with pytest.raises(ValueError, match=r"Seen: one optimizer for both 'Left' and 'Right'.\nGive each an optimizer"):
        Optimizers({"Left": shared, "Right": shared}, every={"Left": 5})


@pytest.mark.parametrize("parts, losses, kind, told", [
    ({"Left": SGD(0.1)}, None, WeightsError, r'No optimizer updates Right/0/kernel.\nSeen: .*\nList "\*" last'),
    ({"Leftt": SGD(0.1), "*": SGD(0.1)}, None, WeightsError, "'Leftt' names no weights.*\n.*\nDid you mean 'Left/"),
    ({"*": SGD(0.1), "Left": SGD(0.1)}, None, WeightsError, "'Left' names no weight that .* before .*\nSeen: '\\*'"),
    ({"*": SGD(0.1)}, {"*": "lef_loss"}, GraphError, "'lef_loss'.*\n.*\nDid you mean 'left_loss'"),
    ({"*": SGD(0.1)}, {"*": "batch_half"}, GraphError, "'batch_half' must be one floating number"),
])  # fmt: skip
def test_what_does_not_fit_the_graph_is_told_before_anything_is_trained(parts, losses, kind, told):
    exp = built(Optimizers(parts, losses=losses))
    with pytest.raises(kind, match=told):
        exp.train(1)


def test_one_of_keras_that_has_no_rate_is_answered_with_ours():
    of_keras = keras.optimizers.MultiOptimizer(keras.optimizers.OptimizerMap(SGD(0.1)))
    with pytest.raises(ConfigError, match=r"experimentator\.Optimizers"):
        built(of_keras)


def test_new_processors_ask_for_new_optimizers():
    exp = built(Optimizers({"Left": SGD(0.01), "*": SGD(0.05)}))
    exp.train(1)
    exp.chunk_processors = [
        factor("Left", "batch_input", "batch_half"), factor("Right", "batch_half", "batch_scaled"), losses,
    ]  # fmt: skip
    with pytest.raises(ValueError, match=r"made for other weights.*\n.*\n.*= experimentator.Optimizers\("):
        exp.train(2)


class Lookahead(keras.optimizers.SGD):
    """Slow weights begin as the weights, and follow halfway."""

    def build(self, variables):
        super().build(variables)
        self.slow = self.add_optimizer_variables(variables, "slow")
        for slow, weight in zip(self.slow, variables, strict=True):
            slow.assign(weight)

    def update_step(self, gradient, variable, learning_rate):
        slow = self.slow[self._get_variable_index(variable)]
        super().update_step(gradient, variable, learning_rate)
        self.assign(slow, slow + 0.5 * (variable - slow))


def test_what_an_optimizer_keeps_may_begin_as_the_weights():
    exp = built(Lookahead(0.0))
    exp.train(1)

    assert [float(np.asarray(keras.ops.convert_to_numpy(slow)).item()) for slow in exp.optimizer.slow] == [0.5, 0.5]
