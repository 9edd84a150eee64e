"""Warnings of processors that draw random numbers on the host: compiled, they draw once, while they are recorded."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from experimentator.data.chance import SHARED, generators_in, shared_generators, states_of
from experimentator.data.reading import lock
from experimentator.graph import Node

log = logging.getLogger(__name__)
PATIENCE = 0.5  # seconds to wait for an item to be read; else nothing is watched


class HostDraws:
    """Warns of processors that draw with numpy's or Python's generators: compiled, all batches get one number.

    Layers may do so, too: keras.layers.AugMix and RandAugment choose by Python's what they do to a batch.
    """

    def __init__(self) -> None:
        self.told: set[tuple[str, str]] = set()
        self.held: dict[int, tuple[Any, list[Any]]] = {}  # processors with the generators that they reach

    @contextmanager
    def watched(self, node: Node, *, eager: bool) -> Iterator[None]:
        """Within, a processor runs; for `eager`, which draws anew for each batch, nothing is watched."""
        before = [] if eager else self._states(node)
        yield
        after = self._states(node) if before else []
        moved = [one for (one, old), (_, new) in zip(before, after, strict=False) if old != new]
        for name in map(_named, moved):
            if (node.name, name) not in self.told:
                self.told.add((node.name, name))
                log.warning(
                    "%s draws from %s while it is recorded: compiled, each batch has that same number. Write "
                    "keras.random.normal(..., seed=keras.random.SeedGenerator(1)), or draw in the dataset.",
                    node,
                    name,
                )

    def _states(self, node: Node) -> list[tuple[Any, Any]]:
        """The generators that a processor reaches, with their states; none where an item is being read for long."""
        if not lock.acquire(timeout=PATIENCE):
            return []
        try:  # between two items: what is drawn for one is put back
            if id(node.processor) not in self.held:
                own = [one for one in generators_in(node.processor) if id(one) not in SHARED]
                self.held[id(node.processor)] = node.processor, own
            generators = [*shared_generators(), *self.held[id(node.processor)][1]]
            return [(one, _comparable(state)) for one, state in zip(generators, states_of(generators), strict=True)]
        finally:
            lock.release()


def _comparable(state: Any) -> list[Any]:
    """The parts of a state, arrays as bytes."""
    parts = state.values() if isinstance(state, dict) else state
    plain = [_comparable(part) if isinstance(part, dict) else part for part in parts]
    return [part.tobytes() if isinstance(part, np.ndarray) else part for part in plain]


def _named(generator: Any) -> str:
    own = f"a {'random.Random' if isinstance(generator, random.Random) else f'np.random.{type(generator).__name__}'}"
    return {"numpy": "np.random", "random": "Python's random"}.get(SHARED.get(id(generator), ""), own)
