"""Threads that read: a pool of them that does not keep a process from ending, whatever an item waits for."""

from __future__ import annotations

import atexit
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any

LOOK_SECONDS = 0.2  # between two looks whether a wait is to be left
END_SECONDS = 1.0  # that a process which ends leaves to items under way
_ALIVE: weakref.WeakSet[threading.Thread] = weakref.WeakSet()


class Threads:
    """As a ThreadPoolExecutor, whose threads Python waits for when it ends, and would for ever where an item hangs.

    >>> Threads(2, "readers").submit(lambda: 7).result()
    7
    """

    def __init__(self, count: int, name: str):
        self.count, self.name, self.started = count, name, 0
        self._calls: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._end = weakref.finalize(self, self._calls.put, None)

    def submit(self, call: Callable[[], Any]) -> Future[Any]:
        """Let a thread call it."""
        if not self._end.alive:
            raise RuntimeError("cannot submit to threads that were told to end")
        future: Future[Any] = Future()
        self._calls.put((future, call))
        if self.started < self.count:
            thread = threading.Thread(
                target=_serve, args=(self._calls,), name=f"{self.name}_{self.started}", daemon=True
            )
            self.started += 1
            _ALIVE.add(thread)
            thread.start()
        return future

    def shutdown(self) -> None:
        """Let threads end once they are through with what they do; nothing else is begun."""
        if self._end.alive:
            with suppress(Empty):
                while (waiting := self._calls.get_nowait()) is not None:
                    waiting[0].cancel()
            self._end()


def _serve(calls: SimpleQueue[Any]) -> None:
    while (asked := calls.get()) is not None:
        future, call = asked
        if future.set_running_or_notify_cancel():
            try:
                result = call()
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(result)
        del asked, future, call
    calls.put(None)  # for the next one


def awaited(future: Future[Any], meanwhile: Callable[[], None], every: float = LOOK_SECONDS) -> Any:
    """The result of a future; `meanwhile` is called every so many seconds while it is not there, and may raise."""
    while True:
        try:
            return future.result(every)
        except TimeoutError:
            if future.done():  # by now, or by an error of this kind
                return future.result()
        meanwhile()


@atexit.register
def _leave_time() -> None:
    """Threads in the midst of C code are better not cut off; those that hang are left behind."""
    until = time.monotonic() + END_SECONDS
    for thread in list(_ALIVE):
        thread.join(max(0.0, until - time.monotonic()))
