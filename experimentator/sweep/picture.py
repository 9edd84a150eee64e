"""The picture of a sweep, as SVG: a panel for each axis, a dot for each point, the loss over the values."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from math import floor, log10
from typing import Any

from experimentator.callbacks.picture import round_step
from experimentator.commands.failures import printable
from experimentator.commands.results import loss_of

WIDTH, HEIGHT, LEFT, RIGHT, BOTTOM, TOP = 260, 260, 64, 14, 64, 44  # of a panel
INK, FAINT, DOT, BEST = "#24292e", "#dfe3e6", "#0072b2", "#d55e00"
MOST_LABELS, LETTER = 8, 7  # of a panel; pixels
LARGEST = 1e100  # larger numbers, and NaN, are not drawn; on log scales, smaller than its inverse count as that
DECADE = 8.0  # ratio of the largest to the smallest number from which the scale is logarithmic


def picture(
    points: Sequence[Mapping[str, Any]],
    measured: Sequence[Mapping[str, float]],
    *,
    title: str = "",
    drawn: AbstractSet[str] = frozenset(),
) -> str:
    """The last validation loss (else another loss, else the first measure) of each point over each axis, as SVG.

    Axes of many numbers, and those named in `drawn`, have a scale, logarithmic if they span a large range; others have
    their values side by side. Empty if there is nothing to draw.

    >>> drawn = picture([{"rate": 0.1}, {"rate": 0.01}], [{"validation_loss": 2.0}, {"validation_loss": 1.0}])
    >>> drawn.count("<circle")
    2
    """
    names = [name for row in measured for name in row]
    name = loss_of(names) or next(iter(names), "")
    known = [(values, row[name]) for values, row in zip(points, measured, strict=True) if _is_number(row.get(name))]
    axes = [
        axis for axis in dict.fromkeys(axis for values, _ in known for axis in values) if len(_values(known, axis)) > 1
    ]
    if not axes:
        return ""
    return "\n".join(_page(known, axes, name, title, drawn)) + "\n"


def escape(text: str) -> str:
    """Text, printable and escaped for XML."""
    return html.escape(printable(text), quote=False)


def _values(known: Sequence[tuple[Mapping[str, Any], float]], axis: str) -> list[Any]:
    """The distinct values of an axis: numbers sorted, others in the order of points."""
    found = list({repr(values[axis]): values[axis] for values, _ in known if axis in values}.values())
    return sorted(found) if all(map(_is_number, found)) else found


def _page(
    known: Sequence[tuple[Mapping[str, Any], float]],
    axes: Sequence[str],
    name: str,
    title: str,
    drawn: AbstractSet[str],
) -> Iterator[str]:
    heights = [value for _, value in known]
    up = _Scale(
        heights, is_log=min(heights) > 0 and max(heights) > DECADE * min(heights), start=HEIGHT - BOTTOM, end=TOP
    )
    best = min(heights) if name.endswith("_loss") else None
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH * len(axes)}" height="{HEIGHT}" font-size="11" '
        f'font-family="sans-serif" fill="{INK}"><rect width="100%" height="100%" fill="#fefefd"/>'
    )
    of = f" of {escape(title)}" if title else ""
    yield f'<text x="10" y="18" font-weight="bold">{escape(name)}{of}, {len(known)} points</text>'
    for place, axis in enumerate(axes):
        values = _values(known, axis)
        yield f'<g transform="translate({place * WIDTH} 0)">'
        for tick in up.ticks():
            yield f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{up(tick):.1f}" y2="{up(tick):.1f}" stroke="{FAINT}"/>'
            yield f'<text x="{LEFT - 6}" y="{up(tick) + 4:.1f}" text-anchor="end">{tick:.4g}</text>'
        across = _Axis(values, is_drawn=axis in drawn)
        for at, label in across.labels:
            yield f'<text x="{at:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{escape(label)}</text>'
        for point, height in sorted(known, key=lambda one: -one[1]):  # the best on top
            if axis in point:
                x, y, colour = across(point[axis]), up(height), BEST if height == best else DOT
                told = escape(", ".join(f"{n}={v!r}" for n, v in point.items()))
                yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}" fill-opacity="0.75">'
                yield f"<title>{told}: {height:.4g}</title></circle>"
        yield f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 22}" text-anchor="middle">{escape(axis)}</text></g>'
    yield "</svg>"


class _Scale:
    """Maps numbers to a line from `start` to `end`, linearly or by logarithm."""

    def __init__(self, numbers: Sequence[float], *, is_log: bool, start: float, end: float):
        self.is_log, self.start, self.end = is_log, start, end
        low, high = min(map(self._size, numbers)), max(map(self._size, numbers))
        margin = 0.06 * (high - low) or 0.06 * abs(high) or 1.0
        self.low, self.high = low - margin, high + margin

    def __call__(self, number: float) -> float:
        share = (self._size(number) - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[float]:
        """About four round numbers within the scale."""
        if self.is_log and self.high - self.low > 1.5:
            powers = range(floor(self.low) + 1, floor(self.high) + 1)
            if len(powers) > 2:
                return [10.0**power for power in powers[:: -(-len(powers) // MOST_LABELS)]]
            marks = [factor * 10.0**power for power in (powers[0] - 1, *powers) for factor in (1, 3)]
            return [mark for mark in marks if self.low < log10(mark) < self.high]
        low, high = (10**self.low, 10**self.high) if self.is_log else (self.low, self.high)
        step = round_step(high - low)
        first = floor(low / step) + 1
        return [step * place for place in range(first, floor(high / step) + 1)]

    def _size(self, number: float) -> float:
        return log10(max(number, 1 / LARGEST)) if self.is_log else float(number)


class _Axis:
    """Maps the values of an axis to places, with labels."""

    def __init__(self, values: Sequence[Any], *, is_drawn: bool):
        if (is_drawn or len(values) > MOST_LABELS) and all(map(_is_number, values)):
            is_log = min(values) > 0 and max(values) > DECADE * min(values)
            self.scale: Any = _Scale(values, is_log=is_log, start=LEFT, end=WIDTH - RIGHT)
            self.labels = [(self.scale(tick), f"{tick:.4g}") for tick in self.scale.ticks()]
            return
        start, end = LEFT + 16, WIDTH - RIGHT - 16
        step = (end - start) // max(1, len(values) - 1)
        self.scale, self.places = None, {repr(value): start + step * place for place, value in enumerate(values)}
        texts = [f"{value:.4g}" if isinstance(value, float) else str(value) for value in values]
        room, every = max(5, step // LETTER), 1  # letters of a label; words that do not fit are cut, numbers left out
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
    return type(value) in (int, float) and abs(value) < LARGEST
