"""Parses overrides and grids as typed on the command line, and refuses lines of a file that assign nothing."""

from __future__ import annotations

import ast
import itertools
import keyword
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from experimentator.overrides import ConfigError, assigned


def parse_assignment(text: str) -> tuple[str, Any]:
    """One override as typed, NAME=VALUE: the value is a Python literal, or a bare word or path.

    >>> parse_assignment("rate=1e-4"), parse_assignment("name=adam"), parse_assignment("folder=runs/first")
    (('rate', 0.0001), ('name', 'adam'), ('folder', 'runs/first'))
    """
    name, equals, value = (part.strip() for part in text.partition("="))
    if not equals or not name.isidentifier() or keyword.iskeyword(name):
        raise ConfigError(f"{text!r} is not an assignment.", f"The name is {name!r}.", "Write name=value: rate=0.1.")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        if problem := _not_a_word(value):
            quoted = f"Write a Python literal, or in quotes if text is meant: {name}={_with_words_quoted(value)}."
            raise ConfigError(f"{text!r} has no usable value.", f"{value!r} {problem}.", quoted) from None
        return name, value


def parse_grid(texts: Iterable[str]) -> dict[str, list[Any]]:
    """The axes of a grid as typed, NAME=[VALUE, ...] each.

    >>> parse_grid(["rate=[0.1, 0.01]", "batch_size=(32, 64)"])
    {'rate': [0.1, 0.01], 'batch_size': [32, 64]}
    """
    axes: dict[str, list[Any]] = {}
    for text in texts:
        name, values = parse_assignment(text)
        if name in axes:
            both = f"It has {axes[name]} and {values}."
            raise ConfigError(f"The axis {name!r} is given twice.", both, "Write one list with all values.")
        if not isinstance(values, list | tuple) or not values:
            seen = f"It is {values!r}, of type {type(values).__name__}."
            example = f"Write {name}=[{'1, 2' if isinstance(values, list | tuple) else repr(values)}]."
            raise ConfigError(f"The axis {name!r} is not a list of at least one value.", seen, example)
        axes[name] = list(values)
    return axes


def grid(axes: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    """Every combination of the axes' values; the first axis changes slowest.

    >>> [*grid({"a": [1, 2], "b": "xy"})]
    [{'a': 1, 'b': 'x'}, {'a': 1, 'b': 'y'}, {'a': 2, 'b': 'x'}, {'a': 2, 'b': 'y'}]
    """
    for values in itertools.product(*axes.values()):
        yield dict(zip(axes, values, strict=True))


def refuse_unset(tree: ast.Module, shown: str) -> None:
    """Refuse how YAML and JSON set names, which Python reads as types of names, and as a dictionary to throw away.

    A dictionary in a file that sets names is one to look at, as notebooks show the last value of a cell.

    >>> refuse_unset(ast.parse("rate: float; rate: 0.1"), "task.py")
    Traceback (most recent call last):
    experimentator.overrides.ConfigError: task.py:1: this line sets nothing.
    rate: 0.1
    Write rate = 0.1.
    """
    for node in tree.body:
        write = ""
        if isinstance(node, ast.AnnAssign) and node.value is None and _is_value(node.annotation):
            write = f"Write {ast.unparse(node.target)} = {ast.unparse(node.annotation)}."
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Dict) and not assigned(tree, values_only=True):
            write = "Write name = value, a line for each; or read the file, and give build_experiment the dictionary."
        if write:
            raise ConfigError(f"{shown}:{node.lineno}: this line sets nothing.", f"{ast.unparse(node):.80}", write)


def _with_words_quoted(value: str) -> str:
    """The value with its bare words quoted, if that makes it a literal; else all of it in quotes.

    >>> _with_words_quoted("[adam, sgd]"), _with_words_quoted("[1, 2")
    ("['adam', 'sgd']", "'[1, 2'")
    """
    quoted = re.sub(r"(?<![\w'\"./-])(?!(?:True|False|None)\b)([A-Za-z_][\w./-]*)", r"'\1'", value)
    try:
        return repr(ast.literal_eval(quoted))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return repr(value)


def _not_a_word(value: str) -> str:
    """Why a value that is no literal is no bare word or path either; empty if it may be one."""
    if value.startswith(("[", "{", "(", "'", '"')):
        return "is a broken literal"
    if value.startswith("="):
        return "begins with ="
    if value.casefold() in {"true", "false", "none"}:
        return f"would be text, which counts as true; Python writes {value.capitalize()}"
    try:
        tree = ast.parse(value, mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return "" if value else "is empty"
    if isinstance(tree.body, ast.Call) or not any(isinstance(n, ast.Name) for n in ast.walk(tree)):
        return "would have to be computed"
    return ""


def _is_value(node: ast.expr) -> bool:
    """Whether an annotation is no type: a number, a truth value, or a list of such; text may name a type."""
    try:
        return not isinstance(ast.literal_eval(node), str | None)
    except (ValueError, TypeError):
        return False
