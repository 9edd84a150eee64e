"""Captures all that a training needs to continue exactly, and restores it into a newly built experiment.

A checkpoint holds three files. `weights.safetensors`: every variable of every processor, seeds of random layers
included, under `node/ordinal/name`. `state.safetensors`: the optimizer's variables and the arrays of callbacks.
`state.json`: the position of the training, its history, the plain values of the state, the state of callbacks, the
shared generators of Python, numpy and PyTorch, and under `about` the identity of the experiment.
"""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experimentator.averages import Total
from experimentator.checkpoint import CheckpointError, as_path, to_safetensors
from experimentator.config import resolved
from experimentator.position import Position
from experimentator.saving import generators, manifest
from experimentator.saving.code import FREE
from experimentator.saving.identity import (
    IMPLIED,
    ResumeError,
    changeable,
    check_same,
    comparable,
    doubts,
    identity,
    undone,
    unnoted,
)
from experimentator.saving.matching import match, refusal
from experimentator.saving.packing import (
    PackingError,
    from_json,
    from_safetensors,
    is_plain,
    pack,
    to_json,
    unpack,
)
from experimentator.saving.undeclared import known, listening, rekeyed, set_anew
from experimentator.settings import rate_of, write_rate
from experimentator.walk import PASSING

if TYPE_CHECKING:
    from experimentator.experiment import BaseExperiment

log = logging.getLogger(__name__)
WEIGHTS, ARRAYS, STATE = manifest.FILES
OPTIMIZER = "optimizer/"
ABOUT: Mapping[str, type] = {
    "config": dict, "optimizer": dict, "modules": dict, "code": str, "graph": dict, "subsets": dict, "versions": dict,
    "machine": dict, "choices": dict, "objects": list, "changed": dict, "doubts": list, "rekeyed": list,
    "set_anew": dict, "known": dict,
}  # fmt: skip


def save(exp: BaseExperiment, place: str | os.PathLike[str], *, keep: int = manifest.KEPT) -> Path:
    """Write a checkpoint of an experiment that is between two calls, into the folder `place`."""
    about = identity(exp)
    return manifest.write(
        place, captured(exp, about), keep=keep, step=exp.walk.batches, epoch=exp.epoch, versions=about["versions"]
    )


def captured(exp: BaseExperiment, about: Mapping[str, Any]) -> dict[str, bytes]:
    """The files of a checkpoint."""
    walk, restored, arrays = exp.walk, exp.walk.restore, _of_optimizer(exp)
    plain, objects = _plain(exp.state, arrays)
    tree = {
        "epoch": exp.epoch,
        "batches": walk.batches,
        "position": pack(walk.position and asdict(walk.position), arrays, name="position"),
        "history": pack(list(exp.history), arrays, name="history"),
        "state": plain,
        "callbacks": {name: pack(state, arrays, name=name) for name, state in states(exp).items() if state},
        "random": pack(generators.states(), arrays, name="random"),
        "loaded": sorted(restored.loaded) if restored else [],
        "rate": restored.new_rate(rate_of(exp.optimizer)) if restored else None,
        "about": {
            **about,
            "choices": exp.program.choices(),
            "objects": objects,
            "changed": {key: pack(exp.cfg[key], arrays, name=key) for key in _changed(exp, about["config"])},
            "doubts": doubts(exp),
            "rekeyed": rekeyed(exp),
            "set_anew": set_anew(exp),
            "known": known(exp),
        },
    }
    files = {ARRAYS: to_safetensors(arrays)}
    arrays.clear()  # memory may not hold all of it twice, as arrays and as bytes
    return {WEIGHTS: to_safetensors(exp.backend.weights()), **files, STATE: to_json(tree, indent=None)}


def _of_optimizer(exp: BaseExperiment) -> dict[str, np.ndarray]:
    """The variables of the optimizer, which does not have those of a checkpoint before training goes on."""
    if exp.walk.restore is not None:
        return {key: array for key, array in exp.walk.restore.arrays.items() if key.startswith(OPTIMIZER)}
    own = {} if exp.optimizer is None else exp.backend.optimizer_state(exp.optimizer)
    return {f"{OPTIMIZER}{key}": array for key, array in own.items()}


