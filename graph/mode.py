"""What a run of the graph is for: training, evaluating, or inferring."""

from __future__ import annotations

import functools
import operator
from enum import Enum, IntFlag
from typing import Any

from experimentator.graph.errors import UnknownModeError


class Mode(IntFlag):
    """What a graph is run for: TRAIN, EVAL or INFER, or a set of them; a chunk processor runs in those of its `mode`.

    `exp.train` runs TRAIN and, for subsets of that mode, EVAL; `exp.evaluate` EVAL; `exp.predict` and `exp.export`
    INFER, which needs no targets. ALL is all three.

    >>> str(Mode.TRAIN | Mode.EVAL), Mode.EVAL in Mode.ALL
    ('TRAIN|EVAL', True)
    """

    TRAIN = 1
    EVAL = 2
    INFER = 4
    ALL = 7

    def __str__(self) -> str:
        return "ALL" if self is Mode.ALL else "|".join(str(mode.name) for mode in Mode if mode & self)

    @classmethod
    def of(cls, value: Any) -> Mode:
        """Read a mode from its name, its number, or a member of somebody else's Enum.

        An Enum member is read by its name, else by its value: somebody else's TRAIN may have any value.

        >>> Mode.of("train"), Mode.of(6) == Mode.EVAL | Mode.INFER
        (<Mode.TRAIN: 1>, True)
        """
        if isinstance(value, Enum) and not isinstance(value, cls):
            return cls._named(value.name) or cls.of(value.value)
        number = cls._named(value) if isinstance(value, str) else value
        if not isinstance(number, int) or not 0 < number <= cls.ALL:
            raise UnknownModeError(value)
        return cls(number)

    @classmethod
    def _named(cls, names: str | None) -> Mode | None:
        """`"TRAIN|EVAL"` as a mode; None where one of the names is no mode."""
        found = [cls.__members__.get(name.strip().upper()) for name in (names or "").split("|")]
        return None if None in found else functools.reduce(operator.or_, (mode for mode in found if mode is not None))


# Names that older configurations use; in a line each, they are types as well.
Stage = Mode
ExperimentMode = Mode
