"""Compares an experiment with the one that a checkpoint was saved from, and tells why a resume may not be exact."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import logging
import os
import platform
import sys
from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experimentator.config import as_json, own_names, steady_repr
from experimentator.data.items import DatasetError
from experimentator.data.keys import key_digest
from experimentator.graph import Mode
from experimentator.optimizer_parts import unscaled
from experimentator.records.local_modules import neighbours
from experimentator.saving.code import FREE, first_difference, hashed
from experimentator.saving.packing import is_plain
from experimentator.saving.undeclared import contents, undeclared
from experimentator.saving.unlike import Pair, shown, unlike
from experimentator.settings import DEFAULTS, LIBRARY_KEYS
from experimentator.version import __version__

if TYPE_CHECKING:
    from experimentator.experiment import BaseExperiment

log = logging.getLogger(__name__)

IMPLIED = {key: value for key, value in DEFAULTS.items() if key != "seed"}  # a seed that is set fixes more than one not
FOLLOWING = {"optimizer": {"learning_rate"}, "graph": {"metrics", "outputs"}}  # parts that follow from plain settings
FRAMEWORKS = ("tensorflow", "keras", "jax", "torch", "numpy")
THREADS = ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "TF_ENABLE_ONEDNN_OPTS", "XLA_FLAGS")
MOST = 8  # differences in an error
LARGE = 1 << 24  # bytes of arrays in a setting that are not hashed each time it is compared


class ResumeError(ValueError):
    """A checkpoint of another experiment; nothing was changed.

    >>> from tempfile import TemporaryDirectory
    >>> from experimentator import BaseExperiment, Mode, Subset
    >>> config = {"subsets": [Subset("all", Mode.INFER, {"x": [1, 2]})]}
    >>> with TemporaryDirectory() as folder:
    ...     _ = BaseExperiment(config, batch_size=2).save_checkpoint(folder)
    ...     BaseExperiment(config, batch_size=4).resume(folder)
    Traceback (most recent call last):
    experimentator.saving.identity.ResumeError: ...00000001 was saved by another experiment; nothing was resumed.
      batch_size (config): was 2, is 4
    Give the same configuration and --set; or begin anew, with callbacks = [LoadWeights(...)] for its weights.
    """


@dataclasses.dataclass
class Noted:
    """What was noted of an experiment as it began to train: a checkpoint holds it, and a resume compares it."""

    identity: dict[str, Any] | None = None
    settings: dict[str, Any] | None = None  # the part of the identity that a training may change
    keys: dict[str, tuple[int, Any]] = dataclasses.field(default_factory=dict)  # by subset: items of an epoch, and keys
    left: Any = None  # what may be changed between trainings, as the last one left it
    held_by: dict[int, dict[str, str]] = dataclasses.field(default_factory=dict)  # attributes of callbacks, by `id`
    undeclared: list[str] = dataclasses.field(default_factory=list)  # classes of those that were found to change theirs
    began: dict[str, str] = dataclasses.field(default_factory=dict)  # `as_set` of processors, layers and optimizer
    first: dict[str, list[str]] = dataclasses.field(default_factory=dict)  # `known` of the training that is resumed
    set_anew: dict[str, list[str]] = dataclasses.field(default_factory=dict)  # of these, what had changed: first, last
    rekeyed: list[str] = dataclasses.field(default_factory=list)  # subsets that had other keys when it was interrupted


def identity(exp: BaseExperiment) -> dict[str, Any]:
    """All that two experiments are compared by, as plain values that another process can read."""
    noted = exp.walk.noted
    if noted.identity is None:
        begin(exp)
        noted.identity = {
            **(noted.settings or {}),
            "modules": neighbours(exp.source.filename),
            "code": hashed(exp.source.text),
            "graph": {str(mode): _graph(exp, mode) for mode in dict.fromkeys(subset.mode for subset in exp.subsets)},
            "subsets": {one.name: _subset(one, noted.keys.get(one.name)) for one in exp.subsets},
            "versions": versions(),
            "machine": machine(exp),
        }
    return noted.identity


def begin(exp: BaseExperiment) -> None:
    """Note the settings and keys with which training begins, since callbacks may change some.

    Changes since the last training ended are noted, too, so that they must be made again before a resume; except
    those of plain settings and rates, which a checkpoint holds.
    """
    noted = exp.walk.noted
    noted.settings = noted.settings or settings(exp)
    noted.keys = noted.keys or {one.name: (len(one), one.keys) for one in exp.subsets}
    if exp.walk.trains or noted.left is None or noted.left == (now := changeable(exp)):
        return
    (config, subsets, optimizer), noted.identity = noted.left, None
    if optimizer != now[2] or config.get("optimizer") != now[0].get("optimizer"):
        noted.settings["optimizer"] = settings(exp)["optimizer"]
    for name in config.keys() | now[0].keys():
        if config.get(name) != now[0].get(name):
            noted.settings["config"] |= {name: now[0].get(name)}
    noted.settings["config"] = _said(noted.settings["config"])
    changed = {name: one[1:3] for name, one in now[1].items() if subsets.get(name) != one}
    noted.keys = {name: one for name, one in noted.keys.items() if name in now[1]} | changed


@contextmanager
def unnoted(walk: Any) -> Iterator[None]:
    """Within, a refusal takes back what was noted, so that what differs may be changed and the resume tried again."""
    before = dataclasses.replace(walk.noted)
    try:
        yield
    except ResumeError:
        walk.noted = before
        raise


def changeable(exp: BaseExperiment) -> tuple[dict[str, Any], dict[str, Any], int]:
    """What may be changed between trainings: library settings that hold objects, subsets, and the optimizer's id."""
    names = [name for name in exp.cfg.keys() & LIBRARY_KEYS if name not in FREE and not is_plain(exp.cfg[name])]
    config = _said({name: comparable(exp.cfg[name]) for name in names})
    listed = enumerate(exp.subsets)
    subsets = {one.name: (str(one.mode), len(one), one.keys, repr(one.buckets), place) for place, one in listed}
    return config, subsets, id(exp.cfg.get("optimizer"))


