"""The averages of one pass over a subset."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from experimentator.accumulating import Running, Weighed


class NonFiniteLossError(ArithmeticError):
    """The loss became NaN or infinite; training on would only spread it. `first` names where it began, if known.

    >>> from experimentator import BaseExperiment, Mode, Subset, chunk_processor
    >>> mean = chunk_processor(inputs=["batch_x"], outputs=["loss"])(lambda batch_x: batch_x.mean())
    >>> subset = Subset("validation", Mode.EVAL, {"x": [0.5, float("nan")]})
    >>> BaseExperiment({"subsets": [subset], "chunk_processors": [mean], "batch_size": 1}).evaluate()
    Traceback (most recent call last):
    experimentator.averages.NonFiniteLossError: The loss became nan in batch 1 of 'validation', epoch 1.
    'batch_x' holds NaN or infinity in the data, as in the item of key 1.
    Look at the data of that batch, or list ops.AssertFinite(name) behind the processors you suspect.
    """

    first: str | None = None


@dataclass
class Total:
    """A sum of values, each times its weight, and the sum of these weights.

    >>> total = Total()
    >>> total.add(np.array([1.0, 2.0]), 4)
    >>> total.add(np.array([6.0, 0.0]), np.array([2, 0]))
    >>> total.mean
    2.4
    """

    sum: float = 0.0
    weight: float = 0.0

    def add(self, values: np.ndarray, weights: Any) -> None:
        """Add values; `weights` is that of each, or has one for each, [N]."""
        self.sum = added(self.sum, values, weights)
        is_one = not isinstance(weights, np.ndarray)
        self.weight = self.weight + weights * values.size if is_one else added(self.weight, weights)

    @property
    def mean(self) -> float:
        """The mean so far; NaN of nothing."""
        return self.sum / self.weight if self.weight else float("nan")


class Averages:
    """Means over a cycle, weighted by batch size, or by the weights that come with `Weighed` values.

    >>> averages = Averages()
    >>> averages.add({"loss": np.array([1.0, 2.0])}, batch_size=4)
    >>> averages.add({"loss": np.array([6.0])}, batch_size=2)
    >>> averages.means()
    {'loss': 2.4}

    Of `Running` values, which accumulate over the pass, the last is taken:

    >>> averages.add({"auc": np.array([0.5, 0.75]).view(Running)}, batch_size=2)
    >>> averages.means()["auc"]
    0.75

    A mean over a part of each batch is weighted by the size of that part; an empty part is passed over:

    >>> averages.add({"hits": Weighed.of(np.array([1.0, 0.5]), np.array([3.0, 1.0]))}, batch_size=4)
    >>> averages.means()["hits"]
    0.875

    A name that is a sum of others, each times a factor (`sums`), is that sum of their means:

    >>> averages = Averages(sums={"loss": {"hits": 2.0}})
    >>> averages.add({"hits": Weighed.of(np.array([1.0, 0.5]), np.array([3.0, 1.0])), "loss": np.ones(2)}, batch_size=4)
    >>> averages.means()["loss"]
    1.75
    """

    def __init__(self, totals: dict[str, Total] | None = None, sums: Mapping[str, Mapping[str, float]] = {}) -> None:
        self.totals = {} if totals is None else totals
        self.sums = sums
        self.left_out: dict[str, str] = {}  # names that are no scalars, with their shape in one batch

    def add(self, outputs: Mapping[str, Any], *, batch_size: int) -> None:
        """Add the results of K batches: scalars, `[K]` each; anything else is left out."""
        for name, values in {name: usual(values) for name, values in outputs.items()}.items():
            if values.ndim != 1 or values.dtype.kind not in "biuf":
                shape = ["B" if not axis and size == batch_size else size for axis, size in enumerate(values.shape[1:])]
                self.left_out[name] = f"[{', '.join(map(str, shape))}]"
            elif isinstance(values, Running):
                self.totals[name] = Total(float(values[-1]), 1.0)
            elif isinstance(values, Weighed):
                known = np.where(values.weights == 0, 0.0, values)  # the mean of an empty part may be NaN
                self.totals.setdefault(name, Total()).add(known, values.weights)
            else:
                self.totals.setdefault(name, Total()).add(values, batch_size)

    @property
    def of_nothing(self) -> list[str]:
        """Names whose weights are 0 in all batches: their means are NaN."""
        return [name for name, total in self.totals.items() if not total.weight]

    def means(self) -> dict[str, float]:
        """The mean of every name so far."""
        means = {name: total.mean for name, total in self.totals.items()}
        unknown = set(self.of_nothing)
        for name, parts in self.sums.items():
            known = {part: factor for part, factor in parts.items() if part not in unknown}
            if name in means and parts.keys() <= means.keys():
                means[name] = sum(factor * means[part] for part, factor in known.items()) if known else float("nan")
                unknown |= set() if known else {name}  # other sums may contain it
        return means


def added(total: float, values: np.ndarray, weight: Any = 1.0) -> float:
    """`total` plus `weight` (one number, or one for each value) times each value, added one after the other.

    Thus the last bits do not depend on how many batches a call ran.

    >>> values = np.array([0.1] * 10)
    >>> added(added(0.0, values[:3]), values[3:]) == added(0.0, values)
    True
    """
    terms = np.ravel(values).astype(np.float64) * weight
    return float(np.add.accumulate(np.concatenate([[total], terms]))[-1])


def usual(values: np.ndarray) -> np.ndarray:
    """bfloat16 and similar as float32: numpy does not know their dtypes as numbers."""
    if values.dtype.isbuiltin != 2:
        return values
    plain = np.asarray(values, np.float32)
    return Weighed.of(plain, values.weights) if isinstance(values, Weighed) else plain.view(type(values))


def check_finite(outputs: Mapping[str, Any], *, where: str, first: int, training: bool = True) -> None:
    """Raise where the loss of a batch is not finite, naming the batch."""
    if "loss" not in outputs:
        return
    loss = np.asarray(outputs["loss"], np.float64)
    loss = loss.reshape(len(loss), -1).mean(axis=1)
    if np.all(np.isfinite(loss)):
        return
    place = int(np.argmin(np.isfinite(loss)))
    before = f"; the batch before had {loss[place - 1]:.4g}" if place else ""
    suspects = "the data of that batch, or list ops.AssertFinite(name) behind the processors you suspect."
    write = f"Look at {suspects}"
    if training:
        again = "To go on from good weights, give a new optimizer, too: this one's moments contain the bad batch."
        write = f"Lower learning_rate, look at {suspects} {again}"
    raise NonFiniteLossError(f"The loss became {loss[place]} in batch {first + place} of {where}{before}.\n{write}")
