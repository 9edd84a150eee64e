"""The loop written by hand as a ceiling, and what other settings would give: the other compiler, twice the batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from experimentator.backends import CannotRunError
from experimentator.bench.costs import sample_of
from experimentator.bench.faces import brief
from experimentator.bench.findings import BETTER
from experimentator.bench.spread import Spread, seconds_each, spread_of
from experimentator.graph import Mode

CALL_SECONDS = 0.05  # the shortest time that is measured


class Hand:
    """A loop by hand around the training graph: `compile_seconds` of its first call, `seconds` a step of each round."""

    def __init__(self, name: str, run: Any, columns: Any, index: np.ndarray):
        self.name, self.run, self.columns, self.index = name, run, columns, index
        self.seconds: list[float] = []
        self.compile_seconds = self._timed(1)
        self.first = self._timed(64) if self._timed(1) < CALL_SECONDS / 64 else self._timed(1)

    def round(self, seconds: float) -> None:
        """Time it once more, for about so long."""
        count = max(1, int(max(CALL_SECONDS, seconds) / min([self.first, *self.seconds])))
        self.seconds.append(self._timed(count))

    @property
    def spread(self) -> Spread:
        """Seconds a step."""
        return spread_of(self.seconds or [self.first])

    def _timed(self, count: int) -> float:
        return seconds_each(count, self.run, self.columns, self.index)


def hands_of(exp: Any, block: Any, refused: dict[str, str]) -> Iterator[Hand]:
    """The loop by hand with each compiler, and with twice the batch for the one that training uses.

    `block` is one of training, whose rows serve as data. A loop that cannot run is left out; `refused` gets the reason.
    """
    graph = exp.graph(Mode.TRAIN)
    columns = {name: block.columns[name] for name in graph.inputs}
    index = np.asarray(block.index[:8])
    used = compiler_of(exp)
    wanted = [(name, name, index) for name in exp.backend.compilers]
    wanted.append(("twice the batch", used, np.resize(index, (len(index), 2 * index.shape[1]))))
    for name, compiler, rows in wanted:
        try:
            yield Hand(name, exp.backend.by_hand(graph, exp.optimizer, compiler=compiler), columns, rows)
        except CannotRunError as error:
            refused[name] = str(error)
        except Exception as error:  # a graph that keeps something for each place takes one batch size only
            if rows is index:
                raise
            refused[name] = brief(error)


def evaluating(exp: Any, hands: Sequence[Hand], refused: dict[str, str]) -> list[Hand]:
    """The loops by hand, but for those of quicker compilers that cannot run evaluation; `refused` gets the reason."""
    used = next((hand.spread.low for hand in hands if hand.name == compiler_of(exp)), 0.0)
    graph = exp.graph(Mode.EVAL)
    sample: Any = None
    for hand in hands:
        if hand.name in exp.backend.compilers and hand.spread.low < BETTER * used:
            sample = sample or sample_of(exp, graph)
            try:
                exp.backend.by_hand(graph, compiler=hand.name)(*sample, 1)
            except CannotRunError as error:
                refused[hand.name] = f"in EVAL, {error}"
    return [hand for hand in hands if hand.name not in refused]


def compiler_of(exp: Any) -> str:
    """How the training of an experiment that has trained was compiled."""
    chosen = [compiler for compiler, _ in exp.program.choices().values()]  # of each training subset, or its bucket
    return str([*chosen, *exp.backend.compilers][0])
