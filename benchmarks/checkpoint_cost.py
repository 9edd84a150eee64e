"""What checkpoints cost: the stall of one, and the share of a training's time, beside Keras' ModelCheckpoint.

Command:  python benchmarks/checkpoint_cost.py [--quick] [--rounds N]

The stall is how long training waits while everything is saved: weights, Adam's slots, seeds, callbacks. Ours is forced
to disk, hashed, and read back before it counts; `ModelCheckpoint` writes `.keras` with the optimizer, and neither
forces nor checks it. Both save the same network, in turn, in one process; figures are medians over the rounds. The
share is the time spent in saving over the time of the whole training: with our defaults all that a run folder costs
(checkpoints, weights, history, status, the description of the run), with ModelCheckpoint the end of every epoch.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from _report import publish, table

from experimentator import CheckpointEvery, Mode, Subset, build_experiment, ops
from experimentator.runs import RunFolder

SIZES = {"small": (32, 2000), "large": (1024, 400)}  # units of the hidden layers, steps in an epoch
EPOCHS = 10


def data(steps: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    return random.normal(size=(64 * steps, 784)).astype(np.float32), random.integers(10, size=64 * steps)


def network(units: int) -> keras.Sequential:
    dense = keras.layers.Dense
    return keras.Sequential([keras.Input((784,)), dense(units, "relu"), dense(units, "relu"), dense(10)])


def ours(units: int, steps: int, **settings: Any) -> Any:
    inputs, targets = data(steps)
    model = ops.Model(network(units), inputs="batch_input", outputs="batch_logits")
    return build_experiment(
        {
            "subsets": [Subset("training", Mode.TRAIN, {"input": inputs, "target": targets})],
            "batch_size": 64,
            "chunk_processors": [model, ops.SoftmaxCrossEntropy("batch_logits", "batch_target")],
            "optimizer": keras.optimizers.Adam(1e-3),
            "jit_compile": False,
            "hide_progress": True,
            **settings,
        }
    )


def theirs(units: int) -> keras.Model:
    model = network(units)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-3), loss)
    return model


class Timed(keras.callbacks.ModelCheckpoint):
    """ModelCheckpoint, with a watch on it."""

    seconds = 0.0

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        start = time.perf_counter()
        super().on_epoch_end(epoch, logs)
        self.seconds += time.perf_counter() - start


def stalls(units: int, folder: Path, rounds: int) -> dict[str, float]:
    """Seconds that one save takes, each in turn."""
    exp, model = ours(units, 4), theirs(units)
    exp.train(1)
    model.fit(*data(4), batch_size=64, verbose=0)
    saver = Timed(str(folder / "model.keras"))
    saver.set_model(model)
    seconds: dict[str, list[float]] = {"experimentator": [], "ModelCheckpoint": []}
    for number in range(rounds + 1):  # the first warms up
        start = time.perf_counter()
        exp.save_checkpoint(folder / "checkpoints")
        taken = time.perf_counter() - start
        before = saver.seconds
        saver.on_epoch_end(number, {})
        if number:
            seconds["experimentator"].append(taken)
            seconds["ModelCheckpoint"].append(saver.seconds - before)
    return {who: statistics.median(times) for who, times in seconds.items()}


def timed(listener: Any) -> list[float]:
    """The seconds of each call of a listener, from now on."""
    call, seconds = listener.call, []

    def watched(*given: Any) -> None:
        start = time.perf_counter()
        try:
            call(*given)
        finally:
            seconds.append(time.perf_counter() - start)

    listener.call = watched
    return seconds


def shares(units: int, folder: Path, steps: int) -> dict[str, float]:
    """The part of a training's time that goes to saving."""
    exp = ours(units, steps, output_folder=str(folder), project_name="cost")
    exp.program.prepare()
    savers = [timed(one) for one in exp.listeners if isinstance(one.callback, CheckpointEvery | RunFolder)]
    start = time.perf_counter()
    exp.train(EPOCHS)
    whole = time.perf_counter() - start
    model, theirs_saver = theirs(units), Timed(str(folder / "model.keras"))
    start = time.perf_counter()
    model.fit(*data(steps), batch_size=64, epochs=EPOCHS, verbose=0, callbacks=[theirs_saver])
    rival = time.perf_counter() - start
    return {
        "experimentator": sum(map(sum, savers)) / whole,
        "ModelCheckpoint": theirs_saver.seconds / rival,
        "seconds": whole,
    }


def measure(name: str, rounds: int, quick: bool) -> dict[str, Any]:
    units, steps = SIZES[name] if not quick else (SIZES[name][0], 50)
    with tempfile.TemporaryDirectory(dir=".") as place:  # where runs lie, not a disk in memory
        stall = stalls(units, Path(place), rounds)
        share = shares(units, Path(place), steps)
    size = sum(int(np.prod(v.shape)) for v in network(units).variables) * 12  # weights and Adam's two slots
    return {
        "megabytes": round(size / 1e6, 1),
        "stall_ms": {who: round(1e3 * seconds, 1) for who, seconds in stall.items()},
        "share_of_training": {who: round(share[who], 4) for who in stall},
        "training_seconds": round(share["seconds"], 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the small network, short epochs: a check that it runs")
    parser.add_argument("--rounds", type=int)
    options = parser.parse_args()
    rounds = options.rounds or (2 if options.quick else 9)
    names = ["small"] if options.quick else list(SIZES)
    results = {name: measure(name, rounds, options.quick) for name in names}
    rows = [
        {
            "network": f"{name}, {one['megabytes']:g} MB saved",
            "": who,
            "stall, ms": one["stall_ms"][who],
            "share of training": f"{100 * one['share_of_training'][who]:.2f} %",
        }
        for name, one in results.items()
        for who in one["stall_ms"]
    ]
    text = (
        f"## What checkpoints cost\n\n{table(rows)}\n\nOurs are forced to disk, hashed and read back; theirs are not."
    )
    publish("checkpoint_cost", results, text, bars={}, quick=options.quick)


if __name__ == "__main__":
    main()