def settings(exp: BaseExperiment) -> dict[str, Any]:
    """The part of an identity that a training may change: its configuration, and the rates of its optimizer."""
    config = {name: comparable(exp.cfg[name]) for name in own_names(exp.cfg) if name not in FREE}
    optimizer = exp.cfg.get("optimizer")
    parts = getattr(optimizer, "parts", {}) or {"": optimizer}
    rates = {f"learning rate{of and f' of {of}'}": _rate(part) for of, part in parts.items()}
    return {"config": _said(config), "optimizer": {name: rate for name, rate in rates.items() if rate is not None}}


def check_same(saved: Mapping[str, Any], exp: BaseExperiment, path: Path) -> None:
    """Refuse a checkpoint of another experiment; warn where only versions or the machine differ.

    Raises:
        ResumeError: naming what differs.
    """
    own = identity(exp)
    differing = _differing(saved, own)
    if not differing and own["code"] != saved["code"]:
        differing = first_difference(path.parent.parent / "config.py", exp.source.text) or {
            "the text of the configuration": (saved["code"][:12], own["code"][:12])
        }
    if differing:
        raise undone(path, differing)
    for part in ("versions", "machine"):
        if others := [f"{name}: {old} then, {new} now" for name, (old, new) in unlike(saved[part], own[part]).items()]:
            log.warning("Not exact: the run is resumed where the last bits may differ (%s).", "; ".join(others))
    for doubt in saved["doubts"]:
        log.warning("Not exact: %s.", doubt)


def _differing(saved: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Pair]:
    """What makes an experiment another one than was saved, apart from the text of its configuration."""
    now = IMPLIED | own["config"]
    since = {key: value for key, value in saved["changed"].items() if now.get(key) == value}
    saved = {**saved, "config": _said(saved["config"] | since)}  # settings changed between trainings may be set already
    found: dict[str, Pair] = {}
    for part in ("config", "optimizer", "graph", "subsets"):
        if not since.keys() & FOLLOWING.get(part, set()):
            usual = IMPLIED if part == "config" else {}
            pairs = unlike(saved[part], own[part], usual)
            found |= {f"{name} ({part})": pair for name, pair in pairs.items()}
    orders = [", ".join(one["subsets"]) for one in (saved, own)]
    if not found and orders[0] != orders[1]:
        found["order of subsets"] = orders[0], orders[1]
    both = saved["modules"].keys() & own["modules"].keys()
    modules = [{name: one["modules"][name][:12] for name in both} for one in (saved, own)]
    return found | {f"{name}, beside the configuration": pair for name, pair in unlike(*modules).items()}


def doubts(exp: BaseExperiment) -> list[str]:
    """Known reasons why a resume of this training may not be exact."""
    draws = {node: kind for one in exp.program.runners.values() for node, kind in one.step.draws_with_state.items()}
    return [
        *(f"{name} changes its attributes and has no state_dict" for name in undeclared(exp)),
        *(f"{node} draws by {kind}, whose state cannot be saved" for node, kind in draws.items()),
    ]


def undone(path: Path, differing: Mapping[str, Pair]) -> ResumeError:
    """The error that lists the differences."""
    lines = [f"  {shown(name, pair)}" for name, pair in list(differing.items())[:MOST]]
    more = [f"  and {len(differing) - MOST} more"] if len(differing) > MOST else []
    return ResumeError(
        "\n".join(
            [
                f"{path} was saved by another experiment; nothing was resumed.",
                *lines,
                *more,
                "Give the same configuration and --set; or begin anew, with callbacks = [LoadWeights(...)] for its "
                "weights.",
            ]
        )
    )


