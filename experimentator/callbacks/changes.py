"""Callbacks that come and go while a training is under way."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from experimentator.callbacks.order import Listener, in_order


class Changes:
    """Callbacks added since the last event, to be told of the training's begin, and removed ones, told of its end.

    >>> first, second = object(), object()
    >>> changes = Changes()
    >>> changes.note([first], [second])
    >>> changes.gone == [first], changes.late == [second]
    (True, True)
    """

    def __init__(self) -> None:
        self.late: list[Any] = []
        self.gone: list[Any] = []

    def note(self, before: Sequence[Any], now: Sequence[Any]) -> None:
        """Remember added and removed callbacks; one that came and went between two events counts as neither."""
        gone = [callback for callback in before if not holds(now, callback) and not holds(self.late, callback)]
        late = [callback for callback in now if not holds(before, callback)]
        self.gone = [callback for callback in (*self.gone, *gone) if not holds(now, callback)]
        self.late = [callback for callback in (*self.late, *late) if holds(now, callback)]

    def tell(self, listeners: Iterable[Listener], state: dict[str, Any]) -> None:
        """Call `train_end` of the removed callbacks, and `train_begin` of the added ones."""
        if not (self.late or self.gone):  # as after nearly every batch
            return
        late, gone, self.late, self.gone = self.late, self.gone, [], []  # these calls may change callbacks again
        for listener in in_order(gone):
            listener.call("train_end", state)
        for listener in listeners:
            if holds(late, listener.callback):
                listener.call("train_begin", state)


def holds(callbacks: Iterable[Any], one: Any) -> bool:
    """Whether a callback is among others, by identity."""
    return any(callback is one for callback in callbacks)
