"""Items of datasets: reading one, stacking many; every failure names the key."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

DETERMINISTIC = ("DictDataset",)  # mlworkflow datasets that give the same item every time


class DatasetError(ValueError):
    """Data that cannot be used: what is wrong, what was seen, what to write."""

    def __init__(self, wrong: str, seen: str, write: str):
        super().__init__(f"{wrong}\nSeen: {seen}.\n{write}")


class ArrayDataset:
    """A dict of equally long arrays as a dataset; keys are positions.

    >>> ArrayDataset({"input": [[0, 1], [2, 3]]}).query_item(1)
    {'input': array([2, 3])}
    """

    deterministic = True

    def __init__(self, arrays: Mapping[str, Any]):
        self.arrays = {name: np.asarray(array) for name, array in arrays.items()}
        sizes = {name: array.shape[:1] for name, array in self.arrays.items()}
        if len(set(sizes.values())) != 1 or () in sizes.values():
            seen = ", ".join(f"{name}: {size[0] if size else 'a scalar'}" for name, size in sizes.items())
            raise DatasetError("A dict of arrays needs equally long arrays.", seen or "no array", "Cut them alike.")
        self.keys = range(next(iter(sizes.values()))[0])

    def query_item(self, key: Any) -> dict[str, Any]:
        """Row `key` of every array."""
        return {name: array[key] for name, array in self.arrays.items()}


class ItemsDataset:
    """A mapping from keys to items, or a sequence of items, as a dataset."""

    deterministic = True

    def __init__(self, items: Mapping[Hashable, Any] | Sequence[Any]):
        self.items = items
        self.keys = tuple(items) if isinstance(items, Mapping) else range(len(items))

    def query_item(self, key: Any) -> Any:
        """The item as it was given."""
        return self.items[key]


def as_dataset(source: Any, *, subset: str) -> Any:
    """Anything that holds items, as an object with `keys` and `query_item`."""
    if hasattr(source, "query_item") and hasattr(source, "keys"):
        if type(source).__name__ in DETERMINISTIC and not hasattr(source, "deterministic"):
            source.deterministic = True
        return source
    if isinstance(source, Mapping):
        values = list(source.values())
        named = all(isinstance(key, str) for key in source) and not any(isinstance(v, Mapping) for v in values)
        return ArrayDataset(source) if named and values else ItemsDataset(source)
    if isinstance(source, Sequence) and not isinstance(source, (str, bytes)):
        return ItemsDataset(source)
    raise DatasetError(
        f"Subset {subset!r} has no dataset.",
        f"a {type(source).__name__}",
        "Give a mlworkflow.Dataset, an object with `keys` and `query_item(key)`, a mapping from keys to items, "
        "a list of items, or a dict of equally long arrays.",
    )


def query(dataset: Any, key: Hashable, *, subset: str) -> dict[str, Any]:
    """The item of `key`, as a dictionary of its own."""
    try:
        item = dataset.query_item(key)
    except Exception as error:
        error.add_note(f"While reading key {key!r} of subset {subset!r}.")
        raise DatasetError(
            f"The dataset of subset {subset!r} fails on key {key!r}.",
            f"{type(error).__name__}: {error}",
            "Mend the item, or leave its key out: Subset(..., keys=[...]).",
        ) from error
    if not isinstance(item, Mapping):
        raise DatasetError(
            f"The item of key {key!r} of subset {subset!r} is not a dictionary.",
            f"a {type(item).__name__}",
            'Return names with values, such as {"input": image, "target": label}.',
        )
    return dict(item)


def stack(items: Sequence[Mapping[str, Any]], keys: Sequence[Hashable], *, subset: str) -> dict[str, Any]:
    """Items with the same names stacked by name: numbers as `[B, ...]` arrays, anything else as a list of objects."""
    names = tuple(items[0])
    for key, item in zip(keys, items, strict=True):
        if item.keys() != items[0].keys():
            odd = ", ".join(sorted(item.keys() ^ items[0].keys()))
            raise DatasetError(
                f"Key {key!r} of subset {subset!r} has other names than key {keys[0]!r}: {odd}.",
                f"{', '.join(item) or 'nothing'} against {', '.join(names)}",
                "Every item needs the same names.",
            )
    return {name: _column(name, [item[name] for item in items], keys, subset) for name in names}


def _column(name: str, values: list[Any], keys: Sequence[Hashable], subset: str) -> Any:
    arrays = [value if isinstance(value, np.ndarray) else np.asarray(value) for value in _plain(values)]
    if any(array.dtype.kind not in "biufc" for array in arrays):
        return values
    first = arrays[0]
    for key, array in zip(keys, arrays, strict=True):
        if array.shape != first.shape:
            raise DatasetError(
                f"{name!r} has one shape in key {keys[0]!r} of subset {subset!r} and another in key {key!r}.",
                f"{list(first.shape)} and {list(array.shape)}",
                "Crop, resize or pad the items to one shape.",
            )
    return np.stack(arrays)


def _plain(values: list[Any]) -> list[Any]:
    """Values numpy can look at without trying to make one ragged array of a list of lists."""
    return [value if hasattr(value, "dtype") or np.isscalar(value) else _tried(value) for value in values]


def _tried(value: Any) -> Any:
    if not isinstance(value, (list, tuple)) or hasattr(value, "_fields"):
        return np.array(None, dtype=object)
    try:
        return np.asarray(value)
    except ValueError:  # ragged: an object, which stays on the host
        return np.array(None, dtype=object)
