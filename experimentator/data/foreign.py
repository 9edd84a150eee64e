"""Wraps objects that follow the protocol of subsets, and are not `Subset`s."""

from __future__ import annotations

from collections.abc import Hashable
from contextlib import suppress
from typing import Any

from experimentator.data.items import DatasetError
from experimentator.subset import Subset


class ForeignSubset(Subset):
    """A subset that is no `Subset`, but has a `name`, a `mode` or `type`, and `query_item`, `dataset` or both.

    Its own `keys`, `shuffled_keys()` and `query_item(key)` are used; `seed` and `epoch` are set on it before it
    shuffles. Its other attributes can be read here.

    >>> class Mine:
    ...     name, type, keys = "validation", "eval", ["a", "b"]
    ...     def query_item(self, key):
    ...         return {"path": f"/{key}"}
    >>> as_subset(Mine()).batch(["b"])
    {'batch_path': ['/b']}
    """

    def __init__(self, given: Any):
        self.given = given
        super().__init__(
            given.name,
            getattr(given, "mode", None) or given.type,
            _Items(given) if hasattr(given, "query_item") else given.dataset,
            None if hasattr(given, "query_item") else getattr(given, "keys", None),
            getattr(given, "repetitions", 1),
            getattr(given, "desc", None),
        )

    def __getattr__(self, name: str) -> Any:
        if name == "given":  # before it is set, as while it is copied
            raise AttributeError(name)
        return getattr(self.given, name)

    @property
    def reorders(self) -> bool:
        """Whether it has an order of its own."""
        return "shuffled_keys" in vars(self) or hasattr(self.given, "shuffled_keys")

    def shuffled_keys(self) -> tuple[Hashable, ...]:
        """Its own order, if it has one."""
        if not hasattr(self.given, "shuffled_keys"):
            return super().shuffled_keys()
        with suppress(AttributeError):
            self.given.seed, self.given.epoch = self.seed, self.epoch
        return tuple(self.given.shuffled_keys())


class _Items:
    """The items of a foreign subset, as a dataset."""

    def __init__(self, given: Any):
        self.parent = given

    @property
    def keys(self) -> Any:
        return self.parent.keys if hasattr(self.parent, "keys") else self.parent.dataset.keys

    def query_item(self, key: Hashable) -> Any:
        return self.parent.query_item(key)


def as_subset(given: Any, *, asker: str = "") -> Subset:
    """A `Subset` as it is, and an object that follows its protocol wrapped; `asker` is the method that was given it.

    Raises:
        DatasetError: for an object that is no subset.
    """
    if isinstance(given, Subset):
        return given
    has = [name for name in ("name", "mode", "type", "keys", "query_item", "dataset") if name in dir(given)]
    fits = "name" in has and {"mode", "type"} & set(has) and ("dataset" in has or {"keys", "query_item"} <= set(has))
    if isinstance(given, type) or not fits:
        seen = f"{' '.join(repr(given).split()):.60}, a {type(given).__name__}" + (
            f" with {', '.join(has)}" if has else ""
        )
        if asker:
            example = 'Subset("test", Mode.EVAL, {"input": x, "target": y})'
            write = f'Write exp.{asker}("validation"), by name, or exp.{asker}({example}).'
            raise DatasetError(f"exp.{asker} was given something that is no subset.", seen, write)
        write = "List Subset(name, mode, dataset), or an object with name, mode, keys and query_item(key)."
        raise DatasetError("`subsets` lists something that is no subset.", seen, write)
    return ForeignSubset(given)
