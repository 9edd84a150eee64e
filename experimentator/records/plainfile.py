"""Files of a run that anybody may have made: bounded, plain, and nothing in them is run."""

from __future__ import annotations

import json
import math
import os
import stat
from typing import Any

from experimentator.checkpoint import CheckpointError

MOST_BYTES = 1 << 26  # of a file of JSON, or of a history
FLAGS = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def read_bytes(path: str | os.PathLike[str], *, most: int = MOST_BYTES) -> bytes:
    """The bytes of a plain file of bounded size; a link, a pipe or a device in its place is refused, not followed.

    Raises:
        CheckpointError: naming the file.
    """
    try:
        handle = os.open(path, FLAGS)  # non-blocking: a pipe would wait for its writer
    except OSError as error:
        seen = "it is a link" if os.path.islink(path) else error.strerror or str(error)
        raise refusal(path, seen) from None
    except ValueError as error:  # a null character in its name
        raise refusal(path, str(error)) from None
    try:
        told = os.fstat(handle)
        if not stat.S_ISREG(told.st_mode):
            raise refusal(path, "it is no plain file")
        if told.st_size > most:
            raise refusal(path, f"it holds {told.st_size:,} bytes, more than the {most:,} that are read")
        with os.fdopen(handle, "rb", closefd=False) as file:
            return file.read(most)
    finally:
        os.close(handle)


def read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The values of a file that holds one JSON object; NaN, infinity and what nests too deep are refused.

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
    try:
        values = json.loads(text.decode("utf-8"), parse_constant=_refuse, parse_float=_finite)
    except RecursionError:
        raise ValueError("it nests too deep") from None
    if not isinstance(values, dict):
        raise ValueError(f"it holds a {type(values).__name__}, not an object")
    return values


def refusal(path: str | os.PathLike[str], seen: str) -> CheckpointError:
    """The error for a file that is not what a run leaves."""
    return CheckpointError(
        f"{os.fspath(path)!r} cannot be read.\nSeen: {seen}.\nName the folder of a run, as a training leaves it."
    )


def finite(value: Any) -> Any:
    """Plain values as JSON holds them: null stands for NaN and infinity, which it lacks.

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


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _refuse(text)
