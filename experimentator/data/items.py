"""Items of datasets: reading one, stacking many; every failure names the key."""

from __future__ import annotations

import itertools
import operator
import sys
from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from numbers import Number
from typing import Any

import numpy as np

from experimentator.checkpoint import CheckpointError
from experimentator.data.containers import BY_PLACE, dataset_of_others, equal_lengths
from experimentator.data.copies import copy_before_transforms

DETERMINISTIC = ("DictDataset",)  # classes of mlworkflow whose items are the same every time
KEPT = dict.__getitem__, list.__getitem__, tuple.__getitem__  # they give what was put in


class DatasetError(ValueError):
    """Data that cannot be used: what is wrong, what was seen, what to write.

    >>> from experimentator import Mode, Subset, build_experiment
    >>> items = [{"words": [3, 1]}, {"words": [4, 1, 5]}]
    >>> build_experiment({"subsets": [Subset("training", Mode.TRAIN, items)]}).batch("training")
    Traceback (most recent call last):
    experimentator.data.items.DatasetError: 'words' has one shape in key 0 of subset 'training' and another in key 1.
    Seen: [2] and [3].
    Crop, resize or pad the items to one shape, or let the subset pad them to a few: buckets={'words': [32, 64, 128]}.
    """

    def __init__(self, wrong: str, seen: str, write: str):
        super().__init__(f"{wrong}\nSeen: {seen}.\n{write}")
        self.parts = wrong, seen, write

    def __reduce__(self) -> tuple[Any, ...]:  # for errors of worker processes
        return type(self), self.parts, vars(self)


class ArrayDataset:
    """A dict of equally long arrays as a dataset; keys are positions.

    >>> ArrayDataset({"input": [[0, 1], [2, 3]]}).query_item(1)
    {'input': array([2, 3])}
    """

    deterministic = True

    def __init__(self, arrays: Mapping[str, Any]):
        self.arrays = {name: plain_array(name, values) for name, values in arrays.items()}
        sizes = {name: array.shape[:1] for name, array in self.arrays.items()}
        if len(set(sizes.values())) != 1 or () in sizes.values():
            kinds = {n: "a scalar" if np.isscalar(one) else f"a {type(one).__name__}" for n, one in arrays.items()}
            seen = ", ".join(f"{name}: {size[0] if size else kinds[name]}" for name, size in sizes.items())
            raise DatasetError("A dict of arrays needs equally long arrays.", seen or "no array", equal_lengths(arrays))
        self.keys = range(next(iter(sizes.values()))[0])

    def query_item(self, key: Any) -> dict[str, Any]:
        """Row `key` of every array."""
        row = operator.index(key)  # a slice is refused, and True is row 1, no mask
        return {name: array[row] for name, array in self.arrays.items()}

    def columns(self, keys: Sequence[Any]) -> dict[str, Any]:
        """The rows of `keys` of every array; the arrays themselves if these are all rows in order."""
        if keys == tuple(self.keys):
            return dict(self.arrays)
        rows = np.fromiter(map(operator.index, keys), np.intp, len(keys))
        return {name: array[rows] for name, array in self.arrays.items()}


class ItemsDataset:
    """A mapping from keys to items, or what has items by place, as a dataset; what makes them may differ each time."""

    def __init__(self, items: Any):
        self.items, self._is_mapping = items, isinstance(items, Mapping)
        self.deterministic = getattr(type(items), "__getitem__", None) in KEPT

    @property
    def keys(self) -> Sequence[Hashable]:
        """Those that it has now."""
        return tuple(self.items) if self._is_mapping else range(len(self.items))

    def query_item(self, key: Any) -> Any:
        """The item as it was given."""
        return self.items[key if self._is_mapping else operator.index(key)]


