"""Finds open files that threads would share: each has one position, which another moves between seek and read."""

from __future__ import annotations

import io
import sys
from contextlib import suppress
from typing import Any

from experimentator.reads import is_installed

SHARED = (
    "Subset %r is read by one thread, since %s is an open file: threads would move its position for each other. Open "
    "it anew for each item, or read it with a threading.Lock() that the dataset holds. If reading moves no position, "
    "set workers=%d."
)
FEW = 100  # entries of a container that is searched; a larger one holds data
MOST = 10_000  # objects that are looked at


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
    waiting, seen = [(type(dataset).__name__, dataset)], dict[int, Any]()
    for name, one in waiting:  # which grows meanwhile
        if id(one) in seen or len(seen) == MOST:
            continue
        seen[id(one)] = one
        if _has_position(one):
            return name
        if isinstance(one, (dict, list, tuple)) and len(one) <= FEW:
            waiting += [(name, part) for part in list(one.values() if isinstance(one, dict) else one)]
        own = dict(_asked(one, "__dict__") or {}) if one is dataset or _is_of_user(one) else {}
        if not any(callable(_asked(value, "acquire")) for value in own.values()):
            waiting += [(f"{type(one).__name__}.{attribute}", value) for attribute, value in own.items()]
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


def _is_of_user(one: Any) -> bool:
    """Whether its attributes are searched: a dataset, or an object of the user's."""
    return hasattr(type(one), "query_item") or not is_installed(type(one).__module__)
