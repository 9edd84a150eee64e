"""The same graph inside `keras.Model.fit`, on the same data, with the options that make Keras quick."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from experimentator.backends import CannotRunError
from experimentator.bench.spread import seconds_each
from experimentator.bench.trainer import LONGEST, Trainer
from experimentator.graph import Mode

VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "default": {},
    "50 steps per execution": {"steps_per_execution": 50, "jit_compile": False},
    "XLA, 50 steps per execution": {"steps_per_execution": 50, "jit_compile": True},
}
FEW = 200  # most steps of an epoch: Keras needs about a millisecond for one


class Rival:
    """`keras.Model.fit` with some options; `seconds` a step, by round."""

    def __init__(self, name: str, epoch: Callable[[int], None], steps: int):
        self.name, self.epoch = name, epoch
        self.seconds: list[float] = []
        epoch(steps)  # compiles
        self.steps = max(1, min(steps, int(LONGEST / seconds_each(steps, epoch))))

    def round(self) -> None:
        """Train one epoch more."""
        self.seconds.append(seconds_each(self.steps, self.epoch))


def rivals_of(exp: Any, trainer: Trainer) -> list[Rival]:
    """Keras' fit in each of its variants; one that cannot compile the graph is left out.

    Columns are given as arrays, items that are streamed by a `PyDataset` with as many threads.
    """
    subset = next(one for one in exp.subsets if one.is_training)
    graph, feed = exp.graph(Mode.TRAIN), exp.program.feeds[id(subset)].own
    steps = min(FEW, trainer.steps)
    data: Any
    if feed.place == "streamed":
        names = sorted(graph.inputs)
        workers = feed.workers.count if feed.workers else 1
        data = list(subset.keys), lambda keys: _picked(subset.batch(keys), names), workers
    else:
        batch = subset.batch(subset.keys[: steps * exp.batch_size])
        data = _picked(batch, sorted(graph.inputs))
    found = []
    known = {"auto", *exp.backend.compilers.values()}
    for name, options in VARIANTS.items():
        if options.get("jit_compile", "auto") not in known:
            continue  # Keras on JAX would run it in Python
        try:
            epoch = exp.backend.fitted(graph, exp.optimizer, data, exp.batch_size, **options)
            found.append(Rival(name, epoch, steps))
        except CannotRunError:
            continue
    return found


def _picked(batch: Mapping[str, Any], names: list[str]) -> dict[str, np.ndarray]:
    return {name: np.asarray(batch[name]) for name in names}