def as_dataset(source: Any, *, subset: str) -> Any:
    """Anything that holds items, as an object with `keys` and `query_item`.

    The transforms of mlworkflow's `TransformedDataset`, also among its parents, are made to work on copies of items.
    """
    if hasattr(source, "query_item") and (hasattr(type(source), "keys") or hasattr(source, "keys")):  # without a look
        copy_before_transforms(source)
        return source
    if isinstance(source, Mapping):
        values = list(source.values())
        if values and all(map(_is_dataset, values)):  # if some are not, one may be a column of dictionaries
            parts = list(map(repr, source))
            seen = f"a {type(source).__name__} of datasets, {', '.join(parts[:3])}"
            raise DatasetError(f"Subset {subset!r} has several datasets.", seen, f"Give it one: data[{parts[0]}].")
        named = all(isinstance(key, str) for key in source) and not any(isinstance(v, Mapping) for v in values)
        return ArrayDataset(source) if named and values else ItemsDataset(source)
    if isinstance(source, list | tuple) and source and all(getattr(one, "shape", ()) for one in source[:2]):
        seen = f"a {type(source).__name__} of arrays, {', '.join(str(list(one.shape)) for one in source[:2])}"
        raise DatasetError(f"Subset {subset!r} has no dataset.", seen, 'Name them: {"input": x, "target": y}.')
    if isinstance(source, Sequence) and not isinstance(source, (str, bytes)):
        return ItemsDataset(source)
    write = dataset_of_others(source)
    if write == BY_PLACE and _is_dataset(source):
        return ItemsDataset(source)
    raise DatasetError(
        f"Subset {subset!r} has no dataset.",
        f"a {type(source).__name__}",
        "Give a mlworkflow.Dataset, an object with `keys` and `query_item(key)`, a mapping from keys to items, "
        f"a list of items, or a dict of equally long arrays{write}.",
    )


def _is_dataset(source: Any) -> bool:
    """Whether an object has items: by keys, or dictionaries by place."""
    try:
        return hasattr(source, "query_item") or (len(source) > 0 and isinstance(source[0], Mapping))
    except (LookupError, TypeError):  # it is not indexed by place
        return False


def usable_keys(keys: Iterable[Hashable], *, subset: str) -> tuple[Hashable, ...]:
    """The keys that a subset is given, as a tuple; a boolean mask is refused: True would be taken for key 1."""
    if isinstance(keys, str) or not (hasattr(keys, "__iter__") or hasattr(keys, "__getitem__")):
        wrong, write = f"Subset {subset!r} has no list of keys.", "Write one: range(100), split(...)['training']."
        raise DatasetError(wrong, f"{keys!r:.60}", write)
    found = tuple(_all(keys))
    if len(found) > 2 and isinstance(found[0], (bool, np.bool_)):
        seen, write = f"{found[0]}, {found[1]}, {found[2]}, ...", "Write where they are True: np.flatnonzero(mask)."
        raise DatasetError(f"Subset {subset!r} has a mask for keys.", seen, write)
    try:
        hash(found)
    except TypeError as error:
        write = "Make its keys tuples, strings or numbers."
        raise DatasetError(f"A key of subset {subset!r} is not hashable.", str(error), write) from None
    return found


def keys_of(dataset: Any, *, subset: str) -> tuple[Hashable, ...]:
    """Every key of a dataset; if its `keys` are a generator, they are replaced by the tuple."""
    try:
        keys: Any = dataset.keys  # once: a property may list them anew
        keys = keys() if callable(keys) else keys
        found = tuple(_all(keys))
    except Exception as error:
        raise DatasetError(
            f"The dataset of subset {subset!r} fails to list its keys.",
            f"{type(error).__name__}: {error!s:.200}",
            "Mend its yield_keys(); a filter's predicate must return True or False: wrap a numpy result in bool(...).",
        ) from error
    if iter(keys) is keys and getattr(dataset, "__dict__", {}).get("keys") is keys:
        dataset.keys = found
    return found


def _all(keys: Any) -> Any:
    """All keys: of mlworkflow's by `keys.all()`, which means something else for arrays; those of a set in one order."""
    if isinstance(keys, (set, frozenset)):  # that of strings would differ from process to process
        return sorted(keys, key=repr)
    return keys.all() if hasattr(keys, "all") and not hasattr(keys, "dtype") else keys


def listed_keys(dataset: Any) -> Collection[Hashable] | None:
    """The keys of a dataset if they are a plain container; None if listing them might take time."""
    keys: Any = dataset.keys
    keys = _all(keys) if hasattr(keys, "__len__") and not callable(keys) else keys
    return keys if isinstance(keys, (tuple, list, range, dict, set, frozenset)) else None


