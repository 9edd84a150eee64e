"""Plain values as strict JSON, and safe reading of files of unknown origin: plain files of bounded size only."""

from __future__ import annotations

import errno
import json
import math
import os
import stat
from collections.abc import Mapping
from io import BufferedReader
from pathlib import Path
from typing import Any

from experimentator.checkpoint import CheckpointError, write_atomically

MOST_BYTES = 1 << 26  # of a JSON file or a history
FLAGS = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a plain file of bounded size; a link, a pipe or a device in its place is refused, not followed.

    Raises:
        CheckpointError: naming the file.
    """
    try:
        file, size = opened(path)
    except OSError as error:
        seen = "it is a link" if os.path.islink(path) else error.strerror or str(error)
        raise refusal(path, seen) from None
    except ValueError as error:  # a null character in its name
        raise refusal(path, str(error)) from None
    with file:
        if size > MOST_BYTES:
            raise refusal(path, f"it holds {size:,} bytes, more than the {MOST_BYTES:,} that are read")
        return file.read(MOST_BYTES)


def opened(path: str | os.PathLike[str]) -> tuple[BufferedReader, int]:
    """A plain file, opened without following links, and its size; others raise OSError."""
    handle = os.open(path, FLAGS)  # non-blocking: a pipe would wait for its writer
    told = os.fstat(handle)
    if stat.S_ISREG(told.st_mode):
        return os.fdopen(handle, "rb"), told.st_size
    os.close(handle)
    raise OSError(errno.EINVAL, "it is no plain file", os.fspath(path))


def read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The values of a file that holds one JSON object; NaN, infinity and too deep nesting are refused.

    Raises:
        CheckpointError: naming the file.
    """
    try:
        return values_of(read_bytes(path))
    except ValueError as error:
        raise refusal(path, str(error)) from None


def values_of(text: bytes) -> dict[str, Any]:
    """One JSON object.

    >>> values_of(b'{"epoch": 1e999}')
    Traceback (most recent call last):
    ValueError: 1e999 is no number
    """
    values = strict_json(text)
    if not isinstance(values, dict):
        raise ValueError(f"it holds a {type(values).__name__}, not an object")
    return values


def strict_json(text: bytes) -> Any:
    """Values of strict JSON: NaN, repeated keys and too deep nesting raise ValueError.

    >>> strict_json(b'{"epoch": 1, "epoch": 2}')
    Traceback (most recent call last):
    ValueError: a key stands there twice
    """
    try:
        return json.loads(text.decode(), parse_constant=_refuse, parse_float=_finite, object_pairs_hook=_once)
    except RecursionError:
        raise ValueError("it nests too deep") from None


def refusal(path: str | os.PathLike[str], seen: str) -> CheckpointError:
    """The error for a file that cannot be read."""
    return CheckpointError(
        f"{os.fspath(path)!r} cannot be read.\nSeen: {seen}.\nName the folder of a run, as a training leaves it."
    )


def json_of(value: Any, *, indent: int | None = None) -> str:
    """Plain values as JSON, with null in place of NaN and infinity.

    >>> json_of({"loss": math.nan})
    '{"loss": null}'
    """
    return json.dumps(finite(value), indent=indent, allow_nan=False)


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write a file of JSON, whole or not at all."""
    write_atomically(path, f"{json_of(values, indent=2)}\n".encode())


def finite(value: Any) -> Any:
    """Plain values with None in place of NaN and infinity, which JSON lacks.

    >>> finite({"loss": [1.0, math.nan]})
    {'loss': [1.0, None]}
    """
    if isinstance(value, dict):
        return {name: finite(one) for name, one in value.items()}
    if isinstance(value, list):
        return [finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no number")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("a key stands there twice")
    return values


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _refuse(text)
