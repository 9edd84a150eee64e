"""The reading of one item: what its random numbers depend on, whoever reads it and whatever was read before.

The address is (seed, subset, key, which visit of the key it is), and in training the epoch, too: evaluation sees the
same draws every time, training others every epoch, with any number of workers of any kind.
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

lock = RLock()  # generators that are set to an address serve one item at a time
_now: ContextVar[Reading | None] = ContextVar("reading", default=None)
_visits: ContextVar[tuple[Sequence[Hashable], Sequence[int]]] = ContextVar("visits", default=((), ()))


class Reading:
    """The items that are being read, one after the other; `with` it, draws depend on their address.

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
        """Go on to an item: its key, and which visit of it this is, the first of a pass being 0."""
        self.key, self.visit, self.asked = key, visit, 0
        self._address: tuple[Any, ...] | None = None
        return self

    @property
    def address(self) -> tuple[Any, ...]:
        """Where the item stands, in values that are the same in every process; made when somebody draws."""
        if self._address is None:
            self._address = (*self.place, key_digest(self.key), self.visit)
        return self._address

    def __enter__(self) -> Reading:
        self._before = _now.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        _now.reset(self._before)


def reading() -> Reading | None:
    """The reading that goes on in this thread."""
    return _now.get()


def item_random() -> np.random.Generator:
    """A generator of random numbers for the item that is being read: for datasets and transforms of one's own.

    Each call within one item gives another generator; outside of a subset, it is one that nobody can repeat.

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
    """Meanwhile `generators` give what the address of this reading says; after it they stand where they stood.

    Where nobody else draws from them, `putting_back` may be left out: it takes longer than setting them.
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
    """Meanwhile the readings of `keys` are those visits of them, the first of a pass being 0."""
    before = _visits.set((keys, visits))
    try:
        yield
    finally:
        _visits.reset(before)


def visits_now(keys: Sequence[Hashable]) -> Sequence[int]:
    """Which visits of these keys come now: what `visiting` says of them, else the first."""
    known, visits = _visits.get()
    if keys is known:
        return visits
    waiting: dict[Hashable, list[int]] = {}
    for key, visit in zip(known, visits, strict=True):
        waiting.setdefault(key, []).append(visit)
    return [waiting[key].pop(0) if waiting.get(key) else 0 for key in keys]


def visits_of(positions: np.ndarray) -> np.ndarray:
    """For each of these numbers, how often it came before: [N] int -> [N] int.

    >>> visits_of(np.array([5, 3, 5, 5])).tolist()
    [0, 0, 1, 2]
    """
    by_value = np.argsort(positions, kind="stable")
    values, ranks = positions[by_value], np.arange(len(positions))
    is_first = np.concatenate([[True], values[1:] != values[:-1]]) if len(values) else np.zeros(0, bool)
    counts = ranks - np.maximum.accumulate(np.where(is_first, ranks, 0))
    visits = np.empty(len(positions), dtype=np.int64)
    visits[by_value] = counts
    return visits
