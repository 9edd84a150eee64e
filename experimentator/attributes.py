"""Finds attributes and globals of chunk processors that were changed after their graph was compiled."""

from __future__ import annotations

import logging
import reprlib
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from functools import cache, cached_property, partial
from pathlib import PurePath
from types import CodeType, FunctionType, MethodType
from typing import Any
from zlib import crc32

import numpy as np

from experimentator.reads import (
    CONTAINERS,
    OUTSIDE,
    PLAIN,
    counts_up,
    held_by,
    holds_no_code,
    outside,
    read_by,
    values_of,
)

log = logging.getLogger(__name__)

DECLARING = ("inputs", "outputs", "mode", "after", "node")  # attributes that graphs depend on, even if not compiled
DEEP = 50  # levels of nested containers that are compared
MOST = 10_000  # entries of a container that are compared; a larger one holds data
TOLD_ALIKE = (*PLAIN, slice, range, PurePath)  # values that are equal where their texts are
LONG = 128  # bits of a whole number that is a setting; Python writes none of more than 4300 digits
FEW = 8  # entries of a list that is a setting, such as a size
SMALL = 1 << 16  # bytes of an array that is compared by value; a larger one is compared by identity
COUNTS = (
    "%s changes the number %s while it is traced: compiled, its code runs once, and each batch has the same "
    "value. One that goes on from batch to batch is a keras.Variable(0, trainable=False), which the processor assigns."
)
OFTEN = (
    "Each change compiles anew. A number that changes often may live in a keras.Variable(..., trainable=False), which "
    "a callback assigns: that compiles once."
)


class Attributes:
    """The attributes of processors when first used, to compare with later: a compiled graph keeps the traced ones.

    Compared are public attributes; the globals and closure variables that their code reads, and attributes that it
    reads of objects, classes and modules, as in `args.rate`; the same for functions and objects that it calls; and all
    that code itself. Data are compared by value, functions by their code, and other objects by identity.
    Not compared are attributes that processors change themselves while they are recorded (layers made at the first
    call, counters), and values of cached properties.

    >>> class Crop:
    ...     size, made = 8, None
    >>> crop = Crop()
    >>> attributes = Attributes([crop])
    >>> with attributes.settling():
    ...     crop.made = "a layer"
    >>> crop.size = 10
    >>> attributes.changes()
    ['#0 Crop: size was 8, is 10']
    """

    def __init__(self, processors: Iterable[Any], tell: Callable[[str], None] = log.warning):
        self._processors, self._tell = list(processors), tell
        self._seen = [
            {name: (_kept(value), print_, value) for name, (value, print_) in _watched(processor).items()}
            for processor in self._processors
        ]
        self._own: list[set[str]] = [set() for _ in self._processors]
        self._noted: list[set[str]] = [set() for _ in self._processors]  # changed in a recording
        self._alike: list[dict[str, Any] | None] = [None] * len(self._processors)  # what an op had, not changed at all

    @contextmanager
    def settling(self, *, compiled: bool = True, recording: bool = False) -> Iterator[None]:
        """Around tracing or running: attributes that processors change meanwhile are never reported as changes.

        Numbers that code counts up in each trace, a `recording` among them, are warned of where it is `compiled`: a
        count of batches stays as it is.
        """
        before = self._now()
        yield
        for one, own, noted, old, new in zip(
            self._processors, self._own, self._noted, before, self._now(), strict=True
        ):
            changed = [name for name in new if name not in old or new[name] != old[name]]
            for name in noted.intersection(changed) if compiled else ():
                if told := _counted(one, name, old.get(name), new[name]):
                    self._tell(COUNTS % (_named(one), told))
            noted.update(changed if recording else ())
            own.update(changed)

    def changes(self, *, compiled: bool = True) -> list[str]:
        """The changes, in words; if nothing is `compiled`, only of what graphs depend on: others take effect anyway."""
        return [
            f"#{place} {_named(self._processors[place])}: {name} was {old}, is {_told(new)}"
            for place, name, old, new in self._changed()
            if name not in self._own[place] and (compiled or name in DECLARING)
        ]

    def settings(self) -> dict[str, str]:
        """The texts of plain values, but of those that processors change themselves, by processor and name."""
        return {
            f"#{place} {_named(one)}: {name}": repr(value)
            for place, (one, own) in enumerate(zip(self._processors, self._own, strict=True))
            for name, (value, _) in _watched(one).items()
            if name not in own and _is_plain(value)
        }

    def _now(self) -> list[dict[str, Hashable]]:
        return [{name: print_ for name, (_, print_) in _watched(one, private=True).items()} for one in self._processors]

    def _changed(self) -> Iterator[tuple[int, str, str, Any]]:
        for place, (processor, seen) in enumerate(zip(self._processors, self._seen, strict=True)):
            if (known := self._alike[place]) is not None and _has(processor, known):  # many ops, often
                continue
            is_alike = True
            for name, (new, print_) in _watched(processor).items():
                told, before, old = seen[name] if name in seen else _default(processor, name, new)
                if print_ != before:
                    is_alike = False
                    yield place, name, told or _told(old), new
            if is_alike and holds_no_code(processor):
                self._alike[place] = dict(vars(processor))


