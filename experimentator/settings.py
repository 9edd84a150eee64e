"""The configuration of a living experiment: a dictionary that tells the experiment when it changes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from difflib import get_close_matches
from typing import Any

from experimentator.config import ConfigError

# What each library key rebuilds when it changes after use: nothing is ever lost but what is listed.
LIBRARY_KEYS: Mapping[str, tuple[str, ...]] = {
    "experiment_type": (),
    "subsets": ("subsets", "feeds", "steps", "graphs"),
    "batch_size": ("steps",),
    "chunk_processors": ("chunk_processors", "graphs", "steps"),
    "optimizer": ("optimizer", "steps"),
    "learning_rate": (),
    "callbacks": ("callbacks", "graphs", "steps"),
    "metrics": ("metrics", "graphs", "steps"),
    "outputs": ("outputs", "graphs", "steps"),
    "seed": (),
    "eval_epochs": (),
    "steps_per_call": ("steps",),
    "residency": ("feeds",),
    "jit_compile": ("steps",),
    "precision": ("steps",),
    "eager": ("steps",),
    "hide_progress": ("callbacks",),
    "project_name": (),
    "experiment_id": (),
    "output_folder": (),
}


# What a library key is when the configuration does not set it; None for the others.
DEFAULTS: Mapping[str, Any] = {
    "batch_size": 32,
    "residency": "auto",
    "jit_compile": "auto",
    "eager": False,
    "seed": 0,
}


class Settings(dict[str, Any]):
    """`exp.cfg`: reads and writes like any dictionary; `changed(key, old, new)` hears of every new value."""

    def __init__(self, values: Mapping[str, Any], changed: Callable[[str, Any, Any], None]):
        super().__init__(values)
        self.changed = changed

    def __setitem__(self, key: str, value: Any) -> None:
        check_values({key: value})
        if key not in self:
            check_names({key: value}, set=(), taken=())
        old = self.get(key)
        super().__setitem__(key, value)
        if old is not value:
            self.changed(key, old, value)

    def update(self, *values: Any, **named: Any) -> None:
        for key, value in dict(*values, **named).items():
            self[key] = value

    def setdefault(self, key: str, default: Any = None) -> Any:
        if key not in self:
            self[key] = default
        return self[key]


def check_names(values: Mapping[str, Any], *, set: Collection[str], taken: Collection[str]) -> None:
    """Refuse near misses of library keys, and keys that would hide a method.

    >>> check_names({"batchsize": 32}, set=(), taken=())
    Traceback (most recent call last):
    experimentator.overrides.ConfigError: 'batchsize' is not a key of the library.
    Did you mean 'batch_size'? Write that, or give your own name another spelling.
    """
    for key, value in values.items():
        if inspect.ismodule(value) or inspect.isroutine(value) or inspect.isclass(value):
            continue  # what a file imports is no setting
        if key in taken and key not in LIBRARY_KEYS:
            raise ConfigError(
                f"{key!r} is the name of a method or property of the experiment.\n"
                f"Seen: {key} = {value!r:.60}.\nGive the setting another name."
            )
        guess = get_close_matches(key, LIBRARY_KEYS, n=1, cutoff=0.88)
        if key not in LIBRARY_KEYS and guess and guess[0] not in set:
            raise ConfigError(
                f"{key!r} is not a key of the library.\n"
                f"Did you mean {guess[0]!r}? Write that, or give your own name another spelling."
            )


def check_values(values: Mapping[str, Any]) -> None:
    """Refuse values of library keys that could only fail later.

    >>> check_values({"batch_size": 0})
    Traceback (most recent call last):
    experimentator.overrides.ConfigError: batch_size=0 cannot be used.
    Write a whole number of at least 1.
    """
    for key, (fits, write) in _RULES.items():
        if values.get(key) is not None and not fits(values[key]):
            raise ConfigError(f"{key}={values[key]!r} cannot be used.\n{write}")


def listed(names: Any) -> list[str]:
    """The names of a setting that holds one, several or none."""
    return [] if names is None else [names] if isinstance(names, str) else list(names)


def _counts(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


_RULES: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "batch_size": (_counts, "Write a whole number of at least 1."),
    "steps_per_call": (lambda v: v == "auto" or _counts(v), "Write 'auto', or a whole number of at least 1."),
    "residency": (lambda v: v in ("auto", "device", "stream"), "Write 'auto', 'device' or 'stream'."),
    "jit_compile": (lambda v: v == "auto" or isinstance(v, bool), "Write 'auto', True or False."),
    "precision": (lambda v: v == "float32", "Write 'float32': lower precisions are not available yet."),
    "seed": (lambda v: isinstance(v, int), "Write a whole number."),
}
