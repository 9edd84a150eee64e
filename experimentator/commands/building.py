"""Builds the experiments that commands work on, with what their options override."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Callable, Mapping
from typing import Any

from experimentator.commands import collector
from experimentator.commands.noise import filtered
from experimentator.commands.results import tell
from experimentator.config import Config, load, parse_assignment
from experimentator.patches import patched
from experimentator.records.environment import overrides_of
from experimentator.settings import LIBRARY_KEYS
from experimentator.sweep.points import names_in

EPOCHS = 10
LONG = ("num_epochs", "n_epochs", "nb_epochs", "max_epochs", "EPOCHS")  # usual names for `epochs` elsewhere


def build(arguments: Namespace, config: str, changes: Mapping[str, Any] = {}) -> tuple[Any, int]:
    """The experiment of a configuration file with its overrides and further changes, and the epochs to train."""
    given = {**given_by_options(arguments, config), **changes}
    exp = built(lambda: load(config, {**overrides_of(config, given), **given}, known=LIBRARY_KEYS))
    asked, in_file = vars(arguments).get("epochs"), exp.cfg.get("epochs", EPOCHS)
    if asked is None and "epochs" not in exp.cfg and (own := [name for name in LONG if name in exp.cfg]):
        tell(f"{own[0]} is a name of your own: {EPOCHS} epochs are trained. Write `epochs`, or give --epochs N.")
    return exp, int(in_file) if asked is None else asked


def built(load: Callable[[], Config]) -> Any:
    """The experiment of a configuration that `load` runs."""
    # a configuration that reads sys.argv, as argparse does, must not see our arguments
    with patched(sys, argv=sys.argv[:1]), filtered(), collector.resting():
        config = load()
        from experimentator import build_experiment

        return build_experiment(config, load_weights=False)


def given_by_options(arguments: Namespace, config: str) -> dict[str, Any]:
    """The settings that options override; `--epochs` does so if the file assigns `epochs`."""
    given, names = vars(arguments), ["seed", "output_folder", "experiment_id"]
    if given.get("epochs") is not None and "epochs" in names_in(config):
        names.append("epochs")
    overrides = assigned(arguments) | {name: given[name] for name in names if given.get(name) is not None}
    return overrides | ({"hide_progress": True} if given.get("quiet") else {})


def assigned(arguments: Namespace) -> dict[str, Any]:
    """The values that --set gives."""
    return dict(map(parse_assignment, arguments.assignments))
