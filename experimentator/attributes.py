"""Attributes of chunk processors: what somebody changed in them after their graph was compiled."""

from __future__ import annotations

import reprlib
from collections.abc import Hashable, Iterable, Iterator
from enum import Enum
from functools import cached_property
from typing import Any

DECLARING = ("inputs", "outputs", "mode", "after", "node")  # what the graph asks, where nothing is compiled too
PLAIN = (bool, int, float, complex, str, bytes, Enum, type(None))


class Attributes:
    """The attributes of processors as they were when first used, to compare with what they are later.

    What processors change by themselves while they are recorded (layers made at the first call, counters) is not
    watched; nor are private attributes, and what cached properties keep.

    >>> class Crop:
    ...     size, made = 8, None
    >>> crop = Crop()
    >>> attributes = Attributes([crop])
    >>> crop.made = "a layer"
    >>> attributes.settle()
    >>> crop.size = 10
    >>> attributes.changes()
    ['#0 Crop: size was 8, is 10']
    """

    def __init__(self, processors: Iterable[Any]):
        self._processors = list(processors)
        self._seen = [_public(processor) for processor in self._processors]
        self._own: list[set[str]] = [set() for _ in self._processors]

    def settle(self) -> None:
        """They were recorded: what changed since is their own affair."""
        for place, name, _, _ in self._changed():
            self._own[place].add(name)

    def changes(self, *, compiled: bool = True) -> list[str]:
        """What was changed, in words; where nothing is `compiled`, most changes act by themselves."""
        return [
            f"#{place} {type(self._processors[place]).__name__}: {name} was {reprlib.repr(old)}, is {reprlib.repr(new)}"
            for place, name, old, new in self._changed()
            if name not in self._own[place] and (compiled or name in DECLARING)
        ]

    def _changed(self) -> Iterator[tuple[int, str, Any, Any]]:
        for place, (processor, seen) in enumerate(zip(self._processors, self._seen, strict=True)):
            for name, (new, print_) in _public(processor).items():
                old, before = seen[name] if name in seen else _default(processor, name)
                if print_ != before:
                    yield place, name, old, new


def _public(processor: Any) -> dict[str, tuple[Any, Hashable]]:
    """The attributes of an object with their prints; the values are kept, so that their ids stay theirs."""
    attributes = getattr(processor, "__dict__", {})
    return {
        name: (value, _print(value))
        for name, value in list(attributes.items())
        if not name.startswith("_") and not isinstance(getattr(type(processor), name, None), cached_property)
    }


def _default(processor: Any, name: str) -> tuple[Any, Hashable]:
    """What the class says of an attribute that the object did not have; without a word it is no change."""
    missing = object()
    value = getattr(type(processor), name, missing)
    return (value, _print(value)) if value is not missing else (None, _print(getattr(processor, name)))


def _print(value: Any) -> Hashable:
    """What tells a value from another: itself where it is plain, its parts, else which object it is."""
    if isinstance(value, (list, tuple)):
        return type(value), tuple([_print(one) for one in value])
    if isinstance(value, dict):
        return dict, tuple([(_print(key), _print(one)) for key, one in value.items()])
    return (type(value), repr(value)) if isinstance(value, PLAIN) else (type(value), id(value))