class Restored:
    """A checkpoint that was verified and read; `into(exp)` restores all of it into an experiment, or nothing."""

    rate: float | None = None  # the learning rate of the experiment after `into`

    def __init__(self, read: manifest.ReadCheckpoint):
        self.path = read.path
        try:
            self.weights, self.arrays = (from_safetensors(read.files[n], read.path / n) for n in (WEIGHTS, ARRAYS))
            self.tree = from_json(read.files[STATE], read.path / STATE)
            self.about = self.tree["about"]
            if odd := [name for name, kind in ABOUT.items() if not isinstance(self.about[name], kind)]:
                raise TypeError(f"about/{odd[0]} is of another kind")
            self.state: dict[str, Any] = dict(unpack(self.tree["state"], self.arrays))
            self.changed = {key: unpack(one, self.arrays) for key, one in self.about["changed"].items()}
            self.choices = {name: (str(how), bool(settled)) for name, (how, settled) in self.about["choices"].items()}
            self.generators = unpack(self.tree["random"], self.arrays)
            self.history = unpack(self.tree["history"], self.arrays)
            self.callbacks = {name: unpack(one, self.arrays) for name, one in self.tree["callbacks"].items()}
            self.position = _position(unpack(self.tree["position"], self.arrays))
            # if it was saved after a resume, before training: keys of weights loaded meanwhile, and a rate set
            self.loaded = set(map(str, self.tree["loaded"]))
            self.set_rate = None if self.tree["rate"] is None else float(self.tree["rate"])
            self.epoch, self.batches = int(self.tree["epoch"]), int(self.tree["batches"])
            if len(self.history) != self.epoch or not all(isinstance(row, dict) for row in self.history):
                raise ValueError(f"{self.epoch} epochs with a history of {len(self.history)}")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            seen = f"{type(error).__name__}: {error}"
            raise CheckpointError(
                f"{read.path} is no checkpoint of this version.\nSeen: {seen}.\nTrain anew."
            ) from None

    def into(self, exp: BaseExperiment) -> None:
        """Check that the experiment is the one that was saved, then let its next training continue from here."""
        changed = {name: comparable(value) for name, value in self.changed.items()}
        check_same({**self.about, "changed": changed}, exp, self.path)
        own = [name for name, state in states(exp).items() if state or name in self.callbacks]
        if sorted(own) != sorted(self.callbacks):
            raise undone(self.path, {"callbacks with a state": (sorted(self.callbacks), sorted(own))})
        names = [subset.name for subset in exp.subsets]
        if self.position is not None and self.position.subset not in names:
            raise undone(self.path, {"subset under way": (self.position.subset, names)})
        weights = exp.backend.weights()
        if not (matching := match(weights, self.weights)).is_whole:
            late = "If a callback put them to use: make that network when the experiment is built, and assign to it."
            told = f"{self.path} was saved by another experiment.\n{refusal(matching, weights, self.weights)}"
            raise ResumeError(f"{told}\n{late}" if matching.unexpected else told)
        exp.backend.set_weights(self.weights)
        walk = exp.walk
        exp.epoch, exp.history[:], walk.batches, walk.position = self.epoch, self.history, self.batches, self.position
        exp.program.chosen = dict(self.choices)
        walk.restore = self
        noted = walk.noted
        noted.rekeyed, noted.set_anew, noted.first = (self.about[name] for name in ("rekeyed", "set_anew", "known"))
        self.again(exp, optimizer=False)
        noted.left = changeable(exp)  # with the keys that callbacks set as they took their state
        self.rate = rate_of(exp.optimizer)

    def again(self, exp: BaseExperiment, *, optimizer: bool = True) -> None:
        """Set everything that begin events may have changed; a rate and weights set since `into` stay."""
        rate = self.new_rate(exp.walk.rate) if optimizer else None
        for key, value in self.changed.items():
            if key == "learning_rate" and rate is not None:
                continue
            if not _put(value, into=exp.cfg.get(key)) and not _is_equal(value, exp.cfg.get(key)):
                exp.cfg[key] = value
        exp.backend.set_weights(self.weights)
        if optimizer:
            own = {key.removeprefix(OPTIMIZER): a for key, a in self.arrays.items() if key.startswith(OPTIMIZER)}
            exp.backend.set_optimizer_state(exp.optimizer, own)
            exp.backend.begin_averages(exp.optimizer, self.loaded)
            if rate is not None:
                write_rate(exp.optimizer, rate)
        self._set_state(exp.state)
        for name, one in with_state(exp).items():
            if name in self.callbacks:
                self._load(name, one)
        generators.set_states(self.generators, self.path)

    def new_rate(self, now: float | None) -> float | None:
        """The learning rate, if it was set since the checkpoint was saved; else None."""
        return now if now != self.rate else self.set_rate

    def _load(self, name: str, callback: Any) -> None:
        """Give a callback its state; an error names the callback."""
        try:
            callback.load_state_dict(copy.deepcopy(self.callbacks[name]))
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{name} cannot take the state that {self.path} has for it.\nSeen: {type(error).__name__}: {error}.\n"
                "Resume with the code of that callback as it was, or begin anew."
            ) from error

    def _set_state(self, state: dict[str, Any]) -> None:
        """Set the saved values, in order; objects, which cannot be saved, stay as begin events set them."""
        objects = {name: state[name] for name in (*map(str, self.about["objects"]), *PASSING) if name in state}
        state.clear()
        state |= copy.deepcopy(self.state) | objects


