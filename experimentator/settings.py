"""The settings of an experiment: a dictionary that reports every change, and checks of names and values."""

from __future__ import annotations

import inspect
import logging
import math
import os
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping, MutableMapping
from difflib import get_close_matches
from importlib import import_module
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np

from experimentator.config import Config, ConfigError
from experimentator.graph.signatures import signature_of
from experimentator.loading.workers import Workers
from experimentator.optimizer_parts import parts_of, schedule_of
from experimentator.scalars import is_number, is_whole

log = logging.getLogger(__name__)

# Settings whose lists may be changed in place.
LISTS = ("experiment_type", "subsets", "chunk_processors", "callbacks", "metrics", "outputs")
PRECISIONS = ("float32", "bfloat16", "float16")
SHORT = 7  # names with fewer letters resemble keys by accident
WORDS = ("optimize", "val_epochs")  # names that lack a letter of a key, and are meant as they are


class Settings(dict[str, Any]):
    """`exp.cfg`: reads and writes like any dictionary; calls `changed(key, old, new)` for every new value.

    A removed key counts as set to None. If `changed` raises, the value before is restored.

    >>> settings = Settings({"batch_size": 32}, lambda key, old, new: print(key, old, new))
    >>> settings["batch_size"] = 64
    batch_size 32 64
    """

    def __init__(self, values: Mapping[str, Any], changed: Callable[[str, Any, Any], None]):
        super().__init__(values)
        self.changed = changed

    def __setitem__(self, key: str, value: Any) -> None:
        value = kept(key, value)
        check_values({key: value})
        before = dict(self)
        super().__setitem__(key, value)
        self._tell(key, before)

    def __delitem__(self, key: str) -> None:
        before = dict(self)
        super().__delitem__(key)
        self._tell(key, before)

    def __ior__(self, values: Any) -> Settings:  # type: ignore[override,misc]  # dict declares overloads of it
        self.update(values)
        return self

    # by [] and popitem, so that changes are told
    clear, update = MutableMapping.clear, MutableMapping.update

    def pop(self, key: str, *default: Any) -> Any:
        if key not in self and default:
            return default[0]
        value = self[key]
        del self[key]
        return value

    def popitem(self) -> tuple[str, Any]:
        key = next(reversed(self), "")
        return key, self.pop(key)

    def setdefault(self, key: str, default: Any = None) -> Any:
        if key not in self:
            self[key] = default
        return self[key]

    def _tell(self, key: str, before: Mapping[str, Any]) -> None:
        old, new = before.get(key), self.get(key)
        if old is new and key != "learning_rate":  # the optimizer's may differ from the setting
            return
        try:
            self.changed(key, old, new)
        except BaseException:
            super().clear()
            super().update(before)
            raise


def check_names(values: Mapping[str, Any], *, set: Collection[str], taken: Collection[str]) -> None:
    """Refuse misspelled library keys, and keys that would hide a method.

    >>> check_names({"batchsize": 32}, set=(), taken=())
    Traceback (most recent call last):
    experimentator.overrides.ConfigError: 'batchsize' is not a key of the library.
    Did you mean 'batch_size'? Write that, or give your own name another spelling.
    """
    for key, value in values.items():
        if inspect.ismodule(value) or inspect.isroutine(value) or inspect.isclass(value):
            continue  # imported by the file: no setting
        if key in taken and key not in LIBRARY_KEYS:
            instead = {"batch_metrics_names": "metrics", "batch_outputs_names": "outputs", "subset": "subsets"}.get(key)
            cure = (
                f"In a configuration, write {instead} = ..."
                if instead
                else "Give the setting another name; a class in experiment_type may define it."
            )
            raise ConfigError(
                f"{key!r} is the name of a method or property of the experiment.\nSeen: {key} = {value!r:.60}.\n{cure}"
            )
        guess = get_close_matches(key, LIBRARY_KEYS, n=1, cutoff=0.88)
        if key not in LIBRARY_KEYS and guess and (guess[0] not in set or not _is_own(key, beside=guess[0])):
            beside = f"; {guess[0]!r} is set, too" if guess[0] in set else ""
            raise ConfigError(
                f"{key!r} is not a key of the library{beside}.\n"
                f"Did you mean {guess[0]!r}? Write that, or give your own name another spelling."
            )


def _is_own(name: str, *, beside: str) -> bool:
    """Whether a name close to a set key may be the user's own, as `g_optimizer`, `subset` and `speed` may.

    A name that lacks a letter of the key, has letters swapped, or differs only in case, "_", or s for z, may not.
    """
    plain, key = (one.lower().replace("_", "").replace("s", "z") for one in (name, beside))
    is_word = name in WORDS or len(name) < SHORT or (f"{name}s" == beside and not name.endswith("s"))
    if beside in name or is_word:
        return plain != key
    shorter = {beside[:place] + beside[place + 1 :] for place in range(len(beside))}
    return plain != key and sorted(name) != sorted(beside) and name not in shorter