def check_keys(dataset: Any, keys: Collection[Hashable], *, subset: str) -> None:
    """Refuse keys that a dataset does not have, if it has a plain list of them."""
    known = listed_keys(dataset)
    if known is None or isinstance(dataset, ArrayDataset):  # negative keys are rows, too
        return
    is_range = isinstance(known, range)  # it would look at all its numbers for one of numpy
    known = known if is_range else dict.fromkeys(known)
    missing = [key for key in keys if (key.item() if is_range and isinstance(key, np.generic) else key) not in known]
    if missing:
        raise DatasetError(
            f"The dataset of subset {subset!r} has no key {missing[0]!r:.80}, one of {len(missing)} that it lacks.",
            f"{len(known)} keys, {_some(known)}",
            "Give keys out of its own: Subset(..., keys=[...]).",
        )


def _some(keys: Collection[Hashable]) -> str:
    shown = ", ".join(f"{key!r:.60}" for key in itertools.islice(keys, 3))
    return f"such as {shown}" if keys else "of which it has none"


def is_deterministic(dataset: Any) -> bool:
    """Whether items are known to be the same every time: by the dataset's `deterministic`, else by its class."""
    return bool(getattr(dataset, "deterministic", type(dataset).__name__ in DETERMINISTIC))


def is_numeric(values: Any) -> bool:
    """Whether values are numbers, which may go to a device; anything else stays on the host."""
    dtype = np.asarray(values).dtype
    return dtype.kind in "biufc" or dtype.isbuiltin == 2  # 2: registered types, such as bfloat16


def query(dataset: Any, key: Hashable, *, subset: str) -> dict[str, Any] | None:
    """The item of `key`, as a new dictionary; None if it is to be left out."""
    try:
        item = dataset.query_item(key)
    except (DatasetError, CheckpointError) as error:  # its message says what to write
        error.add_note(f"For key {key!r:.80} of subset {subset!r}.")
        raise
    except (Exception, SystemExit) as error:  # an item that exits must not end the program silently
        write = "Mend the item, or leave its key out: Subset(..., keys=[...])."
        if isinstance(error, LookupError) and (known := listed_keys(dataset)) is not None and key not in known:
            write += f" It is not among the dataset's keys, {_some(known)}."
        seen = f"{type(error).__name__}: {error!s:.200}"
        raise DatasetError(f"The dataset of subset {subset!r} fails on key {key!r}.", seen, write) from error
    if item is None:
        return None
    if not isinstance(item, Mapping):
        keys = " If these are keys, name the dataset before them: Subset(name, mode, dataset, keys)."
        raise DatasetError(
            f"The item of key {key!r} of subset {subset!r} is not a dictionary.",
            f"a {type(item).__name__}",
            'Return names with values, such as {"input": image, "target": label}.' + keys * isinstance(item, str | int),
        )
    return dict(item)


def stack(
    items: Sequence[Mapping[str, Any]],
    keys: Sequence[Hashable],
    *,
    subset: str,
    into: Mapping[str, np.ndarray] | None = None,
) -> dict[str, Any]:
    """Items with the same names stacked by name: numbers as `[B, ...]` arrays, anything else as a list of objects.

    If an array in `into` fits, it is filled and returned instead of a new one.
    """
    into = into or {}
    if any(item.keys() != items[0].keys() for item in items):
        usual = Counter(map(frozenset, items)).most_common(1)[0][0]  # so that the odd item is named in the error
        first = next(key for key, item in zip(keys, items, strict=True) if item.keys() == usual)
        for key, item in zip(keys, items, strict=True):
            check_names(item, usual, key=key, first=first, subset=subset)
    return {name: _column(name, [item[name] for item in items], keys, subset, into.get(name)) for name in items[0]}


def check_names(
    names: Collection[Any], expected: Collection[Any], *, key: Hashable, first: Hashable, subset: str
) -> None:
    """Refuse an item that has other names than expected."""
    if odd := set(names) ^ set(expected):
        raise DatasetError(
            f"Key {key!r} of subset {subset!r} has other names than key {first!r}: {', '.join(sorted(map(str, odd)))}.",
            f"{', '.join(map(str, names)) or 'nothing'} against {', '.join(sorted(map(str, expected))) or 'nothing'}",
            "Every item needs the same names.",
        )


