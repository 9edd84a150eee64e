"""The page of the `runs` command: curves of runs, one chart for each measure, and their table."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from experimentator import page
from experimentator.callbacks.monitored import of_subset
from experimentator.graph.text import printable
from experimentator.records.archive import Run
from experimentator.records.measures import measures_of

MOST = 1000  # points of a curve, about; a longer one is thinned, but keeps the last and the best epoch
LARGE = 10**15  # JavaScript does not tell larger whole numbers apart
PLACES = ("experiment_id", "output_folder", "project_name", "hide_progress", "epochs")  # overrides that are not shown


def curves(runs: Sequence[Run], asked: Sequence[str] = (), *, title: str) -> str:
    """The page; `asked` are names of further columns of the table."""
    names = dict.fromkeys(name for run in runs for row in run.history for name in row)
    listed = [
        {"row": _row(run, asked), "best": run.best.get("epoch"), "measure": run.measure}
        | _columns(run.history, run.best.get("epoch"))
        for run in runs
    ]
    return page.filled("runs", title=title, data={"runs": listed, "charts": charts_of(names)})


def charts_of(names: Iterable[str]) -> list[dict[str, Any]]:
    """The charts: a measure of several subsets shares one, a series for each subset; losses come first.

    >>> charts_of(["epoch", "training_loss", "validation_loss", "validation_accuracy"])[0]
    {'title': 'loss', 'series': [['training', 'training_loss'], ['validation', 'validation_loss']]}
    """
    names = list(measures_of(dict.fromkeys(names)))
    found = [name.removesuffix("_loss") for name in names if name.endswith("_loss")]
    subsets = [one for one in found if not any(one.startswith(f"{other}_") for other in found)]
    charts: dict[str, list[list[str]]] = {"loss": []}
    for name in names:
        subset, measure = of_subset(name, subsets)
        charts.setdefault(measure, []).append([subset or name, name])
    return [{"title": title, "series": series} for title, series in charts.items() if series]


def _columns(history: Sequence[Mapping[str, Any]], best: Any) -> dict[str, Any]:
    """The curves of a run: numbers by name, one for each epoch or None, and the seconds of training so far."""
    seconds: list[float | None] = []
    spent = 0.0
    for row in history:
        time = _number(row.get("epoch_time"))
        spent += time or 0.0
        seconds.append(None if time is None else _number(spent))
    step = -(-len(history) // MOST) or 1
    kept = {
        *range(len(history) - 1, -1, -step),
        *(place for place, row in enumerate(history) if row.get("epoch") == best),
    }
    places = sorted(kept)
    names = dict.fromkeys(name for row in history for name in row)
    columns = {name: [_number(history[place].get(name)) for place in places] for name in names}
    drawn = {name: values for name, values in columns.items() if any(one is not None for one in values)}
    return {"history": drawn, "seconds": [seconds[place] for place in places]}


def _number(value: Any) -> float | None:
    """A number to draw: to six digits, or a whole one that is not very large; None for anything else."""
    if type(value) is int and abs(value) < LARGE:
        return value
    if type(value) not in (int, float) or not abs(value) <= sys.float_info.max:
        return None
    return float(f"{value:.6g}")


def _row(run: Run, asked: Iterable[str]) -> dict[str, float | str]:
    """A run's row in the table: numbers, by which it can be sorted, and texts."""
    best = {run.measure: run.best.get(run.measure), "in epoch": run.best.get("epoch")} if run.measure else {}
    more = {name: run.values.get(name) for name in asked} | {
        name: value for name, value in run.overrides.items() if name not in PLACES
    }
    row = {"run": run.name, "status": run.status, "epochs": run.epochs, **best, "started": run.started[:16], **more}
    known = {name: (_number(value), value) for name, value in row.items() if value is not None}
    return {
        printable(name): printable(str(value)) if one is None or (type(value) is int and one is not value) else one
        for name, (one, value) in known.items()
    }
