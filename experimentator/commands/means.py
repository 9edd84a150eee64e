"""Means over points of a sweep that differ only in seed or fold, and a test whether these means differ."""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from experimentator.bench.spread import p_value
from experimentator.commands.results import show_table
from experimentator.records.measures import best_of, loss_of
from experimentator.sweep.outcome import Outcome

REPEATS = ("seed", "fold")  # axes of repetitions
TESTED, PAIRS = "p to best", "pairs"


def show_means(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the table of means, and an explanation of its last column."""
    best = best_of(rows)
    shown = [{name: value for name, value in row.items() if name != PAIRS} for row in rows]
    show_table(shown, best=best if len(rows) > 1 else None)
    if pairs := min((row[PAIRS] for row in rows if TESTED in row), default=0):
        loss, least = loss_of(name for row in rows for name in row), 2 / 2**pairs
        print(
            f"{TESTED}: the probability that {loss} would differ so much from the best row if both were equally good "
            f"(signed-rank test over the same seeds and folds; with {pairs} it is never below {least:.2g})."
        )


def means_of(outcomes: Sequence[Outcome], measured: Sequence[Mapping[str, float]]) -> list[dict[str, Any]]:
    """A row for each group of points that differ only in seed or fold: means and standard deviations of measures.

    Rows that have two or more seeds and folds in common with the best row get the p-value of their difference to it,
    and the number of these pairs.
    """
    groups: dict[str, list[tuple[Mapping[str, Any], Mapping[str, float]]]] = {}
    for one, metrics in zip(outcomes, measured, strict=True):
        if metrics:
            groups.setdefault(repr(_without(one.values, REPEATS)), []).append((one.values, metrics))
    rows = []
    for members in groups.values():
        row: dict[str, Any] = {**_without(members[0][0], REPEATS), "runs": len(members)}
        for name in dict.fromkeys(name for _, metrics in members for name in metrics):
            numbers = [metrics[name] for _, metrics in members if name in metrics]
            row[name] = statistics.fmean(numbers)
            if len(numbers) > 1:
                row[f"{name} ±"] = statistics.stdev(numbers) if all(map(math.isfinite, numbers)) else math.nan
        rows.append(row)
    if (best := best_of(rows)) is not None:
        loss = loss_of(name for row in rows for name in row)
        own = [{repr(_without(v, v.keys() - REPEATS)): m.get(loss, math.nan) for v, m in ms} for ms in groups.values()]
        for row, found in zip(rows, own, strict=True):
            pairs = [found[repeat] - own[best][repeat] for repeat in found.keys() & own[best].keys()]
            if found is not own[best] and len(pairs) > 1 and all(map(math.isfinite, pairs)):
                row[TESTED], row[PAIRS] = p_value(pairs), len(pairs)
    return rows


def _without(values: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in names}
