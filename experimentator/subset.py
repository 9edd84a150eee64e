"""Subsets: which keys of a dataset are used, for what, and in which order."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from experimentator.config import ConfigError
from experimentator.graph import Mode
from experimentator.items import (
    ArrayDataset,
    DatasetError,
    as_dataset,
    is_deterministic,
    is_numeric,
    keys_of,
    query,
    stack,
)


class Subset:
    """Some keys of a dataset, with a name and a mode: `Subset("training", Mode.TRAIN, dataset)`.

    `dataset` is a `mlworkflow.Dataset` or anything with `keys` and `query_item(key)`; for convenience also a mapping
    from keys to items, a sequence of items, or a dict of equally long arrays. An item is a dict from names to
    values; batches hold them as `batch_<name>`. Each key is visited `repetitions` times an epoch.

    The order of a training subset is a pure function of (seed, name of the subset, epoch).

    >>> subset = Subset("training", Mode.TRAIN, {"input": np.arange(6), "target": np.arange(6) % 2})
    >>> len(subset), subset.query_item(3)
    (6, {'input': np.int64(3), 'target': np.int64(1)})
    >>> keys, batch = next(subset.batches(2, keys=[4, 5]))
    >>> keys, batch["batch_input"].tolist()
    ((4, 5), [4, 5])
    """

    def __init__(
        self,
        name: str,
        mode: Any,
        dataset: Any,
        keys: Iterable[Hashable] | None = None,
        repetitions: int = 1,
        desc: str | None = None,
    ):
        if repetitions < 1 or repetitions != int(repetitions):
            raise ValueError(f"Subset {name!r} has repetitions={repetitions!r}. Write a whole number of at least 1.")
        self.name = name
        self.mode = Mode.of(mode)
        self.dataset = as_dataset(dataset, subset=name)
        self.repetitions = int(repetitions)
        self.desc = desc
        self.seed = 0
        self.epoch = 0
        self._keys: tuple[Hashable, ...] | None = None
        if keys is not None:
            self.keys = keys

    @property
    def keys(self) -> tuple[Hashable, ...]:
        """The keys in use; assign to change them."""
        if self._keys is None:
            self.keys = keys_of(self.dataset, subset=self.name)
        return self._keys or ()

    @keys.setter
    def keys(self, keys: Iterable[Hashable]) -> None:
        self._keys = tuple(keys)
        try:
            hash(self._keys)
        except TypeError as error:
            raise DatasetError(
                f"A key of subset {self.name!r} is not hashable.",
                str(error),
                "Make its keys tuples, strings or numbers.",
            ) from None

    @property
    def type(self) -> Mode:
        """The mode, under the name of older task files."""
        return self.mode

    @property
    def is_training(self) -> bool:
        """Whether the subset trains the experiment."""
        return self.mode == Mode.TRAIN

    def __len__(self) -> int:
        return len(self.keys) * self.repetitions

    def __str__(self) -> str:
        return f"{self.name} [{self.mode}]: {len(self)} items"

    def __repr__(self) -> str:
        return f"<Subset {self}>"

    def query_item(self, key: Hashable) -> dict[str, Any]:
        """The item of one key, without the prefix; a failure names the key."""
        return query(self.dataset, key, subset=self.name)

    def order(self) -> np.ndarray:
        """Positions in `keys` in the order of this epoch, `[len(self)] int32`; shuffled for a training subset."""
        positions = np.tile(np.arange(len(self.keys), dtype=np.int32), self.repetitions)
        if not self.is_training:
            return positions
        return generator(self.seed, self.name, self.epoch).permutation(positions)

    def shuffled_keys(self) -> tuple[Hashable, ...]:
        """The keys in the order of this epoch; a subclass or an instance may replace it."""
        keys = self.keys
        return tuple(keys[position] for position in self.order())

    @property
    def reorders(self) -> bool:
        """Whether `shuffled_keys` was replaced, so that it rules the order."""
        return "shuffled_keys" in vars(self) or type(self).shuffled_keys is not Subset.shuffled_keys

    def batches(
        self, batch_size: int, keys: Iterable[Hashable] | None = None, *, drop_last: bool | None = None
    ) -> Iterator[tuple[tuple[Hashable, ...], dict[str, Any]]]:
        """Yield `(keys, batch)`, a batch being `{"batch_input": [B, ...], ...}`.

        A last, smaller batch is dropped with `drop_last`, which training subsets do, unless it is the only one.
        """
        keys = self.shuffled_keys() if keys is None else tuple(keys)
        drop_last = self.is_training if drop_last is None else drop_last
        for start in range(0, len(keys), batch_size):
            part = keys[start : start + batch_size]
            if len(part) == batch_size or not drop_last or not start:
                yield part, self.batch(part)

    def batch(self, keys: Sequence[Hashable], *, into: Mapping[str, np.ndarray] | None = None) -> dict[str, Any]:
        """The items of `keys` stacked under their prefixed names; numbers go into the arrays `into` where these fit."""
        if not len(keys):
            raise DatasetError(
                f"Subset {self.name!r} is empty.",
                "no key to make a batch of",
                "Give it keys. If its dataset is filtered, mind that mlworkflow keeps a key only where the predicate "
                "returns True itself: wrap a numpy result in bool(...).",
            )
        items = [self.query_item(key) for key in keys]
        own = {name.removeprefix("batch_"): array for name, array in (into or {}).items()}
        return {f"batch_{name}": values for name, values in stack(items, keys, subset=self.name, into=own).items()}


def generator(*address: Any) -> np.random.Generator:
    """Random numbers that depend on their address only, such as (seed, subset, epoch).

    >>> generator(0, "training", 1).integers(1000) == generator(0, "training", 1).integers(1000)
    np.True_
    """
    digest = hashlib.blake2b("/".join(map(str, address)).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))


def find(subsets: Sequence[Any], name: str) -> Any:
    """The subset called `name`; an error lists those there are."""
    for subset in subsets:
        if subset.name == name:
            return subset
    known = ", ".join(subset.name for subset in subsets) or "none"
    raise ConfigError(f"No subset named {name!r}.\nThere are: {known}.\nWrite one of these.")


def is_columnar(subset: Subset) -> bool:
    """Whether the items are known to be the same every time, so that they may be kept as columns."""
    ours = type(subset).query_item is Subset.query_item and type(subset).batch is Subset.batch
    return ours and is_deterministic(subset.dataset)


def columns_of(subset: Subset) -> Mapping[str, Any]:
    """The whole subset as `{"batch_input": [N, ...], ...}`, every item read once."""
    if not is_columnar(subset) or not isinstance(subset.dataset, ArrayDataset) or not subset.keys:
        return subset.batch(subset.keys)
    try:
        columns = subset.dataset.columns(subset.keys)
    except (TypeError, IndexError, OverflowError):
        return subset.batch(subset.keys)  # one of them is no row: reading them one by one names it
    return {f"batch_{name}": array if is_numeric(array) else list(array) for name, array in columns.items()}
