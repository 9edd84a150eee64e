"""Which part of a configuration's text changes results: two texts are compared by that."""

from __future__ import annotations

import ast
import hashlib
from itertools import zip_longest
from pathlib import Path
from typing import Any

from experimentator.checkpoint import CheckpointError
from experimentator.records.plainfile import read_bytes

# Settings that change no result: where files go, what is shown, how data reach the device, how long to train.
FREE = {
    "output_folder", "project_name", "experiment_id", "hide_progress", "workers", "steps_per_call", "residency",
    "epochs",
}  # fmt: skip


def hashed(text: str) -> str:
    """A hash of a configuration's code, less comments, white space, and statements that change no result."""
    tree = ast.parse(text)
    idle = _idle(tree)
    tree.body = [one for one in tree.body if one not in idle]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()


def first_difference(stored: Path, now: str) -> dict[str, tuple[Any, Any]]:
    """The first line that counts of a configuration which differs from the one that is `stored`, if there is one."""
    try:
        old, new = _lines(read_bytes(stored).decode("utf-8")), _lines(now)
    except (CheckpointError, ValueError, SyntaxError):
        return {}
    for (_, one), (number, other) in zip_longest(old, new, fillvalue=(1 + len(now.splitlines()), "")):
        if one != other:
            return {f"line {number} of the configuration": (one, other)}
    return {}


def _lines(text: str) -> list[tuple[int, str]]:
    """The lines of a configuration that count, less comments, with their numbers."""
    idle = {n for one in _idle(ast.parse(text)) for n in range(one.lineno, (one.end_lineno or one.lineno) + 1)}
    lines = [(n, line.partition("#")[0].strip()) for n, line in enumerate(text.splitlines(), start=1) if n not in idle]
    return [(n, line) for n, line in lines if line]


def _idle(tree: ast.Module) -> list[ast.stmt]:
    """Statements that change no result: texts that stand alone, and settings of `FREE` that nothing reads."""
    read = {one.id for one in ast.walk(tree) if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Load)}
    free = FREE - read
    return [one for one in tree.body if _is_text(one) or (isinstance(one, ast.Assign) and _names(one) <= free)]


def _is_text(one: ast.stmt) -> bool:
    return isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant)


def _names(one: ast.Assign) -> set[str]:
    return {ast.unparse(target) for target in one.targets}
