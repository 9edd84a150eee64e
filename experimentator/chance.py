"""Random generators that an object holds, and setting them anew: a copy in another process must not repeat them."""

from __future__ import annotations

import random
from collections.abc import Hashable, Iterator
from types import FunctionType, ModuleType
from typing import Any

import numpy as np

from experimentator.subset import generator

MOST = 100_000  # objects that are looked at


def generators_in(root: Any) -> list[Any]:
    """Every generator of numpy or of Python that can be reached from an object: attributes, containers, functions.

    >>> class Noise:
    ...     def __init__(self):
    ...         self.random = {"noise": np.random.default_rng(0)}
    >>> len(generators_in(Noise()))
    1
    """
    found: list[Any] = []
    seen: dict[int, Any] = {}  # kept alive, since ids are of living objects only
    waiting = [root]
    while waiting and len(seen) < MOST:
        one = waiting.pop()
        if id(one) not in seen:
            seen[id(one)] = one
            if isinstance(one, (np.random.Generator, np.random.RandomState, random.Random)):
                found.append(one)
            else:
                waiting.extend(_parts(one))
    return found


def reseed(generators: list[Any], *address: Hashable) -> None:
    """Set generators, and those that numpy and Python share, to what their place and the address say.

    >>> one, other = np.random.default_rng(1), np.random.default_rng(2)
    >>> reseed([one], "training", 3)
    >>> reseed([other], "training", 3)
    >>> one.integers(1000) == other.integers(1000)
    np.True_
    """
    shared = np.random.mtrand._rand
    for place, one in enumerate([random, shared, *generators]):
        words = generator(*address, place).integers(1 << 32, size=8, dtype=np.uint32)
        if isinstance(one, np.random.Generator):
            one.bit_generator.state = type(one.bit_generator)([int(word) for word in words]).state
        elif isinstance(one, np.random.RandomState):
            one.seed(words)
        else:
            one.seed(int.from_bytes(words.tobytes(), "little"))


def _parts(one: Any) -> Iterator[Any]:
    if isinstance(one, (str, bytes, int, float, np.ndarray, ModuleType, type)):
        return
    if isinstance(one, dict):
        yield from one.values()
    elif isinstance(one, (list, tuple, set, frozenset)):
        yield from one
    elif isinstance(one, FunctionType):
        yield from (one.__globals__[name] for name in one.__code__.co_names if name in one.__globals__)
        yield from (cell.cell_contents for cell in one.__closure__ or () if _is_filled(cell))
    for where in (getattr(one, "__dict__", None), getattr(one, "__self__", None), getattr(one, "func", None)):
        if where is not None:
            yield where


def _is_filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False
