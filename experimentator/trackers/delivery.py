"""The thread in which a tracker works, so that nothing it does stops or slows a training."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from typing import Any

log = logging.getLogger(__name__)
ROOM = 10_000  # calls that may wait; further ones are dropped


class Delivery:
    """Calls the methods of a tracker one after the other, in a thread of its own; training never waits for them.

    The first error of a tracker, or first call dropped because it hangs, is logged as a warning; later ones are not.

    >>> class Told:
    ...     def scalars(self, values, step): print(step, values)
    ...     def finish(self, status): print(status)
    >>> delivery = Delivery(Told())
    >>> delivery.send("scalars", {"training/loss": 0.5}, 1)
    >>> delivery.close("finished", seconds=10.0)
    1 {'training/loss': 0.5}
    finished
    """

    def __init__(self, tracker: Any, *, room: int = ROOM):
        self.tracker, self.room = tracker, room
        self.name = type(tracker).__name__
        self.waiting: deque[tuple[str, tuple[Any, ...]]] = deque()
        self.changed = threading.Condition()
        self.lost = 0
        self.is_warned = False
        # a daemon, so that one that hangs keeps no process alive
        self.thread = threading.Thread(target=self._work, name=f"experimentator-{self.name}", daemon=True)
        self.thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether the thread has not ended: it works, or hangs."""
        return self.thread.is_alive()

    def send(self, method: str, *arguments: Any) -> None:
        """Have a method called, soon; returns at once."""
        with self.changed:
            if len(self.waiting) >= self.room or not self.is_alive:
                self.lost += 1
                self._warn("it no longer accepts calls")
                return
            self.waiting.append((method, arguments))
            self.changed.notify()

    def close(self, status: str, *, seconds: float) -> None:
        """Send `finish`, and wait until it is done, but no longer than `seconds`."""
        with self.changed:
            self.waiting.append(("finish", (status,)))
            self.changed.notify()
        start = time.monotonic()
        self.thread.join(seconds)
        lost = self.lost + len(self.waiting)
        if self.is_alive:
            log.warning(
                "%s did not finish within %.3g s, and is left behind; %d calls are lost.",
                self.name, time.monotonic() - start, lost,
            )  # fmt: skip
        elif lost:
            log.warning("%s lost %d calls of this run.", self.name, lost)

    def _work(self) -> None:
        method = ""
        while method != "finish":
            with self.changed:
                self.changed.wait_for(lambda: bool(self.waiting))
                method, arguments = self.waiting.popleft()
            try:
                getattr(self.tracker, method)(*arguments)
            except (Exception, KeyboardInterrupt) as error:  # whatever it is, it is no reason to stop a training
                self.lost += 1
                self._warn(f"{type(error).__name__} in {method}: {error}".rstrip("."))
                if method == "start":  # nothing can follow
                    return

    def _warn(self, what: str) -> None:
        if not self.is_warned:
            self.is_warned = True
            log.warning("%s: %s. Training goes on without it; this is said once.", self.name, what)
