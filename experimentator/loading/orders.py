"""The order of each pass over a subset; the next epoch's is computed in a thread during this one."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any
from zlib import crc32

import numpy as np

from experimentator.graph import Mode
from experimentator.loading.threads import Threads
from experimentator.subset import Subset

FEW = 4096  # keys below which a thread does not pay


class Orders:
    """The orders of a subset, pass by pass.

    The shuffle of a Subset is a pure function of (seed, name, epoch), so it may be computed ahead; a subclass or an
    instance that replaces any part of it is asked when its pass begins.

    >>> orders = Orders(Subset("training", Mode.TRAIN, {"x": np.arange(5000)}))
    >>> first, drop_last = orders.of(Mode.TRAIN)
    >>> orders.subset.epoch = 1
    >>> np.array_equal(orders.of(Mode.TRAIN)[0], orders.subset.order()), drop_last
    (True, True)
    """

    def __init__(self, subset: Subset):
        self.subset = subset
        self.mark = 0  # a checksum of the last order, if `shuffled_keys` was replaced
        self._pool: Threads | None = None
        self._ahead: tuple[Any, Future[np.ndarray]] | None = None

    def of(self, mode: Mode) -> tuple[np.ndarray, bool]:
        """The positions of the pass that begins, [N] int32, and whether a last, smaller batch is dropped.

        A training subset that is not trained on, but evaluated or predicted, takes all keys, in their listed order.
        """
        subset = self.subset
        if not len(subset):
            raise subset.empty_error(())
        if mode != Mode.TRAIN and subset.is_training:
            return np.tile(np.arange(len(subset.keys), dtype=np.int32), subset.repetitions), False
        if self._is_pure():
            return self._taken(), subset.is_training
        order = subset.order()
        self.mark = 1 + crc32(order.tobytes()) if subset.reorders else 0
        return order, subset.is_training

    def _is_pure(self) -> bool:
        subset, ruling = self.subset, ("order", "arrange", "shuffled", "shuffled_keys")
        is_own = any(subset.replaces(name, of=Subset) for name in ruling)
        return subset.is_training and len(subset.keys) >= FEW and not is_own

    def _taken(self) -> np.ndarray:
        """The order of this epoch, made ahead or now; starts to make the next one."""
        ahead, now = self._ahead, self.subset
        order = ahead[1].result() if ahead and ahead[0] == _address(now) else now.order()
        coming = now._in_epoch(now.epoch + 1)
        self._pool = self._pool or Threads(1, "experimentator-order")
        self._ahead = _address(coming), self._pool.submit(coming.order)
        return order


def _address(subset: Subset) -> tuple[Any, ...]:
    return subset.seed, subset.name, subset.epoch, subset.repetitions, subset.length, subset.keys
