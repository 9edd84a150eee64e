"""Finds attributes and globals of chunk processors that were changed after their graph was compiled."""

from __future__ import annotations

import dis
import reprlib
from collections.abc import Collection, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from functools import cache, cached_property, partial
from itertools import pairwise
from numbers import Number
from types import CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any
from zlib import crc32

import numpy as np

DECLARING = ("inputs", "outputs", "mode", "after", "node")  # attributes that graphs depend on, even if not compiled
PLAIN = (str, bool, int, float, type(None), bytes, Enum, Number)  # those that are quick to tell first
CONTAINERS = (list, tuple, dict)
DEEP = 50  # levels of nested containers that are compared
MOST = 10_000  # entries of a container that are compared; a larger one holds data
SMALL = 1 << 16  # bytes of an array that is compared by value; a larger one is compared by identity
OFTEN = (
    "Each change compiles anew. A number that changes often may live in a keras.Variable(..., trainable=False), which "
    "a callback assigns: that compiles once."
)
GLOBAL, ENCLOSED, CODE = "global ", "enclosed ", "the code of "
OUTSIDE = (GLOBAL, ENCLOSED, CODE)  # what names begin with that are no attributes
LIBRARIES = ("experimentator.", "keras.", "builtins")  # modules whose classes are not searched
# Objects of these, and of subclasses, have watchers of their own; losses have none.
WATCHED = (*LIBRARIES, "tensorflow.", "torch.", "jax")
OPEN = ("keras.src.losses.", "keras.src.saving.")
LOADS = ("LOAD_ATTR", "LOAD_METHOD", "LOAD_SUPER_ATTR")  # instructions
VALUES = (*CONTAINERS, np.ndarray, *PLAIN)
CLOSED = (FunctionType, *VALUES)  # what holds no attributes to be read


