"""Splits the keys of a dataset by shares or into folds, stratified, and with groups kept together.

The part of a key depends on the keys, the shares and the seed, not on the order in which keys are listed.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from experimentator.data.chance import generator
from experimentator.data.fields import Asking
from experimentator.data.items import DatasetError, as_dataset, keys_of, usable_keys
from experimentator.data.keys import key_digest
from experimentator.data.quotas import quotas
from experimentator.graph import Mode
from experimentator.scalars import is_number, is_whole
from experimentator.subset import Subset

log = logging.getLogger(__name__)
Field = str | Callable[..., Any]
ASKER = "A split"


class Fold(NamedTuple):
    """The keys of one fold."""

    training: list[Hashable]
    validation: list[Hashable]


def split(
    dataset: Any,
    shares: Mapping[str, float],
    *,
    keys: Iterable[Hashable] | None = None,
    stratify: Field | None = None,
    group: Field | None = None,
    seed: int = 0,
) -> dict[str, list[Hashable]]:
    """The keys of a dataset in parts: `split(dataset, {"training": 0.8, "validation": 0.2})`, disjoint, covering all.

    `shares` sum to 1, to 100 (percentages), or to the number of keys; every part gets its share of all keys, less than
    one key off. With `stratify`, a field of the key or the item or a function of (key) or (key, item), it gets its
    share of each class, too, however many and small these are; NaN is a class. With `group`, keys of one group go into
    one part, and the shares are met as well as the sizes of the groups allow. For arrays, use
    `images[parts["training"]]`.

    >>> parts = split({"input": np.arange(10)}, {"training": 80, "validation": 20})
    >>> len(parts["training"]), sorted(parts["training"] + parts["validation"]) == list(range(10))
    (8, True)

    Raises:
        DatasetError: for other sums of shares, unknown fields, fewer keys or groups than parts, or keys without a
            stable digest.
    """
    listed = _listed(dataset, keys)
    wanted = _checked_shares(shares, len(listed))
    parts = _parts(dataset, listed, list(wanted.values()), stratify, group, seed)
    if empty := [name for name, part in zip(wanted, parts, strict=True) if wanted[name] and not part]:
        raise DatasetError(
            f"{ASKER} leaves nothing to {', '.join(map(repr, empty))}.",
            f"{sum(map(len, parts))} keys, shares {dict(wanted)}",
            "Give it a larger share, more keys, or smaller groups.",
        )
    return dict(zip(wanted, parts, strict=True))


def k_fold(
    dataset: Any,
    count: Any = 5,
    *,
    keys: Iterable[Hashable] | None = None,
    stratify: Field | None = None,
    group: Field | None = None,
    seed: int = 0,
) -> list[Fold]:
    """`count` folds of the keys: each key validates in one of them, and trains in the others.

    Stratified, grouped and seeded as `split`.

    >>> [len(fold.validation) for fold in k_fold({"input": np.arange(10)}, 3)]
    [4, 3, 3]

    Raises:
        DatasetError: for fewer than two folds, fewer keys or groups than folds, and where `split` does.
    """
    if not is_whole(count, least=2):
        write = "Write a whole number of at least 2."
        raise DatasetError("There is no such number of folds.", f"{count!r}", write)
    parts = _parts(dataset, _listed(dataset, keys), [1 / count] * int(count), stratify, group, seed)
    if not all(parts):
        seen = f"{sum(map(len, parts))} keys for {count} folds"
        raise DatasetError("A fold has no keys.", seen, "Make fewer folds, or smaller groups.")
    return [Fold([key for other in parts if other is not part for key in other], part) for part in parts]


@dataclass(frozen=True)
class BasicDatasetSplitter:
    """Subsets "training", "validation" and "testing" of a dataset: `BasicDatasetSplitter(15, 15)(dataset, fold=0)`.

    A percentage of 0 leaves its subset out. The first floor(100 / (validation_pc + testing_pc)) folds validate and test
    on disjoint keys; further ones repeat them. `stratify`, `group` and `seed` are those of `split`.

    >>> subsets = BasicDatasetSplitter(validation_pc=20, testing_pc=10)({"input": np.arange(50)})
    >>> [str(subset) for subset in subsets]
    ['training [TRAIN]: 35 items', 'validation [EVAL]: 10 items', 'testing [EVAL]: 5 items']

    Raises:
        DatasetError: when called, for percentages below 0, or above 100 together.
    """

    validation_pc: float = 15
    testing_pc: float = 15
    repetitions: Mapping[str, int] | None = None
    stratify: Field | None = None
    group: Field | None = None
    seed: int = 0

    def __call__(self, dataset: Any, fold: int = 0) -> list[Subset]:
        """The subsets of one fold."""
        aside = self.validation_pc + self.testing_pc
        shares = {"validation": self.validation_pc, "testing": self.testing_pc, "training": 100 - aside}
        wanted = _checked_shares(shares)
        count = max(1, math.floor(100 / aside + 1e-9)) if aside else 1
        pieces = [wanted["validation"], wanted["testing"]] * count
        pieces.append(max(0.0, 1 - sum(pieces)))
        dataset = as_dataset(dataset, subset="training")
        parts = _parts(dataset, _listed(dataset, None), pieces, self.stratify, self.group, self.seed)
        place = 2 * (fold % count)
        held = {"validation": parts[place], "testing": parts[place + 1]}
        rest = [key for number, part in enumerate(parts) if number not in (place, place + 1) for key in part]
        keys = {"training": rest, **{name: part for name, part in held.items() if wanted[name]}}
        modes = {"training": Mode.TRAIN, "validation": Mode.EVAL, "testing": Mode.EVAL}
        times = self.repetitions or {}
        return [Subset(name, modes[name], dataset, keys[name], times.get(name, 1)) for name in keys]


def _listed(dataset: Any, keys: Iterable[Hashable] | None) -> tuple[Hashable, ...]:
    """The keys to split: those given, else all of the dataset; refused if one comes twice."""
    if keys is None:
        listed = keys_of(as_dataset(dataset, subset="training"), subset="training")
    else:
        listed = usable_keys(keys, subset="training")
    if twice := [key for key, times in Counter(listed).items() if times > 1]:
        write = "List each key once; Subset(..., repetitions=2) visits keys twice."
        raise DatasetError(f"{ASKER} is given keys twice.", f"{twice[0]!r:.80} and {len(twice) - 1} others", write)
    return listed


def _parts(
    dataset: Any,
    listed: Sequence[Hashable],
    shares: Sequence[float],
    stratify: Field | None,
    group: Field | None,
    seed: int,
) -> list[list[Hashable]]:
    """The keys of each part, in the order in which they are listed."""
    dataset = as_dataset(dataset, subset="training")
    classes = [None] * len(listed) if stratify is None else Asking(stratify, dataset, ASKER).answers(listed)
    _tell_measured(classes, stratify)
    groups = listed if group is None else Asking(group, dataset, ASKER).answers(listed)
    part_of = _dealt(_units(classes, groups, seed), shares)
    parts: list[list[Hashable]] = [[] for _ in shares]
    for key, one in zip(listed, groups, strict=True):
        parts[part_of[one]].append(key)
    return parts


def _tell_measured(classes: Sequence[Hashable], stratify: Field | None) -> None:
    """Warn of classes that are measured numbers: hardly two are equal, so that nothing is spread evenly."""
    kinds = {one for one in classes if isinstance(one, float | np.floating) and one % 1 > 0}  # which NaN is not
    if 2 * len(kinds) > len(classes):
        log.warning(
            "stratify=%r has hardly any effect: it tells %d classes among %d keys. Give ranges of such numbers, by a "
            "function: stratify=lambda key, item: int(item['price'] // 10).",
            stratify, len({*classes}), len(classes),
        )  # fmt: skip


def _units(classes: Sequence[Hashable], groups: Sequence[Hashable], seed: int) -> dict[Hashable, dict[Hashable, int]]:
    """Groups with their number of keys of each class, by descending size; equal sizes are shuffled by the seed."""
    held: dict[Hashable, dict[Hashable, int]] = {}
    for one, cls in zip(groups, classes, strict=True):
        counts = held.setdefault(one, {})  # no Counter: of a million, the garbage collector would look at each
        counts[cls] = counts.get(cls, 0) + 1
    drawn = sorted(held, key=key_digest)
    shuffled = [drawn[place] for place in generator("split", seed).permutation(len(drawn)).tolist()]
    return {one: held[one] for one in sorted(shuffled, key=lambda one: -sum(held[one].values()))}


def _dealt(units: Mapping[Hashable, Mapping[Hashable, int]], shares: Sequence[float]) -> dict[Hashable, int]:
    """The part of every group: the one that lacks most keys of the group's classes, then most keys in sum.

    Lacks are counted in whole keys, so groups of one key fill each part exactly.
    """
    totals: Counter[Hashable] = Counter()
    for held in units.values():
        for cls, count in held.items():
            totals[cls] += count
    due = quotas(np.array(list(totals.values())), np.array(shares))
    lacks: dict[Hashable, list[int]] = dict(zip(totals, due.tolist(), strict=True))
    short: list[int] = due.sum(0).tolist()
    parts = [part for part, share in enumerate(shares) if share]
    part_of = {}
    for one, held in units.items():
        needs = [0] * len(shares)
        for cls, count in held.items():
            needs = [need + count * lack for need, lack in zip(needs, lacks[cls], strict=True)]
        part_of[one] = part = max(parts, key=list(zip(needs, short, strict=True)).__getitem__)
        for cls, count in held.items():
            short[part] -= count
            lacks[cls][part] -= count
    return part_of


def _checked_shares(shares: Any, count: int = 0) -> dict[str, float]:
    """Shares that sum to 1, made of shares, percentages, or whole numbers that sum to `count`."""
    fine = isinstance(shares, Mapping) and all(is_number(one) and 0 <= one < math.inf for one in shares.values())
    shares = {name: float(share) for name, share in shares.items()} if fine else shares
    total = sum(shares.values()) if fine else 0
    are_numbers = fine and all(share == int(share) for share in shares.values())
    for whole in (1, 100, *([count] if count and are_numbers else [])):
        if fine and math.isclose(total, whole, rel_tol=1e-6):
            return {name: share / total for name, share in shares.items()}
    wrong = f"do not sum to 1, or to 100 percent{f', or to the {count} keys' if count else ''}"
    raise DatasetError(
        f"The shares of a split {wrong if isinstance(shares, Mapping) else 'are given by the names of its parts'}.",
        f"{shares!r:.120}" + (f", together {total:g}" if fine else ""),
        'Write {"training": 0.8, "validation": 0.2}.',
    )
