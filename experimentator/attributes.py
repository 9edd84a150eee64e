"""What chunk processors compute with: what somebody changed of it after their graph was compiled."""

from __future__ import annotations

import dis
import reprlib
from collections.abc import Hashable, Iterable, Iterator
from enum import Enum
from functools import cache, cached_property, partial
from numbers import Number
from types import CodeType, FunctionType
from typing import Any

DECLARING = ("inputs", "outputs", "mode", "after", "node")  # what the graph asks, where nothing is compiled too
PLAIN = (bool, Number, str, bytes, Enum, type(None))
CONTAINERS = (list, tuple, dict)
MOST = 1_000  # entries of a global container that are looked at; one with more holds data
GLOBAL = "global "


class Attributes:
    """The attributes of processors as they were when first used, to compare with what they are later.

    So are the global names and the closure that their code reads, where these are numbers, texts, and lists or
    dictionaries of them: a compiled graph holds the values that it was traced with. What processors change by
    themselves while they are recorded (layers made at the first call, counters) is not watched; nor are private
    attributes, and what cached properties keep.

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
        self._seen = [
            {n: (reprlib.repr(value), print_, value) for n, (value, print_) in _watched(processor).items()}
            for processor in self._processors
        ]
        self._own: list[set[str]] = [set() for _ in self._processors]

    def settle(self) -> None:
        """They were recorded: what changed since is their own affair."""
        for place, name, _, _ in self._changed():
            self._own[place].add(name)

    def changes(self, *, compiled: bool = True) -> list[str]:
        """What was changed, in words; where nothing is `compiled`, most changes act by themselves."""
        return [
            f"#{place} {_named(self._processors[place])}: {name} was {old}, is {reprlib.repr(new)}"
            for place, name, old, new in self._changed()
            if name not in self._own[place] and (compiled or name in DECLARING)
        ]

    def _changed(self) -> Iterator[tuple[int, str, str, Any]]:
        for place, (processor, seen) in enumerate(zip(self._processors, self._seen, strict=True)):
            for name, (new, print_) in _watched(processor).items():
                old, before, _ = seen[name] if name in seen else _default(processor, name, new)
                if print_ != before:
                    yield place, name, old, new


def _watched(processor: Any) -> dict[str, tuple[Any, Hashable]]:
    """Attributes of an object, and globals of its code, with their prints; values are kept, so that ids stay theirs."""
    attributes = getattr(processor, "__dict__", {})
    own = {
        name: (value, _print(value))
        for name, value in list(attributes.items())
        if not name.startswith("_") and not isinstance(getattr(type(processor), name, None), cached_property)
    }
    return own | {f"{GLOBAL}{name}": (value, _print(value)) for name, value in _globals(processor).items()}


def _globals(processor: Any) -> dict[str, Any]:
    """Plain values outside that the code of a processor reads, and the functions of the same file that it calls."""
    found: dict[str, Any] = {}
    waiting, known = list(_functions(processor)), set[CodeType]()
    while waiting:
        function = waiting.pop()
        if function.__code__ in known:
            continue
        known.add(function.__code__)
        for name, value in _outside(function):
            if isinstance(value, FunctionType) and value.__globals__ is function.__globals__:
                waiting.append(value)
            elif isinstance(value, PLAIN) or (isinstance(value, CONTAINERS) and len(value) <= MOST):
                found[name] = value
    return found


def _functions(processor: Any) -> Iterator[FunctionType]:
    """The functions whose code a processor is."""
    function = getattr(processor, "function", processor)
    while isinstance(function, partial):
        function = function.func
    if isinstance(function, FunctionType):
        yield function
    for cls in type(processor).__mro__:
        if not cls.__module__.startswith(("experimentator.", "keras.", "builtins")):
            yield from (one for one in vars(cls).values() if isinstance(one, FunctionType))


def _outside(function: FunctionType) -> Iterator[tuple[str, Any]]:
    """What a function's code reads by the names of its module, and of functions around it."""
    for name in _read(function.__code__):
        if name in function.__globals__:
            yield name, function.__globals__[name]
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
        try:
            yield name, cell.cell_contents
        except ValueError:  # not assigned yet
            continue


@cache
def _read(code: CodeType) -> tuple[str, ...]:
    """Global names that code reads, that of functions within it, too."""
    names = [step.argval for step in dis.get_instructions(code) if step.opname in ("LOAD_GLOBAL", "LOAD_NAME")]
    inner = [name for const in code.co_consts if isinstance(const, CodeType) for name in _read(const)]
    return tuple(dict.fromkeys([*names, *inner]))


def _named(processor: Any) -> str:
    name = getattr(processor, "__name__", None)
    return name if isinstance(name, str) else type(processor).__name__


def _default(processor: Any, name: str, new: Any) -> tuple[str, Hashable, Any]:
    """What the class says of an attribute that the object did not have; without a word it is no change."""
    if name.startswith(GLOBAL):
        return "", _print(new), new
    missing = object()
    value = getattr(type(processor), name, missing)
    return (reprlib.repr(value), _print(value), value) if value is not missing else ("", _print(new), new)


def _print(value: Any) -> Hashable:
    """What tells a value from another: itself where it is plain, its parts, else which object it is."""
    if isinstance(value, (list, tuple)):
        return type(value), tuple([_print(one) for one in value])
    if isinstance(value, dict):
        return dict, tuple([(_print(key), _print(one)) for key, one in value.items()])
    return (type(value), repr(value)) if isinstance(value, PLAIN) else (type(value), id(value))
