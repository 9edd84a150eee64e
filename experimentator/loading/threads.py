"""A pool of threads that read items, and that do not keep the process from ending if an item hangs."""

from __future__ import annotations

import atexit
import threading
import time
import weakref
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any

from experimentator.data.portions import cut

LOOK_SECONDS = 0.2  # between two calls of `meanwhile` during a wait
END_SECONDS = 1.0  # time for items under way when the process ends
MANY = 256  # keys of one task of a thread: a task for each key would take longer than most answers
_ALIVE: weakref.WeakSet[threading.Thread] = weakref.WeakSet()


class Threads:
    """Like a ThreadPoolExecutor, but Python does not wait at its exit for these threads, which may hang.

    >>> Threads(2, "readers").submit(lambda: 7).result()
    7
    """

    def __init__(self, count: int, name: str):
        self.count, self.name, self.started = count, name, 0
        self._calls: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._end = weakref.finalize(self, self._calls.put, None)

    def submit(self, call: Callable[[], Any]) -> Future[Any]:
        """Let a thread run the call."""
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
        """End the threads after their calls under way; waiting calls are cancelled."""
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
    calls.put(None)  # for the next thread


def spread(
    call: Callable[[tuple[Hashable, ...]], list[Any]], keys: tuple[Hashable, ...], count: int, name: str
) -> list[Any]:
    """The lists that `call` returns for parts of the keys, joined in order; `count` threads make these calls.

    >>> spread(list, (3, 1, 4), 2, "readers")
    [3, 1, 4]
    """
    if count == 1:
        return call(keys)
    threads = Threads(count, name)
    try:
        asked = [threads.submit(partial(call, part)) for part in cut(keys, max(1, min(MANY, len(keys) // (8 * count))))]
        return [one for part in asked for one in part.result()]
    finally:
        threads.shutdown()


def awaited(future: Future[Any], meanwhile: Callable[[], None], every: float = LOOK_SECONDS) -> Any:
    """The result of a future; until it is there, `meanwhile` is called every `every` seconds, and may raise."""
    while True:
        try:
            return future.result(every)
        except TimeoutError:
            if future.done():  # just now, or its own result is a TimeoutError
                return future.result()
        meanwhile()


@atexit.register
def _leave_time() -> None:
    """Give threads within C code time to end, since cutting them off may crash; hanging ones are left."""
    until = time.monotonic() + END_SECONDS
    for thread in list(_ALIVE):
        thread.join(max(0.0, until - time.monotonic()))
