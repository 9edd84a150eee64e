"""Random numbers that depend on an address, such as (seed, subset, epoch), and nothing else.

With a generator that a dataset or transform holds, or Python's or numpy's shared one, an item's draws would depend on
what was read before and on the number of workers. So such generators are found, and seeded by address for each item.
"""

from __future__ import annotations

import dis
import hashlib
import importlib
import random
import sys
from collections import deque
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property, partial
from types import BuiltinMethodType, CodeType, FunctionType, MemberDescriptorType, MethodType, ModuleType
from typing import Any

import numpy as np

from experimentator.reads import is_installed, values_of

MOST = 100_000  # objects that are searched
DATA = 1_000  # containers with more entries hold data, and are not searched
NEUTRAL = ("CACHE", "COPY", "NOP", "POP_TOP", "PRECALL", "PUSH_NULL", "SWAP")  # only move values
ELSEWHERE: set[str] = set()  # in a worker process: the user's modules that the training process had imported
MAKING = ("__init__", "__new__", "__post_init__")  # methods that ran before anything is read
SHOWING = ("__eq__", "__repr__", "__str__")  # methods that name the class of an object, and make none
KINDS = (np.random.Generator, np.random.RandomState, random.Random)
SHARED: dict[int, str] = {id(random._inst): "random", id(np.random.mtrand._rand): "numpy"}


def generator(*address: Any) -> np.random.Generator:
    """Random numbers that depend on their address only, such as (seed, subset, epoch).

    >>> generator(0, "training", 1).integers(1000) == generator(0, "training", 1).integers(1000)
    np.True_
    """
    return np.random.Generator(np.random.Philox(key=int.from_bytes(_digest(address, 16), "little")))


def shared_generators() -> list[Any]:
    """The generators behind the functions of `random` and of `numpy.random`."""
    return [random._inst, np.random.mtrand._rand]


def modules_of_the_user() -> list[str]:
    """The imported modules that are searched for generators, without the script that runs."""
    return [name for name in list(sys.modules) if not is_installed(name) and name != "__main__"]


def generators_in(root: Any) -> list[Any]:
    """Every generator of numpy or Python that an object reaches: by attributes, containers, arguments, code.

    Searched is the code of functions and methods, and of functions and classes they call, but not of installed
    packages, nor of what made the object, unless its methods make more of its class; code that calls
    `np.random.normal` reaches numpy's shared generator. A class may narrow the search to some attributes, by their
    names in `_draws_in`.

    >>> class Noise:
    ...     def __init__(self):
    ...         self.random = {"noise": np.random.default_rng(0)}
    >>> len(generators_in(Noise())), generators_in(np.random.normal) == [np.random.mtrand._rand]
    (1, True)
    """
    found = [one for one in _reached(root) if isinstance(one, KINDS)]
    return [one for one in found if not isinstance(one, random.SystemRandom)]  # which has no state


def seeds_in(root: Any) -> list[Any]:
    """Every `keras.random.SeedGenerator` that can be reached in the same way, as in layers; these are not set."""
    return [one for one in _reached(root) if type(one).__name__ == "SeedGenerator"] if "keras" in sys.modules else []


def _reached(root: Any) -> Iterator[Any]:
    seen: dict[int, Any] = {}  # kept alive, so that no id is reused
    waiting = [root]
    while waiting and len(seen) < MOST:
        one = waiting.pop()
        if id(one) not in seen:
            seen[id(one)] = one
            yield one
            if not isinstance(one, KINDS):
                waiting.extend(_parts(one))


def reseed(generators: Sequence[Any], *address: Hashable) -> None:
    """Seed generators by the address and by their place among `generators`; shared ones by name instead of place.

    >>> one, other = np.random.default_rng(1), np.random.default_rng(2)
    >>> reseed([one], "training", 3)
    >>> reseed([other], "training", 3)
    >>> one.integers(1000) == other.integers(1000)
    np.True_
    """
    held = [one for one in generators if id(one) not in SHARED]
    for one in generators:
        place = SHARED.get(id(one)) or next(place for place, other in enumerate(held) if other is one)
        digest = _digest((*address, place), 32)
        if isinstance(one, random.Random):
            one.seed(int.from_bytes(digest, "little"))
            continue
        words = np.frombuffer(digest, "<u4")
        if isinstance(one, np.random.RandomState):
            one.seed(words)
        else:
            one.bit_generator.state = type(one.bit_generator)(words.tolist()).state


def states_of(generators: Sequence[Any]) -> list[Any]:
    """The states of generators, for `restore`."""
    return [
        one.bit_generator.state if isinstance(one, np.random.Generator)
        else one.get_state() if isinstance(one, np.random.RandomState)
        else one.getstate()
        for one in generators
    ]  # fmt: skip


def restore(generators: Sequence[Any], states: Sequence[Any]) -> None:
    """Set generators back to states from `states_of`.

    >>> one = np.random.default_rng(1)
    >>> states = states_of([one])
    >>> drawn = one.integers(1000)
    >>> restore([one], states)
    >>> one.integers(1000) == drawn
    np.True_
    """
    for one, state in zip(generators, states, strict=True):
        if isinstance(one, np.random.Generator):
            one.bit_generator.state = state
        elif isinstance(one, np.random.RandomState):
            one.set_state(state)
        else:
            one.setstate(state)


