"""Pictures as SVG text, without a plotting library: axes with scales, which every chart has; a curve, a matrix."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from math import floor, log10

import numpy as np

from experimentator.graph.palette import COLORS, style_sheet
from experimentator.graph.text import printable

WIDTH, HEIGHT, LEFT, RIGHT, BOTTOM, TOP = 640, 400, 80, 20, 60, 52
PAGE, INK, FAINT, LINE, MARK = (COLORS[use][0] for use in ("page", "ink", "group line", "input line", "loss line"))
LARGEST = 1e100  # on log scales, numbers smaller than its inverse count as that
DECADE = 8.0  # ratio of the largest to the smallest number from which a scale may be logarithmic
MOST_LABELS = 8  # of an axis
CELL = 44
LETTER, LONGEST = 7, 24  # pixels of a character, characters of a name
SHOWN = 32  # classes with numbers in the cells; more make a picture of colours


class Scale:
    """Maps numbers to a line from `start` to `end`: by logarithm if `is_log`; if that is None, where they span much.

    >>> Scale([0.0, 1.0], start=0, end=100, is_log=False).ticks()
    [0.0, 0.5, 1.0]
    """

    def __init__(self, numbers: Sequence[float], *, start: float, end: float, is_log: bool | None = None):
        least, most = min(numbers), max(numbers)
        self.is_log = least > 0 and most > DECADE * least if is_log is None else is_log
        self.start, self.end = start, end
        low, high = self._size(least), self._size(most)
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
        power = 10.0 ** floor(log10((high - low) / 4))
        step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= (high - low) / 5)
        return [step * place for place in range(floor(low / step) + 1, floor(high / step) + 1)]

    def labels(self) -> list[tuple[float, str]]:
        """The places of the ticks, and their numbers."""
        return [(self(tick), f"{tick:,.6g}") for tick in self.ticks()]

    def _size(self, number: float) -> float:
        return log10(max(number, 1 / LARGEST)) if self.is_log else float(number)


def axes(up: Scale, labels: Sequence[tuple[float, str]], name: str, *, left: float, right: float) -> Iterator[str]:
    """A line at each number of the scale `up`, labels below at their places, and the name of the axis below these."""
    for y, label in up.labels():
        yield f'<line x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" stroke="{FAINT}" stroke-width=".6"/>'
        yield text(left - 6, y + 4, label, anchor="end")
    for x, label in labels:
        yield text(x, up.start + 18, label)
    yield text((left + right) / 2, up.start + 42, name)


def polyline(xs: Sequence[float], ys: Sequence[float]) -> str:
    """A line through points."""
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(xs, ys, strict=True))
    return f'<polyline points="{points}" fill="none" stroke="{LINE}" stroke-width="2"/>'


def curve(x: Sequence[float], y: Sequence[float], *, title: str, labels: tuple[str, str], mark: float | None) -> str:
    """A curve over a logarithmic axis, with a line at `mark`.

    >>> curve([0.1, 1.0], [2.0, 1.0], title="loss", labels=("rate", "loss"), mark=0.1)[:4]
    '<svg'
    """
    along = Scale(x, start=LEFT, end=WIDTH - RIGHT, is_log=True)
    up = Scale(y, start=HEIGHT - BOTTOM, end=TOP, is_log=False)
    lines = [*axes(up, along.labels(), labels[0], left=LEFT, right=WIDTH - RIGHT)]
    lines += [polyline([*map(along, x)], [*map(up, y)]), text(8, TOP - 10, labels[1], anchor="start")]
    if mark is not None:
        place = f"{along(mark):.1f}"
        lines.append(f'<line x1="{place}" x2="{place}" y1="{TOP}" y2="{HEIGHT - BOTTOM}" stroke="{MARK}"/>')
    return svg(WIDTH, HEIGHT, title, lines)


def matrix(counts: np.ndarray, names: Sequence[str], *, title: str) -> str:
    """Counts [K, K] as coloured squares, the share of each row as the depth of colour; rows are targets.

    >>> "cat" in matrix(np.eye(2, dtype=int), ["cat", "dog"], title="validation")
    True
    """
    size = CELL if len(names) <= SHOWN else max(2, SHOWN * CELL // len(names))
    shown = [name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…" for name in names] if size == CELL else []
    longest = max(map(len, shown), default=0)
    is_upright = longest * LETTER > CELL  # too long to stand above its column
    left, top = 28 + LETTER * longest, 70 + (LETTER * longest if is_upright else 0)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    lines = [text(20, 44, "rows: target, columns: prediction", anchor="start")]
    side, edge = size * len(names), ' stroke="#ddd"' if shown else ""
    lines.append(f'<rect x="{left}" y="{top}" width="{side}" height="{side}" fill="#fff" stroke="#ddd"/>')
    drawn = (
        np.ndindex(*counts.shape) if shown else zip(*np.nonzero(counts), strict=True)
    )  # with many classes, only cells above 0
    for row, column in drawn:
        x, y, depth = left + column * size, top + row * size, float(share[row, column])
        lines.append(f'<rect x="{x}" y="{y}" width="{size}" height="{size}" fill="{_blue(depth)}"{edge}/>')
        if shown:
            colour = "#fff" if depth > 0.5 else "#000" if counts[row, column] else "#bbb"
            lines.append(text(x + size / 2, y + size / 2 + 4, str(counts[row, column]), fill=colour))
    for place, name in enumerate(shown):
        middle = place * size + size / 2
        lines.append(text(left - 6, top + middle + 4, name, anchor="end"))
        lines.append(_upright(left + middle + 4, top - 6, name) if is_upright else text(left + middle, top - 6, name))
    width = max(left + side, 40 + LETTER * max(len(title), 34))
    return svg(width + 20, top + side + 20, title, lines)


def text(x: float, y: float, words: str, *, anchor: str = "middle", fill: str = INK) -> str:
    """A line of text."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{fill}">{escape(words)}</text>'


def escape(text: str) -> str:
    """Text, printable and escaped for XML."""
    return html.escape(printable(text), quote=False)


def _upright(x: float, y: float, text: str) -> str:
    return f'<text transform="translate({x:.1f},{y:.1f}) rotate(-90)" fill="{INK}">{escape(text)}</text>'


def _blue(depth: float) -> str:
    """White to dark blue."""
    red, green, blue = (round(255 + depth * (end - 255)) for end in (8, 48, 107))
    return f"#{red:02x}{green:02x}{blue:02x}"


def svg(width: float, height: float, title: str, lines: Sequence[str]) -> str:
    """The whole picture, of these elements, below a title; its colours follow the reader's colour scheme."""
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" '
            f'font-size="12"><style>{style_sheet()}</style><rect width="100%" height="100%" fill="{PAGE}"/>',
            f'<text x="20" y="24" font-weight="bold" fill="{INK}">{escape(title)}</text>',
            *lines,
            "</svg>\n",
        ]
    )