class Attributes:
    """The attributes of processors when first used, to compare with later: a compiled graph keeps the traced ones.

    Compared are public attributes; the globals and closure variables that their code reads, if they are numbers, texts,
    arrays, or lists or dictionaries of them, and such attributes that it reads of objects, classes and modules, as in
    `args.rate`; the same for functions and objects that it calls; and all that code itself. Not compared are
    attributes that processors change themselves while they are recorded (layers made at the first call, counters), and
    values of cached properties.

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

    def __init__(self, processors: Iterable[Any]):
        self._processors = list(processors)
        self._seen = [
            {name: (_kept(value), print_, value) for name, (value, print_) in _watched(processor).items()}
            for processor in self._processors
        ]
        self._own: list[set[str]] = [set() for _ in self._processors]

    @contextmanager
    def settling(self) -> Iterator[None]:
        """Around tracing or running: attributes that processors change meanwhile are never reported."""
        before = self._now()
        yield
        for own, old, new in zip(self._own, before, self._now(), strict=True):
            own.update(name for name in new if name not in old or new[name] != old[name])

    def changes(self, *, compiled: bool = True) -> list[str]:
        """The changes, in words; if nothing is `compiled`, only of what graphs depend on: others take effect anyway."""
        return [
            f"#{place} {_named(self._processors[place])}: {name} was {old}, is {_told(new)}"
            for place, name, old, new in self._changed()
            if name not in self._own[place] and (compiled or name in DECLARING)
        ]

    def _now(self) -> list[dict[str, Hashable]]:
        return [{name: print_ for name, (_, print_) in _watched(one).items()} for one in self._processors]

    def _changed(self) -> Iterator[tuple[int, str, str, Any]]:
        for place, (processor, seen) in enumerate(zip(self._processors, self._seen, strict=True)):
            for name, (new, print_) in _watched(processor).items():
                told, before, old = seen[name] if name in seen else _default(processor, name, new)
                if print_ != before:
                    yield place, name, told or _told(old), new


def adding_up(processor: Any) -> Iterator[tuple[str, str]]:
    """The processor, and each name by which its code reads a Keras metric, unless it resets or isolates its state."""
    own = getattr(processor, "__dict__", {})
    functions = [one for one in _outside(processor).values() if isinstance(one, FunctionType)]
    attributes = {name for function in functions for name in _read(function.__code__)[1]}
    read = {name: value for one in functions for _, name, value in _values(one, _read(one.__code__)[0])}
    read |= {f"self.{name}": own[name] for name in attributes if name in own}
    if not any(name.startswith(("reset_state", "stateless_")) for name in attributes):
        yield from ((_named(processor), name) for name, value in read.items() if _is_metric(value))


def _is_metric(value: Any) -> bool:
    kinds = type(value).__mro__
    return any(kind.__name__ == "Metric" and kind.__module__.startswith("keras.") for kind in kinds)


def _watched(processor: Any) -> dict[str, tuple[Any, Hashable]]:
    """The values to compare, by name, with their fingerprints; values are kept so that no id is reused."""
    attributes = getattr(processor, "__dict__", {})
    own = {
        name: (value, _print(value))
        for name, value in list(attributes.items())
        if not name.startswith("_") and not isinstance(getattr(type(processor), name, None), cached_property)
    }
    return own | {name: (value, _print(value)) for name, value in _outside(processor).items()}


def _outside(processor: Any) -> dict[str, Any]:
    """The code of a processor, of functions of its module and of objects that it calls, and what that reads outside."""
    function, known = _function(processor), set[tuple[int, int]]()
    if function is not None:
        owner = _wrapped(processor)
        owner = owner.__self__ if isinstance(owner, MethodType) else processor
        found = {CODE + function.__qualname__: function} | _reads(owner, _methods(owner), [function], known)
        return {f"self{name}" if name.startswith(".") else name: value for name, value in found.items()}
    own = getattr(processor, "__dict__", {})
    is_ours = type(processor).__module__.startswith(LIBRARIES)  # its own code is not read, but what it was given
    held = {name: one for name, one in own.items() if name == "function" or (is_ours and name[:1] != "_")}
    methods, waiting = (
        _methods(processor),
        [one for one in map(_wrapped, held.values()) if isinstance(one, FunctionType)],
    )
    found = _called("__call__", methods, waiting) | _reads(processor, methods, waiting, known)
    for name, one in held.items():
        if not isinstance(one, CLOSED):
            found |= _inside(name, one, (), known)
    is_own = {f".{name}" for name in own}  # those are compared anyway
    return {name.removeprefix("."): value for name, value in found.items() if name not in is_own}


def _reads(
    owner: Any, methods: dict[str, list[FunctionType]], waiting: list[FunctionType], known: set[tuple[int, int]]
) -> dict[str, Any]:
    """What functions and those that they call read: `.name` of the object whose methods they are, and outer values."""
    found, own = dict[str, Any](), getattr(owner, "__dict__", {})
    while waiting:
        function = waiting.pop()
        if (id(owner), id(function)) in known:
            continue
        known.add((id(owner), id(function)))
        names, attributes, of_objects = _read(function.__code__)
        found |= _held("", owner, of_objects.get("self", ()))
        for name in attributes:
            found |= _called(name, methods, waiting)
            if not isinstance(one := own.get(name), CLOSED):
                found |= _inside(name, one, of_objects.get(name, ()), known)
        for kind, name, value in _values(function, names):
            if isinstance(value, CLOSED):
                found[kind + name] = value
            else:
                found |= _inside(kind + name, value, of_objects.get(name, ()), known)
            if isinstance(value, FunctionType) and value.__globals__ is function.__globals__:
                waiting.append(value)
    return found


def _inside(name: str, one: Any, attributes: Collection[str], known: set[tuple[int, int]]) -> dict[str, Any]:
    """What an object, a class or a module has under attributes that code reads, and what an object reads if called."""
    called = _wrapped(one)
    owner = called.__self__ if isinstance(called, MethodType) else called
    if isinstance(owner, CLOSED) or not hasattr(owner, "__dict__") or _is_watched(owner):
        return {}
    found = _held("", owner, attributes)
    if not isinstance(owner, (type, ModuleType)):
        methods, waiting = _methods(owner), list[FunctionType]()
        entries = [called.__name__] if owner is not called else ["__call__", "call", *attributes]
        for entry in entries:
            found |= _called(entry, methods, waiting)
        found |= _reads(owner, methods, waiting, known)
    return {_labelled(name, key): value for key, value in found.items()}


def _labelled(name: str, key: str) -> str:
    """A name found in an object that itself has a name."""
    if key.startswith(CODE):
        return f"{CODE}{name}.{key.removeprefix(CODE)}"
    return key if key.startswith(OUTSIDE) else f"{name}{key if key.startswith('.') else f'.{key}'}"


def _held(name: str, one: Any, attributes: Collection[str]) -> dict[str, Any]:
    """The values that an object, its class or a module has under the names of public attributes that code reads."""
    if not attributes or not hasattr(one, "__dict__") or _is_watched(one):
        return {}
    scopes = [vars(one), *map(vars, _classes(one))]
    held = {
        key: next((scope[key] for scope in scopes if key in scope), ...) for key in sorted(attributes) if key[:1] != "_"
    }
    return {f"{name}.{key}": value for key, value in held.items() if isinstance(value, VALUES)}


def _classes(one: Any) -> Sequence[type]:
    """The classes where attributes of an object or a class may lie; none for a module."""
    return () if isinstance(one, ModuleType) else (one if isinstance(one, type) else type(one)).__mro__[:-1]


def _is_watched(one: Any) -> bool:
    """Whether it has a watcher of its own, as layers have, or is the library's or a framework's."""
    modules = [cls.__module__ for cls in _classes(one)]
    return any(module.startswith(WATCHED) and not module.startswith(OPEN) for module in modules)


def _called(name: str, methods: dict[str, list[FunctionType]], waiting: list[FunctionType]) -> dict[str, FunctionType]:
    """The methods of that name, by what messages call them; they are added to `waiting`, to be read."""
    waiting += methods.get(name, ())
    return {f"{CODE}{name}{n or ''}": method for n, method in enumerate(methods.get(name, ()))}


def _function(processor: Any) -> FunctionType | None:
    """The function that a processor is or wraps, if any."""
    function = _wrapped(getattr(processor, "__dict__", {}).get("function", processor))
    function = getattr(function, "__func__", function) if isinstance(function, MethodType) else function
    return function if isinstance(function, FunctionType) else None


def _wrapped(one: Any) -> Any:
    """What a partial calls, else the object itself."""
    while isinstance(one, partial):
        one = one.func
    return one


def _methods(processor: Any) -> dict[str, list[FunctionType]]:
    """Methods and property getters of a processor's classes outside the libraries, by name; bases too."""
    found: dict[str, list[FunctionType]] = {}
    for cls in type(processor).__mro__:
        for name, one in () if cls.__module__.startswith(LIBRARIES) else vars(cls).items():
            one = one.fget if isinstance(one, property) else one
            if isinstance(one, FunctionType):
                found.setdefault(name, []).append(one)
    return found