def check_values(values: Mapping[str, Any]) -> None:
    """Refuse values of library keys that would fail later.

    >>> check_values({"batch_size": 0})
    Traceback (most recent call last):
    experimentator.overrides.ConfigError: batch_size=0 cannot be used.
    Write a whole number of at least 1.
    """
    for name, key in CHECKED.items():
        if name in values and not _holds(key.fits, values[name]):
            raise ConfigError(f"{name}={' '.join(repr(values[name]).split()):.80} cannot be used.\n{key.write}")


def is_evaluated(eval_epochs: Any, number: int, last: int) -> bool:
    """Whether epoch `number` of a training of `last` epochs evaluates.

    >>> [is_evaluated(wanted, 10, 10) for wanted in (None, 4, 0, (1, 20))]
    [True, True, False, False]
    """
    if isinstance(eval_epochs, Integral):
        return int(eval_epochs) > 0 and (number % int(eval_epochs) == 0 or number == last)
    return eval_epochs is None or number in eval_epochs


def listed(names: Any) -> list[str]:
    """The names of a setting that holds one, several or none."""
    return [] if names is None else [names] if isinstance(names, str) else list(names)


def _holds(fits: Callable[[Any], bool], value: Any) -> bool:
    try:
        return fits(value)
    except ValueError:  # an array has no one truth, and is none of the words that were asked for
        return False


def _says_when(value: Any) -> bool:
    return value is None or is_whole(value, least=0) or (isinstance(value, Container) and not isinstance(value, str))


def _is_list(value: Any) -> bool:
    return value is None or (isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping))


