"""What the code of a processor reads besides its own attributes: outer values, functions, objects that it calls."""

from __future__ import annotations

import dis
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from enum import Enum
from functools import cache, cached_property, partial
from itertools import pairwise
from numbers import Number
from types import CodeType, FunctionType, MemberDescriptorType, MethodType, ModuleType
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

PLAIN = (str, bool, int, float, type(None), bytes, Enum, Number)  # those that are quick to tell first
CONTAINERS = (list, tuple, dict)
GLOBAL, ENCLOSED, CODE = "global ", "enclosed ", "the code of "
OUTSIDE = (GLOBAL, ENCLOSED, CODE)  # what names begin with that are no attributes
LIBRARIES = ("experimentator.", "keras.", "builtins")  # modules whose classes are not searched
QUIET = {*sys.stdlib_module_names, "experimentator"}
# Objects of these, and of subclasses, have watchers of their own; losses have none.
WATCHED = (*LIBRARIES, "tensorflow.", "torch.", "jax")
OPEN = ("keras.src.losses.", "keras.src.saving.")
LOADS = ("LOAD_ATTR", "LOAD_METHOD", "LOAD_SUPER_ATTR")  # instructions
CLOSED = (FunctionType, *CONTAINERS, np.ndarray, *PLAIN)  # what holds no attributes to be read
NAMESPACES = (type, ModuleType)  # compared are what lies in them, but not they themselves
_SETTABLE: WeakKeyDictionary[type, tuple[str, ...]] = WeakKeyDictionary()  # a class may hold data in its methods


def outside(processor: Any) -> dict[str, Any]:
    """The code of a processor, of functions of its module and of objects that it calls, and what that reads outside."""
    called, known = _wrapped(getattr(processor, "__dict__", {}).get("function", processor)), set[tuple[int, int]]()
    owner, function = (called.__self__, called.__func__) if isinstance(called, MethodType) else (processor, called)
    if isinstance(function, FunctionType):
        found = {CODE + function.__qualname__: function} | _reads(owner, _methods(owner), [function], known)
        return {f"self{name}" if name.startswith(".") else name: value for name, value in found.items()}
    own = held_by(processor)
    is_ours = type(processor).__module__.startswith(LIBRARIES)  # its own code is not read, but what it was given
    held = {name: one for name, one in own.items() if name == "function" or (is_ours and name[:1] != "_")}
    methods = _methods(processor)
    waiting = [one for one in map(_wrapped, held.values()) if isinstance(one, FunctionType)]
    found = _called("__call__", methods, waiting) | _reads(processor, methods, waiting, known)
    for name, one in held.items():
        found |= _inside(name, one, "", {}, known)
    is_own = {f".{name}" for name in own}  # those are compared anyway
    return {name.removeprefix("."): value for name, value in found.items() if name not in is_own}


def held_by(one: Any, names: Collection[str] | None = None) -> Mapping[str, Any]:
    """The attributes of an object, a class or a module; those in slots and behind properties that are set, of `names`.

    Without names, these are all of them. An object that a property makes anew each time, such as a tensor, is none.
    """
    own: Mapping[str, Any] = getattr(one, "__dict__", {})
    kind: Any = type(one)
    behind = () if isinstance(one, NAMESPACES) else _settable(kind)
    for name in behind if names is None else set(behind).intersection(names):
        with suppress(Exception):  # a slot may be empty, and a property fail
            value = getattr(one, name)
            if _is_same(value, getattr(one, name)):
                own = {**own, name: value}
    return own


def _is_same(one: Any, other: Any) -> bool:
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(_is_same, one, other))
    return one is other or (isinstance(one, PLAIN) and bool(one == other))


def _settable(kind: Any) -> tuple[str, ...]:
    """The names of slots, and of properties that can be set, of a class whose code somebody may change."""
    if kind not in _SETTABLE:
        own = [vars(cls) for cls in kind.__mro__[:-1] if not is_installed(cls.__module__)]
        known = [(name, one) for scope in own for name, one in scope.items()]
        found = [name for name, one in known if isinstance(one, MemberDescriptorType) or getattr(one, "fset", None)]
        _SETTABLE[kind] = tuple(found)
    return _SETTABLE[kind]


def holds_no_code(processor: Any) -> bool:
    """Whether it is an op of the library that has plain values and layers: it is as it was where they are the same."""
    own = getattr(processor, "__dict__", {})
    is_ours = type(processor).__module__.startswith("experimentator.") and "function" not in own
    return is_ours and all(name[:1] == "_" or _is_fixed(value) for name, value in own.items())


def _is_fixed(value: Any) -> bool:
    """Whether it cannot be changed in place, or has a watcher of its own."""
    if isinstance(value, CLOSED):
        parts = value if isinstance(value, tuple) else (value,)
        return all(isinstance(part, PLAIN) for part in parts)
    is_object = type(value).__module__ != "builtins" and "__wrapped__" not in getattr(value, "__dict__", {})
    return is_object and _is_watched(value)  # a method is no such object: its owner may change


