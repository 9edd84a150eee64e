"""The points of a sweep: a grid over names of a configuration, or random draws, identified by their values."""

from __future__ import annotations

import ast
import json
import math
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experimentator.config import ConfigError, grid, load, parse_grid
from experimentator.overrides import assigned, values_of
from experimentator.settings import LIBRARY_KEYS

DIGITS = 4  # significant digits of drawn numbers
TRIES = 1000  # draws for each point, until it differs from the others


@dataclass(frozen=True)
class Between:
    """A range to draw from: numbers from `low` to `high`, whole ones if both ends are.

    `loguniform` draws every order of magnitude equally often, as suits rates and widths.

    >>> Between.of("loguniform(1e-4, 0.1)"), Between.of("[1, 2]")
    (Between(low=0.0001, high=0.1, is_log=True), None)
    """

    low: float
    high: float
    is_log: bool

    @classmethod
    def of(cls, text: str) -> Between | None:
        """The range that a text describes; None if it describes something else.

        Raises:
            ConfigError: for ends that are no numbers, or not in order, and for `loguniform` from 0 or below.
        """
        found = re.fullmatch(r"\s*(log)?uniform\s*\(([^,()]+),([^,()]+)\)\s*", text)
        if found is None:
            return None
        try:
            low, high = (ast.literal_eval(end.strip()) for end in found.groups()[1:])
        except (ValueError, SyntaxError):
            low = high = None
        numbers = all(type(end) in (int, float) and math.isfinite(end) for end in (low, high))
        if not numbers or not low < high or (found[1] and low <= 0):
            above = "two numbers above 0" if found[1] else "two numbers"
            wrong = f"{text.strip()} is no range."
            raise ConfigError(
                wrong,
                f"Its ends are {found[2].strip()} and {found[3].strip()}.",
                f"Write {above}, the smaller one first.",
            )
        return cls(low, high, bool(found[1]))

    def draw(self, source: random.Random) -> float:
        """Draw one number."""
        whole = isinstance(self.low, int) and isinstance(self.high, int)
        if whole and not self.is_log:
            return source.randint(int(self.low), int(self.high))
        if not self.is_log:
            number = source.uniform(self.low, self.high)
        elif whole:  # half a step beyond, so that the ends are drawn as often as others
            number = math.exp(source.uniform(math.log(self.low - 0.5), math.log(self.high + 0.5)))
        else:
            number = math.exp(source.uniform(math.log(self.low), math.log(self.high)))
        rounded = round(number) if whole else float(f"{number:.{DIGITS}g}")
        return min(max(rounded, self.low), self.high)


def axes_of(texts: Sequence[str]) -> dict[str, Sequence[Any] | Between]:
    """The axes of a grid as typed: lists of values, or ranges to draw from.

    >>> axes_of(["width=[32, 64]", "rate=loguniform(1e-4, 0.1)"])
    {'width': [32, 64], 'rate': Between(low=0.0001, high=0.1, is_log=True)}
    """
    ranges: dict[str, Between] = {}
    plain = []
    for text in texts:
        name, equals, value = text.partition("=")
        found = Between.of(value) if equals else None
        if found is not None:
            ranges[name.strip()] = found
            text = f"{name}=[0]"  # a placeholder, so that parse_grid checks the name
        plain.append(text)
    return {name: ranges.get(name, values) for name, values in parse_grid(plain).items()}


def points(
    axes: Mapping[str, Sequence[Any] | Between], config: str, *, sample: int | None = None
) -> list[dict[str, Any]]:
    """The points of a grid over names of a configuration file, which is not run: all combinations, or a `sample`.

    The same axes give the same sample; a larger sample begins with the smaller one.

    Raises:
        ConfigError: for a name that the file does not set, or a range without a sample.
    """
    unknown = set(axes) - {*names_in(config), *LIBRARY_KEYS}
    if unknown or not Path(config).is_file():
        load(config, dict.fromkeys(unknown), known=LIBRARY_KEYS)  # refuses them, with near matches, before it runs
    lists = {name: values for name, values in axes.items() if not isinstance(values, Between)}
    if sample is not None:
        return list(_drawn(axes, sample))
    if len(lists) < len(axes):
        name = next(name for name in axes if name not in lists)
        wrong = f"The axis {name!r} is a range, which has no end of points."
        raise ConfigError(wrong, "No number of points is given.", "Add --sample N, to draw N of them.")
    return list({key_of(point): point for point in grid(lists)}.values())  # equal values give one point


def _drawn(axes: Mapping[str, Sequence[Any] | Between], count: int) -> Iterator[dict[str, Any]]:
    source = random.Random(repr(sorted(axes.items(), key=lambda axis: axis[0])))
    seen: set[str] = set()
    for _ in range(TRIES * count):
        drawn = {n: one.draw(source) if isinstance(one, Between) else source.choice(one) for n, one in axes.items()}
        if (key := key_of(drawn)) not in seen:
            seen.add(key)
            yield drawn
        if len(seen) == count:
            return


def key_of(values: Mapping[str, Any]) -> str:
    """The key that identifies a point: its values, sorted by name.

    >>> key_of({"rate": 0.1, "name": "adam"})
    '{"name": "\\'adam\\'", "rate": "0.1"}'
    """
    return json.dumps({name: literal(value) for name, value in sorted(values.items())})


def names_in(config: str) -> tuple[str, ...]:
    """The names that a configuration file assigns; none if it is too deep to look through, which `load` will report."""
    try:
        return assigned(_parsed(config))
    except RecursionError:
        return ()


def constant_in(config: str, name: str) -> Any:
    """The value that a configuration file assigns to a name, if it is a literal; else None."""
    try:
        found = values_of(_parsed(config), name)
        return ast.literal_eval(found[-1]) if found else None
    except (ValueError, RecursionError, MemoryError):
        return None


def _parsed(config: str) -> ast.Module:
    """A configuration file as a tree; an empty one if it cannot be read, which `load` will report."""
    try:
        return ast.parse(Path(config).read_text("utf-8-sig"))
    except (OSError, ValueError, SyntaxError, RecursionError, MemoryError):
        return ast.Module([], [])


def literal(value: Any) -> str:
    """A value as text that the command line parses back.

    >>> literal([1e-3, "adam"]), literal(float("inf"))
    ("[0.001, 'adam']", '1e999')

    Raises:
        ConfigError: for a value that is no literal.
    """
    if isinstance(value, float) and math.isinf(value):
        return "1e999" if value > 0 else "-1e999"
    text = repr(value)
    try:
        if ast.literal_eval(text) == value:
            return text
    except (ValueError, SyntaxError):
        pass
    raise ConfigError(f"{text:.80} cannot be handed to another process.", "It is no literal.", "Write numbers or text.")
