"""Which values of a callback's parameters are numbers."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any


def is_number(value: Any) -> bool:
    """Whether it is a number that compares, and no truth value.

    >>> is_number(0.5), is_number("0.5"), is_number(True), is_number(float("nan"))
    (True, False, False, False)
    """
    return not isinstance(value, bool) and isinstance(value, Real) and bool(value == value)


def is_whole(value: Any, *, least: int) -> bool:
    """Whether it is a whole number of at least `least`.

    >>> is_whole(3, least=1), is_whole(2.5, least=1), is_whole(0, least=1)
    (True, False, False)
    """
    return is_number(value) and isinstance(value, Integral) and int(value) >= least
