"""Failures on the terminal: one message, the user's own lines of the traceback, and an exit status by cause."""

from __future__ import annotations

import linecache
import re
import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

INTERRUPTED, TERMINATED, BROKEN_PIPE = 130, 143, 141
MOST_LINES = 15  # shown of the text of an error of other libraries

_CODES = {
    "UsageError": 2,
    "ConfigError": 2,
    "GraphError": 2,
    "CallbackError": 2,
    "DiagramError": 2,
    "MissingFrameworkError": 2,
    "MissingTrackerError": 2,
    "ResumeError": 2,
    "DatasetError": 3,
    "NonFiniteLossError": 4,
    "NotFiniteError": 4,
    "CheckpointError": 5,
}
_PACKAGE = Path(__file__).resolve().parents[1]
_ROOMS = (_PACKAGE, (_PACKAGE / "graph").resolve(), (_PACKAGE / "ops").resolve())
_OURS = tuple(f"{folder.as_posix()}/" for folder in _ROOMS)  # as in `_resolved`, also on Windows
_STANDARD = f"{Path(sysconfig.get_path('stdlib')).resolve().as_posix()}/"
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")  # colour codes, which Keras writes into messages
# Packages whose frames do not help to find a mistake.
_STRANGERS = {"absl", "jax", "keras", "mlworkflow", "networkx", "numpy", "tensorflow", "torch"}


class Terminated(KeyboardInterrupt):
    """Raised at SIGTERM, which ends a training as Ctrl-C does."""


def exit_status(error: BaseException) -> int:
    """The exit status for an error; classes are recognised by name, so that nothing has to be imported.

    >>> exit_status(KeyboardInterrupt()), exit_status(FileNotFoundError()), exit_status(ZeroDivisionError())
    (130, 5, 1)
    """
    if isinstance(error, KeyboardInterrupt):
        return TERMINATED if isinstance(error, Terminated) else INTERRUPTED
    if isinstance(error, BrokenPipeError):
        return BROKEN_PIPE
    code = next((_CODES[kind.__name__] for kind in type(error).__mro__ if _is_told(kind)), None)
    if code is not None:
        return code
    if _is_deliberate(error):
        return 2
    return 5 if isinstance(error, OSError) else 1


def message(error: BaseException) -> str:
    """The message for the user, without frames of the library, TensorFlow or Keras.

    >>> try:
    ...     1 / 0
    ... except ZeroDivisionError as error:
    ...     error.add_note("In chunk processor Crop.")
    ...     print(message(error).splitlines()[0])
    error: ZeroDivisionError: division by zero
    """
    if isinstance(error, KeyboardInterrupt):
        return "\n".join(["Terminated." if isinstance(error, Terminated) else "Interrupted.", *_notes(error)])
    if any(_is_told(kind) for kind in type(error).__mro__) or _is_deliberate(error):
        return "\n".join([f"error: {error}", *_notes(error), *_origin(error)])
    lines = [f"error: {_brief(error)}", *_notes(error), *_frames(error)]
    cause, told = error.__cause__, {id(error)}
    while cause is not None and id(cause) not in told:  # `raise error from error` is its own cause
        told.add(id(cause))
        lines += [f"because of {_brief(cause)}", *_notes(cause), *_frames(cause)]
        cause = cause.__cause__
    return "\n".join([*lines, "Type the command with --traceback to see every frame."])


def _origin(error: BaseException) -> list[str]:
    """The user's exception behind one of ours, and its lines, unless the message has them already."""
    cause = error.__cause__
    frames = [] if cause is None else list(_frames(cause))
    said = getattr(cause, "strerror", None)
    if (
        cause is None
        or (not frames and said and said in str(error))
        or (len(frames) <= 2 and frames[-1:] and frames[-1].strip() in str(error))
    ):
        return []
    return frames if _named(cause) in str(error) else [_brief(cause), *frames]


def _is_told(kind: type) -> bool:
    return kind.__name__ in _CODES and kind.__module__.startswith("experimentator.")


def _is_deliberate(error: BaseException) -> bool:
    """Whether it is a ValueError raised by the library itself, whose message says what to write."""
    places = [frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__)]
    return isinstance(error, ValueError) and bool(places) and _resolved(places[-1]).startswith(_OURS)


def _named(error: BaseException) -> str:
    return _COLOURS.sub("", f"{type(error).__name__}: {error}".removesuffix(": "))


def _brief(error: BaseException) -> str:
    """Its first lines: TensorFlow adds every frame that built the graph, and pages of memory statistics."""
    lines = [line for line in _named(error).splitlines() if line.strip() and not line.lstrip().startswith('File "')]
    more = [f"... {len(lines) - MOST_LINES} more lines"] if len(lines) > MOST_LINES else []
    return "\n".join(lines[:MOST_LINES] + more)


def _notes(error: BaseException) -> list[str]:
    return list(getattr(error, "__notes__", ()))


def _frames(error: BaseException) -> Iterator[str]:
    """The user's own frames, outermost first, each with its line."""
    for frame, number in traceback.walk_tb(error.__traceback__):
        code = frame.f_code
        if not _is_foreign(code.co_filename):
            where = "" if code.co_name == "<module>" else f" in {code.co_name}"
            yield f"  {shown_path(code.co_filename)}:{number}{where}"
            if line := linecache.getline(code.co_filename, number, frame.f_globals).strip():
                yield f"    {line}"


def _is_foreign(filename: str) -> bool:
    if filename.startswith("<frozen"):
        return True
    path = _resolved(filename)
    _, is_installed, inside = path.rpartition("/site-packages/")
    if is_installed:
        return inside.partition("/")[0] in {*_STRANGERS, "experimentator"}
    return path.startswith((*_OURS, _STANDARD))


def shown_path(filename: str) -> str:
    """The path, relative to the current folder if it is below that."""
    path = Path(filename)
    with suppress(OSError, ValueError):  # elsewhere, or the current folder was removed meanwhile
        return str(path.relative_to(Path.cwd()))
    return filename


def _resolved(filename: str) -> str:
    return str(Path(filename).resolve()).replace("\\", "/")