def _are_names(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(isinstance(name, str) for name in value)
    return isinstance(value, str) or _is_list(value)


def _is_optimizer(value: Any) -> bool:
    return value is None or (hasattr(value, "learning_rate") and not inspect.isclass(value))


def kept(key: str, value: Any) -> Any:
    """A value to keep: a list of what an iterator gives, which could be read only once, and the optimizer of a name."""
    if key == "optimizer" and isinstance(value, str):
        return import_module("experimentator.backends.keras.optimizers").as_optimizer(value)
    return list(value) if key in LISTS and isinstance(value, Iterator) else value


def _are_classes(value: Any) -> bool:
    classes = [value] if inspect.isclass(value) else value
    return value is None or (_is_list(classes) and all(one is None or inspect.isclass(one) for one in classes))


def _is_rate(value: Any) -> bool:
    is_number = hasattr(value, "__float__") and tuple(getattr(value, "shape", ())) == ()
    return value is None or (is_number and 0 <= float(value) < math.inf)


class Key(NamedTuple):
    """What the library knows of a setting: what is dropped when it changes after use, its values, and its default."""

    drops: tuple[str, ...] = ()  # properties of the experiment, and parts of its program; "graphs" includes their steps
    fits: Callable[[Any], bool] = lambda value: True
    write: str = ""  # for a value that does not fit
    default: Any = None


LIBRARY_KEYS: Mapping[str, Key] = {
    "experiment_type": Key((), _are_classes, "Write a list of classes, base first."),
    "subsets": Key(("subsets", "feeds", "graphs"), _is_list, "Write a list: [Subset(...), ...]."),
    "batch_size": Key(("steps",), lambda v: is_whole(v, least=1), "Write a whole number of at least 1.", default=32),
    "chunk_processors": Key(("chunk_processors", "metrics", "graphs"), _is_list, "Write a list of processors."),
    "optimizer": Key(
        ("optimizer", "graphs"),
        _is_optimizer,
        'Write a Keras optimizer, as keras.optimizers.Adam(1e-3) or "adam"; for several, '
        "experimentator.Optimizers({...}).",
    ),
    "learning_rate": Key(
        (),
        _is_rate,
        "Write a number from 0 on; a schedule goes into the optimizer, keras.optimizers.Adam(schedule).",
    ),
    "callbacks": Key(("callbacks", "listeners", "graphs"), _is_list, "Write a list of callbacks."),
    "metrics": Key(
        ("metrics", "graphs"),
        _are_names,
        "Write a list of names of tensors; a metric goes into chunk_processors, as "
        'ops.KerasMetric(keras.metrics.AUC(), "batch_scores", "batch_target").',
    ),
    "outputs": Key(("outputs", "graphs"), _are_names, "Write a list of names of tensors."),
    "seed": Key((), lambda v: v is None or isinstance(v, Integral), "Write a whole number.", default=0),
    "eval_epochs": Key(
        (), _says_when, "Write N for every N-th epoch, a collection of epochs, or None for every epoch."
    ),
    "steps_per_call": Key(
        ("steps",),
        lambda v: v in (None, "auto") or is_whole(v, least=1),
        "Write 'auto', or a whole number of at least 1.",
    ),
    "residency": Key(
        ("feeds", "steps"),
        lambda v: v in ("auto", "device", "host", "stream"),
        "Write 'auto', 'device', 'host' or 'stream'.",
        default="auto",
    ),
    "workers": Key(
        (),
        lambda v: v in (None, "auto") or Workers.of(v) is not None,
        "Write 'auto', or how many threads read items ahead, such as 2, or '4 processes'.",
        default="auto",
    ),
    "jit_compile": Key(
        ("steps",),
        lambda v: v in ("auto", "step") or isinstance(v, bool),
        "Write 'auto', True, False or 'step'.",
        default="auto",
    ),
    "precision": Key(
        ("graphs",), lambda v: v is None or v in PRECISIONS, f"Write one of {', '.join(map(repr, PRECISIONS))}."
    ),
    "eager": Key(("steps",), lambda v: v is None or v in (False, True), "Write True or False.", default=False),
    "hide_progress": Key(
        ("listeners",), lambda v: v is None or v in (False, True), "Write True or False.", default=False
    ),
    "project_name": Key(("_run_folder", "listeners")),
    "experiment_id": Key(("_run_folder", "listeners")),
    "output_folder": Key(
        ("_run_folder", "listeners"),
        lambda v: v is None or v is False or isinstance(v, str | os.PathLike),
        "Write the path of a folder, or None for no run folder.",
    ),
}
DEFAULTS: Mapping[str, Any] = {name: key.default for name, key in LIBRARY_KEYS.items() if key.default is not None}
CHECKED = {**LIBRARY_KEYS, "epochs": Key((), lambda v: is_whole(v, least=0), "Write a whole number of at least 0.")}


def has_rate(optimizer: Any, rate: Any) -> bool:
    """Whether `rate` is the learning rate of a Keras optimizer, in float32."""
    return bool(np.float32(float(optimizer.learning_rate)) == np.float32(rate))


def rate_of(optimizer: Any) -> float | None:
    """The current learning rate of a Keras optimizer; None if it has none that is a number."""
    try:
        return float(np.asarray(getattr(optimizer, "learning_rate", None)))
    except (TypeError, ValueError):
        return None


def has_usual_rate(optimizer: Any) -> bool:
    """Whether a Keras optimizer has the learning rate that its class has unless told otherwise."""
    usual = getattr(signature_of(type(optimizer)).parameters.get("learning_rate"), "default", None)
    return is_number(usual) and schedule_of(optimizer) is None and has_rate(optimizer, usual)


def settle_rate(optimizer: Any, rate: Any, source: Config) -> None:
    """Write the setting `learning_rate` into an optimizer at first use; one that follows a schedule keeps that.

    Either is logged: the former if a file set both, or the optimizer was set later with a rate that is not the usual of
    its class, the latter unless the file computed the optimizer from the rate.
    """
    check_values({"learning_rate": rate})  # that of a task class was not looked at
    is_given = optimizer is source.get("optimizer")
    is_made_of_it = is_given and "optimizer" in source.derived.get("learning_rate", ())
    is_told = (bool(source.text) or not is_given) and not has_usual_rate(optimizer)
    is_there = any(has_rate(part, rate) for part in parts_of(optimizer))  # that of one part is enough
    if schedule_of(optimizer) is not None:
        if not is_there and not is_made_of_it:
            said = "learning_rate = %s in the configuration has no effect: the optimizer follows a schedule. %s"
            log.warning(said, rate, "Leave it out, or give the optimizer a number.")
        return
    own = rate_of(optimizer)
    if not is_there and write_rate(optimizer, rate) and is_told:
        said = "learning_rate = %s in the configuration replaces the optimizer's own, %.4g%s."
        several = "; the rates of the others change in proportion" if len(parts_of(optimizer)) > 1 else ""
        log.warning(said, rate, own, several)


def write_rate(optimizer: Any, rate: Any) -> bool:
    """Set the learning rate of a Keras optimizer, unless it has it already; returns whether it was set."""
    try:
        if has_rate(optimizer, rate):
            return False
        optimizer.learning_rate = float(rate)
    except TypeError as error:
        raise ConfigError(
            f"learning_rate={rate!r} cannot be written to the optimizer.\nSeen: {str(error).rstrip('.')}.\n"
            "Give a number; with a learning rate schedule in the optimizer, leave learning_rate out."
        ) from None
    return True