def adding_up(processor: Any) -> Iterator[tuple[str, str]]:
    """The processor, and each name by which its code reads a Keras metric, unless it resets or isolates its state."""
    own = getattr(processor, "__dict__", {})
    functions = [one for one in outside(processor).values() if isinstance(one, FunctionType)]
    attributes = {name for function in functions for name in read_by(function.__code__)[1]}
    read = {name: value for one in functions for _, name, value in values_of(one, read_by(one.__code__)[0])}
    read |= {f"self.{name}": own[name] for name in attributes if name in own}
    if not any(name.startswith(("reset_state", "stateless_")) for name in attributes):
        yield from ((_named(processor), name) for name, value in read.items() if _is_metric(value))


def _is_metric(value: Any) -> bool:
    kinds = type(value).__mro__
    return any(kind.__name__ == "Metric" and kind.__module__.startswith("keras.") for kind in kinds)


def _watched(processor: Any, *, private: bool = False) -> dict[str, tuple[Any, Hashable]]:
    """The values to compare, by name, with their fingerprints; values are kept so that no id is reused."""
    own = {
        name: (value, _print(value))
        for name, value in list(held_by(processor).items())
        if (private or name[:1] != "_") and not isinstance(getattr(type(processor), name, None), cached_property)
    }
    return own | {name: (value, _print(value)) for name, value in outside(processor).items()}


def _has(processor: Any, known: Mapping[str, Any]) -> bool:
    """Whether its attributes are the same objects as those known."""
    own = vars(processor)
    return own.keys() == known.keys() and all(own[name] is value for name, value in known.items())


@cache
def _does(code: CodeType) -> Hashable:
    """A fingerprint of code without its place: a notebook cell that runs again defines an equal function elsewhere."""
    constants = [_does(one) if isinstance(one, CodeType) else repr(one) for one in code.co_consts]
    return code.co_code, code.co_names, tuple(constants)


def _kept(value: Any) -> str:
    """The text of a value that may be changed in place; empty for others, whose text is made when they change."""
    return _told(value) if isinstance(value, (*CONTAINERS, np.ndarray, FunctionType)) else ""


def _told(value: Any) -> str:
    try:
        if isinstance(value, FunctionType):
            return f"{value.__name__} of line {value.__code__.co_firstlineno}"
        return reprlib.repr(value)
    except Exception:  # a failing repr must not stop a training
        return f"<{type(value).__name__}>"


def _named(processor: Any) -> str:
    name = getattr(processor, "__name__", None)
    return name if isinstance(name, str) else type(processor).__name__


