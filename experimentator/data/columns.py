"""A whole subset as columns, one array for each name, for items that are the same every time and read once."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from experimentator.data.items import ArrayDataset, is_deterministic, is_numeric
from experimentator.loading.threads import spread
from experimentator.subset import Subset

FEW = 16  # items that are read again, to see whether they change


def is_columnar(subset: Subset) -> bool:
    """Whether the items are known to be the same every time, so that they may be kept as columns."""
    has_own_items = subset.replaces("query_item", of=Subset)
    return not has_own_items and not subset.has_own_batch and is_deterministic(subset.dataset)


def changes(subset: Subset) -> bool:
    """Whether some of the first items hold other numbers in another epoch, as those of transforms that draw do."""
    first, second = subset._in_epoch(0), subset._in_epoch(1)
    keys = subset.keys[:FEW]
    return any(_numbers(first, key) != _numbers(second, key) for key in keys)


def _numbers(subset: Subset, key: Hashable) -> dict[str, bytes]:
    """The bytes of all numbers of an item, by name; none of an item that is left out."""
    _, batch = subset.read([key], [0])
    arrays = {name: np.asarray(values) for name, values in batch.items() if is_numeric(values)}
    return {name: array.tobytes() for name, array in arrays.items()}


def columns_of(subset: Subset, *, threads: int = 1) -> tuple[np.ndarray | None, Mapping[str, Any]]:
    """The places of keys with items (None: all), and the subset as `{"batch_input": [N, ...], ...}`, read once."""
    if subset.has_own_batch:
        return None, subset.batch(subset.keys)
    if is_columnar(subset) and isinstance(subset.dataset, ArrayDataset) and subset.keys:
        if (columns := _taken(subset.dataset, subset.keys)) is not None:
            return None, columns
    kept, columns = subset.batch_of(subset.keys, all_items(subset, threads))
    if kept is not None and not len(kept):
        raise subset.empty_error(subset.keys)
    return kept, columns


def _taken(dataset: ArrayDataset, keys: Sequence[Hashable]) -> dict[str, Any] | None:
    """Columns taken at once; None where items must be read one by one."""
    try:
        columns = dataset.columns(keys)
    except (TypeError, IndexError, OverflowError):  # a key is no row: the error of its item names it
        return None
    if any(array.dtype == object and isinstance(array[0], np.ndarray | list) for array in columns.values()):
        return None  # numpy holds rows as objects: they are stacked, or the odd one is named
    return {f"batch_{n}": array if is_numeric(array) else list(array) for n, array in columns.items()}


def all_items(subset: Subset, threads: int) -> list[Any]:
    """The item of each key, read once by so many threads; None for one that was left out."""
    return spread(lambda keys: subset.items_of(keys, [0] * len(keys)), subset.keys, threads, "experimentator-columns")
