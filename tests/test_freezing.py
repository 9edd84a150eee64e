"""Weights that training leaves as they are."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from experimentator import CallbackError, ExponentialMovingAverage, Freeze, WeightsError, build_experiment, ops
from tests.test_experiment import config


def build(*callbacks: Any, **changes: Any) -> Any:
    """A trunk with weights, statistics and draws, and a head."""
    keras.utils.set_random_seed(1)
    body = [layers.Dense(8, activation="relu"), layers.BatchNormalization(), layers.Dropout(0.2), layers.Dense(4)]
    trunk = ops.Model(keras.Sequential(body), inputs="batch_input", outputs="batch_features", node="Trunk")
    head = ops.Model(layers.Dense(2), inputs="batch_features", outputs="batch_logits", node="Head")
    processors = [trunk, head, *config()["chunk_processors"][1:]]
    return build_experiment(config(callbacks=list(callbacks), chunk_processors=processors, **changes))


def moved(exp: Any, epochs: int) -> set[str]:
    """The keys of weights that training changes, seeds of random layers left out."""
    exp.program.prepare()
    before = {key: array.copy() for key, array in exp.backend.weights().items() if array.dtype.kind == "f"}
    exp.train(epochs)
    return {key for key, array in before.items() if array.tobytes() != exp.backend.weights()[key].tobytes()}


EVERYTHING = moved(build(), 1)
HEAD = {"Head/0/kernel", "Head/1/bias"}


@pytest.mark.parametrize(
    "patterns, held",
    [
        ("Trunk/*", EVERYTHING - HEAD),
        ("*/kernel", {key for key in EVERYTHING if key.endswith("/kernel")}),
        (["Head", "*/bias"], {*HEAD, *(key for key in EVERYTHING if key.endswith("/bias"))}),
    ],
)
def test_frozen_weights_keep_every_bit_and_the_others_move(patterns, held):
    assert len(EVERYTHING) == 10
    assert moved(build(Freeze(patterns)), 2) == EVERYTHING - held


def test_the_statistics_of_a_frozen_normalization_stand_still_too():
    assert {"Trunk/2/moving_mean", "Trunk/3/moving_variance"} <= EVERYTHING - moved(build(Freeze("Trunk")), 1)


def test_a_freeze_ends_after_its_epochs_and_leaves_no_trace():
    exp = build(Freeze("Trunk/*", epochs=2))

    assert moved(exp, 2) == HEAD
    assert moved(exp, 3) == EVERYTHING
    assert [v.trainable for v in exp.backend.variables] == [v.trainable for v in build_and_prepare().backend.variables]


@pytest.mark.parametrize("first, second", [("Trunk/*", "Trunk/*/kernel"), ("Trunk/*/kernel", "Trunk/*")])
def test_what_two_freeze_stands_still_until_both_are_over(first, second):
    exp = build(Freeze(first, epochs=1), Freeze(second, epochs=3))
    exp.train(1)

    assert moved(exp, 3) == moved(build(Freeze(second)), 2)
    assert moved(exp, 4) == EVERYTHING


def test_weights_that_were_not_trainable_before_are_not_after():
    exp = build_and_prepare()
    trunk = exp.chunk_processors[0].model
    trunk.layers[0].trainable, trunk.layers[-1].kernel.trainable = False, False
    before = [one.trainable for one in (*trunk.layers, *trunk.variables)]
    exp.callbacks.append(Freeze("Trunk", epochs=1))
    exp.train(2)

    assert [one.trainable for one in (*trunk.layers, *trunk.variables)] == before


def test_what_was_frozen_before_stays_so_after_a_freeze():
    """Keras thaws all that is in a layer when it thaws the layer."""
    held = {"0/kernel", "2/moving_mean", "3/moving_variance", "4/gamma", "5/beta"}
    exp = build(Freeze("Trunk", epochs=1))
    exp.program.prepare()
    dense, normalization, *_ = exp.chunk_processors[0].model.layers
    dense.kernel.trainable = normalization.trainable = False

    assert moved(exp, 1) == HEAD
    assert moved(exp, 2) == EVERYTHING - {f"Trunk/{key}" for key in held}
    assert not any(one.trainable for one in (dense.kernel, normalization, normalization.gamma))


def build_and_prepare() -> Any:
    exp = build()
    exp.program.prepare()
    return exp


@pytest.mark.parametrize("options", [{"jit_compile": True}, {"eager": True}], ids=str)
def test_a_freeze_goes_with_every_way_to_run(options):
    assert moved(build(Freeze("Trunk/*"), **options), 1) == HEAD


def test_the_average_of_frozen_weights_is_the_weights():
    average = ExponentialMovingAverage(0.5)
    exp = build(Freeze("Trunk/*"), average)

    assert moved(exp, 2) == HEAD
    kernel = exp.backend.weights()["Trunk/0/kernel"]
    with average.averaged():
        np.testing.assert_array_equal(exp.backend.weights()["Trunk/0/kernel"], kernel)


def test_a_pattern_that_names_nothing_is_refused_before_training():
    exp = build(Freeze("Trnk/*"))
    with pytest.raises(WeightsError, match=r"'Trnk/\*' names no weights(.|\n)*Did you mean 'Trunk/\*'"):
        exp.train(1)
    assert exp.counts == {}
    with pytest.raises(CallbackError, match=r"needs patterns of weights, and a number of .*\nSeen: .*epochs=0"):
        Freeze("Trunk", epochs=0)


def test_everything_frozen_is_told():
    with pytest.raises(ValueError, match="Nothing is trained"):
        build(Freeze("*")).train(1)
