"""The picture of a sweep, as SVG: a panel for each axis, a dot for each point, the loss over the values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any

from experimentator.callbacks.picture import LARGEST, LETTER, LINE, MARK, MOST_LABELS, Scale, axes, escape, svg
from experimentator.records.measures import loss_of
from experimentator.sweep.points import Between

WIDTH, HEIGHT, LEFT, RIGHT, BOTTOM, TOP = 260, 260, 64, 14, 64, 44  # of a panel


def picture(
    points: Sequence[Mapping[str, Any]],
    measured: Sequence[Mapping[str, float]],
    *,
    title: str = "",
    grid: Mapping[str, Any] = {},
) -> str:
    """The last validation loss (else another loss, else the first measure) of each point over each axis, as SVG.

    Axes of many numbers, and those that `grid` draws from a range, have a scale, logarithmic if they span a large
    range; others have their values side by side, in the order there. Empty if there is nothing to draw.

    >>> drawn = picture([{"rate": 0.1}, {"rate": 0.01}], [{"validation_loss": 2.0}, {"validation_loss": 1.0}])
    >>> drawn.count("<circle")
    2
    """
    names = [name for row in measured for name in row]
    name = loss_of(names) or next(iter(names), "")
    known = [(values, row[name]) for values, row in zip(points, measured, strict=True) if _is_number(row.get(name))]
    listed = {axis: values for axis, values in grid.items() if not isinstance(values, Between)}
    names = list(dict.fromkeys(axis for values, _ in known for axis in values))
    shown = {axis: _values(known, axis, listed.get(axis, ())) for axis in names}
    shown = {axis: values for axis, values in shown.items() if len(values) > 1}
    if not shown:
        return ""
    of = f" of {title}" if title else ""
    drawn = grid.keys() - listed.keys()
    panels = list(_panels(known, shown, drawn, is_best_least=name.endswith("_loss")))
    return svg(WIDTH * len(shown), HEIGHT, f"{name}{of}, {len(known)} points", panels)


def _values(known: Sequence[tuple[Mapping[str, Any], float]], axis: str, listed: Sequence[Any]) -> list[Any]:
    """The distinct values of an axis: numbers sorted, others as listed, or in the order of points."""
    found = list({repr(values[axis]): values[axis] for values, _ in known if axis in values}.values())
    if all(map(_is_number, found)):
        return sorted(found)
    places = {repr(value): place for place, value in enumerate(listed)}
    return sorted(found, key=lambda value: places.get(repr(value), len(places)))


def _panels(
    known: Sequence[tuple[Mapping[str, Any], float]],
    shown: Mapping[str, list[Any]],
    drawn: Set[str],
    *,
    is_best_least: bool,
) -> Iterator[str]:
    heights = [value for _, value in known]
    up = Scale(heights, start=HEIGHT - BOTTOM, end=TOP)
    best = min(heights) if is_best_least else None
    for place, (axis, values) in enumerate(shown.items()):
        across = _Axis(values, is_drawn=axis in drawn)
        yield f'<g transform="translate({place * WIDTH} 0)">'
        yield from axes(up, across.labels, axis, left=LEFT, right=WIDTH - RIGHT)
        for point, height in sorted(known, key=lambda one: -one[1]):  # the best on top
            if axis in point:
                x, y, colour = across(point[axis]), up(height), MARK if height == best else LINE
                told = escape(", ".join(f"{n}={v!r}" for n, v in point.items()))
                yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}" fill-opacity="0.75">'
                yield f"<title>{told}: {height:.4g}</title></circle>"
        yield "</g>"


class _Axis:
    """Maps the values of an axis to places, with labels."""

    def __init__(self, values: Sequence[Any], *, is_drawn: bool):
        if (is_drawn or len(values) > MOST_LABELS) and all(map(_is_number, values)):
            self.scale: Any = Scale(values, start=LEFT, end=WIDTH - RIGHT)
            self.labels = self.scale.labels()
            return
        start, end = LEFT + 16, WIDTH - RIGHT - 16
        step = (end - start) / max(1, len(values) - 1)
        self.scale, self.places = None, {repr(value): start + step * place for place, value in enumerate(values)}
        texts = [f"{value:.4g}" if isinstance(value, float) else str(value) for value in values]
        room, every = max(5, int(step) // LETTER), 1  # letters: words that do not fit are cut, numbers left out
        if all(map(_is_number, values)):
            every, room = -(-max(map(len, texts)) // room), len(max(texts, key=len))
        every = max(every, -(-len(values) // MOST_LABELS))
        self.labels = [
            (start + step * place, _cut(text, room)) for place, text in enumerate(texts) if not place % every
        ]

    def __call__(self, value: Any) -> float:
        return float(self.scale(value) if self.scale else self.places[repr(value)])


def _cut(text: str, room: int) -> str:
    return text if len(text) <= room else f"{text[: room - 1]}…"


def _is_number(value: Any) -> bool:
    """Whether it can be drawn: larger numbers, and NaN, are not."""
    return type(value) in (int, float) and abs(value) < LARGEST
