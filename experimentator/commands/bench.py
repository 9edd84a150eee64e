"""The `bench` command: what is measured, compared with what, and where the report goes."""

from __future__ import annotations

import json
import logging
import os
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from experimentator import diagram
from experimentator.bench.comparison import compared, comparison_text
from experimentator.bench.curve import curve_svg, sweep_text, swept
from experimentator.bench.faces import as_text
from experimentator.bench.report import measured
from experimentator.checkpoint import write_atomically
from experimentator.commands.building import EPOCHS, assigned, build, built, given_by_options
from experimentator.commands.results import tell
from experimentator.commands.reuse import stored
from experimentator.commands.usage import UsageError
from experimentator.config import ConfigError, parse_assignment
from experimentator.graph import Mode, with_costs
from experimentator.records.plainfile import finite

Answer = tuple[Mapping[str, Any], str, Callable[[], bytes]]


def bench(arguments: Namespace) -> int:
    """Run `experimentator bench`: measure, print the report, and write it to a file."""
    suffix = _checked_suffix(arguments)
    with _each_once():
        report, text, draw = _measured(arguments)
    # Swept values may be what JSON lacks, such as a set.
    data = json.dumps(finite(report), indent=2, allow_nan=False, default=repr)
    if arguments.output:
        content = {".json": lambda: f"{data}\n".encode(), ".txt": lambda: f"{text}\n".encode(), ".svg": draw}[suffix]()
        write_atomically(Path(arguments.output), content)
    print(data if arguments.json else text)
    return 0


@contextmanager
def _each_once() -> Iterator[None]:
    """Within, each log message passes once: one graph is compiled many times over, in parts."""
    last = logging.lastResort
    filters = [(handler, _new()) for handler in logging.getLogger().handlers or ([last] if last else [])]
    for handler, new in filters:
        handler.addFilter(new)
    try:
        yield
    finally:
        for handler, new in filters:
            handler.removeFilter(new)


def _new() -> Callable[[logging.LogRecord], bool]:
    """A filter that lets a message pass once."""
    said: dict[str, logging.LogRecord] = {}
    return lambda record: said.setdefault(record.getMessage(), record) is record


def _measured(arguments: Namespace) -> Answer:
    """The report, its text, and a function that draws it."""
    options: dict[str, Any] = {"seconds": arguments.seconds, "told": tell}
    if arguments.sweep:
        name, values = axis(arguments.sweep)
        _refuse_two(name, arguments)
        report = swept(partial(_built, arguments, arguments.config), name, values, **options)
        return report, sweep_text(report), lambda: curve_svg(report).encode()
    if arguments.compare:
        report = compared((arguments.config, arguments.compare), partial(_built, arguments), **options)
        return report, comparison_text(report), bytes
    exp, epochs = _built(arguments, arguments.config)
    report = measured(exp, epochs, against=arguments.against, **options)
    costs = report["costs"]["by_name"]
    return report, as_text(report), lambda: diagram.picture(with_costs(exp.describe(Mode.TRAIN), costs), "svg")


def _built(arguments: Namespace, config: str, changes: Mapping[str, Any] = {}) -> tuple[Any, int]:
    """The experiment of a configuration or of a run folder, and the epochs to train."""
    if not os.path.isdir(config):
        return build(arguments, config, changes)
    given = given_by_options(arguments, str(Path(config, "config.py")))
    with stored(config, {**given, **changes}) as configuration:
        exp = built(configuration)
        return exp, int(exp.get("epochs") or EPOCHS) if arguments.epochs is None else arguments.epochs


def axis(text: str) -> tuple[str, Sequence[Any]]:
    """The setting to sweep, and its values.

    >>> axis("batch_size=32,64,128")
    ('batch_size', (32, 64, 128))
    >>> axis("jit_compile=step,True,False")
    ('jit_compile', ['step', True, False])
    """
    name, values = parse_assignment(text)
    if isinstance(values, str) and "," in values:  # words, or words and literals
        values = [parse_assignment(f"{name}={value}")[1] for value in values.split(",")]
    if not isinstance(values, tuple | list) or len(values) < 2:
        raise ConfigError(
            f"{text!r} names fewer than two values to sweep.",
            f"Its value is {values!r}.",
            "Write some values: batch_size=32,64,128.",
        )
    return name, values


def _refuse_two(name: str, arguments: Namespace) -> None:
    """Refuse a setting that is swept and has a single value, too."""
    options = {option: vars(arguments)[option] for option in ("seed", "epochs")}
    single = assigned(arguments) | {option: value for option, value in options.items() if value is not None}
    if name in single:
        raise UsageError(
            f"{name!r} is both swept and a single value\nSeen: {name}={single[name]!r}. Leave one of them out."
        )


def _checked_suffix(arguments: Namespace) -> str:
    """The suffix of the file to write, checked before anything is measured."""
    if not arguments.output:
        return ""
    suffix = Path(arguments.output).suffix.lower()
    known = (".json", ".txt") if arguments.compare else (".json", ".txt", ".svg")
    if suffix not in known:
        raise UsageError(
            f"{arguments.output!r} names no known format of a report\nSeen: {suffix or 'no suffix'}. "
            f"End it in one of {', '.join(known)}."
        )
    return suffix
