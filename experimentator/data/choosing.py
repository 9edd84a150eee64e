"""Subsets that filter keys by a predicate, balance classes, or mix other subsets in proportions."""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from experimentator.data.columns import is_columnar
from experimentator.data.fields import Asking
from experimentator.data.foreign import as_subset
from experimentator.data.items import DatasetError
from experimentator.data.mixture import interleaved, length_to_show_all, proportions_of, take_turns
from experimentator.graph import Mode
from experimentator.subset import Subset


class FilteredSubset(Subset):
    """The keys for which a predicate is true: a function of (key) or (key, item), or the name of a field with a bool.

    Items are read only if the predicate takes them, once, when the keys are first needed.

    >>> from experimentator import Mode
    >>> subset = FilteredSubset("even", Mode.EVAL, {"input": np.arange(6)}, predicate=lambda key: key % 2 == 0)
    >>> subset.keys
    (0, 2, 4)

    Raises:
        DatasetError: for a predicate that answers neither True nor False, or names an unknown field.
    """

    def __init__(self, *args: Any, predicate: str | Callable[..., Any], **options: Any):
        super().__init__(*args, **options)
        self.predicate = predicate

    @property
    def predicate(self) -> str | Callable[..., Any]:
        """The predicate of the keys in use; assign to change it."""
        return self._predicate

    @predicate.setter
    def predicate(self, predicate: str | Callable[..., Any]) -> None:
        self._predicate, self._keys = predicate, None

    def choose(self, keys: tuple[Hashable, ...]) -> tuple[Hashable, ...]:
        """The keys for which the predicate is true."""
        asking = Asking(self.predicate, self.dataset, f"The predicate of subset {self.name!r}")
        return tuple(key for key in keys if asking.holds(key))

    def empty_error(self, keys: Sequence[Hashable]) -> DatasetError:
        if len(keys) or not self._candidates:
            return super().empty_error(keys)
        wrong = f"Subset {self.name!r} is empty: its predicate is true of no key."
        return DatasetError(wrong, f"{len(self._candidates)} keys", "Mend the predicate, or give it other keys.")


class BalancedSubset(Subset):
    """Every class equally often; `by`, a field of key or item or a function of (key) or (key, item), gives the class.

    `by` may be a predicate, which makes two classes. Classes take turns, so that each batch is as balanced as whole
    numbers allow. An epoch visits every key at least once, those of small classes several times, each time with other
    draws; or it visits `length` keys, drawn anew in each epoch. `classes` lists the classes that must be there.

    >>> from experimentator import Mode
    >>> items = {"input": np.arange(6), "target": np.array([0, 0, 0, 0, 0, 1])}
    >>> subset = BalancedSubset("training", Mode.TRAIN, items, by="target")
    >>> len(subset), next(subset.batches(4))[1]["batch_target"].tolist()
    (10, [0, 1, 0, 1])

    Raises:
        DatasetError: for unknown fields, a class of `classes` without a key, a key of another class, or a single class.
    """

    def __init__(
        self,
        *args: Any,
        by: str | Callable[..., Any],
        classes: Sequence[Hashable] | None = None,
        length: int | None = None,
        **options: Any,
    ):
        super().__init__(*args, **options)
        self.by, self.classes, self.length = by, classes, length
        self._groups: tuple[Any, dict[Hashable, np.ndarray]] | None = None

    @property
    def groups(self) -> dict[Hashable, np.ndarray]:
        """The positions in `keys` of every class, `[N] int32` each."""
        asked = self.keys, self.by, self.classes
        if self._groups is None or any(old is not new for old, new in zip(self._groups[0], asked, strict=True)):
            found = Asking(self.by, self.dataset, f"`by` of subset {self.name!r}").answers(self.keys)
            self._groups = asked, self._checked(_places(found))
        return self._groups[1]

    def __len__(self) -> int:
        if not self.keys:
            return 0
        sizes = [len(places) for places in self.groups.values()]
        return self.length or length_to_show_all([1] * len(sizes), sizes) * self.repetitions

    def arrange(self) -> np.ndarray:
        """Positions in `keys`, the classes in turn, `[len(self)] int32`."""
        groups = list(self.groups.values())
        rounds = [partial(self._round, number, places) for number, places in enumerate(groups)]
        return interleaved(take_turns([1] * len(groups), len(self)), rounds)

    def _round(self, number: int, places: np.ndarray, turn: int) -> np.ndarray:
        return self.shuffled(places, number, turn) if self.is_training else places

    def _checked(self, groups: dict[Hashable, np.ndarray]) -> dict[Hashable, np.ndarray]:
        listed = dict.fromkeys(() if self.classes is None else self.classes) or groups
        missing = [one for one in listed if one not in groups]
        strange = [one for one in groups if one not in listed]
        if not missing and not strange and len(groups) > 1:
            return groups
        wrong = "has no key of class " + ", ".join(map(repr, missing)) if missing else "has one class only"
        if strange and not missing:
            wrong = f"has keys of class {strange[0]!r}, which `classes` does not list"
        raise DatasetError(
            f"Subset {self.name!r} cannot be balanced: it {wrong}.",
            ", ".join(f"{len(places)} of {one!r}" for one, places in list(groups.items())[:12]),
            "Give keys of two classes or more, another `by`, or `classes` as they are.",
        )


