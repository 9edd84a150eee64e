"""Arrays in memory shared by two processes, so that large batches need not go through a pipe."""

from __future__ import annotations

import itertools
import mmap
import os
import weakref
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np

LARGE = 1 << 16  # bytes from which sharing an array pays
_serials = itertools.count()


class Address(NamedTuple):
    """Where another process finds an array; `serial` tells it from an earlier array at the same path."""

    serial: int
    path: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


class Lent:
    """An array that a process of the same user may map by its address; freed when both processes let go of it.

    >>> lent = Lent((2, 3), np.dtype("uint8")) if Lent.is_possible() else None
    >>> if lent: mapped(lent.address)[1] = 7
    >>> lent.array.tolist() if lent else [[0, 0, 0], [7, 7, 7]]
    [[0, 0, 0], [7, 7, 7]]
    """

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any]):
        size = int(np.prod(shape)) * dtype.itemsize
        handle = os.memfd_create("experimentator")
        weakref.finalize(self, os.close, handle)
        os.ftruncate(handle, size)
        self.array: np.ndarray = np.ndarray(shape, dtype, mmap.mmap(handle, size))
        self.address = Address(next(_serials), f"/proc/{os.getpid()}/fd/{handle}", shape, dtype)

    @staticmethod
    def is_possible() -> bool:
        """Whether the system supports this: Linux does."""
        return hasattr(os, "memfd_create") and os.path.isdir("/proc/self/fd")


def mapped(address: Address) -> np.ndarray:
    """The array at an address of another process."""
    with open(address.path, "r+b") as file:
        return np.ndarray(address.shape, address.dtype, mmap.mmap(file.fileno(), 0))


class Lending:
    """In the training process: the shared arrays that one worker process fills, by name; made when first needed."""

    def __init__(self) -> None:
        self.lent: dict[str, Lent] = {}

    def addresses(self, into: Mapping[str, np.ndarray]) -> dict[str, Address]:
        """Addresses of shared arrays like those of `into`; small ones have none."""
        for name, array in into.items() if Lent.is_possible() else ():
            if array.nbytes >= LARGE and (name not in self.lent or not _alike(self.lent[name].array, array)):
                with suppress(OSError):  # a sandbox may forbid it; then the array goes through the pipe
                    self.lent[name] = Lent(array.shape, array.dtype)
        return {name: one.address for name, one in self.lent.items() if name in into and _alike(one.array, into[name])}

    def taken(self, batch: dict[str, Any], into: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """The batch, with the contents of shared arrays, marked None in it, copied into the arrays of `into`."""
        for name in [name for name, values in batch.items() if values is None]:
            into[name][...] = self.lent[name].array
            batch[name] = into[name]
        return batch


class Borrowed:
    """In a worker process: the shared arrays that it fills, by name."""

    def __init__(self) -> None:
        self.known: dict[str, tuple[int, np.ndarray]] = {}

    def at(self, addresses: Mapping[str, Address]) -> dict[str, np.ndarray]:
        """The arrays at these addresses, if this process may map them."""
        for name, address in addresses.items():
            if name not in self.known or self.known[name][0] != address.serial:
                self.known.pop(name, None)
                with suppress(OSError):  # a sandbox may forbid it; then the array goes through the pipe
                    self.known[name] = address.serial, mapped(address)
        return {name: self.known[name][1] for name in addresses if name in self.known}

    def given(self, batch: Mapping[str, Any], into: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """The batch to send back; values that are in shared arrays are None in it."""
        sent = dict(batch)
        for name, room in into.items():
            values = batch.get(name)
            if isinstance(values, np.ndarray) and values is not room and _alike(values, room):
                room[...] = values
                values = room
            if values is room:
                sent[name] = None
        return sent


def _alike(one: np.ndarray, other: np.ndarray) -> bool:
    return one.shape == other.shape and one.dtype == other.dtype
