"""Warnings of processors that draw random numbers on the host: compiled, they draw once, while they are recorded."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from experimentator.graph import Node

log = logging.getLogger(__name__)


class HostDraws:
    """Warns of processors that draw from numpy's or Python's global generator: compiled, all batches get one number.

    Layers may do so, too: keras.layers.AugMix and RandAugment choose by Python's what they do to a batch.
    """

    def __init__(self) -> None:
        self.told: set[tuple[str, str]] = set()

    @contextmanager
    def watched(self, node: Node, *, eager: bool) -> Iterator[None]:
        """Within, a processor runs; for `eager`, which draws anew for each batch, nothing is watched."""
        before = None if eager else _states()
        yield
        if before is None:
            return
        moved = [name for name, state in _states().items() if state != before[name]]
        for name in moved:
            if (node.name, name) not in self.told:
                self.told.add((node.name, name))
                log.warning(
                    "%s draws from %s while it is recorded: compiled, each batch has that same number. Write "
                    "keras.random.normal(..., seed=keras.random.SeedGenerator(1)), or draw in the dataset.",
                    node,
                    name,
                )


def _states() -> dict[str, tuple[Any, ...]]:
    """The states of the generators, in short: each counts through a block of numbers, and then makes the next."""
    _, block, place, *spare = np.random.get_state(legacy=True)
    _, (first, *_, at), gauss = random.getstate()
    return {"np.random": (place, int(block[0]), *spare), "Python's random": (at, first, gauss)}
