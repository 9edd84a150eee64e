"""Holds Ctrl-C, SIGTERM and SIGHUP while training, until the experiment is between two calls of its step."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

HANG_UP = getattr(signal, "SIGHUP", None)  # a terminal was closed; Windows has none
HELD = (signal.SIGINT, signal.SIGTERM, *([] if HANG_UP is None else [HANG_UP]))


class HeldSignals:
    """Within, once `arm` was called, the first signal waits for `deliver`; a second one acts at once.

    To act is to call the handler from before, by default KeyboardInterrupt for Ctrl-C and the end of the process with
    status 143 for SIGTERM, 129 for SIGHUP. A second SIGHUP waits, too: shell and system each send one as a terminal is
    closed. Ignored signals stay ignored, as SIGHUP under nohup; outside of the main thread none is held.

    >>> with HeldSignals() as held:
    ...     held.arm()
    ...     signal.raise_signal(signal.SIGTERM)
    ...     assert held.waiting == "SIGTERM"
    ...     held.deliver()
    Traceback (most recent call last):
    SystemExit: 143
    """

    def __init__(self) -> None:
        self.waiting: str | None = None
        self.is_armed = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> HeldSignals:
        if threading.current_thread() is threading.main_thread():
            before = {number: signal.getsignal(number) for number in HELD}
            self._before = {n: handler for n, handler in before.items() if handler not in (None, signal.SIG_IGN)}
            for number in self._before:
                signal.signal(number, self._hold)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Restore the handlers; a signal that waits acts now, unless an error passes."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if error is None:
            self.deliver()

    def arm(self) -> None:
        """Hold signals from now on: there is progress to lose."""
        self.is_armed = True

    def deliver(self) -> None:
        """Let a waiting signal act."""
        if self.waiting is not None:
            number, self.waiting = signal.Signals[self.waiting], None
            self._act(number, None)

    def _hold(self, number: int, frame: FrameType | None) -> None:
        acts = (self.waiting is not None and number != HANG_UP) or not self.is_armed
        self.waiting = signal.Signals(number).name
        if acts:
            self._act(number, frame)
            self.waiting = None  # else Python dropped what it raised, as in a `__del__`: it acts at the next pause

    def _act(self, number: int, frame: FrameType | None) -> None:
        before = self._before[number]
        if not callable(before):  # the system's default would end the process at once
            raise SystemExit(128 + number)
        before(number, frame)