def _reads(
    owner: Any, methods: dict[str, list[FunctionType]], waiting: list[FunctionType], known: set[tuple[int, int]]
) -> dict[str, Any]:
    """What functions and those that they call read: `.name` of the object whose methods they are, and outer values."""
    found = dict[str, Any]()
    while waiting:
        function = waiting.pop()
        if (id(owner), id(function)) in known:
            continue
        known.add((id(owner), id(function)))
        names, attributes, of_objects = read_by(function.__code__)
        if _has_attributes(owner) and not _is_watched(owner):
            values = _attributes(owner, of_objects.get("self", ())).items()
            found |= {f".{name}": value for name, value in values if _is_compared(owner, name, value)}
        for name in attributes:
            found |= _called(name, methods, waiting)
            found |= _inside(name, held_by(owner, (name,)).get(name), name, of_objects, known)
        for kind, name, value in values_of(function, names):
            is_read_itself = name in _bare(function.__code__) or not _is_data(value, of_objects.get(name, ()))
            if not isinstance(value, NAMESPACES) and is_read_itself:
                found[kind + name] = value
            found |= _inside(kind + name, value, name, of_objects, known)
            if isinstance(value, FunctionType) and value.__globals__ is function.__globals__:
                waiting.append(value)
    return found


def _inside(
    name: str, one: Any, at: str, of_objects: Mapping[str, Collection[str]], known: set[tuple[int, int]], *within: int
) -> dict[str, Any]:
    """What an object, a class or a module, named `at`, has under attributes that code reads; what it reads if called.

    `of_objects` has the attributes by the name before; `within` are the ids of the objects that it lies in.
    """
    called = _wrapped(one)
    owner = called.__self__ if isinstance(called, MethodType) else called
    if isinstance(owner, CLOSED) or not _has_attributes(owner) or _is_watched(owner) or id(owner) in within:
        return {}
    attributes, found = of_objects.get(at, ()), dict[str, Any]()
    for key, value in _attributes(owner, attributes).items():
        if _is_compared(owner, key, value):
            found[f".{key}"] = value
        if not isinstance(value, ModuleType):
            found |= _inside(f".{key}", value, key, of_objects, known, *within, id(owner))
    if not isinstance(owner, NAMESPACES) and not is_installed(type(owner).__module__):
        methods, waiting = _methods(owner), list[FunctionType]()
        entries = [called.__name__] if owner is not called else ["__call__", "call", *attributes]
        for entry in entries:
            found |= _called(entry, methods, waiting)
        found |= _reads(owner, methods, waiting, known)
    return {_labelled(name, key): value for key, value in found.items()}


def _labelled(name: str, key: str) -> str:
    """A name found in an object that itself has a name."""
    if key.startswith(CODE):
        return f"{CODE}{_labelled(name, key.removeprefix(CODE))}"
    return key if key.startswith(OUTSIDE) else f"{name}{key if key.startswith('.') else f'.{key}'}"


def _attributes(one: Any, names: Collection[str]) -> dict[str, Any]:
    """What an object, its class or a module has under public names."""
    if not names:
        return {}
    scopes = [held_by(one, names), *map(vars, _classes(one))]
    found = {key: next((scope[key] for scope in scopes if key in scope), ...) for key in names if key[:1] != "_"}
    return {key: found[key] for key in sorted(found) if not isinstance(found[key], (cached_property, type(...)))}


def _has_attributes(one: Any) -> bool:
    kind: Any = type(one)
    return hasattr(one, "__dict__") or bool(_settable(kind))


def _is_compared(owner: Any, name: str, value: Any) -> bool:
    """Whether an attribute is compared as a value: methods, and what modules define, are not."""
    is_defined = isinstance(value, FunctionType) and (
        isinstance(owner, NAMESPACES) or name not in held_by(owner, (name,))
    )
    return not is_defined and not isinstance(value, NAMESPACES)


def _classes(one: Any) -> Sequence[type]:
    """The classes where attributes of an object or a class may lie; none for a module."""
    return () if isinstance(one, ModuleType) else (one if isinstance(one, type) else type(one)).__mro__[:-1]


@cache
def is_installed(module: str) -> bool:
    """Whether it is one of Python's, of the library or of an installed package, whose code nobody changes."""
    if module == "__main__":  # the script that runs; in a worker process, where that comes by value, the pool's
        return False
    package = module.partition(".")[0]
    files = [getattr(sys.modules.get(name), "__file__", None) or "" for name in (module, package)]
    return package in QUIET or any("site-packages" in file or "dist-packages" in file for file in files)


def _is_watched(one: Any) -> bool:
    """Whether it has a watcher of its own, as layers have, or is the library's or a framework's."""
    modules = [cls.__module__ for cls in _classes(one)]
    return any(module.startswith(WATCHED) and not module.startswith(OPEN) for module in modules)


