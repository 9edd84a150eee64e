"""Which values are numbers."""

from __future__ import annotations

from contextlib import suppress
from numbers import Integral, Real
from typing import Any

import numpy as np


def is_scalar(value: Any) -> bool:
    """Whether a value may stand in the history: a number of Python or numpy, also NaN, but no bool."""
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


def as_scalar(value: Any) -> Any:
    """A number of numpy, Keras or a framework, which has no axes, as one of Python; any other value as it is.

    >>> as_scalar(np.array(0.5)), as_scalar("0.5")
    (0.5, '0.5')
    """
    with suppress(Exception):  # of a trace, or on a device that is gone
        if getattr(value, "shape", None) == ():
            return value.item() if hasattr(value, "item") else np.asarray(value).item()
    return value


def is_number(value: Any) -> bool:
    """Whether a value is a real number, but not NaN or a bool.

    >>> is_number(0.5), is_number("0.5"), is_number(True), is_number(float("nan"))
    (True, False, False, False)
    """
    return not isinstance(value, bool) and isinstance(value, Real) and bool(value == value)


def is_whole(value: Any, *, least: int) -> bool:
    """Whether a value is a whole number of at least `least`.

    >>> is_whole(3, least=1), is_whole(2.5, least=1), is_whole(0, least=1)
    (True, False, False)
    """
    return is_number(value) and isinstance(value, Integral) and int(value) >= least
