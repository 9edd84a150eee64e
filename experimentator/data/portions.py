"""Cuts keys and items into parts of one size."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any


def cut(values: tuple[Any, ...], size: int) -> Iterator[tuple[Any, ...]]:
    """The values, `size` of them at a time.

    >>> list(cut((3, 1, 4), 2))
    [(3, 1), (4,)]
    """
    return (values[start : start + size] for start in range(0, len(values), size))


def cut_pairs(pairs: Iterable[tuple[Any, Any]], size: int) -> Iterator[tuple[tuple[Any, ...], list[Any]]]:
    """Keys and items, `size` of each at a time."""
    pairs = iter(pairs)
    while part := list(itertools.islice(pairs, size)):
        yield tuple(key for key, _ in part), [item for _, item in part]
