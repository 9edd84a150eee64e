"""Python's garbage collector, kept from looking at all of a framework's objects again and again."""

from __future__ import annotations

import atexit
import builtins
import gc
import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

MANY = 100_000  # objects that one import brings: a framework
FRAMEWORKS = ("tensorflow", "keras", "jax", "jaxlib", "torch")
_is_ours = False


def take() -> None:
    """Tell that this process is the command line's own, in which nobody else has objects."""
    global _is_ours
    _is_ours = True
    atexit.register(_finish)


@contextmanager
def resting() -> Iterator[None]:
    """Let nothing be collected while modules are imported; in a process of our own, let a framework's objects be.

    There are up to a million of them, and they stay. To look at them takes a third of the time of the import, and a
    second when the process ends. What a configuration makes itself is collected as ever.
    """
    importing = builtins.__import__

    def resting_import(*arguments: Any, **named: Any) -> Any:
        if not gc.isenabled():  # an import within an import, or somebody's wish
            return importing(*arguments, **named)
        gc.disable()
        try:
            return importing(*arguments, **named)
        finally:
            if _is_ours and gc.get_count()[0] > MANY:
                gc.freeze()
            gc.enable()

    builtins.__import__ = resting_import
    try:
        yield
    finally:
        if builtins.__import__ is resting_import:  # else somebody has wrapped it, who may still call it
            builtins.__import__ = importing


def _finish() -> None:
    """Let what is still open be closed as ever when the process ends: a file that a callback writes, and never closes.

    Only where nothing of the kind is left is a framework let be. What keeps an experiment is the module of its
    configuration, and the frames of functions that have returned, held by exceptions that a framework remembers.
    """
    if not gc.get_freeze_count():
        return
    from inspect import CO_ASYNC_GENERATOR, CO_COROUTINE, CO_GENERATOR

    from experimentator.config import CONFIG_MODULE

    lasting = CO_GENERATOR | CO_COROUTINE | CO_ASYNC_GENERATOR
    for name in [name for name in sys.modules if name.startswith(CONFIG_MODULE)]:
        del sys.modules[name]
    for frame in [one for one in gc.get_objects() if type(one) is FrameType and not one.f_code.co_flags & lasting]:
        with suppress(RuntimeError):  # it has not returned
            frame.clear()
    gc.collect()
    streams = {id(part) for stream in (sys.stdout, sys.stderr) for part in _parts(stream)}  # which Python sees to
    if any(_wants_an_end(one) for one in gc.get_objects() if id(one) not in streams):
        gc.unfreeze()


def _parts(stream: Any) -> Iterator[Any]:
    while stream is not None:
        yield stream
        stream = getattr(stream, "buffer", None) or getattr(stream, "raw", None)


def _wants_an_end(one: object) -> bool:
    kind = type(one)
    if isinstance(one, io.IOBase):
        return not one.closed
    return hasattr(kind, "__del__") and kind.__module__.partition(".")[0] not in FRAMEWORKS
