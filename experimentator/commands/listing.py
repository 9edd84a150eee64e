"""The `runs` command: lists runs, filtered and sorted, as a table, as JSON or as a page."""

from __future__ import annotations

import operator
import re
import tempfile
from argparse import Namespace
from ast import literal_eval
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from experimentator.checkpoint import write_atomically
from experimentator.commands.curves import PLACES, curves
from experimentator.commands.results import cell, show_table, tell
from experimentator.commands.usage import UsageError
from experimentator.graph.text import cut, printable
from experimentator.page import look_at
from experimentator.records.archive import Run, find_runs
from experimentator.records.plainfile import json_of
from experimentator.scalars import is_scalar

OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "!=": operator.ne,
    "=": operator.eq,
    ">": operator.gt,
    "<": operator.lt,
}


@dataclass(frozen=True)
class Filter:
    """A name, a comparison and a value: numbers compare as numbers, texts as texts; a missing value never matches.

    >>> Filter.of("validation_accuracy>=0.9"), Filter.of("status=finished").allows("failed")
    (Filter(name='validation_accuracy', sign='>=', value=0.9), False)
    """

    name: str
    sign: str
    value: Any

    @classmethod
    def of(cls, text: str) -> Filter:
        """The filter that a text describes."""
        found = re.fullmatch(r"\s*([^<>=!\s]+)\s*(>=|<=|!=|=|>|<)=?\s*(.*?)\s*", text)
        if found is None:
            raise UsageError(
                f"{text!r} is no filter\nSeen: no comparison. Write NAME=VALUE, or with !=, <, <=, > or >=, in quotes."
            )
        name, sign, value = found.groups()
        if re.fullmatch(r"[-+]?\d+,\d+", value):
            point = value.replace(",", ".")
            raise UsageError(
                f"{value!r} is no number\nSeen: a comma in {text!r}. Write a point: {name}{sign}{point}; "
                f"for a list, write [{value.replace(',', ', ')}]."
            )
        return cls(name, sign, _value(value))

    def allows(self, value: Any) -> bool:
        """Whether a run with this value is listed."""
        if value is None:
            return False
        if is_scalar(value) != is_scalar(self.value):
            return self.sign == "!=" or (self.sign == "=" and str(value) == str(self.value))
        return bool(OPERATORS[self.sign](*((value, self.value) if is_scalar(value) else (str(value), str(self.value)))))


def list_runs(arguments: Namespace) -> int:
    """Run `experimentator runs`; returns the exit status: 5 if a run folder could not be read, else 0."""
    if arguments.output and not arguments.output.lower().endswith(".html"):
        raise UsageError(f"the page of runs is HTML\nSeen: -o {arguments.output}. Write a name that ends in .html.")
    if arguments.open and arguments.json:
        raise UsageError("--json cannot be opened in a browser\nSeen: --json and --open. Write one of them.")
    filters = [Filter.of(text) for text in arguments.filters]
    found = find_runs(arguments.folder)
    asked = [*(one.name for one in filters), *([arguments.sort] if arguments.sort else [])]
    _refuse_unknown(asked, found, arguments.folder)
    _refuse_unlike(filters, found)
    runs = [run for run in found if all(one.allows(run.values.get(one.name)) for one in filters)]
    if arguments.sort:
        runs = _sorted(runs, arguments.sort, descending=arguments.descending)
    elif arguments.descending:
        runs.reverse()
    if arguments.open and not arguments.output:
        arguments.output = str(Path(tempfile.mkdtemp(prefix="experimentator-")) / "runs.html")
    if arguments.output:
        page = curves(runs, asked, title=f"Runs in {printable(arguments.folder)}")
        write_atomically(Path(arguments.output), page.encode())
        print(arguments.output)
        if arguments.open:
            look_at(arguments.output, lambda text: tell(printable(text)))
    elif arguments.json:
        print(json_of([told(run) for run in runs], indent=2))
    elif runs:
        show_table([_row(run, asked) for run in runs])
    else:
        tell(f"No run in {printable(arguments.folder)}{' matches the filters' if found else ''}.")
    damaged = [run for run in found if run.status == "damaged"]
    for run in damaged:
        tell("\n".join(printable(line) for line in f"error: {run.problem}".splitlines()))
    return 5 if damaged else 0


def told(run: Run) -> dict[str, Any]:
    """A run as plain values."""
    best = {"measure": run.measure, **run.best} if run.best else None
    problem = {"problem": run.problem} if run.problem else {}
    own = {"run": str(run.folder), "status": run.status, "epochs": run.epochs, "started": run.started}
    return own | {"best": best, "overrides": dict(run.overrides)} | problem


def _row(run: Run, asked: Sequence[str]) -> dict[str, Any]:
    value = run.best.get(run.measure)
    best = f"{run.measure} {cell(value)} in epoch {run.best.get('epoch', '?')}" if value is not None else ""
    hidden = (*asked, *PLACES)
    overrides = ", ".join(f"{name}={value!r}" for name, value in run.overrides.items() if name not in hidden)
    row = {"run": run.name, "status": run.status, "epochs": run.epochs, "best": best, "started": run.started[:16]}
    more = {name: run.values.get(name) for name in asked if name not in row}
    return {printable(name): _clean(one) for name, one in (row | more | {"overrides": overrides}).items()}


def _sorted(runs: Sequence[Run], name: str, *, descending: bool) -> list[Run]:
    """Runs by one value, numbers before texts; runs without it come last in both directions."""
    known = [run for run in runs if not _is_missing(run.values.get(name))]
    ordered = sorted(known, key=lambda run: _key(run.values[name]), reverse=descending)
    return [*ordered, *(run for run in runs if _is_missing(run.values.get(name)))]


def _refuse_unknown(names: Sequence[str], runs: Sequence[Run], folder: str) -> None:
    known = dict.fromkeys(name for run in runs for name in run.values)
    for name in names if runs else ():
        if name not in known:
            near = get_close_matches(name, known, n=2)
            guess = f"Did you mean {' or '.join(near)}?" if near else f"Known: {', '.join([*known][:30])}."
            raise UsageError(f"no run in {printable(folder)} has a {name!r}\n{printable(guess)}")


def _refuse_unlike(filters: Sequence[Filter], runs: Sequence[Run]) -> None:
    """Refuse a filter with < or > that compares numbers with a text or texts with a number: no run would match."""
    for one in filters:
        known = [value for run in runs if not _is_missing(value := run.values.get(one.name))]
        if one.sign in ("=", "!=") or not known or any(is_scalar(v) == is_scalar(one.value) for v in known):
            continue
        kind, write = "a number", "a number"
        if is_scalar(one.value):
            kind, write = "a text", f"{one.name}{one.sign}{str(one.value)!r} to compare texts"
        wrong = f"{one.name!r} is {kind}, which {printable(str(one.value))} is not, so {one.sign} cannot compare them"
        raise UsageError(f"{wrong}\nSeen: {printable(str(known[0]))}. Write {write}, or compare with = or !=.")


def _value(text: str) -> Any:
    try:
        return literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return text


def _is_missing(value: Any) -> bool:
    return value is None or value != value


def _key(value: Any) -> tuple[bool, Any]:
    return (False, value) if is_scalar(value) else (True, str(value))


def _clean(value: Any) -> Any:
    """A value for one cell of a table; an empty one for None."""
    return value if is_scalar(value) else cut(printable("" if value is None else str(value)), 60)
