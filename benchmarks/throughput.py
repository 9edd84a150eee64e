"""Steps per second of a full `exp.train`, beside the same loop written by hand and `keras.Model.fit`.

Command:  python benchmarks/throughput.py [--quick] [--only mlp|cnn] [--rounds N]

All contenders run in one process on the same network, data and batch size, in turn, each round in another order, so
that they share the machine's moods. A turn is one call for as many epochs as take a second, ten at most; an epoch has
1,792 steps for the mlp and 1,000 for the cnn. `exp.train` runs with an observing callback, progress and history on:
with its columns on the device, with columns in host memory whose rows travel, and (cnn) with items read one by one by
worker threads. The loop by hand is one `tf.function` per epoch over device-resident columns, fed by the same order
generator, with XLA around it, with XLA around each step, and without. Figures are medians over the rounds; a ratio is
the median of the ratios of paired rounds. `python_us_per_batch` is what `exp.train` takes outside the calls of its
compiled step, and `call_ms` what a call of it takes besides its epochs. Unless it is quick, it writes to
benchmarks/results/ and history.jsonl.

`dropout` is the mlp with a layer of Dropout: random numbers are where XLA on a CPU can be slow.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf
from _cases import CNN as SHARED_CNN
from _cases import MLP as SHARED_MLP
from _cases import turned
from _report import publish, table
from keras import layers
from rivals.networks import network

from experimentator import Callback, Mode, Subset, build_experiment, ops
from experimentator.data.chance import generator


class Observe(Callback):
    """A plain callback: looks at what every epoch gives."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_epoch_end(self, training_loss: float, **_: Any) -> None:
        self.seen.append(training_loss)


OURS = {"device": "experimentator", "host": "experimentator, host memory", "stream": "experimentator, items"}


def dropout() -> keras.Model:
    head = [layers.Dropout(0.5), layers.Dense(10)]
    return keras.Sequential([layers.Input((64,)), layers.Dense(32, activation="relu"), *head])


MLP = {"data": SHARED_MLP.data, "batch": SHARED_MLP.batch, "steps": 1792, "scale": 16.0, "rounds": 7, "settle": 60}
CNN = {"data": SHARED_CNN.data, "batch": SHARED_CNN.batch, "steps": 1000, "scale": 255.0, "rounds": 3, "settle": 3}
CASES: dict[str, dict[str, Any]] = {
    "mlp": {"network": partial(network, SHARED_MLP), "feeds": ("device", "host"), **MLP},
    "dropout": {"network": dropout, "feeds": ("device",), **MLP, "rounds": 3},
    "cnn": {"network": partial(network, SHARED_CNN), "feeds": ("device", "host", "stream"), **CNN},
}


MOST_EPOCHS = 10  # of a turn


class Library:
    """A full experiment; every call trains some epochs more."""

    def __init__(self, case: dict[str, Any], x: np.ndarray, y: np.ndarray, residency: str):
        self.exp = experiment(case, x, y, residency)
        self.exp.train(case["settle"])  # long enough to settle the compiler and the number of batches a call runs

    def __call__(self, epochs: int) -> None:
        self.exp.train(self.exp.epoch + epochs)

    @property
    def seconds_in_steps(self) -> float:
        return sum(runner.seconds for runner in self.exp.program.runners.values())


def experiment(case: dict[str, Any], x: np.ndarray, y: np.ndarray, residency: str) -> Any:
    return build_experiment(
        {
            "subsets": [Subset("training", Mode.TRAIN, {"input": x, "target": y})],
            "residency": residency,
            "batch_size": case["batch"],
            "chunk_processors": [
                ops.Cast("batch_input", "float32"),
                ops.Scale("batch_input", case["scale"]),
                ops.Model(case["network"](), inputs="batch_input", outputs="batch_logits"),
                ops.SoftmaxCrossEntropy("batch_logits", "batch_target"),
            ],
            "optimizer": keras.optimizers.Adam(1e-3),
            "callbacks": [Observe()],
        }
    )


def by_hand(case: dict[str, Any], x: np.ndarray, y: np.ndarray, jit: bool | str) -> Callable[[int], None]:
    """The same loop, fused by hand: with XLA around it, or around each step (`jit="step"`)."""
    model, optimizer = case["network"](), keras.optimizers.Adam(1e-3)
    trainable = model.trainable_variables
    optimizer.build(trainable)
    columns, batch, epoch = (tf.constant(x), tf.constant(y)), case["batch"], [0]

    @tf.function(jit_compile=True if jit == "step" else None, autograph=False)
    def one_step(inputs: Any, target: Any) -> Any:
        images = tf.cast(inputs, tf.float32) / case["scale"]
        with tf.GradientTape() as tape:
            logits = model(images, training=True)
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(target, logits))
        optimizer.apply(tape.gradient(loss, trainable), trainable)
        return loss

    @tf.function(jit_compile=True if jit is True else None, autograph=False)
    def run(x: Any, y: Any, index: Any) -> Any:
        losses = tf.TensorArray(tf.float32, index.shape[0])

        def body(step: Any, losses: Any) -> Any:
            loss = one_step(tf.gather(x, index[step]), tf.gather(y, index[step]))
            return step + 1, losses.write(step, loss)

        return tf.while_loop(lambda step, _: step < index.shape[0], body, (tf.constant(0), losses))[1].stack()

    def train(epochs: int) -> None:
        for _ in range(epochs):
            epoch[0] += 1
            order = generator(0, "training", epoch[0]).permutation(np.arange(len(x), dtype=np.int32))
            run(*columns, tf.constant(order.reshape(-1, batch))).numpy().mean()

    return train


