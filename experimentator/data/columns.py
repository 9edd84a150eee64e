"""A whole subset as columns, one array for each name, for items that are the same every time and read once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from experimentator.data.items import ArrayDataset, is_deterministic, is_numeric
from experimentator.loading.threads import spread
from experimentator.subset import Subset


def is_columnar(subset: Subset) -> bool:
    """Whether the items are known to be the same every time, so that they may be kept as columns."""
    has_own_items = subset.replaces("query_item", of=Subset)
    return not has_own_items and not subset.has_own_batch and is_deterministic(subset.dataset)


def columns_of(subset: Subset, *, threads: int = 1) -> tuple[np.ndarray | None, Mapping[str, Any]]:
    """The places of keys with items (None: all), and the subset as `{"batch_input": [N, ...], ...}`, read once."""
    if subset.has_own_batch:
        return None, subset.batch(subset.keys)
    if is_columnar(subset) and isinstance(subset.dataset, ArrayDataset) and subset.keys:
        try:
            columns = subset.dataset.columns(subset.keys)
        except (TypeError, IndexError, OverflowError):
            return subset.read(subset.keys)  # a key is no row: reading them one by one raises an error that names it
        if any(array.dtype == object and isinstance(array[0], np.ndarray | list) for array in columns.values()):
            return subset.read(subset.keys)  # numpy holds rows as objects: they are stacked, or the odd one is named
        return None, {f"batch_{n}": array if is_numeric(array) else list(array) for n, array in columns.items()}
    kept, columns = subset.batch_of(subset.keys, all_items(subset, threads))
    if kept is not None and not len(kept):
        raise subset.empty_error(subset.keys)
    return kept, columns


def all_items(subset: Subset, threads: int) -> list[Any]:
    """The item of each key, read once by so many threads; None for one that was left out."""
    return spread(lambda keys: subset.items_of(keys, [0] * len(keys)), subset.keys, threads, "experimentator-columns")
