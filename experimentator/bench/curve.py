"""One setting swept over values: how quick the training is with each, as a table and as a curve."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from xml.sax.saxutils import escape

from experimentator.bench.comparison import in_turn
from experimentator.bench.faces import head, rate
from experimentator.bench.report import Told, described
from experimentator.callbacks.picture import round_step
from experimentator.graph.text import aligned

BAR = 30  # characters
WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 640, 360, 80, 50, 40


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


def best_of(report: Mapping[str, Any]) -> Mapping[str, Any]:
    """The point that trains most samples a second."""
    points: Sequence[Mapping[str, Any]] = report["points"]
    return max(points, key=lambda point: point["samples_per_second"]["median"])


def curve_svg(report: Mapping[str, Any]) -> str:
    """Samples a second over the values, with quartiles, as SVG."""
    return "\n".join(_drawn(report)) + "\n"


def _lines(report: Mapping[str, Any]) -> Iterator[str]:
    name, points, best = report["name"], report["points"], best_of(report)
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
    """The value of a point; of a batch size that is more than all items, with what was trained."""
    value, size = point["value"], point["batch_size"]
    is_less = report["name"] == "batch_size" and point["steps"] == 1 and size < value
    return f"{value} (an epoch has only {size})" if is_less else str(value)


def _drawn(report: Mapping[str, Any]) -> Iterator[str]:
    points = report["points"]
    spreads = [point["samples_per_second"] for point in points]
    top = 1.1 * max(spread["high"] for spread in spreads)
    span = (WIDTH - LEFT - 40) / max(1, len(points) - 1)
    xs = [LEFT + 20 + place * span for place in range(len(points))]

    def y(value: float) -> float:
        return float(HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * value / top)

    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif" '
        'font-size="12"><rect width="100%" height="100%" fill="#fefefd"/>'
    )
    yield f'<text x="10" y="20" font-weight="bold">{escape(head(points[0]).partition(":")[0])}: samples/s</text>'
    for value in _ticks(top):
        yield f'<line x1="{LEFT}" x2="{WIDTH - 10}" y1="{y(value):.1f}" y2="{y(value):.1f}" stroke="#dfe3e6"/>'
        yield f'<text x="{LEFT - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{value:,.0f}</text>'
    line = " ".join(f"{x:.1f},{y(spread['median']):.1f}" for x, spread in zip(xs, spreads, strict=True))
    yield f'<polyline points="{line}" fill="none" stroke="#0072b2" stroke-width="2"/>'
    for x, spread, point in zip(xs, spreads, points, strict=True):
        low, middle, high = (y(spread[which]) for which in ("low", "median", "high"))
        yield f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}" stroke="#0072b2"/>'
        yield f'<circle cx="{x:.1f}" cy="{middle:.1f}" r="4" fill="#0072b2"/>'
        yield f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{escape(str(point["value"]))}</text>'
    yield f'<text x="{WIDTH / 2}" y="{HEIGHT - 10}" text-anchor="middle">{escape(report["name"])}</text></svg>'


def _ticks(top: float) -> list[float]:
    """Round numbers from 0 up to `top`, some four of them."""
    step = round_step(top)
    return [step * place for place in range(int(top / step) + 1)]
