"""The item that is being read, and its address, on which all its random draws depend.

The address is (seed, subset, key, number of the visit), and in training the epoch: evaluation draws the same every
time, training differently in every epoch, whatever the number and kind of workers and the items read before.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from threading import RLock
from typing import Any

import numpy as np

from experimentator.data.chance import generator, reseed, restore, states_of
from experimentator.data.keys import key_digest
from experimentator.graph import Mode

lock = RLock()  # held while generators are set to the address of an item
_now: ContextVar[Reading | None] = ContextVar("reading", default=None)
_visits: ContextVar[tuple[Sequence[Hashable], Sequence[int]]] = ContextVar("visits", default=((), ()))


class Reading:
    """The items that are being read, one after the other; within it, draws depend on the address of the current one.

    >>> with Reading((0, "training", 5)).at("a", 0):
    ...     first = item_random().uniform(), item_random().uniform()
    >>> with Reading((0, "training", 5)).at("a", 0):
    ...     first == (item_random().uniform(), item_random().uniform()), first[0] == first[1]
    (True, False)
    """

    __slots__ = ("_address", "_before", "asked", "key", "mode", "place", "visit")

    def __init__(self, place: Sequence[Any], *, mode: Any = Mode.ALL):
        self.place, self.mode = place, mode
        self.at(None, 0)

    def at(self, key: Hashable, visit: int) -> Reading:
        """Go on to an item: its key, and the number of this visit of it, from 0 in each pass."""
        self.key, self.visit, self.asked = key, visit, 0
        self._address: tuple[Any, ...] | None = None
        return self

    @property
    def address(self) -> tuple[Any, ...]:
        """The address of the item, the same in every process; computed when something draws."""
        if self._address is None:
            self._address = (*self.place, key_digest(self.key), self.visit)
        return self._address

    def __enter__(self) -> Reading:
        self._before = _now.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        _now.reset(self._before)


def reading() -> Reading | None:
    """The reading in this thread, None outside of one."""
    return _now.get()


def item_random() -> np.random.Generator:
    """A random generator for the item that is being read, for use in your own datasets and transforms.

    Each call within one item gives another generator; outside of a subset, an unseeded one.

    >>> class Noise:
    ...     keys = range(3)
    ...     def query_item(self, key):
    ...         return {"input": item_random().normal()}
    >>> from experimentator import Mode, Subset
    >>> subset = Subset("validation", Mode.EVAL, Noise())
    >>> subset.query_item(1) == subset.query_item(1), subset.query_item(1) == subset.query_item(2)
    (True, False)
    """
    now = _now.get()
    if now is None:
        return np.random.default_rng()
    now.asked += 1
    return generator(*now.address, now.asked)


@contextmanager
def drawing(generators: Sequence[Any], *, place: Hashable = None, putting_back: bool = True) -> Iterator[None]:
    """Within, `generators` are seeded by the address of this reading; afterwards their states are restored.

    If nothing else draws from them, `putting_back` may be False: it takes longer than seeding.
    """
    now = _now.get()
    if now is None or not generators:
        yield
        return
    if place is None:
        now.asked += 1
        place = now.asked
    with lock:
        before = states_of(generators) if putting_back else ()
        try:
            reseed(generators, *now.address, place)
            yield
        finally:
            if putting_back:
                restore(generators, before)


@contextmanager
def visiting(keys: Sequence[Hashable], visits: Sequence[int]) -> Iterator[None]:
    """Within, `visits_now(keys)` are these visits, counted from 0 in each pass."""
    before = _visits.set((keys, visits))
    try:
        yield
    finally:
        _visits.reset(before)


def visits_now(keys: Sequence[Hashable]) -> Sequence[int]:
    """The numbers of the visits of these keys: those set by `visiting`, else 0."""
    known, visits = _visits.get()
    if keys is known:
        return visits
    waiting: dict[Hashable, list[int]] = {}
    for key, visit in zip(known, visits, strict=True):
        waiting.setdefault(key, []).append(visit)
    return [waiting[key].pop(0) if waiting.get(key) else 0 for key in keys]


def visits_of(keys: Sequence[Hashable]) -> np.ndarray:
    """For each key, how often it came before: [N] int.

    >>> visits_of("abaa").tolist()
    [0, 0, 1, 2]
    """
    if len(set(keys)) == len(keys):  # as in most epochs: half the time
        return np.zeros(len(keys), dtype=np.int64)
    counts: dict[Hashable, int] = {}
    visits = np.empty(len(keys), dtype=np.int64)
    for place, key in enumerate(keys):
        visits[place] = counts[key] = counts.get(key, -1) + 1
    return visits
