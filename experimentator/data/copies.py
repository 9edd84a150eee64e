"""Copies of items for transforms, which may change them in place."""

from __future__ import annotations

import copy
from collections.abc import Hashable
from typing import Any

import numpy as np


def copy_before_transforms(dataset: Any) -> None:
    """Put `_own` before the transforms of a dataset and its parents, so that these do not change a parent's items."""
    while dataset is not None:
        transforms = getattr(dataset, "transforms", None)
        if isinstance(transforms, list) and hasattr(dataset, "add_transform") and _own not in transforms[:1]:
            transforms.insert(0, _own)
        dataset = getattr(dataset, "parent", None)


def own_copy(item: Any) -> Any:
    """A copy of an item, with arrays, tensors, lists, sets and dictionaries of its own; other objects are shared."""
    if not isinstance(item, dict):
        return item
    own = copy.copy(item)
    own.update((name, _copied(value)) for name, value in item.items())
    return own


def _copied(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, (list, set, dict)):
        return copy.copy(value)
    return value.clone() if type(value).__module__ == "torch" and hasattr(value, "clone") else value


def _own(key: Hashable, item: Any) -> Any:
    """A transform that copies the item."""
    return own_copy(item)
