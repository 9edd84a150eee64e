"""The seed of a configuration: what it sets, from when it is known."""

from __future__ import annotations

import operator
import random
import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from experimentator.overrides import ConfigError

# Frameworks that have a generator of their own, and what seeds it.
OWN: Mapping[str, Callable[[Any, int], Any]] = {
    "tensorflow": lambda tensorflow, seed: tensorflow.random.set_seed(seed),
    "torch": lambda torch, seed: torch.manual_seed(seed),
}


class Seeds:
    """Seeds the generators that initial weights are drawn from, as soon as a file's seed is known; None leaves them.

    Keras draws from Python's, task files often from numpy's, modules of PyTorch and `tf.random` from those of their
    frameworks, once these are imported. A seed that is `given` stays.
    """

    def __init__(self, seed: Any, *, given: bool):
        self.seed, self.given = seed, given
        self._begin()

    def written(self, name: str, value: object) -> None:
        """A line of the file gave a name a value; it may have imported a framework."""
        if name == "seed" and not self.given and isinstance(value, int | np.integer) and value != self.seed:
            self.seed = int(value)
            self._begin()
        else:
            self._reach()

    def _begin(self) -> None:
        self.reached: set[str] = set()
        if self.seed is None:
            return
        import rich.style  # noqa: F401  # Keras imports it, and it draws a number: before the seed, then, and not after

        try:
            random.seed(operator.index(self.seed))
            np.random.seed(operator.index(self.seed) % 2**32)
        except TypeError:
            wrong, seen = "The seed is not a whole number.", f"It is {self.seed!r:.60}."
            raise ConfigError(wrong, seen, "Write `seed = 3`, or None for no seed.") from None
        self._reach()

    def _reach(self) -> None:
        """Seed frameworks that are imported by now, each once."""
        for name in OWN.keys() - self.reached if self.seed is not None else ():
            if hasattr(module := sys.modules.get(name), "random"):
                OWN[name](module, operator.index(self.seed) % 2**31)
                self.reached.add(name)
