"""Prints results: tables of epochs and of the points of a grid, drawn on a terminal, else as plain columns."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from experimentator.graph.text import printable

MOST_EPOCHS = 20  # shown on a terminal; elsewhere all


def show_table(rows: Sequence[Mapping[str, Any]], *, best: int | None = None) -> None:
    """Print a table of rows, with row number `best` marked: drawn on a terminal, else in aligned columns.

    >>> show_table([{"epoch": 1, "training_loss": 0.5}, {"epoch": 2, "training_loss": 0.25}], best=1)
    epoch  training_loss
        1            0.5
        2           0.25  best
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[cell(row.get(name, "")) for name in names] for row in rows]
    if sys.stdout.isatty():
        _draw(names, cells, best)
        return
    widths = [max(map(len, column)) for column in zip(names, *cells, strict=True)]
    for place, row in enumerate([names, *cells]):
        line = "  ".join(map(str.rjust, row, widths))
        print(f"{line}  best" if best is not None and place == best + 1 else line)


def show_epochs(history: Sequence[Mapping[str, Any]]) -> None:
    """Print a table of the epochs; on a terminal only the last ones."""
    last = history[-MOST_EPOCHS:] if sys.stdout.isatty() else history
    show_table(last)
    if len(last) < len(history):
        print(f"{len(history) - len(last)} earlier epochs are in history.jsonl.")


def show_values(values: Mapping[str, Any]) -> None:
    """Print a line for each name.

    >>> show_values({"validation_accuracy": 0.98765, "weights": "runs/weights.safetensors"})
    validation_accuracy  0.9877
    weights              runs/weights.safetensors
    """
    width = max(map(len, values), default=0)
    for name, value in values.items():
        print(f"{name:<{width}}  {cell(value)}")


def tell(text: str) -> None:
    """Print a message to stderr, since stdout holds results; work goes on where that is gone, as a closed terminal."""
    with suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)


def _draw(names: Sequence[str], cells: Sequence[Sequence[str]], best: int | None) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(header_style="bold")
    for name in names:
        table.add_column(Text(name), justify="right", overflow="fold")
    for place, row in enumerate(cells):
        table.add_row(*map(Text, row), style="bold green" if place == best else None)
    Console().print(table)
    if best is not None:
        print(f"Best: row {best + 1}.")


def cell(value: Any) -> str:
    """A value as it stands in a table: a float to four digits.

    >>> cell(0.123456), cell(10)
    ('0.1235', '10')
    """
    return f"{value:.4g}" if isinstance(value, float) else printable(str(value))
