"""The seed of a configuration: what it sets, from when it is known."""

from __future__ import annotations

import operator
import random
import sys

import numpy as np

from experimentator.overrides import ConfigError


class Seeds:
    """Seeds the generators that initial weights are drawn from, as soon as a file's seed is known; None leaves them.

    Keras draws from Python's, and modules of PyTorch from its own, once it is imported. A seed that is `given` stays.
    """

    def __init__(self, seed: object, *, given: bool):
        self.seed, self.given = seed, given
        self.seeds_torch = _seed_random(seed)

    def written(self, name: str, value: object) -> None:
        """A line of the file gave a name a value; it may have imported something."""
        if name == "seed" and not self.given and isinstance(value, int | np.integer) and value != self.seed:
            self.seed = int(value)
            self.seeds_torch = _seed_random(self.seed)
        elif not self.seeds_torch:
            self.seeds_torch = _seed_torch(self.seed)


def _seed_random(seed: object) -> bool:
    """Seed Python's and numpy's generators, and PyTorch's, if it is there, which is returned."""
    if seed is None:
        return False
    import rich.style  # noqa: F401  # Keras imports it, and it draws a number: before the seed, then, and not after

    try:
        random.seed(operator.index(seed))  # type: ignore[arg-type]  # the TypeError is the test
        np.random.seed(operator.index(seed) % 2**32)  # type: ignore[arg-type]  # the same
    except TypeError:
        seen = f"It is {seed!r:.60}."
        raise ConfigError("The seed is not a whole number.", seen, "Write `seed = 3`, or None for no seed.") from None
    return _seed_torch(seed)


def _seed_torch(seed: object) -> bool:
    torch = sys.modules.get("torch")
    if seed is None or not hasattr(torch, "manual_seed"):
        return False
    torch.manual_seed(operator.index(seed) % 2**63)  # type: ignore[union-attr,arg-type]  # a whole number by now
    return True