def _is_set(cell: CellType) -> bool:
    try:
        return bool(id(cell.cell_contents))
    except ValueError:  # not assigned yet
        return False


def _values(function: FunctionType, names: Iterable[str]) -> Iterator[tuple[str, str, Any]]:
    """The globals, of `names`, and the closure variables that a function reads: (kind, name, value)."""
    for name in names:
        if name in function.__globals__:
            yield GLOBAL, name, function.__globals__[name]
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
        if _is_set(cell):
            yield ENCLOSED, name, cell.cell_contents


@cache
def _read(code: CodeType) -> tuple[tuple[str, ...], tuple[str, ...], dict[str, set[str]]]:
    """Names of globals and of attributes that code reads, and attributes by the name before; nested functions too."""
    steps = list(dis.get_instructions(code))
    inner = [_read(const) for const in code.co_consts if isinstance(const, CodeType)]
    names = [step.argval for step in steps if step.opname in ("LOAD_GLOBAL", "LOAD_NAME")]
    attributes = [step.argval for step in steps if step.opname in LOADS]
    pairs = [(_last(before.argval), step.argval) for before, step in pairwise(steps) if step.opname in LOADS]
    pairs += [(name, one) for _, _, held in inner for name, ones in held.items() for one in ones]
    of_objects: dict[str, set[str]] = {}
    for name, one in pairs:
        of_objects.setdefault(name, set()).add(one)
    return (
        tuple(dict.fromkeys([*names, *(name for one, _, _ in inner for name in one)])),
        tuple(dict.fromkeys([*attributes, *(name for _, one, _ in inner for name in one)])),
        of_objects,
    )


def _last(loaded: Any) -> Any:
    """What an instruction loads last: Python 3.13 has some that load two local names."""
    return loaded[-1] if isinstance(loaded, tuple) and loaded else loaded


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
    return ("", _print(new), new) if value is missing else (_told(value), _print(value), value)


def _print(value: Any) -> Hashable:
    """A fingerprint: a plain value itself, a container by its parts, any other object by identity."""
    return _printed(value, [MOST], ())


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
    if isinstance(value, FunctionType) and is_fresh:
        held = [cell.cell_contents for cell in value.__closure__ or () if _is_set(cell)]
        parts, inside = (value.__defaults__, value.__kwdefaults__, *held), (*parents, id(value))
        return _does(value.__code__), tuple([_printed(part, left, inside) for part in parts])
    if isinstance(value, np.ndarray) and value.nbytes <= SMALL and not value.dtype.hasobject:
        return value.shape, value.dtype.str, crc32(value.tobytes())
    return (type(value), repr(value)) if isinstance(value, PLAIN) else (type(value), id(value))
