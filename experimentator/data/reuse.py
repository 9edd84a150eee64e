"""Notices a dataset that gives one array again and again, filled anew for each item: a batch would hold the last."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from contextlib import suppress
from typing import Any

import numpy as np

from experimentator.data.items import DatasetError

SAMPLE = 4096  # values of an array that are compared


class Reuse:
    """Compares the first two of `count` items that are read for a batch: memory that they share must not have changed.

    >>> buffer, reuse = np.zeros(2), Reuse("training", 32)
    >>> reuse.see(0, {"input": buffer})
    >>> buffer[:] = 1
    >>> reuse.see(1, {"input": buffer})
    Traceback (most recent call last):
    experimentator.data.items.DatasetError: 'input' of subset 'training' is the same array in keys 0 and 1.
    Seen: its values changed while key 1 was read, so that a batch would hold those of the last item for all.
    Let each item have its own: buffer.copy(). Workers read several items at once.
    """

    def __init__(self, subset: str, count: int):
        self.subset, self.left = subset, 2 if count > 1 else 0

    def see(self, key: Hashable, item: Mapping[str, Any] | None) -> None:
        """Look at the next item; None is one that is left out."""
        if item is None or not self.left:
            return
        self.left -= 1
        if self.left:
            self.first, self.arrays = key, _arrays(item)
            self.values = {name: _sample(array) for name, array in self.arrays.items()}
            return
        for name, array in _arrays(item).items():
            first = self.arrays.get(name)
            if first is not None and np.may_share_memory(first, array) and _sample(first) != self.values[name]:
                raise DatasetError(
                    f"{name!r} of subset {self.subset!r} is the same array in keys {self.first!r} and {key!r}.",
                    f"its values changed while key {key!r} was read, so that a batch would hold those of the last item "
                    "for all",
                    "Let each item have its own: buffer.copy(). Workers read several items at once.",
                )
        del self.arrays, self.values


def _arrays(item: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The arrays of an item, and tensors of PyTorch as arrays that share their memory."""
    found: dict[str, np.ndarray] = {}
    for name, value in item.items():
        with suppress(AttributeError, TypeError, RuntimeError):  # no tensor, or numpy has no such array
            value = value.detach().numpy() if type(value).__module__ == "torch" else value
        if isinstance(value, np.ndarray) and value.size and not value.dtype.hasobject:
            found[name] = value
    return found


def _sample(array: np.ndarray) -> bytes:
    """Bytes of some values, all over it: NaN is equal to itself there, and large items cost no more than small ones."""
    return bytes(array.flat[:: 1 + array.size // SAMPLE].tobytes())