def _digest(address: Sequence[Any], size: int) -> bytes:
    return hashlib.blake2b("/".join(map(str, address)).encode(), digest_size=size).digest()


def _parts(one: Any) -> Iterator[Any]:
    """The objects to search next, from one; none if it holds data. Copied, since another thread may change it."""
    if isinstance(one, (str, bytes, int, float, np.ndarray, ModuleType)):
        return
    if isinstance(one, (dict, list, tuple, set, frozenset, deque)):
        with suppress(Exception):  # a class of its own may refuse to be read
            if len(one) <= DATA:
                yield from list(one.values() if isinstance(one, dict) else one)
    elif isinstance(one, FunctionType):
        if not _is_quiet(one):
            yield from _mentioned(one)
            yield from (value for _, _, value in values_of(one, ()))
            yield from (*(one.__defaults__ or ()), *(one.__kwdefaults__ or {}).values())
    else:
        yield from _of_class(one)
    narrowed, own = getattr(type(one), "_draws_in", None), getattr(one, "__dict__", None)
    if isinstance(own, dict):
        yield from list(own.values()) if narrowed is None else [own[name] for name in narrowed if name in own]
    if isinstance(one, (MethodType, BuiltinMethodType)):
        yield one.__self__
    if isinstance(one, MethodType):
        yield one.__func__
    if isinstance(one, partial):
        yield from (one.func, *one.args, *one.keywords.values())


def _of_class(one: Any) -> Iterator[Any]:
    """What an object has of its class and the bases: functions whose code is searched, slots, and generators.

    A class that code names may be called there, and what makes its objects is searched, too.
    """
    is_called = isinstance(one, type) or _makes_more(type(one))
    for base in (one if isinstance(one, type) else type(one)).__mro__:
        for name, value in () if _is_quiet(base) else list(vars(base).items()):
            if name in MAKING and not is_called:
                continue
            if isinstance(value, MemberDescriptorType):
                with suppress(AttributeError):  # it is not set
                    yield getattr(one, name)
            elif isinstance(value, property):
                value = value.fget
            elif isinstance(value, cached_property):
                value = value.func
            elif isinstance(value, (classmethod, staticmethod)):
                value = value.__func__
            if isinstance(value, (FunctionType, type, *KINDS)):
                yield value


def _makes_more(cls: type) -> bool:
    """Whether methods may make objects of their own class: by `type(self)`, a class method, `dataclasses.replace`."""
    own = [item for base in cls.__mro__ if not _is_quiet(base) for item in list(vars(base).items())]
    makers = {"type", "__class__", "__init__", "replace", *(name for name, one in own if isinstance(one, classmethod))}
    methods = [one for name, one in own if isinstance(one, FunctionType) and name not in MAKING + SHOWING]
    return any(not makers.isdisjoint(method.__code__.co_names) for method in methods)


def _is_quiet(one: Any) -> bool:
    return is_installed(str(getattr(one, "__module__", None) or ""))


def chain_of(dataset: Any) -> tuple[Any, ...]:
    """The ids of a dataset, its parents or parts, and all their current transforms."""
    links = [link for one in getattr(dataset, "_datasets_of_parts", ()) for link in chain_of(one)]
    while dataset is not None and len(links) < 100:
        transforms = getattr(dataset, "transforms", None)
        links.append((id(dataset), *map(id, transforms if isinstance(transforms, list) else ())))
        dataset = getattr(dataset, "parent", None)
    return tuple(links)


def _mentioned(function: FunctionType) -> Iterator[Any]:
    """The objects that a function's code names: globals, imports, closure variables, and attributes of modules."""
    known = {name: value for _, name, value in values_of(function, ())}
    waiting = [function.__code__]
    while waiting:
        code = waiting.pop()
        waiting.extend(const for const in code.co_consts if isinstance(const, CodeType))
        yield from _named(code, function.__globals__, dict(known))


def _named(code: CodeType, names: Mapping[str, Any], local: dict[str, Any]) -> Iterator[Any]:
    """The objects that code loads, following `module.part.function`, imports, and local names of modules."""
    value: Any = None
    origin: Any = None
    constant: Any = None
    for step in dis.get_instructions(code):
        kind, argument = step.opname, step.argval
        if kind in NEUTRAL:
            continue
        if kind in ("LOAD_ATTR", "LOAD_METHOD") and isinstance(value, ModuleType):
            value = getattr(value, argument, None)
            continue
        stored, loaded = argument if isinstance(argument, tuple) and "FAST" in kind else (argument, argument)
        if kind.startswith("STORE_"):
            local[stored] = value
        elif value is not None and not isinstance(value, ModuleType):
            yield value
        value = None
        if kind == "IMPORT_NAME":  # the constant before it lists what is imported from the module, if anything
            value = origin = _module(argument if constant else argument.partition(".")[0])
        elif kind == "IMPORT_FROM":
            value = getattr(origin, argument, None)
        elif kind in ("LOAD_GLOBAL", "LOAD_NAME"):
            value = names.get(argument)
        elif "LOAD_FAST" in kind or kind.startswith("LOAD_DEREF"):
            value = local.get(loaded)
        constant = argument if kind == "LOAD_CONST" else None
    if value is not None:
        yield value


def _module(name: str) -> ModuleType | None:
    if name in ELSEWHERE:
        with suppress(ImportError):  # the function will raise it itself
            return importlib.import_module(name)
    return sys.modules.get(name)
