"""Seeds Python's, numpy's and the frameworks' generators while a configuration file runs."""

from __future__ import annotations

import operator
import random
import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from experimentator.overrides import ConfigError

# Frameworks that have a generator of their own, and the call that seeds it.
OWN: Mapping[str, Callable[[Any, int], Any]] = {
    "tensorflow": lambda tensorflow, seed: tensorflow.random.set_seed(seed),
    "torch": lambda torch, seed: torch.manual_seed(seed),
}


class Seeds:
    """Seeds the generators that initial weights are drawn from, as soon as the file's seed is known; not if it is None.

    Keras draws from Python's generator, task files often from numpy's, PyTorch modules and `tf.random` from that of
    their framework, which is seeded once it is imported. If the seed is `given`, the file's own is ignored.
    """

    def __init__(self, seed: Any, *, given: bool):
        self.seed, self.given = seed, given
        self._begin()

    def written(self, name: str, value: object) -> None:
        """Called when the file has assigned a name: it may be `seed`, or a framework may have been imported."""
        if name == "seed" and not self.given and isinstance(value, int | np.integer) and value != self.seed:
            self.seed = int(value)
            self._begin()
        else:
            self._reach()

    def _begin(self) -> None:
        self.reached: set[str] = set()
        if self.seed is None:
            return
        import rich.style  # noqa: F401  # Keras imports it, and it draws a number: let it do so before the seed

        try:
            random.seed(operator.index(self.seed))
            np.random.seed(operator.index(self.seed) % 2**32)
        except TypeError:
            wrong, seen = "The seed is not a whole number.", f"It is {self.seed!r:.60}."
            raise ConfigError(wrong, seen, "Write `seed = 3`, or None for no seed.") from None
        self._reach()

    def _reach(self) -> None:
        """Seed the frameworks that are imported by now, each once."""
        for name in OWN.keys() - self.reached if self.seed is not None else ():
            if hasattr(module := sys.modules.get(name), "random"):
                OWN[name](module, operator.index(self.seed) % 2**31)
                self.reached.add(name)
