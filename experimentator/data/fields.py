"""Values asked of keys and items: a field by its name, or a function of (key) or (key, item)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from typing import Any

import numpy as np

from experimentator.data.items import DatasetError, query
from experimentator.data.reading import Reading
from experimentator.graph.signatures import signature_of


@dataclass(frozen=True)
class Asking:
    """Answers for single keys of a dataset: `by` is the name of a field, or a function of (key) or of (key, item).

    A field is looked for in the key (a NamedTuple, a dataclass, a mapping), then in the item; if a transform leaves the
    item out, the parent's is used. `asker` is for messages.

    >>> from experimentator.data.items import ItemsDataset
    >>> Asking("parity", ItemsDataset({3: {"parity": "odd"}}), asker="the example").answer(3)
    'odd'

    A builtin function without a signature, such as `{1, 2}.__contains__`, takes (key). All NaN are one value.

    Raises:
        DatasetError: for a function that takes other arguments or fails, and for a name that neither key nor item has.
    """

    by: str | Callable[..., Any]
    dataset: Any
    asker: str

    def answer(self, key: Hashable) -> Any:
        """The value for one key; numpy scalars as Python numbers."""
        if isinstance(self.by, str):
            return _plain(self._field(key, self.by))
        given = (key, self._item(key)) if self._takes == 2 else (key,)
        try:
            return _plain(self.by(*given))
        except DatasetError:
            raise
        except Exception as error:
            seen = f"{type(error).__name__}: {error!s:.200}"
            write = "Mend the function, or leave the key out: keys=[...]."
            alone = "" if self._takes == 2 else " It is given the key alone: let it take (key, item) to see the item."
            raise DatasetError(f"{self.asker} fails on key {key!r:.80}.", seen, write + alone) from error

    def answers(self, keys: Iterable[Hashable]) -> list[Any]:
        """The value for each key, in order; raises for values that cannot be hashed."""
        found = []
        for key in keys:
            value = self.answer(key)
            try:
                hash(value)
            except TypeError:
                write = "Give a number or a string for each key."
                raise DatasetError(
                    f"{self.asker} gives no class for key {key!r}.", f"a {type(value).__name__}", write
                ) from None
            found.append(value)
        return found

    def holds(self, key: Hashable) -> bool:
        """Whether a predicate is true for a key; an answer that is no bool is refused."""
        value = self.answer(key)
        if isinstance(value, bool):
            return value
        raise DatasetError(
            f"{self.asker} answers neither True nor False for key {key!r}.",
            f"{value!r:.60}, a {type(value).__name__}",
            "Return a comparison, or bool(...).",
        )

    @cached_property
    def _takes(self) -> int:
        """How many arguments the function takes, 1 or 2; looked up once, since that takes longer than most calls."""
        write = "Write a function of (key), or of (key, item)."
        if not callable(self.by):
            raise DatasetError(f"{self.asker} is neither a function nor a name.", f"{self.by!r:.60}", write)
        try:
            parameters = signature_of(self.by).parameters.values()
        except ValueError:  # a builtin without a signature
            return 1
        positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        needed = [p for p in positional if p.default is p.empty]
        takes = len(needed) or min(1, len(positional))  # the key may have a default, as that of bool has
        if takes not in (1, 2):
            raise DatasetError(f"{self.asker} takes neither one nor two arguments.", f"{takes} of them", write)
        return takes

    def _item(self, key: Hashable) -> Mapping[str, Any]:
        """The item, with draws that depend on the key alone; if it is left out, the nearest parent's that is not."""
        item, dataset = None, self.dataset
        with Reading(("asked",)).at(key, 0):
            while item is None and dataset is not None:
                item, dataset = query(dataset, key, subset=self.asker), getattr(dataset, "parent", None)
        if item is None:
            write = "Ask about its key, or let the transforms keep it."
            raise DatasetError(f"{self.asker} is asked about an item that is left out.", f"None for key {key!r}", write)
        return item

    def _field(self, key: Hashable, name: str) -> Any:
        fields = _fields_of(key)
        if name in fields:
            return fields[name]
        item = self._item(key)
        if name in item:
            return item[name]
        known = [*fields, *map(str, item)]
        near = get_close_matches(name, known, n=1)
        guess = f"Did you mean {near[0]!r}? " if near else ""
        raise DatasetError(
            f"{self.asker} asks for the field {name!r}, which key {key!r:.80} and its item lack.",
            f"in the key: {', '.join(fields) or 'no fields'}; in the item: {', '.join(map(str, item)) or 'nothing'}",
            f"{guess}Name one of these, or give a function of (key) or (key, item).",
        )


def _fields_of(key: Any) -> dict[str, Any]:
    if isinstance(key, tuple) and hasattr(key, "_asdict"):
        return dict(key._asdict())
    if dataclasses.is_dataclass(key) and not isinstance(key, type):
        return {field.name: getattr(key, field.name) for field in dataclasses.fields(key)}
    return dict(key) if isinstance(key, Mapping) else {}


def _plain(value: Any) -> Any:
    """A numpy scalar, or array of one number, as a Python number; NaN as np.nan, so that all NaN are one value."""
    value = value.item() if isinstance(value, (np.generic, np.ndarray)) and value.size == 1 else value
    return np.nan if isinstance(value, float) and value != value else value
