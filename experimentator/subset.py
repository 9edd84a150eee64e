"""Subsets: which keys of a dataset are used, for what, and in which order."""

from __future__ import annotations

import copy
import time
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from enum import Enum
from typing import Any

import numpy as np

from experimentator.config import ConfigError
from experimentator.data.buckets import Buckets
from experimentator.data.chance import chain_of, generators_in, shared_generators
from experimentator.data.items import DatasetError, as_dataset, keys_of, query, stack, usable_keys
from experimentator.data.ordered import Ordered
from experimentator.data.portions import cut, cut_pairs
from experimentator.data.reading import Reading, drawing, reading, visiting, visits_now, visits_of
from experimentator.data.reuse import Reuse
from experimentator.graph import Mode
from experimentator.scalars import is_whole

SLOW = 0.1  # seconds to list the keys of a dataset
Into = Mapping[str, np.ndarray] | None  # arrays to fill with the numbers of a batch where these fit
Read = tuple[np.ndarray | None, dict[str, Any]]  # the places of keys whose items are there (None: all), and their batch


class Subset(Ordered):
    """Some keys of a dataset, with a name and a mode: `Subset("training", Mode.TRAIN, dataset)`.

    `dataset` is a `mlworkflow.Dataset` or anything with `keys` and `query_item(key)`; for convenience also a mapping
    from keys to items, a sequence of items, or a dict of equally long arrays. An item is a dict from names to values;
    batches hold them as `batch_<name>`. A key whose item is None is left out. Several threads read at once, unless
    `workers = 1`. Not seen until `subset.dataset` is assigned anew: arrays put into a dict later, keys that a dataset
    gets later, and, where columns are kept (residency "auto", "device" or "host"), values changed in place and
    transforms added. Each key is visited `repetitions` times an epoch; `len` counts the visits. `mode` may be of the
    user's own Enum with members TRAIN, EVAL and INFER; `stage` is the older word for it. Items of many lengths are
    padded to a few `buckets`.

    With `length`, an epoch of training visits that many keys, and the next epoch continues with the rest, so that
    epochs end, and evaluations come, before all keys were seen. In other modes the first `length` keys are visited.
    Where `shuffled_keys` is replaced, it decides how many.

    The order of a training subset is a pure function of `subset.seed`, `subset.name` and `subset.epoch`, which counts
    from 0. Random draws while an item is read depend on these, on its key and on the visit; in other modes not on the
    epoch (see `item_random`).

    >>> subset = Subset("training", Mode.TRAIN, {"input": np.arange(6), "target": np.arange(6) % 2})
    >>> len(subset), subset.query_item(3)
    (6, {'input': np.int64(3), 'target': np.int64(1)})
    >>> keys, batch = next(subset.batches(2, keys=[4, 5]))
    >>> keys, batch["batch_input"].tolist()
    ((4, 5), [4, 5])
    """

    _lists_slowly = False
    reads_alone = False  # True in a worker process: shared generators may be set without putting them back

    def __init__(
        self,
        name: str,
        mode: Any = None,
        dataset: Any = None,
        keys: Iterable[Hashable] | None = None,
        repetitions: int = 1,
        desc: str | None = None,
        *,
        stage: Any = None,
        length: int | None = None,
        buckets: Buckets | Mapping[str, Any] | None = None,
    ):
        given: Any = name
        if not isinstance(given, str) or not given:
            seen, write = f"Seen: {given!r:.60}.", 'Write Subset("training", Mode.TRAIN, dataset).'
            what = "empty" if isinstance(given, str) else type(given).__name__
            raise ConfigError(f"A subset's name is a text, not {what}.", seen, write)
        mode = stage if mode is None else mode  # as older configurations call it
        self.name = name
        self.mode = Mode.of(mode)
        self._given_mode = mode
        self._finds_keys = True  # take the dataset's keys: none are given
        self.dataset = dataset
        self.buckets = buckets
        self.repetitions = repetitions
        self.length = length
        self.desc = desc
        self.seed = 0
        self.epoch = 0
        self._generators: tuple[Any, list[Any]] | None = None
        if keys is not None:
            self.keys = keys

    @property
    def dataset(self) -> Any:
        """The source of the items; assigning another one also takes its keys, unless keys were given."""
        return self._dataset

    @dataset.setter
    def dataset(self, dataset: Any) -> None:
        self._dataset = as_dataset(dataset, subset=self.name)
        self._keys: tuple[Hashable, ...] | None = None
        # keys that were given become another tuple: what is kept by them, as columns and groups, is made anew
        candidates = None if self._finds_keys else (*(self._candidates or ()),)
        self._candidates: tuple[Hashable, ...] | None = candidates

    @property
    def keys(self) -> tuple[Hashable, ...]:
        """The keys in use; assign to change them."""
        if self._keys is None:
            if self._candidates is None:
                since = time.perf_counter()
                self.keys = keys_of(self.dataset, subset=self.name)
                self._finds_keys, self._lists_slowly = True, time.perf_counter() - since > SLOW
            self._keys = self.choose(self._candidates or ())
        return self._keys

    @keys.setter
    def keys(self, keys: Iterable[Hashable]) -> None:
        self._candidates, self._keys, self._finds_keys = usable_keys(keys, subset=self.name), None, False

    @property
    def is_outgrown(self) -> bool:
        """Whether its dataset has another number of keys now than when it was asked for all of them.

        Not asked again where that took long: each epoch begins with this question.
        """
        if not self._finds_keys or self._candidates is None or self._lists_slowly:
            return False
        keys: Any = self.dataset.keys
        return hasattr(keys, "__len__") and len(keys) != len(self._candidates)

    def choose(self, keys: tuple[Hashable, ...]) -> tuple[Hashable, ...]:
        """The keys to use, of those given or found: here all."""
        return keys

    @property
    def buckets(self) -> Buckets | None:
        """The sizes that items are padded to; assign to change them."""
        return self._buckets

    @buckets.setter
    def buckets(self, buckets: Buckets | Mapping[str, Any] | None) -> None:
        self._buckets = Buckets.of(buckets)

    @property
    def type(self) -> Any:
        """The mode, under the name of older task files; as given, if it is of the user's own Enum."""
        given = self._given_mode
        return given if isinstance(given, Enum) and Mode.of(given) == self.mode else self.mode

    def __str__(self) -> str:
        return f"{self.name} [{self.mode}]: {self.amount}"

    def __repr__(self) -> str:
        return f"<Subset {self}>"

    def __getstate__(self) -> dict[str, Any]:
        # A worker process finds generators anew, and gets seed and epoch with each batch.
        return {**vars(self), "_generators": None, "seed": 0, "epoch": 0}

    # Items

    def query_item(self, key: Hashable) -> dict[str, Any] | None:
        """The item of one key, names without prefix, or None if it is left out; an error names the key."""
        if reading() is None:
            with self._reading().at(key, 0), drawing(self._found_generators(), place="item"):
                return query(self.dataset, key, subset=self.name)
        return query(self.dataset, key, subset=self.name)

    def items_of(self, keys: Iterable[Hashable], visits: Iterable[int]) -> list[Any]:
        """The item of each key at the given visit of it, names without prefix; None if it is left out."""
        keys = tuple(keys)
        items, generators, reuse = [], self._found_generators(), Reuse(self.name, len(keys))
        with self._reading() as now:
            for key, visit in zip(keys, visits, strict=True):
                now.at(key, visit)
                if generators:
                    with drawing(generators, place="item", putting_back=not self.reads_alone):
                        items.append(self.query_item(key))
                else:
                    items.append(self.query_item(key))
                reuse.see(key, items[-1])
        return items

    def batches(
        self, batch_size: int, keys: Iterable[Hashable] | None = None, drop_last: bool | None = None
    ) -> Iterator[tuple[tuple[Hashable, ...], dict[str, Any]]]:
        """Yield `(keys, batch)`, `{"batch_input": [B, ...], ...}` each, without keys that are left out.

        With `drop_last`, by default in training, a last, smaller batch is dropped, unless it is the only one.

        Raises:
            DatasetError: for items that cannot be read or do not fit together, and if all are left out.
            ValueError: for a `batch_size` that is no whole number of at least 1.
        """
        if not is_whole(batch_size, least=1):
            seen = f"Subset {self.name!r} is read with batch_size={batch_size!r}."
            raise ValueError(f"{seen} Write a whole number of at least 1.")
        keys = tuple(self.shuffled_keys() if keys is None else keys)
        drop_last = self.is_training if drop_last is None else drop_last
        if self.has_own_batch:
            read = ((part, self.batch(part)) for part in cut(keys, batch_size))
        else:
            read = (
                (part, self.stacked(part, items)) for part, items in cut_pairs(self._kept(keys, batch_size), batch_size)
            )
        is_first = True
        for part, batch in read:
            if len(part) == batch_size or not drop_last or is_first:
                yield part, batch
            is_first = False
        if is_first and keys:
            raise self.empty_error(keys)

    def batch(self, keys: Sequence[Hashable]) -> dict[str, Any]:
        """The items of `keys`, without those left out, stacked under their prefixed names.

        Raises:
            DatasetError: for no keys, and for items that cannot be read or do not fit together.
        """
        kept, batch = self.batch_of(keys, self.items_of(keys, visits_now(keys)))
        if kept is not None and not len(kept):
            raise self.empty_error(keys)
        return batch

    def read(
        self, keys: Sequence[Hashable], visits: Sequence[int], *, into: Into = None, bucket: int | None = None
    ) -> Read:
        """The places in `keys` of items that are there at these visits (None: all), and their batch, padded by buckets.

        If `batch` was replaced, it is all that this gives.
        """
        if self.has_own_batch:
            with visiting(keys, visits):
                return None, self.batch(keys)
        return self.batch_of(keys, self.items_of(keys, visits), into=into, bucket=bucket)

    def batch_of(
        self, keys: Sequence[Hashable], items: Sequence[Any], *, into: Into = None, bucket: int | None = None
    ) -> Read:
        """What `read` returns, of items that were read already."""
        if not len(keys):
            raise self.empty_error(keys)
        kept = [place for place, item in enumerate(items) if item is not None]
        if len(kept) == len(keys):
            return None, self.stacked(keys, items, into, bucket)
        some, rest = [keys[place] for place in kept], [items[place] for place in kept]
        there = self.stacked(some, rest, bucket=bucket) if kept else {}
        return np.array(kept, dtype=np.intp), there

    def stacked(
        self, keys: Sequence[Hashable], items: Sequence[Any], into: Into = None, bucket: int | None = None
    ) -> dict[str, Any]:
        """Items of these keys as a batch, padded where there are buckets; numbers go `into` arrays where these fit."""
        if self.buckets is not None:
            items = self.buckets.padded(items, keys, subset=self.name, number=bucket)
        own = {name.removeprefix("batch_"): array for name, array in (into or {}).items()}
        return {f"batch_{name}": values for name, values in stack(items, keys, subset=self.name, into=own).items()}

    def sample(self, shapes: Mapping[str, tuple[int | None, ...]] | None = None) -> tuple[Hashable, dict[str, Any]]:
        """The first key that is not left out, and a batch of it alone, in the last bucket that holds it.

        Given `shapes`, the sizes of an item in the batches of one bucket, it is the first key that fits that bucket.
        """
        wanted = self.buckets.of_shapes(shapes) if self.buckets is not None and shapes else None
        for key in self.keys:
            if self.has_own_batch:
                return key, self.batch([key])
            (item,) = self.items_of([key], [0])
            if item is not None:
                fits = [None] if self.buckets is None else self.buckets.all_of(item, key, subset=self.name)
                if wanted is None or wanted in fits:
                    return key, self.stacked([key], [item], bucket=fits[-1] if wanted is None else wanted)
        if wanted is not None:  # no item of this subset fits that bucket
            return self.sample()
        raise self.empty_error(self.keys)

    @property
    def has_own_batch(self) -> bool:
        """Whether a subclass or this instance makes its batches itself."""
        return self.replaces("batch", of=Subset)

    def empty_error(self, keys: Sequence[Hashable]) -> DatasetError:
        """The error for a subset without items."""
        if len(keys):
            write = "Let a transform give some items back, also those it changed in place, and None for the rest."
            return DatasetError(f"Subset {self.name!r} leaves out every item.", f"None for key {keys[0]!r}", write)
        return DatasetError(
            f"Subset {self.name!r} is empty.",
            "no key to make a batch of",
            "Give it keys. If its dataset is filtered, mind that mlworkflow keeps a key only where the predicate "
            "returns True itself: wrap a numpy result in bool(...), or use a FilteredSubset.",
        )

    # How

    def _kept(self, keys: tuple[Hashable, ...], size: int) -> Iterator[tuple[Hashable, dict[str, Any]]]:
        """Pairs of key and item, without those left out, read `size` items at a time."""
        for part, visits in zip(cut(keys, size), cut(tuple(visits_of(keys).tolist()), size), strict=True):
            for key, item in zip(part, self.items_of(part, visits), strict=True):
                if item is not None:
                    yield key, item

    def _reading(self) -> Reading:
        epoch = self.epoch if self.is_training else "every"
        return Reading((self.seed, self.name, epoch), mode=self.type)

    def _found_generators(self) -> list[Any]:
        """The generators that this subset and its dataset hold; searched again when transforms were added."""
        at, known = chain_of(self.dataset), self._generators
        if known is None or known[0] != at:
            found = generators_in(copy.copy(self))  # a copy has no `_generators`
            shared = shared_generators() if self.reads_alone else []
            known = self._generators = at, [*shared, *(one for one in found if one not in shared)]
        return known[1]


def find(subsets: Sequence[Subset], name: str) -> Subset:
    """The subset called `name`; raises if there is none.

    >>> find([Subset("training", Mode.TRAIN, [{"x": 1}])], "training")
    <Subset training [TRAIN]: 1 items>
    """
    for subset in subsets:
        if subset.name == name:
            return subset
    known = ", ".join(subset.name for subset in subsets) or "none"
    raise ConfigError(f"No subset named {name!r}.\nThere are: {known}.\nWrite one of these.")


def refuse_twins(subsets: Sequence[Any]) -> None:
    """Refuse two subsets of one name: results, counts and draws depend on it."""
    names = [subset.name for subset in subsets]
    if len(set(names)) < len(names):
        raise ConfigError(f"Two subsets share a name.\nSeen: {', '.join(names)}.\nGive each its own.")
