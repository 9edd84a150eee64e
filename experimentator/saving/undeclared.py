"""Finds what callbacks change in training, but declare no state of: their attributes, keys of subsets, settings."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from experimentator.saving.packing import PackingError, pack, to_json

if TYPE_CHECKING:
    from experimentator.experiment import BaseExperiment

log = logging.getLogger(__name__)
TOLD = 4  # settings in a warning
MOST = 1 << 26  # bytes of a value that is hashed; a larger one is compared by identity


def listening(exp: BaseExperiment) -> list[Any]:
    """The callbacks of an experiment, including those that it adds itself."""
    return [one.callback for one in getattr(exp, "listeners", ())]


def remember(exp: BaseExperiment) -> None:
    """Note the attributes of callbacks without `state_dict`, and the settings, as training begins."""
    held_by = exp.walk.noted.held_by
    exp.walk.noted.began = exp.walk.noted.began or as_set(exp)
    for one in listening(exp):
        if not hasattr(one, "state_dict") and id(one) not in held_by:
            held_by[id(one)] = _prints(one)


def undeclared(exp: BaseExperiment) -> list[str]:
    """Class names of callbacks whose attributes changed since, without a `state_dict`; each is warned of once."""
    noted = exp.walk.noted
    for one in listening(exp):
        kind = type(one).__name__
        if hasattr(one, "state_dict") or kind in noted.undeclared:
            continue
        before, now = noted.held_by.get(id(one), {}), _prints(one)
        changed = [name for name in now if before.get(name) != now[name]]
        if changed:
            noted.undeclared.append(kind)
            log.warning(
                "%s changes %s during training and declares no state: a resumed run may differ. Give it state_dict() "
                "and load_state_dict(state); return {} if a resume needs nothing of it.",
                kind, ", ".join(changed),
            )  # fmt: skip
    return list(noted.undeclared)


def rekeyed(exp: BaseExperiment) -> list[str]:
    """Names of the subsets that have other keys than when the training began."""
    began = {name: keys for name, (_, keys) in exp.walk.noted.keys.items()}
    pairs = [(one.name, one.keys, began[one.name]) for one in exp.subsets if one.name in began]
    return [name for name, now, then in pairs if now is not then and tuple(now) != tuple(then)]


def as_set(exp: BaseExperiment) -> dict[str, str]:
    """Plain values of processors, layers and the optimizer, and which weights are trainable, as text by name."""
    attributes = exp.program.attributes
    return {**(attributes.settings() if attributes else {}), **exp.backend.settings(exp.optimizer)}


def set_anew(exp: BaseExperiment) -> dict[str, list[str]]:
    """What is set otherwise than when the training began: as it was then, and as it is now."""
    noted = exp.walk.noted
    if not exp.walk.trains:  # what a callback puts back as a training ends, it sets again as one begins
        return noted.set_anew
    now = as_set(exp).items()
    return {name: [noted.began[name], value] for name, value in now if noted.began.get(name, value) != value}


def known(exp: BaseExperiment) -> dict[str, list[str]]:
    """What each setting was as training began; once it ended, what it is, too: callbacks put some back."""
    noted = exp.walk.noted
    now = {} if exp.walk.trains else as_set(exp)
    pairs = {name: (value, now.get(name, value)) for name, value in noted.began.items()}
    return noted.first or {name: list(dict.fromkeys(pair)) for name, pair in pairs.items()}


def otherwise(exp: BaseExperiment) -> Iterator[str]:
    """Once after a resume, as training begins: what is set otherwise than in the training that is resumed."""
    noted = exp.walk.noted
    first, noted.first = noted.first, {}
    told = []
    for name, value in as_set(exp).items() if first else ():
        then = [*first.get(name, (value,)), *noted.set_anew.get(name, ())]
        if value not in then and os.sep not in value + then[0]:  # a path may be another on another machine
            told.append(f"{name} was {then[0]}, is {value}")
    if told:
        yield (
            f"Not exact: {_first(told)}, unlike in the training that is resumed. Set it as it was; or "
            "begin anew, with callbacks = [LoadWeights(...)] for its weights."
        )


def not_set_again(exp: BaseExperiment) -> Iterator[str]:
    """Once after a resume, as an epoch begins: what had been changed, and is as when the training began again."""
    noted = exp.walk.noted
    changed, noted.set_anew = noted.set_anew, {}
    now = as_set(exp) if changed else {}
    lost = [f"{name} was {last}, is {first}" for name, (first, last) in changed.items() if now.get(name) == first]
    if lost:
        yield (
            f"Not exact, unless it is meant for this epoch: {_first(lost)}, as when the training began."
            " Let a callback set it in on_epoch_begin as a function of the epoch; or return it by state_dict(), and "
            "set it in load_state_dict(state)."
        )
    then, noted.rekeyed = noted.rekeyed, []
    for name in sorted({*then}.difference(rekeyed(exp)) if then else ()):
        yield (
            f"Not exact: subset {name!r} had other keys when the training was interrupted, and has those that it began "
            "with again. Let state_dict() of the callback that changes them return the keys, and "
            "load_state_dict(state) assign them."
        )


def _first(told: list[str]) -> str:
    """The first settings, and how many more there are."""
    more = f"; and {len(told) - TOLD} more" if len(told) > TOLD else ""
    return f"{'; '.join(told[:TOLD])}{more}"


def _prints(callback: Any) -> dict[str, str]:
    return {name: _print(value) for name, value in getattr(callback, "__dict__", {}).items()}


def _print(value: Any) -> str:
    """A fingerprint of a value: a hash of its contents, or its identity."""
    return contents(value, most=MOST) or f"object {id(value)}"


def contents(value: Any, *, most: int) -> str | None:
    """A hash of the contents of a value; None for one that cannot be saved, or has arrays of more than `most` bytes."""
    arrays: dict[str, np.ndarray] = {}
    try:
        digest = hashlib.sha256(to_json(pack(value, arrays, name="value")))
    except PackingError:
        return None
    if sum(array.nbytes for array in arrays.values()) > most:
        return None
    for array in arrays.values():
        digest.update(f"{array.dtype} {array.shape}".encode() + array.tobytes())
    return digest.hexdigest()