def _default(processor: Any, name: str, new: Any) -> tuple[str, Hashable, Any]:
    """The class's default of an attribute that the object did not have: text, fingerprint, value; else the new one."""
    missing = object()
    value = missing if name.startswith(OUTSIDE) else getattr(type(processor), name, missing)
    value = missing if hasattr(value, "__set__") else value  # of a slot, or a property that can be set
    return ("", _print(new), new) if value is missing else (_told(value), _print(value), value)


def _print(value: Any) -> Hashable:
    """A fingerprint: a plain value itself, a container by its parts, any other object by identity."""
    return _printed(value, [MOST], ())


def _is_plain(value: Any) -> bool:
    """Whether it is told alike in another process, in short: a number, a text, or a few of them."""
    parts = value if isinstance(value, (list, tuple)) and len(value) <= FEW else (value,)
    return all(isinstance(part, PLAIN) and not (isinstance(part, int) and part.bit_length() > LONG) for part in parts)


def _is_number(printed: Hashable) -> bool:
    """Whether a fingerprint is that of a number, or of a small array."""
    return isinstance(printed, tuple) and printed[0] in (int, float, np.ndarray)


def _counted(one: Any, name: str, old: Hashable, new: Any) -> str | None:
    """What to call a number that code counts up, if it does: an attribute, or one in a container or array."""
    if not _is_another_number(old, new) or not counts_up(one, name):
        return None
    return f"in {name}" if new[0] in (*CONTAINERS, np.ndarray) else name


def _is_another_number(old: Hashable, new: Hashable) -> bool:
    """Whether two fingerprints are of numbers, or differ in numbers alone."""
    if not isinstance(old, tuple) or not isinstance(new, tuple) or len(old) != len(new):
        return False
    if _is_number(old) or _is_number(new):
        return _is_number(old) and _is_number(new)
    return all(_is_another_number(a, b) for a, b in zip(old, new, strict=True) if a != b)


def _printed(value: Any, left: list[int], parents: tuple[int, ...]) -> Hashable:
    """The same for nested values: `left` counts the entries still compared, `parents` end a cycle of references."""
    left[0] -= 1
    is_fresh = id(value) not in parents and len(parents) < DEEP
    if isinstance(value, CONTAINERS) and is_fresh and len(value) <= left[0]:
        inside = (*parents, id(value))
        if isinstance(value, dict):
            pairs = [(_printed(key, left, inside), _printed(one, left, inside)) for key, one in value.items()]
            return dict, tuple(pairs)
        return type(value), tuple([_printed(one, left, inside) for one in value])
    if isinstance(value, (str, bytes, int, Enum, type(None))):
        return type(value), value
    if is_fresh and (found := _made_of(value)):
        return found[0], tuple([_printed(part, left, (*parents, id(value))) for part in found[1]])
    if isinstance(value, MethodType):
        return MethodType, id(value.__self__), value.__func__
    if isinstance(value, (set, frozenset)) and len(value) <= left[0]:
        return type(value), frozenset(_printed(one, left, parents) for one in value)
    if isinstance(value, np.ndarray) and value.nbytes <= SMALL and not value.dtype.hasobject:
        return np.ndarray, value.shape, value.dtype.str, crc32(value.tobytes())
    return (type(value), repr(value)) if isinstance(value, TOLD_ALIKE) else (type(value), id(value))


def _made_of(value: Any) -> tuple[Any, Iterable[Any]] | None:
    """What functions, partials and decorated functions are compared by, which a cell that runs again makes anew."""
    if isinstance(value, FunctionType):
        held = [one for _, _, one in values_of(value, ())]
        return _does(value.__code__), (value.__defaults__, value.__kwdefaults__, *held)
    if isinstance(value, partial):
        return partial, (value.func, value.args, value.keywords)
    wrapped = getattr(value, "__dict__", {}).get("__wrapped__")
    return (type(value), [wrapped]) if isinstance(wrapped, FunctionType) else None
