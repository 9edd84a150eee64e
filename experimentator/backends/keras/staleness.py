"""Changes that somebody made to layers, modules of PyTorch and optimizers after they were traced."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from enum import Enum
from types import FunctionType
from typing import Any

import keras

from experimentator.graph.signatures import signature_of

SETTINGS = (int, float, str, type(None))  # bool is an int
PLAIN = (*SETTINGS, bytes, Enum, FunctionType)

# Attributes that Keras itself sets of a layer, and of a network that it trains or predicts with.
OF_KERAS = {
    *("built", "compiled", "history", "loss", "optimizer", "predict_function", "run_eagerly", "steps_per_execution"),
    *("stop_evaluating", "stop_predicting", "stop_training", "test_function", "train_function"),
    "unrolled_steps_per_execution",
}

# Attributes that may differ from process to process; what a seed draws goes on by a variable.
OWN = ("name", "seed")


class Staleness:
    """Layers and optimizers as they were when traced: rates, momenta, activations, texts; and which parts they had.

    What a layer changes by itself while it is traced, such as a counter, is not watched; nor are private attributes.

    >>> class Dropout:
    ...     rate = 0.1
    >>> layer, watched = Dropout(), Staleness()
    >>> layer.rate = 0.2
    >>> watched.look([layer])
    >>> layer.rate = 0.5
    >>> watched.changes()
    ['Dropout: rate was 0.2, is 0.5']
    """

    def __init__(self) -> None:
        self._seen: dict[int, tuple[Any, dict[str, Any]]] = {}
        self._marks: dict[int, list[int]] = {}  # ids of all attributes, from when nothing had changed
        self._own: set[tuple[int, str]] = set()
        self._parts: dict[int, dict[str, list[int]]] = {}  # which weights, layers and the like each has

    def others(self) -> list[str]:
        """Layers that have got weights, layers or the like since, or lost some, in words."""
        known = [(self._seen[key][0], parts) for key, parts in self._parts.items()]
        return [
            f"{_named(one)} has other {kind}"
            for one, parts in known
            for kind, ids in _own(one).items()
            if ids != parts[kind]
        ]

    def look(self, objects: Iterable[Any], *, made_with: bool = False) -> None:
        """Watch these from now on; with `made_with`, only attributes that are parameters of their classes."""
        for one in objects:
            if made_with and id(one) not in self._seen:
                makers = [getattr(cls, "__init__") for cls in type(one).__mro__[:-1]]  # noqa: B009
                known = {name for make in makers for name in signature_of(make).parameters}
                self._own.update((id(one), name) for name in vars(one).keys() - known)
            for watched in (one, *_asides(one)):
                self._seen.setdefault(id(watched), (watched, dict(_plain(watched))))

    def count(self) -> None:
        """Note which weights, layers and the like each has, so that `others` can tell which have other ones."""
        self._parts = {key: _own(one) for key, (one, _) in self._seen.items()}

    def settings(self, optimizers: Iterable[Any]) -> dict[str, str]:
        """The numbers, texts and names of functions of those watched, and of optimizers, watched later perhaps."""
        watched = {key: one for key, (one, _) in self._seen.items()} | {id(one): one for one in optimizers}
        found, count = dict[str, str](), Counter[str]()
        for key, one in watched.items():
            kind = type(one).__name__
            count[kind] += 1  # names of layers may differ from process to process
            for name, value in _plain(one):
                is_told = isinstance(value, (*SETTINGS, FunctionType)) and name not in OWN
                if is_told and (key, name) not in self._own:
                    found[f"{kind} {count[kind]}: {name}"] = _told(value)
        return found

    @contextmanager
    def settling(self) -> Iterator[None]:
        """Within, layers are traced: attributes that they change and weights that they make are not reported."""
        before = self._now()
        yield
        self.count()
        self._own.update(at for at, value in self._now().items() if not _same(before.get(at), value))

    def changes(self) -> list[str]:
        """What was changed since it was last reported, in words."""
        found = [one for one in self._changed() if (id(one[0]), one[1]) not in self._own]
        for one, name, _, new in found:
            self._seen[id(one)][1][name] = new
            self._marks.pop(id(one), None)
        return [f"{_named(one)}: {name} was {_told(old)}, is {_told(new)}" for one, name, old, new in found]

    def _now(self) -> dict[tuple[int, str], Any]:
        return {(key, name): value for key, (one, _) in self._seen.items() for name, value in _plain(one)}

    def _changed(self) -> Iterator[tuple[Any, str, Any, Any]]:
        for key, (one, seen) in self._seen.items():
            mark = [*map(id, vars(one).values())]  # many layers, often: this takes a microsecond for each
            if self._marks.get(key) == mark:
                continue
            changed = [(one, name, seen.get(name), new) for name, new in _plain(one) if not _same(seen.get(name), new)]
            if not changed:
                self._marks[key] = mark
            yield from changed


def _plain(one: Any) -> Iterator[tuple[str, Any]]:
    kinds = (object,) if isinstance(one, (keras.Regularizer, keras.constraints.Constraint)) else PLAIN
    for name, value in list(vars(one).items()):
        if name[:1] != "_" and isinstance(value, kinds) and name not in OF_KERAS:
            yield name, value
        elif name == "_learning_rate":  # a number is assigned to what is there, a schedule replaces it
            yield "learning_rate", "a number" if hasattr(value, "assign") else value


def _own(one: Any) -> dict[str, list[int]]:
    """Its parts, by identity; the backend holds all that was there, so that no id is given twice."""
    if isinstance(one, keras.Layer):
        lists = [getattr(one, name) for name in ("_trainable_variables", "_non_trainable_variables", "_layers")]
    else:  # a module of PyTorch; optimizers have no parts
        lists = [getattr(one, name, {}).values() for name in ("_parameters", "_modules")]
    parts = [id(part) for parts in lists for part in parts]
    return {"weights or layers": parts, "constraints or regularizers": [*map(id, _asides(one))]}


def _asides(one: Any) -> list[Any]:
    """The constraints and regularizers of a layer's variables, and the regularizer of what it writes."""
    if not isinstance(one, keras.Layer):
        return []
    variables = [*one._trainable_variables, *one._non_trainable_variables]
    found = [getattr(variable, kind, None) for variable in variables for kind in ("constraint", "regularizer")]
    return [aside for aside in (*found, getattr(one, "activity_regularizer", None)) if hasattr(aside, "__dict__")]


def _same(old: Any, new: Any) -> bool:
    is_value = isinstance(new, PLAIN) and not isinstance(new, FunctionType)
    return old is new or (type(old) is type(new) and is_value and bool(old == new))


def _named(one: Any) -> str:
    name, kind = getattr(one, "name", None), type(one).__name__
    return f"{kind} {name!r}" if isinstance(name, str) and not name.startswith(kind.lower()) else kind


def _told(value: Any) -> str:
    if isinstance(value, FunctionType):
        return value.__name__
    return type(value).__name__ if hasattr(value, "get_config") else repr(value)
