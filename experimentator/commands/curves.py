"""The page of the `runs` command: the curves of what runs measured, one chart for each measure, and their table."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from experimentator import page
from experimentator.commands.failures import printable
from experimentator.commands.results import final_metrics
from experimentator.records.archive import Run

MOST = 1000  # points of a curve; of a longer one, about so many of its epochs, the last and the best among them
LARGE = 10**15  # beyond it, a browser does not tell each whole number from the next
PLACES = ("experiment_id", "output_folder", "project_name", "hide_progress", "epochs")  # tell nothing of a result


def curves(runs: Sequence[Run], asked: Sequence[str] = (), *, title: str) -> str:
    """The page; `asked` are names whose values stand in the table, too."""
    names = dict.fromkeys(name for run in runs for row in run.history for name in row)
    listed = [
        {"row": _row(run, asked), "best": run.best.get("epoch"), "measure": run.measure}
        | _columns(run.history, run.best.get("epoch"))
        for run in runs
    ]
    return page.filled("runs", title=title, data={"runs": listed, "charts": charts_of(names)})


def charts_of(names: Iterable[str]) -> list[dict[str, Any]]:
    """Which measures share a chart: the same of several subsets, of which each is told by its name; losses first.

    >>> charts_of(["epoch", "training_loss", "validation_loss", "validation_accuracy"])[0]
    {'title': 'loss', 'series': [['training', 'training_loss'], ['validation', 'validation_loss']]}
    """
    names = list(final_metrics(dict.fromkeys(names)))
    found = [name.removesuffix("_loss") for name in names if name.endswith("_loss")]
    subsets = [one for one in found if not any(one.startswith(f"{other}_") for other in found)]
    charts: dict[str, list[list[str]]] = {"loss": []}
    for name in names:
        subset = next((one for one in subsets if name.startswith(f"{one}_")), "")
        charts.setdefault(name.removeprefix(f"{subset}_") if subset else name, []).append([subset or name, name])
    return [{"title": title, "series": series} for title, series in charts.items() if series]


def _columns(history: Sequence[Mapping[str, Any]], best: Any) -> dict[str, Any]:
    """Numbers by name, one for each epoch, None for what is none; and the seconds from the beginning on."""
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
    """To six digits, which no eye tells apart, or a whole one that is not very large; None for what cannot be drawn."""
    if type(value) is int and abs(value) < LARGE:
        return value
    if type(value) not in (int, float) or not abs(value) <= sys.float_info.max:
        return None
    return float(f"{value:.6g}")


def _row(run: Run, asked: Iterable[str]) -> dict[str, float | str]:
    """What the table says of a run: numbers, by which it sorts, and texts."""
    best = {run.measure: run.best.get(run.measure), "in epoch": run.best.get("epoch")} if run.measure else {}
    more = {name: run.value(name) for name in asked} | {
        name: value for name, value in run.overrides.items() if name not in PLACES
    }
    row = {"run": run.name, "status": run.status, "epochs": run.epochs, **best, "started": run.started[:16], **more}
    known = {name: (_number(value), value) for name, value in row.items() if value is not None}
    return {
        printable(name): printable(value) if one is None or (type(value) is int and one is not value) else one
        for name, (one, value) in known.items()
    }
