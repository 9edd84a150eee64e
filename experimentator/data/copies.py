"""Copies of items for transforms, which may change them in place."""

from __future__ import annotations

import copy
from collections.abc import Hashable
from typing import Any

import numpy as np

PLAIN = {bool, bytes, complex, float, int, str, type(None)}  # types of values that nothing can change


def copy_before_transforms(dataset: Any) -> None:
    """Put `_own` before the transforms of a dataset and its parents, so that these do not change a parent's items."""
    while dataset is not None:
        transforms = getattr(dataset, "transforms", None)
        if isinstance(transforms, list) and hasattr(dataset, "add_transform") and _own not in transforms[:1]:
            transforms.insert(0, _own)
        dataset = getattr(dataset, "parent", None)


def own_copy(value: Any) -> Any:
    """A copy of an item, with arrays, tensors and containers of its own, also within others; other objects are shared.

    >>> boxes = [np.zeros(2)]
    >>> own_copy({"boxes": boxes})["boxes"][0][...] = 1
    >>> boxes
    [array([0., 0.])]
    """
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, (dict, list, set)):
        own: Any = copy.copy(value)
        if isinstance(value, dict) and not PLAIN.issuperset(map(type, value.values())):
            for name, one in value.items():
                own[name] = own_copy(one)  # `update` of a Counter would add
        if isinstance(value, list) and not PLAIN.issuperset(map(type, value)):
            own[:] = map(own_copy, value)
        return own
    if isinstance(value, tuple) and not PLAIN.issuperset(map(type, value)):
        parts = map(own_copy, value)
        return value._make(parts) if hasattr(value, "_make") else tuple(parts) if type(value) is tuple else value
    return value.clone() if type(value).__module__ == "torch" and hasattr(value, "clone") else value


def _own(key: Hashable, item: Any) -> Any:
    """A transform that copies the item."""
    return own_copy(item)
