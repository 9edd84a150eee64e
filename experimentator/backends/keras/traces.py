"""Why a function was traced again."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import keras

log = logging.getLogger(__name__)
MANY = 12  # numbers of rows that one function is compiled for, before a warning


class Traces:
    """Tells which name made a function be traced again.

    With `by_length`, functions are compiled for each number of rows, and another one, as of a block, is expected.
    """

    def __init__(self, *, by_length: bool) -> None:
        self.by_length = by_length
        self._signatures: dict[str, dict[str, tuple[Any, str]]] = {}
        self._lengths: dict[str, set[int]] = {}

    def tell(self, kind: str, columns: Mapping[str, Any]) -> None:
        """Note that the function `kind` is traced for `columns`; warn if it was traced for others before."""
        name_of = keras.backend.standardize_dtype
        seen = {name: (tuple(column.shape), name_of(column.dtype)) for name, column in columns.items()}
        lengths = {shape[0] for shape, _ in seen.values()}
        before, skip = self._signatures.setdefault(kind, seen), self.by_length and len(lengths) == 1
        told = [
            f"{name} was {list(before[name][0])} {before[name][1]}, is {list(shape)} {dtype}"
            for name, (shape, dtype) in seen.items()
            if (shape[skip:], dtype) != (before[name][0][skip:], before[name][1])
        ]
        if told:
            log.warning("Traced again: %s.", "; ".join(told))
        self._lengths.setdefault(kind, set()).update(lengths)
        if self.by_length and len(self._lengths[kind]) == MANY:
            log.warning("Compiled separately for %s numbers of rows: give batches of one size.", MANY)
