"""What a processor draws on the host while it is recorded, and never again."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from experimentator.graph import Node

log = logging.getLogger(__name__)


class DrawnOnce:
    """Warns of processors that draw from numpy's own generator: compiled, such a number is the same in every batch."""

    def __init__(self) -> None:
        self.told: set[str] = set()

    @contextmanager
    def watched(self, node: Node, *, eager: bool) -> Iterator[None]:
        """Within, a processor runs; what is not compiled draws anew for each batch."""
        before = None if eager else _state()
        yield
        if before is not None and _state() != before and node.name not in self.told:
            self.told.add(node.name)
            log.warning(
                "%s draws from np.random while it is recorded: compiled, each batch has that same number. Write "
                "keras.random.normal(..., seed=keras.random.SeedGenerator(1)), or draw in the dataset.",
                node,
            )


def _state() -> tuple[Any, ...]:
    """Where numpy's generator stands: it counts through a block of numbers, and then makes the next."""
    _, block, place, *spare = np.random.get_state(legacy=True)
    return (place, int(block[0]), *spare)
