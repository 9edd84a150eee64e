"""What the row of an epoch measures, and which of several rows is best."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def measures_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """The measures of an epoch: its row without `epoch` and `epoch_time`."""
    return {name: value for name, value in row.items() if name not in ("epoch", "epoch_time")}


def numbers_in(row: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of a row that are numbers, and no bools."""
    return {name: value for name, value in row.items() if type(value) in (int, float)}


def loss_of(names: Iterable[str]) -> str:
    """The name by which runs are compared: `validation_loss`, else the first loss of a subset; empty without one.

    >>> loss_of(["training_loss", "validation_loss", "validation_accuracy"])
    'validation_loss'
    """
    losses = [name for name in names if name.endswith("_loss")]
    return "validation_loss" if "validation_loss" in losses else next(iter(losses), "")


def best_of(rows: Sequence[Mapping[str, Any]]) -> int | None:
    """The place of the row with the smallest loss (see `loss_of`); None if no row has one.

    >>> best_of([{"training_loss": 0.1, "validation_loss": 0.9}, {}, {"training_loss": 0.2, "validation_loss": 0.8}])
    2
    """
    name = loss_of(name for row in rows for name in row)
    known = [(row[name], place) for place, row in enumerate(rows) if name in row and row[name] == row[name]]
    return min(known)[1] if known else None
