"""Finds open files that threads would share: each has one position, which another moves between seek and read."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from experimentator.reads import is_installed

SHARED = (
    "Subset %r is read by one thread, since %s is an open file: threads would move its position for each other. Open "
    "it anew for each item, or read it with a threading.Lock() that the dataset holds. If reading moves no position, "
    "set workers=%d."
)
FEW = 100  # entries of a container that is searched; a larger one holds data
MOST = 1000  # objects that are searched


def open_file_in(dataset: Any) -> str | None:
    """The attribute of a dataset, its parents or parts that is an open file, and not of an object that has a lock.

    >>> from threading import Lock
    >>> class Table:
    ...     def __init__(self):
    ...         self.file = io.BytesIO(b"01234567")
    >>> table = Table()
    >>> open_file_in(table)
    'Table.file'
    >>> table.lock = Lock()
    >>> open_file_in(table)
    """
    waiting, seen = [dataset], dict[int, Any]()
    while waiting and len(seen) < MOST:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen[id(one)] = one
        own = _asked(one, "__dict__") or {}
        if any(callable(_asked(value, "acquire")) for value in list(own.values())):
            continue
        for name, value in list(own.items()):
            if any(map(_has_position, (value, *_parts(value)))):
                return f"{type(one).__name__}.{name}"
        waiting.extend(value for value in (*own.values(), *_parts(one)) if _may_hold(value))
    return None


def _asked(one: Any, name: str) -> Any:
    with suppress(Exception):  # a class of its own may refuse
        return getattr(one, name, None)
    return None


def _has_position(one: Any) -> bool:
    if "tarfile" in sys.modules and isinstance(one, sys.modules["tarfile"].TarFile):
        return not one.closed
    with suppress(Exception):
        return isinstance(one, io.IOBase) and not one.closed and one.readable() and one.seekable()
    return False


def _may_hold(one: Any) -> bool:
    """Whether to search it: a small container, a dataset, or an object of the user's."""
    if isinstance(one, (dict, list, tuple)):
        return 0 < len(one) <= FEW
    kind = type(one)
    return bool(_asked(one, "__dict__")) and (hasattr(kind, "query_item") or not is_installed(kind.__module__))


def _parts(one: Any) -> Iterator[Any]:
    if isinstance(one, (dict, list, tuple)) and len(one) <= FEW:
        yield from list(one.values() if isinstance(one, dict) else one)
