"""Digests of dataset keys that are the same in every process and run, unlike `hash`."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Hashable
from datetime import date, time, timedelta
from enum import Enum
from functools import cache, singledispatch
from pathlib import PurePath
from typing import Any
from uuid import UUID

import numpy as np

from experimentator.data.items import DatasetError


class Keys(tuple[Hashable, ...]):
    """The keys of a dataset: a tuple with the method `all()` of mlworkflow's keys.

    >>> Keys([3, 4]).all()
    (3, 4)
    """

    __slots__ = ()

    def all(self) -> Keys:
        """The keys themselves."""
        return self


def key_digest(key: Hashable) -> str:
    """A digest of a key, 32 hexadecimal digits: equal for equal keys, else different.

    A key is a number, a string, bytes, a path, a date, a member of an Enum, None, or tuples (named ones too),
    frozensets and dataclasses of these.

    >>> key_digest(("a.mp4", 3)) == key_digest(("a.mp4", np.int64(3)))
    True

    Raises:
        DatasetError: for a key of another type.
    """
    return hashlib.blake2b(_encoder(key.__class__)(key), digest_size=16).hexdigest()


@singledispatch
def _encoded(key: Any) -> bytes:
    if dataclasses.is_dataclass(key) and not isinstance(key, type):
        values = (getattr(key, field.name) for field in dataclasses.fields(key) if field.compare)
        return _joined(b"d", type(key).__qualname__.encode(), *map(_encoded, values))
    raise DatasetError(
        f"The key {key!r:.80} cannot be turned into a number that is the same in every run.",
        f"a {type(key).__name__}",
        "Make it a number, a string, or a tuple, NamedTuple or frozen dataclass of such.",
    )


_encoder = cache(_encoded.dispatch)  # half the time of a call of `_encoded`: a million keys may be asked for


def _joined(kind: bytes, *parts: bytes) -> bytes:
    """The parts, each after its length, so that different lists of parts give different bytes."""
    return kind + b"".join([len(part).to_bytes(8, "little") + part for part in parts])


@_encoded.register
def _(key: None) -> bytes:
    return b"0"


@_encoded.register(int)
@_encoded.register(np.integer)
@_encoded.register(np.bool_)
def _(key: Any) -> bytes:
    return b"n%d" % int(key)


@_encoded.register(float)
@_encoded.register(np.floating)
def _(key: Any) -> bytes:
    number = float(key)
    return b"n%d" % int(number) if number.is_integer() else b"f" + number.hex().encode()  # 2.0 and 2 are equal


@_encoded.register
def _(key: str) -> bytes:
    return b"s" + str(key).encode("utf-8", "surrogatepass")


@_encoded.register
def _(key: bytes) -> bytes:
    return b"b" + key


@_encoded.register(np.datetime64)
@_encoded.register(np.timedelta64)
@_encoded.register(UUID)
def _(key: Any) -> bytes:
    return _joined(b"w", type(key).__name__.encode(), str(key).encode())


@_encoded.register
def _(key: PurePath) -> bytes:
    return b"p" + str(key).encode("utf-8", "surrogateescape")


@_encoded.register(date)
@_encoded.register(time)
@_encoded.register(timedelta)
def _(key: Any) -> bytes:
    return b"w" + repr(key).encode()


@_encoded.register
def _(key: Enum) -> bytes:
    return _joined(b"e", type(key).__qualname__.encode(), key.name.encode())


@_encoded.register
def _(key: tuple) -> bytes:  # type: ignore[type-arg]  # singledispatch takes plain classes
    return _joined(b"t", *[_encoder(one.__class__)(one) for one in key])


@_encoded.register
def _(key: frozenset) -> bytes:  # type: ignore[type-arg]  # the same
    return _joined(b"u", *sorted(map(_encoded, key)))
