"""What a run of the graph is for: training, evaluating, or inferring."""

from __future__ import annotations

from enum import IntFlag
from typing import Any

from experimentator.graph.errors import UnknownModeError


class Mode(IntFlag):
    """A set of purposes; a chunk processor runs in those of its `mode`.

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
        """Read a mode from its name, its number, or a flag of somebody else's enum.

        >>> Mode.of("train"), Mode.of(6) == Mode.EVAL | Mode.INFER
        (<Mode.TRAIN: 1>, True)
        """
        if isinstance(value, str):
            number: Any = cls.__members__.get(value.strip().upper())
        else:
            number = getattr(value, "value", value)
        if not isinstance(number, int) or not 0 < number <= cls.ALL:
            raise UnknownModeError(value)
        return cls(number)


# The word of older configurations.
Stage = ExperimentMode = Mode