def versions() -> dict[str, str]:
    """Versions of the library, of Python, and of the frameworks that are loaded."""
    loaded = {name: getattr(sys.modules.get(name), "__version__", None) for name in FRAMEWORKS}
    known = {name: str(version) for name, version in loaded.items() if version}
    return {"experimentator": __version__, "python": platform.python_version(), **known}


def machine(exp: BaseExperiment) -> dict[str, Any]:
    """What else the last bits of a result depend on: backend, device, processor, cores, and thread settings."""
    settings = {name: os.environ[name] for name in THREADS if name in os.environ}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    backend = {"backend": exp.backend.name, "device": str(exp.backend.device)}
    return {**backend, "processor": platform.machine(), "cores": cores, **settings}


def comparable(value: Any) -> Any:
    """A value in a form that is equal in another process: of an object its class, and plain fields or attributes."""
    if is_plain(value):
        return _whole(value)
    if isinstance(value, list | tuple):
        return [comparable(one) for one in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {one.name: getattr(value, one.name) for one in dataclasses.fields(value)}
        plain = {name: _whole(one) for name, one in fields.items() if is_plain(one)}
        return {"class": type(value).__name__, **plain}
    if inspect.getattr_static(value, "learning_rate", None) is not None:  # an optimizer, and no experiment that has one
        parts = {pattern: comparable(part) for pattern, part in getattr(value, "parts", {}).items()}
        also = {"parts": parts, "losses": value.losses} if parts else {}
        also |= {"every": value.every} if getattr(value, "every", None) else {}
        also |= {"inner": comparable(unscaled(value))} if unscaled(value) is not value else {}
        return {"class": type(value).__name__, **_plain_attributes(value), **_schedule(value), **also}
    return {"class": type(value).__name__}


def _whole(value: Any) -> Any:
    """A plain value as JSON; with a hash where that cuts it, or rounds its numbers, unless it is large."""
    told = as_json(value)
    is_part = any(sign in str(told) for sign in ("...", "array("))
    mark = contents(value, most=LARGE) if is_part else None
    if mark is None:
        return told
    if isinstance(told, dict):
        return told | {"SHA-256": mark[:16]}
    said = f"SHA-256 {mark[:16]}"
    return [*told, said] if isinstance(told, list) else f"{told}, {said}"


def _plain_attributes(value: Any) -> dict[str, Any]:
    fields = {name: one for name, one in vars(value).items() if name not in ("name", "built") and name[0] != "_"}
    return {name: _whole(one) for name, one in fields.items() if is_plain(one)}


def _said(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without None, empty lists and defaults, which mean the same as not set."""
    said = {key: value for key, value in config.items() if value not in (None, [])}
    return {key: value for key, value in said.items() if key not in IMPLIED or value != IMPLIED[key]}


def _rate(optimizer: Any) -> float | None:
    """The learning rate of one optimizer, None if it follows a schedule."""
    kept = getattr(unscaled(optimizer), "_learning_rate", None)
    is_number = kept is not None and not hasattr(kept, "get_config")
    return float(str(np.float32(np.asarray(getattr(kept, "base", kept))))) if is_number else None  # 0.01, not 0.0099999


def _schedule(optimizer: Any) -> dict[str, Any]:
    schedule = getattr(optimizer, "_learning_rate", None)
    if not hasattr(schedule, "get_config"):
        return {}
    return {"schedule": {"class": type(schedule).__name__, **_plain_attributes(schedule)}}


def _graph(exp: BaseExperiment, mode: Mode) -> list[str]:
    """The nodes of a mode in order, with what they read and write."""
    nodes = exp.program.graph(mode).order
    return [f"{node.name}: {_refs(node.reads)} -> {_refs(node.writes)}" for node in nodes]


def _refs(refs: Any) -> str:
    return ", ".join(sorted(str(ref) for ref in refs))


def _subset(subset: Any, began: tuple[int, Any] | None) -> str:
    """Mode, number of items, a hash of the keys in order, buckets; items and keys as training `began`, if given."""
    count, keys = began or (len(subset), subset.keys)
    digest = hashlib.sha256()
    for key in keys:
        digest.update(_known(key).encode())
    buckets = f", buckets of {subset.buckets!r}" if subset.buckets else ""
    return f"{subset.mode}, {count} items, keys {digest.hexdigest()[:16]}{buckets}"


def _known(key: Hashable) -> str:
    """A key as text that is equal in another process, without addresses, sets ordered."""
    text = repr(key)
    if isinstance(key, str | int) or not ("0x" in text or "frozenset(" in text):
        return text
    try:
        return key_digest(key)
    except DatasetError:
        return steady_repr(key)
