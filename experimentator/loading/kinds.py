"""Checks that all items of a subset have one shape and dtype."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from experimentator.data.items import DatasetError
from experimentator.loading.blocks import Spec


def kind_error(name: str, subset: str, odd: Hashable, first: Hashable, seen: Spec | None, spec: Spec) -> DatasetError:
    """The error for an item whose shape or dtype differs from the first one's.

    >>> specs = [Spec((None, 3), np.dtype(one)) for one in ("float64", "float32")]
    >>> print(str(kind_error("batch_input", "training", 7, 0, *specs)).splitlines()[1])
    Seen: [3] float64 against [3] float32.
    """
    return DatasetError(
        f"{name.removeprefix('batch_')!r} of subset {subset!r} is another kind of value in key {odd!r} "
        f"than in key {first!r}.",
        f"{kind_of(seen)} against {kind_of(spec)}",
        "Let the dataset give every item one shape and dtype, such as np.float32(...).",
    )


def check_rows(batch: Mapping[str, Any], keys: Sequence[Hashable], *, subset: str) -> None:
    """Refuse arrays that a `batch` of a subset's own gives for these keys, and that have not a row for each."""
    for name, values in batch.items():
        if getattr(values, "ndim", 0) and len(values) != len(keys):
            raise DatasetError(
                f"`batch` of subset {subset!r} gives {len(values)} rows of {name!r} for {len(keys)} keys.",
                f"{list(values.shape)} for key {keys[0]!r:.80} and those after it",
                "Give a row for each key. To leave keys out, choose them beforehand, with a FilteredSubset.",
            )


def kind_of(spec: Spec | None) -> str:
    """Shape and dtype of an item, for messages."""
    return "an object" if spec is None else f"{list(spec.shape[1:])} {spec.dtype}"


def check_kinds(
    made: Mapping[str, Spec], sample: Mapping[str, Spec], items: Iterable[tuple[Hashable, Any]], *, subset: str
) -> None:
    """Refuse items whose values would change when cast to the dtype of the first one, as the feed casts them.

    Items are looked at only where the columns `made` of them have a wider dtype than the `sample`. Python numbers,
    which have no dtype, may be both int and float.
    """
    wide = [n for n, spec in made.items() if n in sample and not np.can_cast(spec.dtype, sample[n].dtype, "safe")]
    if not wide:
        return
    there = [(key, item) for key, item in items if item is not None]
    for name in wide:
        for key, item in there:
            value, spec = item[name.removeprefix("batch_")], sample[name]
            array = np.asarray(value)
            if hasattr(value, "dtype") and not np.can_cast(array.dtype, spec.dtype, "safe"):
                raise kind_error(name, subset, key, there[0][0], Spec((None, *array.shape), array.dtype), spec)