def _put(values: Any, *, into: Any) -> bool:
    """Write arrays, or dictionaries of them, in place, since others may hold them; returns False if they do not fit."""
    if isinstance(into, np.ndarray) and isinstance(values, np.ndarray):
        fits = into.shape == values.shape and into.dtype == values.dtype and into.flags.writeable
        if fits:
            into[...] = values
        return fits
    if type(into) is not dict or type(values) is not dict or not values.keys() == into.keys() != set():
        return False
    return all(_put(values[key], into=one) for key, one in into.items())


def _is_equal(value: Any, other: Any) -> bool:
    try:
        return type(value) is type(other) and bool(value == other)
    except ValueError:  # arrays somewhere inside
        return False


def resume(exp: BaseExperiment, folder: str | os.PathLike[str]) -> Path:
    """Let an experiment continue from the newest whole checkpoint of a run folder or a folder of them, or from one."""
    folder = as_path(folder, write='exp.resume("runs/digits/latest")')
    if folder.is_symlink():  # `latest` may soon be another run, in which this one must not write
        folder = folder.parent / os.readlink(folder)
    restored = Restored(found(folder))
    with unnoted(exp.walk):
        restored.into(exp)
    for callback in listening(exp):
        if hasattr(callback, "reopen"):
            callback.reopen(restored.path.parent.parent if (folder / manifest.CHECKPOINTS).is_dir() else None)
    log.info("Resumed from %s: %d epochs are done, %d batches in all.", restored.path, exp.epoch, exp.walk.batches)
    return restored.path


def take_loaded(exp: BaseExperiment, weights: Mapping[str, np.ndarray]) -> None:
    """Restart the averages of loaded weights, and let a resumed training continue with the loaded weights."""
    exp.backend.begin_averages(exp.optimizer, weights)
    if (restored := exp.walk.restore) is not None:
        restored.weights = {**restored.weights, **weights}
        restored.loaded |= weights.keys()


def found(folder: Path) -> manifest.ReadCheckpoint:
    """The checkpoint of a folder: itself, or the newest whole one in it."""
    if os.path.lexists(folder / manifest.MANIFEST):
        return manifest.read(folder)
    within = folder / manifest.CHECKPOINTS
    read = manifest.newest(within if within.is_dir() else folder) if folder.is_dir() else None
    if read is None:
        other = "a file, and no folder" if folder.exists() else "no such folder"
        seen = "no checkpoint in it" if folder.is_dir() else other
        raise CheckpointError(
            f"There is nothing to resume in {folder}.\nSeen: {seen}.\n"
            "Name a run folder that has checkpoints/, or start the training anew."
        )
    return read


def with_state(exp: BaseExperiment) -> dict[str, Any]:
    """Callbacks with a `state_dict`, by class and number among those of the class: `EarlyStopping#1`."""
    named: dict[str, Any] = {}
    for one in listening(exp):
        if hasattr(one, "state_dict"):
            kind = type(one).__name__
            named[f"{kind}#{1 + sum(name.rpartition('#')[0] == kind for name in named)}"] = one
    return named


def states(exp: BaseExperiment) -> dict[str, Any]:
    """The state of each callback that declares one; an empty dict means that nothing needs to be saved."""
    return {name: one.state_dict() for name, one in with_state(exp).items()}


def _changed(exp: BaseExperiment, config: Mapping[str, Any]) -> list[str]:
    """Names of plain settings that were changed since the training began, such as the learning rate."""
    own = {key: comparable(exp.cfg[key]) for key in resolved(exp.cfg) if key not in FREE and is_plain(exp.cfg[key])}
    config = IMPLIED | dict(config)
    return [key for key, value in own.items() if config.get(key, value if value in (None, []) else None) != value]


def _plain(state: Mapping[str, Any], arrays: dict[str, np.ndarray]) -> tuple[dict[str, Any], list[str]]:
    """The values of the state that can be saved, packed, in order, and the names of the others."""
    plain, objects = {}, []
    for name, value in state.items():
        if name not in PASSING:
            try:
                plain[name] = pack(value, arrays, name=f"state/{name}")
            except PackingError:
                objects.append(name)
    return plain, objects


def _position(values: Any) -> Position | None:
    """The position of a training; raises for values that are none."""
    if values is None:
        return None
    totals = {str(name): Total(**total) for name, total in values["totals"].items()}
    counts = (values["batch"], values["predictions"])
    sums = (values["seconds"], *(number for total in totals.values() for number in (total.sum, total.weight)))
    if any(type(one) is not int or one < 0 for one in counts) or any(not isinstance(one, int | float) for one in sums):
        raise ValueError(f"{values!r:.80} is no position")
    seeds = {str(key): [int(number) for number in state] for key, state in values["seeds"].items()}
    own = {"subset": str(values["subset"]), "row": dict(values["row"]), "totals": totals, "seeds": seeds}
    return Position(**{**values, **own})