class PartKey(NamedTuple):
    """A key of a combined subset: the name of the part it comes from, and its key there."""

    subset: str
    key: Hashable


class CombinedSubset(Subset):
    """Several subsets in one, mixed in every batch: `CombinedSubset("training", Mode.TRAIN, [real, drawn], [3, 1])`.

    `proportions` are numbers in the order of the parts, or by their names; by default, the sizes of the parts. The
    parts take turns, so that a batch whose size is a multiple of the proportions' sum (as whole numbers) holds each
    part in exactly its proportion. An epoch visits every key of every part at least once, those of small parts several
    times; or it visits `length` keys. Each part keeps its own order, repetitions and dataset; keys are `PartKey`s.

    >>> from experimentator import Mode
    >>> real = Subset("real", Mode.TRAIN, {"input": np.arange(30)})
    >>> drawn = Subset("drawn", Mode.TRAIN, {"input": -np.arange(10)})
    >>> both = CombinedSubset("training", Mode.TRAIN, [real, drawn], {"real": 3, "drawn": 1})
    >>> len(both), [key.subset for key in next(both.batches(4))[0]]
    (40, ['real', 'real', 'drawn', 'real'])

    Raises:
        DatasetError: for no parts, two of one name, an empty one, one with buckets or a `batch` of its own, or
            proportions that are no numbers above 0 for each.
    """

    def __init__(
        self,
        name: str,
        mode: Any,
        subsets: Sequence[Subset],
        proportions: Mapping[str, float] | Sequence[float] | None = None,
        repetitions: int = 1,
        desc: str | None = None,
        *,
        length: int | None = None,
        buckets: Any = None,
    ):
        Mode.of(mode)  # before the parts: two subsets after the name lack it
        if isinstance(subsets, Subset):
            write = "Write CombinedSubset(name, mode, [one, other])."
            raise DatasetError(f"The parts of subset {name!r} are no list.", f"{subsets!r:.80}", write)
        self.parts = list(map(as_subset, subsets))
        _check_parts(self.parts, name, has_buckets=buckets is not None)
        self.proportions = proportions
        self._known: tuple[Any, tuple[Hashable, ...]] | None = None
        super().__init__(name, mode, _Parts(self.parts), None, repetitions, desc, length=length, buckets=buckets)
        if proportions is not None:
            proportions_of(proportions, [part.name for part in self.parts], asker=f"Subset {name!r}")

    @property
    def keys(self) -> tuple[Hashable, ...]:
        """The keys of all parts; assign to the parts to change them."""
        theirs = [part.keys for part in self.parts]
        if self._known is None or any(a is not b for a, b in zip(self._known[0], theirs, strict=True)):
            self._known = theirs, tuple(_Parts(self.parts).keys)
        return self._known[1]

    @keys.setter
    def keys(self, keys: Any) -> None:
        write = f"Assign to those of its parts: {', '.join(part.name for part in self.parts)}."
        raise DatasetError(f"The keys of subset {self.name!r} follow from its parts.", f"{len(keys)} keys", write)

    @property
    def is_outgrown(self) -> bool:
        """Whether the dataset of a part has another number of keys by now."""
        return any(part.is_outgrown for part in self.parts)

    @property
    def shares(self) -> tuple[int, ...]:
        """The proportions in force, as whole numbers without a common divisor."""
        sizes = [len(part) for part in self.parts]
        for part, size in zip(self.parts, sizes, strict=True):
            if not size:
                raise part.empty_error(())
        given = sizes if self.proportions is None else self.proportions
        return proportions_of(given, [part.name for part in self.parts], asker=f"Subset {self.name!r}")

    def __len__(self) -> int:
        return self.length or length_to_show_all(self.shares, [len(part) for part in self.parts]) * self.repetitions

    def arrange(self) -> np.ndarray:
        """Positions in `keys`, the parts in turn, `[len(self)] int32`."""
        offsets = np.cumsum([0, *(len(part.keys) for part in self.parts)])
        turns = take_turns(self.shares, len(self))
        counts = np.bincount(turns, minlength=len(self.parts))
        rounds = [
            partial(self._round, part, int(offset), int(-(-count // len(part))))
            for part, offset, count in zip(self.parts, offsets, counts, strict=False)
        ]
        return interleaved(turns, rounds)

    def _round(self, part: Subset, offset: int, rounds: int, turn: int) -> np.ndarray:
        """The positions of one round through a part, in its own order; each round of an epoch has another order."""
        one = part if part.reorders else copy.copy(part)  # its own pass may be under way
        before = one.seed, one.epoch
        one.seed, one.epoch = self.seed, self.epoch * rounds + turn
        positions = one.order()
        one.seed, one.epoch = before
        if self.is_training and not part.is_training:
            positions = self.shuffled(positions, part.name, turn)
        return positions + offset


def _check_parts(parts: Sequence[Subset], name: str, *, has_buckets: bool) -> None:
    """Refuse parts that cannot be combined into a subset of that name."""
    names = [part.name for part in parts]
    if not names or len(set(names)) < len(names):
        wrong = f"Subset {name!r} needs at least one part, and no two of the same name."
        raise DatasetError(wrong, f"parts: {', '.join(names) or 'none'}", "List subsets of different names.")
    for part in parts:
        if part.buckets and not has_buckets:
            write = f"Give them to the combination: CombinedSubset({name!r}, ..., buckets=...)."
            raise DatasetError(f"Part {part.name!r} of subset {name!r} has buckets.", repr(part.buckets), write)
        if part.has_own_batch:
            raise DatasetError(
                f"Part {part.name!r} of subset {name!r} has a `batch` of its own, which a combination cannot use.",
                f"{type(part).__name__}.batch",
                "What it does to an item may be a transform of the part's dataset; or replace that of the combination.",
            )


class _Parts:
    """The datasets of several subsets, by the name of the subset."""

    def __init__(self, parts: Sequence[Subset]):
        self.parts = parts

    @property
    def deterministic(self) -> bool:
        return all(is_columnar(part) for part in self.parts)

    @property
    def _datasets_of_parts(self) -> list[Any]:
        return [part.dataset for part in self.parts]

    @property
    def keys(self) -> list[PartKey]:
        return [PartKey(part.name, key) for part in self.parts for key in part.keys]

    def query_item(self, key: PartKey) -> Any:
        return next(part for part in self.parts if part.name == key.subset).query_item(key.key)


def _places(values: Sequence[Hashable]) -> dict[Hashable, np.ndarray]:
    groups: dict[Hashable, list[int]] = {}
    for place, value in enumerate(values):
        groups.setdefault(value, []).append(place)
    return {value: np.array(places, np.int32) for value, places in groups.items()}