def _called(name: str, methods: dict[str, list[FunctionType]], waiting: list[FunctionType]) -> dict[str, FunctionType]:
    """The methods of that name, by what messages call them; they are added to `waiting`, to be read."""
    waiting += methods.get(name, ())
    return {f"{CODE}{name}{n or ''}": method for n, method in enumerate(methods.get(name, ()))}


def _wrapped(one: Any) -> Any:
    """What a partial calls, else the object itself."""
    while isinstance(one, partial):
        one = one.func
    return one


def _methods(processor: Any) -> dict[str, list[FunctionType]]:
    """Methods and property getters of a processor's class, by name, and those of bases; not those of libraries."""
    found: dict[str, list[FunctionType]] = {}
    for cls in type(processor).__mro__:
        is_read = not cls.__module__.startswith(LIBRARIES) and (
            cls is type(processor) or not is_installed(cls.__module__)
        )
        for name, one in vars(cls).items() if is_read else ():
            one = one.fget if isinstance(one, property) else one
            if isinstance(one, FunctionType):
                found.setdefault(name, []).append(one)
    return found


def goes_on(one: Any, name: str) -> bool:
    """Whether a method of an object reads the attribute `self.name`, then assigns it, as for a running mean."""
    return any(_reads_first(method.__code__, name) for own in _methods(one).values() for method in own)


@cache
def _reads_first(code: CodeType, name: str) -> bool:
    of_self = [
        step.opname
        for before, step in pairwise(dis.get_instructions(code))
        if step.argval == name and (_last(before.argval) == "self" or before.opname in ("COPY", "SWAP"))  # as for +=
    ]
    return bool(of_self) and of_self[0] in LOADS and "STORE_ATTR" in of_self


def counts_up(processor: Any, name: str) -> bool:
    """Whether its code computes what it assigns to an attribute or outer value of that name, or to an entry, of it."""
    is_own, last = "." not in name and not name.startswith(OUTSIDE), name.rpartition(".")[2].rpartition(" ")[2]
    functions = [one for one in outside(processor).values() if isinstance(one, FunctionType)]
    return any(_counts_up(one.__code__, last, is_own) for one in functions)


@cache
def _counts_up(code: CodeType, name: str, is_own: bool) -> bool:
    """The same of one function: in one statement `name` is read, computed with, and assigned."""
    is_known = is_read = is_target = is_computed = False
    for before, step in pairwise(dis.get_instructions(code)):
        is_of_self = _last(before.argval) == "self" or before.opname in ("COPY", "SWAP")  # as for +=
        is_local = "_FAST" in step.opname or step.opname.endswith("CONST")
        is_it = step.argval == name and (is_of_self if is_own else not is_local)
        if is_it and not is_known and step.opname.startswith("STORE_"):
            return False  # it begins anew in each call
        is_known |= is_it
        is_read |= is_it and step.opname.startswith("LOAD_")
        is_target |= is_read and step.opname == "COPY"
        is_computed |= is_read and step.opname == "BINARY_OP" and step.argrepr != "[]"
        if is_computed and (
            (is_it and step.opname.startswith("STORE_")) or (is_target and step.opname == "STORE_SUBSCR")
        ):
            return True
        if step.opname.startswith(("STORE_", "POP_")):  # the statement ends
            is_read = is_target = is_computed = False
    return False


def values_of(function: FunctionType, names: Iterable[str]) -> Iterator[tuple[str, str, Any]]:
    """The globals, of `names`, and the closure variables that a function reads: (kind, name, value)."""
    for name in names:
        if name in function.__globals__:
            yield GLOBAL, name, function.__globals__[name]
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
        with suppress(ValueError):  # not assigned yet
            yield ENCLOSED, name, cell.cell_contents


@cache
def read_by(code: CodeType) -> tuple[tuple[str, ...], tuple[str, ...], dict[str, set[str]]]:
    """Names of globals and of attributes that code reads, and attributes by the name before; nested functions too."""
    steps = list(dis.get_instructions(code))
    inner = [read_by(const) for const in code.co_consts if isinstance(const, CodeType)]
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


def _is_data(one: Any, names: Collection[str]) -> bool:
    """Whether attributes are all that an object is read for, each of which is compared by itself."""
    return bool(names) and _has_attributes(one) and not _is_watched(one) and held_by(one, names).keys() >= set(names)


@cache
def _bare(code: CodeType) -> frozenset[str]:
    """Names of what code uses itself, and not an attribute of it alone."""
    steps = pairwise(dis.get_instructions(code))
    pairs = [(_last(one.argval), after.opname) for one, after in steps if one.opname.startswith("LOAD_")]
    inner = [_bare(const) for const in code.co_consts if isinstance(const, CodeType)]
    return frozenset({name for name, opname in pairs if opname not in LOADS}.union(*inner))


def _last(loaded: Any) -> Any:
    """What an instruction loads last: Python 3.13 has some that load two local names."""
    return loaded[-1] if isinstance(loaded, tuple) and loaded else loaded
