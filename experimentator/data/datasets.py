"""The base class of datasets over a parent dataset, with the protocol of mlworkflow's datasets."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from experimentator.data.items import as_dataset, keys_of, stack
from experimentator.data.keys import Keys
from experimentator.data.portions import cut

Item = dict[str, Any]


class WrappedDataset:
    """A dataset with the keys of another and items made of its items; subclasses define `query_item`.

    `parent` is anything that a `Subset` takes: a mlworkflow dataset, a mapping, a sequence, or a dict of arrays.
    """

    deterministic = False

    def __init__(self, parent: Any):
        self.parent = as_dataset(parent, subset=type(self).__name__)

    def query_item(self, key: Hashable) -> Any:
        """The item of one key, None where it is left out."""
        raise NotImplementedError

    @property
    def keys(self) -> Keys:
        """The parent's keys."""
        return Keys(keys_of(self.parent, subset=type(self).__name__))

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def context(self) -> ChainMap[Any, Any]:
        """The parent's context, which mlworkflow's datasets hand on to those that wrap them."""
        context: ChainMap[Any, Any] = getattr(self.parent, "context", ChainMap())
        return context

    def yield_keys(self) -> Iterator[Hashable]:
        """The keys, one by one."""
        yield from self.keys

    def query(
        self, keys: Iterable[Hashable], collate_fn: Callable[[Sequence[Item]], Mapping[str, Any]] | None = None
    ) -> Mapping[str, Any]:
        """The items of `keys`, without those left out, stacked by name or as `collate_fn` does it."""
        listed = tuple(keys)
        pairs = [(key, item) for key, item in ((key, self.query_item(key)) for key in listed) if item is not None]
        if collate_fn is not None:
            return collate_fn([item for _, item in pairs])
        return _stacked(pairs)

    def batches(
        self,
        batch_size: int,
        keys: Iterable[Hashable] | None = None,
        collate_fn: Callable[[Sequence[Item]], Mapping[str, Any]] | None = None,
    ) -> Iterator[tuple[tuple[Hashable, ...], Mapping[str, Any]]]:
        """Yield `(keys, batch)`, the last one smaller."""
        for part in cut(tuple(self.keys if keys is None else keys), batch_size):
            yield part, self.query(part, collate_fn)


def collate_fn(items: Sequence[Item | None]) -> Item:
    """Items stacked into a batch, names prefixed: `[{"input": ...}, ...]` -> `{"batch_input": [B, ...]}`.

    Items that are None are left out.

    >>> collate_fn([{"input": 1, "path": "a"}, {"input": 2, "path": "b"}])
    {'batch_input': array([1, 2]), 'batch_path': ['a', 'b']}

    Raises:
        DatasetError: for items with other names or shapes than the first.
    """
    pairs = [(place, item) for place, item in enumerate(items) if item is not None]
    return {f"batch_{name}": values for name, values in _stacked(pairs).items()}


def _stacked(pairs: Sequence[tuple[Hashable, Item]]) -> Item:
    if not pairs:
        return {}
    return stack([item for _, item in pairs], [key for key, _ in pairs], subset="a query")