def fit(case: dict[str, Any], x: np.ndarray, y: np.ndarray, **options: Any) -> Callable[[int], None]:
    """`keras.Model.fit`, quiet, on the same arrays."""
    inputs = keras.Input(x.shape[1:], dtype="uint8")
    model = keras.Model(inputs, case["network"]()(keras.ops.cast(inputs, "float32") / case["scale"]))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-3), loss, **options)
    return lambda epochs: model.fit(x, y, batch_size=case["batch"], epochs=epochs, verbose=0) and None


def measure(name: str, rounds: int | None, quick: bool) -> dict[str, Any]:
    """Interleaved turns of every contender; steps per second and paired ratios."""
    case = CASES[name]
    steps = case["steps"] // (8 if quick else 1)
    rounds = rounds or (3 if quick else case["rounds"])
    x, y = case["data"](steps)
    ours = {OURS[residency]: Library(case, x, y, residency) for residency in case["feeds"]}
    contenders = {
        **ours,
        "by hand, XLA": by_hand(case, x, y, True),
        "by hand, XLA for each step": by_hand(case, x, y, "step"),
        "by hand, no XLA": by_hand(case, x, y, False),
        "keras fit": fit(case, x, y),
        "keras fit, XLA, 50 steps": fit(case, x, y, jit_compile=True, steps_per_execution=50),
        "keras fit, 50 steps": fit(case, x, y, jit_compile=False, steps_per_execution=50),
    }
    times: dict[str, list[float]] = {contender: [] for contender in contenders}
    outside: list[float] = []
    epochs = dict.fromkeys(contenders, 1)
    for number in range(-2, rounds):
        for contender in turned(contenders, number):
            start, inside = time.perf_counter(), ours["experimentator"].seconds_in_steps
            contenders[contender](epochs[contender])
            seconds = (time.perf_counter() - start) / epochs[contender]
            if number == -1:  # the round before it compiled
                epochs[contender] = max(1, min(MOST_EPOCHS, round((0.1 if quick else 1.0) / seconds)))
            elif number >= 0:
                times[contender].append(seconds)
                if contender == "experimentator":
                    outside.append(seconds - (ours[contender].seconds_in_steps - inside) / epochs[contender])
    medians = {contender: statistics.median(seconds) for contender, seconds in times.items()}
    hand = min((contender for contender in times if contender.startswith("by hand")), key=medians.__getitem__)
    best_fit = min((contender for contender in times if contender.startswith("keras")), key=medians.__getitem__)
    return {
        "steps_per_second": {contender: round(steps / seconds, 1) for contender, seconds in medians.items()},
        "ratio_to_best_hand": _paired(times[hand], times["experimentator"]),
        "ratio_to_best_fit": _paired(times[best_fit], times["experimentator"]),
        "ratio_to_resident": {c: _paired(times["experimentator"], times[c]) for c in ours if c != "experimentator"},
        "python_us_per_batch": round(statistics.median(outside) / steps * 1e6, 2),
        "call_ms": _of_a_call(ours["experimentator"], rounds),
        "compilers": {contender: one.exp.compilers["training"] for contender, one in ours.items()},
        "steps": steps, "batch": case["batch"], "rounds": rounds, "epochs": epochs,
    }  # fmt: skip


def report(name: str, result: dict[str, Any]) -> str:
    """A table in Markdown, and the ratios in words."""
    rows = [{"contender": who, "steps/s": f"{rate:,.0f}"} for who, rate in result["steps_per_second"].items()]
    hand, best = result["ratio_to_best_hand"], result["ratio_to_best_fit"]
    pace = f"epochs of {result['steps']:,} steps, medians of {result['rounds']} turns"
    lines = [
        f"### {name}: batch {result['batch']}, {pace}",
        "",
        table(rows),
        "",
        f"To the loop by hand: {hand:.3f}; to Keras' best fit: {best:.2f}.",
        *(f"{who}, to resident: {ratio:.3f}." for who, ratio in result["ratio_to_resident"].items()),
        f"Python outside the step: {result['python_us_per_batch']} us a batch; a call: {result['call_ms']} ms.",
    ]
    return "\n".join([*lines, ""])


def _of_a_call(library: Library, rounds: int) -> float:
    """Milliseconds outside the step of a call of `train` for one epoch, less those of an epoch among several."""

    def outside(epochs: int) -> float:
        start, inside = time.perf_counter(), library.seconds_in_steps
        library(epochs)
        return time.perf_counter() - start - (library.seconds_in_steps - inside)

    times = [(outside(1), outside(3)) for _ in range(rounds)]
    return round(1e3 * statistics.median(one - (three - one) / 2 for one, three in times), 2)


def _paired(theirs: list[float], ours: list[float]) -> float:
    return round(statistics.median(a / b for a, b in zip(theirs, ours, strict=True)), 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="short epochs of the mlp, three rounds: a check that all contenders run"
    )
    parser.add_argument("--only", choices=CASES)
    parser.add_argument("--rounds", type=int)
    options = parser.parse_args()
    names = [options.only] if options.only else ["mlp"] if options.quick else list(CASES)
    results = {name: measure(name, options.rounds, options.quick) for name in names}
    title = f"## Throughput in one process{f', {options.only}' if options.only else ''}"
    text = "\n".join([title, "", *(report(name, results[name]) for name in names)])
    part = f"throughput-{options.only}" if options.only else "throughput"
    publish(part, results, text, bars={}, quick=options.quick)


if __name__ == "__main__":
    main()