def _column(name: str, values: list[Any], keys: Sequence[Hashable], subset: str, into: np.ndarray | None) -> Any:
    arrays: list[Any] = []
    try:
        arrays.extend(map(_tried, values))
    except (TypeError, RuntimeError) as error:  # of a tensor that has a gradient, is on a GPU, or is of bfloat16
        raise DatasetError(
            f"{name!r} of key {keys[len(arrays)]!r:.80} of subset {subset!r} cannot become an array of numpy.",
            f"{type(error).__name__}: {error!s:.200}",
            "Convert it in the dataset, such as by tensor.detach().cpu().float().numpy().",
        ) from error
    refuse_masks(name, values)
    first = arrays[0]
    kinds = {array.dtype: array for array in arrays} if is_numeric(first) else {}
    if not kinds or not all(map(is_numeric, kinds.values())):
        return values
    for key, array in zip(keys, arrays, strict=True):
        if array.shape != first.shape:
            raise DatasetError(
                f"{name!r} has one shape in key {keys[0]!r} of subset {subset!r} and another in key {key!r}.",
                f"{list(first.shape)} and {list(array.shape)}",
                "Crop, resize or pad the items to one shape, or let the subset pad them to a few: "
                f"buckets={{{name!r}: [{_example(first.shape, array.shape)}]}}.",
            )
    is_fit = into is not None and into.shape == (len(arrays), *first.shape)
    if into is None or not is_fit or not all(np.can_cast(kind, into.dtype, "safe") for kind in kinds):
        return np.array(arrays, np.result_type(*kinds))  # np.stack takes three times as long for small ones
    into[...] = arrays
    return into


def _example(one: Sequence[int], other: Sequence[int]) -> str:
    """Example sizes for the error, of the axes that differ."""
    axes = max((axis for axis, (a, b) in enumerate(zip(one, other, strict=False), start=1) if a != b), default=1)
    return "32, 64, 128" if axes == 1 else ", ".join(str((size,) * axes) for size in (32, 64, 128))


def _tried(value: Any) -> Any:
    """The value as an array; an array of one object for what numpy should not convert."""
    if isinstance(value, (int, float)):  # most often
        return np.asarray(value)
    if hasattr(value, "dtype") or hasattr(type(value), "__array_interface__") or np.isscalar(value):
        return np.asarray(value)
    if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
        try:
            return np.asarray(value)
        except ValueError:  # ragged: an object
            pass
    return np.array(None, dtype=object)


def refuse_masks(name: Any, values: Sequence[Any]) -> None:
    """Refuse masked arrays with masked values: the masks would be ignored."""
    if "numpy.ma" in sys.modules and np.ma.MaskedArray in set(map(type, values)):  # it takes time to load
        for masked in filter(np.ma.is_masked, values):
            raise DatasetError(
                f"{name!r} is a masked array, whose mask would be ignored.",
                f"{np.ma.getmaskarray(masked).sum():,} of {masked.size:,} values are masked",
                f'Give values.filled(0) for {name!r}, and ~np.ma.getmaskarray(values) beside it, for weight="...".',
            )


def plain_array(name: Any, values: Any) -> np.ndarray:
    """An array in this machine's byte order (files of IDX, FITS or HDF5 may have another).

    Masked values, and rows of several lengths, are refused.

    >>> plain_array("target", np.array([2, 3], dtype=object))  # as pandas may hold them
    array([2, 3])
    """
    refuse_masks(name, [values])
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise DatasetError(
            f"{name!r} in a dict of arrays is ragged.",
            str(error).rstrip("."),
            "Resize or pad its rows, or give a list of items instead, which a subset with `buckets` pads.",
        ) from None
    if array.dtype.kind in "US" and isinstance(values, list | tuple):  # rows of numbers and text would become text
        array = np.fromiter(values, object, len(values))
    if array.dtype == object and all(isinstance(one, Number | np.bool_) for one in array.flat):
        array = np.array(array.tolist())
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))
