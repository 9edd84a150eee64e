"""Why a function was traced again."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import keras

log = logging.getLogger(__name__)
MANY = 12  # numbers of rows that one function is compiled for, until somebody should hear of it


class Traces:
    """Tells which name made a function be traced again; another length of all columns, as of a block, is expected."""

    def __init__(self) -> None:
        self._signatures: dict[str, dict[str, tuple[Any, str]]] = {}
        self._lengths: dict[str, set[int]] = {}

    def tell(self, kind: str, columns: Mapping[str, Any]) -> None:
        """The function `kind` is traced for `columns`."""
        dtype_of = keras.backend.standardize_dtype
        seen = {name: (tuple(column.shape), dtype_of(column.dtype)) for name, column in columns.items()}
        before, skip = self._signatures.setdefault(kind, seen), len({len(column) for column in columns.values()}) == 1
        told = [
            f"{name} was {list(shape)} {dtype}, is {list(seen[name][0])} {seen[name][1]}"
            for name, (shape, dtype) in before.items()
            if (shape[skip:], dtype) != (seen[name][0][skip:], seen[name][1])
        ]
        if told:
            log.warning("Traced again: %s.", "; ".join(told))
        self._lengths.setdefault(kind, set()).update(len(column) for column in columns.values())
        if len(self._lengths[kind]) == MANY:
            log.warning("Compiled for %s numbers of rows, each for itself: give batches of one size.", MANY)
