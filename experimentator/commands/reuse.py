"""The `evaluate`, `predict` and `export` commands: an experiment rebuilt from its run folder, with its weights.

This runs the configuration, a program: the text stored in the folder, if it is the one that was trained, or a file
named instead. Weights and all other files of a run are only data.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from experimentator.callbacks.weights import BEST
from experimentator.checkpoint import AVERAGED, WEIGHTS, CheckpointError, weights_in
from experimentator.commands.building import assigned, built
from experimentator.commands.results import show_values, tell
from experimentator.config import Config, ConfigError, importing_from, load, load_text, parse_assignment
from experimentator.exported import check_new
from experimentator.graph.text import printable
from experimentator.records.archive import is_run, read_run
from experimentator.records.environment import overrides_in, sha256
from experimentator.records.local_modules import changed, home
from experimentator.records.plainfile import json_of, read_bytes, read_json, refusal
from experimentator.records.predictions import Predictions, check_suffix
from experimentator.runs import STATUS
from experimentator.settings import LIBRARY_KEYS


def evaluate(arguments: Namespace) -> int:
    """Run `experimentator evaluate`: print averages over a subset, or over every EVAL subset."""
    exp = restored(arguments)
    results = exp.evaluate(arguments.subset)
    if arguments.json:
        print(json_of(results, indent=2))
    else:
        show_values(results)
    return 0


def predict(arguments: Namespace) -> int:
    """Run `experimentator predict`: write the outputs of INFER for every key of a subset to a file."""
    check_suffix(arguments.output)
    exp = restored(arguments)
    Predictions.of(exp, exp.subset(arguments.subset)).save(arguments.output)
    print(arguments.output)
    return 0


def export(arguments: Namespace) -> int:
    """Run `experimentator export`: write the INFER graph to a file for use elsewhere."""
    check_new(Path(arguments.output))
    sizes = dict(map(parse_assignment, arguments.sizes))
    exp = restored(arguments)
    print(exp.export(arguments.output, sizes=sizes))
    return 0


def restored(arguments: Namespace) -> Any:
    """The experiment of a run with its weights."""
    named = {"outputs": arguments.names} if vars(arguments).get("names") else {}
    with stored(arguments.run, assigned(arguments) | named, instead=arguments.config) as configuration:
        weights = _weights(Path(arguments.run), arguments.weights)
        exp = built(configuration)
        matching = exp.load_weights(weights)
    tell(printable(f"{len(matching.matched)} weights from {weights}{_epoch(weights)}"))
    return exp


@contextmanager
def stored(run: str, given: Mapping[str, Any], *, instead: str | None = None) -> Iterator[Callable[[], Config]]:
    """A function that loads the configuration of a run, or the file `instead`, with the run's overrides and `given`.

    Within, modules in the folder of the original configuration can be imported; the text's `__file__` lies there, too.
    """
    folder = Path(run)
    if not is_run(folder):
        raise CheckpointError(f"{run!r} is no run folder.\nSeen: no status.json.\nName one: experimentator runs")
    environment = read_json(folder / "environment.json")
    overrides = _overrides(environment, given)
    beside = home(folder / "config.py")
    with importing_from(beside):
        if instead:
            yield partial(load, instead, overrides, known=LIBRARY_KEYS)
        else:
            text, name = _trained(folder, environment), str(folder / "config.py")
            _check_modules(environment)
            yield partial(load_text, text, overrides, filename=name, folder=beside, known=LIBRARY_KEYS)


def _trained(folder: Path, environment: Mapping[str, Any]) -> str:
    """The text of the stored configuration; refused if its SHA-256 is not the one that the training recorded."""
    path, recorded = folder / "config.py", environment.get("config_sha256")
    write = "Read it, then name it yourself if you trust it: --config FILE."
    if recorded is None:
        raise ConfigError(f"{path} cannot be checked.", "Seen: no config_sha256 in environment.json.", write)
    try:
        text = read_bytes(path).decode("utf-8")
    except ValueError as error:
        raise ConfigError(f"{path} is no text.", f"Seen: {error}.", write) from None
    if sha256(text) != recorded:
        raise ConfigError(f"{path} is not what was trained.", "Seen: another SHA-256 than environment.json has.", write)
    return text


def _check_modules(environment: Mapping[str, Any]) -> None:
    """Refuse if modules beside the configuration have changed since the training."""
    folder, recorded = environment.get("config_folder"), environment.get("modules", {})
    if isinstance(folder, str) and isinstance(recorded, dict) and (others := changed(Path(folder), recorded)):
        raise ConfigError(
            f"{others[0]!r}, which the configuration imports, is not what was trained.",
            f"Seen: another file, or none, at {Path(folder) / others[0]}.",
            "Put it back; or name the configuration that goes with it: --config FILE.",
        )


def _overrides(environment: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The overrides of the run, updated by those given now."""
    stored, lost = overrides_in(environment)
    if missing := [name for name in lost if name not in given]:
        raise ConfigError(
            f"{missing[0]!r} was overridden by an object, which cannot be stored.",
            f"Seen: {lost[missing[0]]}.",
            f"Give it with --set {missing[0]}=VALUE, or name a configuration that has it: --config FILE.",
        )
    return stored | dict(given)


def _weights(folder: Path, asked: str) -> Path:
    """The file that `--weights` means; averaged weights if the training evaluated with these."""
    others = ", ".join(sorted(path.name for path in folder.glob("*.safetensors"))) or "none"
    if asked not in ("last", "best"):
        file = next((path for path in (Path(asked), folder / asked) if path.exists()), None)
        if file is None:
            wrong, write = f"There is no weights file {asked!r}.", "Write --weights last, best, or a file."
            raise CheckpointError(f"{wrong}\nSeen in {str(folder)!r}: {others}.\n{write}")
        return file
    file = weights_in(folder, WEIGHTS if asked == "last" else "best.safetensors")
    if not file.is_file():
        write = (
            "SaveWeights('best') keeps the best." if asked == "best" else "Its training may not have ended an epoch."
        )
        raise CheckpointError(
            f"{str(folder)!r} has no {asked} weights.\nSeen: {others}.\n{write} Name a file: --weights FILE."
        )
    if file.is_symlink():
        raise refusal(file, "it is a link")
    return file


def _epoch(weights: Path) -> str:
    """The epoch of a run's last or best weights, as the end of a message; empty for other files."""
    folder, name = weights.parent, weights.name.removesuffix(AVERAGED).removesuffix(".safetensors")
    told = {"weights": (STATUS, "epoch_of_weights"), "best": (BEST, "epoch")}.get(name)
    if told is None or not (folder / told[0]).is_file() or not is_run(folder):
        return ""
    tells, epochs = read_json(folder / told[0]), read_run(folder).epochs
    if isinstance(half := tells.get("weights"), str) and half.startswith("from the middle"):
        return f", {half}"
    epoch = tells.get(told[1])
    return f", of epoch {epoch} out of {epochs}" if type(epoch) is int and epoch <= epochs else ""
