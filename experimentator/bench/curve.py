"""One setting swept over values: how quick the training is with each, as a table and as a curve."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from experimentator.bench.comparison import in_turn
from experimentator.bench.faces import head, rate
from experimentator.bench.findings import how
from experimentator.bench.report import Told, described
from experimentator.callbacks.picture import (
    BOTTOM,
    HEIGHT,
    LEFT,
    LETTER,
    LINE,
    RIGHT,
    TOP,
    WIDTH,
    Scale,
    axes,
    polyline,
    svg,
)
from experimentator.graph.text import aligned, cut

BAR = 30  # characters


def swept(
    make: Callable[[Mapping[str, Any]], tuple[Any, int]],
    name: str,
    values: Sequence[Any],
    *,
    seconds: float,
    told: Told,
) -> dict[str, Any]:
    """The training with each value of a setting, all in turn; a value that fails is listed with its error."""
    names = [f"with {name}={value}" for value in values]
    failed: dict[int, str] = {}
    trainers = in_turn(names, lambda place: make({name: values[place]}), seconds, told, failed)
    return {
        "name": name,
        "points": [{"value": values[place], **described(one)} for place, one in trainers.items()],
        "failed": [{"value": values[place], "error": failed[place]} for place in sorted(failed)],
    }


def sweep_text(report: Mapping[str, Any]) -> str:
    """A row with a bar for each value, and the best in words."""
    return "\n".join(_lines(report))


def curve_svg(report: Mapping[str, Any]) -> str:
    """Samples a second over the values, with quartiles, as SVG."""
    title = f"{head(report['points'][0]).partition(':')[0]}: samples/s"
    return svg(WIDTH, HEIGHT, title, list(_drawn(report["name"], report["points"])))


def _lines(report: Mapping[str, Any]) -> Iterator[str]:
    name, points = report["name"], report["points"]
    best = max(points, key=lambda point: point["samples_per_second"]["median"])
    most = best["samples_per_second"]["median"]
    yield head(points[0]).partition(":")[0]
    rows = [[name, "steps/s (quartiles)", "samples/s (quartiles)"]]
    bars = [""]
    for point in points:
        cells = [rate(point[f"{what}_per_second"]) for what in ("steps", "samples")]
        rows.append([_value(report, point), *cells])
        bars.append("█" * round(BAR * point["samples_per_second"]["median"] / most))
    yield from (f"{line}  {bar}".rstrip() for line, bar in zip(aligned(rows, numbers=True), bars, strict=True))
    others = [p["samples_per_second"]["high"] for p in points if p is not best]
    is_clear = all(high < best["samples_per_second"]["low"] for high in others)
    tells = "most samples a second" if is_clear else "most samples a second, within the noise of others"
    yield f"{name}={_value(report, best)}: {tells}."
    yield from (f"{name}={one['value']} fails: {one['error']}" for one in report["failed"])


def _value(report: Mapping[str, Any], point: Mapping[str, Any]) -> str:
    """The value of a point, and what else sets it apart: its compiler, or that a batch is smaller than was asked."""
    value, size = point["value"], point["batch_size"]
    is_less = report["name"] == "batch_size" and point["steps"] == 1 and size < value
    notes = [f"an epoch has only {size}"] if is_less else []
    if len({one["compiler"] for one in report["points"]}) > 1:
        notes.append(how(point["compiler"]))
    return f"{value} ({', '.join(notes)})" if notes else str(value)


def _drawn(name: str, points: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    spreads = [point["samples_per_second"] for point in points]
    up = Scale([0.0, *(spread["high"] for spread in spreads)], start=HEIGHT - BOTTOM, end=TOP, is_log=False)
    span = (WIDTH - LEFT - RIGHT - 40) / max(1, len(points) - 1)
    xs = [LEFT + 20 + place * span for place in range(len(points))]
    room = max(5, int(span) // LETTER)
    labels = [(x, cut(str(point["value"]), room)) for x, point in zip(xs, points, strict=True)]
    yield from axes(up, labels, name, left=LEFT, right=WIDTH - RIGHT)
    yield polyline(xs, [up(spread["median"]) for spread in spreads])
    for x, spread in zip(xs, spreads, strict=True):
        low, middle, high = (up(spread[which]) for which in ("low", "median", "high"))
        yield f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}" stroke="{LINE}"/>'
        yield f'<circle cx="{x:.1f}" cy="{middle:.1f}" r="4" fill="{LINE}"/>'
