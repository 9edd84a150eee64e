"""The source text of a callable, for pictures: nothing but its text says what a lambda does.

>>> code_of(lambda chunk: chunk.update(y=2 * chunk["x"]))
'lambda chunk: chunk.update(y=2 * chunk["x"])'
"""

from __future__ import annotations

import ast
import inspect
import linecache
from collections.abc import Iterator
from functools import lru_cache
from types import CodeType
from typing import Any

_LIMIT = 300  # characters of code


def code_of(processor: Any) -> str | None:
    """A lambda's own text, or a function's first line; None where the source is not at hand."""
    code = _code(processor)
    if code is None:
        return None
    text = "".join(linecache.getlines(code.co_filename))
    found = [piece for piece in _pieces(text) if piece.first <= code.co_firstlineno <= piece.node.lineno]
    fitting = [piece for piece in found if piece.fits(code)]
    if len(fitting) != 1:
        return None
    segment = " ".join((ast.get_source_segment(text, fitting[0].node) or "").split())
    if isinstance(fitting[0].node, ast.Lambda):
        return segment[:_LIMIT] or None
    return text.splitlines()[fitting[0].node.lineno - 1].strip()[:_LIMIT] or None


class _Piece:
    """A lambda or function in a file."""

    def __init__(self, node: ast.Lambda | ast.FunctionDef):
        self.node = node
        decorators = [] if isinstance(node, ast.Lambda) else node.decorator_list
        self.first = min([node.lineno, *(decorator.lineno for decorator in decorators)])

    def fits(self, code: CodeType) -> bool:
        """Whether the code was compiled from here: by its name, and for lambdas by the columns of its instructions."""
        if not isinstance(self.node, ast.Lambda):
            return code.co_name == self.node.name
        body, places = self.node.body, list(_places(code))
        begin, end = (body.lineno, body.col_offset), (body.end_lineno or body.lineno, body.end_col_offset or 0)
        is_within = not places or begin <= min(places) <= max(places) <= end  # `-X no_debug_ranges` leaves columns out
        return code.co_name == "<lambda>" and is_within


def _places(code: CodeType) -> Iterator[tuple[int, int]]:
    """Begin and end of every instruction that has a column."""
    for line, end_line, column, end_column in code.co_positions():
        if line and end_line and column is not None and end_column:
            yield line, column
            yield end_line, end_column


@lru_cache(maxsize=32)
def _pieces(text: str) -> tuple[_Piece, ...]:
    try:
        tree = ast.parse(text)
    except SyntaxError:  # a file that has changed since, or cells with magic words
        return ()
    return tuple(_Piece(node) for node in ast.walk(tree) if isinstance(node, (ast.Lambda, ast.FunctionDef)))


def _code(processor: Any) -> CodeType | None:
    """The code object of the function within a `partial`, an UndeclaredFunction or a bound method."""
    for within in ("func", "function", "__func__"):
        if not inspect.isfunction(processor):
            processor = getattr(processor, within, processor)
    return processor.__code__ if inspect.isfunction(processor) else None
