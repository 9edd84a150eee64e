"""Keeps Python's garbage collector from scanning all of a framework's objects again and again."""

from __future__ import annotations

import atexit
import builtins
import gc
import io
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

MANY = 100_000  # an import that makes more objects is a framework's
FRAMEWORKS = ("tensorflow", "keras", "jax", "jaxlib", "torch")
TRACKER = "ResourceTracker"  # of multiprocessing and joblib: the process that it starts ends with this one
TELLING = ("triton",)  # packages that print warnings about objects not collected at exit
_is_ours = False


def take() -> None:
    """Note that this process is the command line's own, with no objects of other code."""
    global _is_ours
    _is_ours = True
    atexit.register(_finish)


@contextmanager
def resting() -> Iterator[None]:
    """Stop collection during imports; in a process of our own, exclude a framework's objects from it for good (freeze).

    They are up to a million, and stay alive. Scanning them takes a third of the time of the import, and a second at
    exit. Objects that a configuration makes itself are collected as usual.
    """
    importing, depth = builtins.__import__, [0]
    known = {id(one): one for one in _wanting_an_end(gc.get_objects())} if _is_ours else {}

    def resting_import(name: str, *arguments: Any, **named: Any) -> Any:
        if name in sys.modules or depth[0] or not gc.isenabled():  # nested, or collection was disabled
            return importing(name, *arguments, **named)
        before = gc.get_threshold()
        depth[0] += 1
        if _is_ours:
            gc.collect(0)  # from here on, what is young is what the import brings
        gc.set_threshold(0)
        try:
            return importing(name, *arguments, **named)
        finally:
            depth[0] -= 1
            if _is_ours and gc.get_count()[0] > MANY and all(id(one) in known for one in _opened()):
                gc.freeze()
            if gc.get_threshold() == (0, *before[1:]):
                gc.set_threshold(*before)

    builtins.__import__ = resting_import
    try:
        yield
    finally:
        if builtins.__import__ is resting_import:  # else other code has wrapped it, and may still call it
            builtins.__import__ = importing


def _finish() -> None:
    """At exit, unfreeze objects if collecting them could close something, such as a file that a callback left open.

    They stay frozen only if nothing is left to be closed, and no package would complain. Before that, drop what keeps
    an experiment alive: the module of its configuration, and frames of returned functions, held by exceptions that a
    framework stores.
    """
    is_done = False
    try:
        if gc.get_freeze_count():
            _let_go()
            is_done = not _wanting_an_end(gc.get_objects()) and not any(name in sys.modules for name in TELLING)
    finally:
        if not is_done:
            gc.unfreeze()


def _let_go() -> None:
    from inspect import CO_ASYNC_GENERATOR, CO_COROUTINE, CO_GENERATOR

    from experimentator.config import CONFIG_MODULE

    lasting = CO_GENERATOR | CO_COROUTINE | CO_ASYNC_GENERATOR
    for name in [name for name in sys.modules if name.startswith(CONFIG_MODULE)]:
        del sys.modules[name]
    for frame in [one for one in gc.get_objects() if type(one) is FrameType and not one.f_code.co_flags & lasting]:
        with suppress(RuntimeError):  # still running
            frame.clear()
    gc.collect()


def _opened() -> list[Any]:
    """Objects older than the last import, to be closed at exit: frozen, they would not be found."""
    older = [one for generation in (1, 2) for one in gc.get_objects(generation)]
    return [one for one in _wanting_an_end(older) if not isinstance(one, Generator)]


def _wanting_an_end(objects: list[Any]) -> list[Any]:
    """Open files, except standard streams, and objects with a `__del__` that are not of a framework's classes."""
    streams = {id(part) for stream in (sys.stdin, sys.stdout, sys.stderr) for part in _parts(stream)}
    kinds = {kind for kind in set(map(type, objects)) if _may_want_an_end(kind)}
    return [one for one in objects if type(one) in kinds and id(one) not in streams and not _is_closed(one)]


def _may_want_an_end(kind: type) -> bool:
    bases = type.__dict__["__mro__"].__get__(kind)  # bypasses metaclasses
    if io.IOBase in bases:
        return True
    is_told = any("__del__" in type.__dict__["__dict__"].__get__(base) for base in bases)
    package = str(type.__dict__["__module__"].__get__(kind)).partition(".")[0]
    return is_told and package not in FRAMEWORKS and type.__dict__["__name__"].__get__(kind) != TRACKER


def _is_closed(one: Any) -> bool:
    try:
        return isinstance(one, io.IOBase) and bool(one.closed)
    except Exception:  # as of a detached stream
        return False


def _parts(stream: Any) -> Iterator[Any]:
    while stream is not None:
        yield stream
        stream = getattr(stream, "buffer", None) or getattr(stream, "raw", None)
