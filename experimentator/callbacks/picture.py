"""Pictures as SVG text, as callbacks draw them, and without a plotting library: a curve, a matrix."""

from __future__ import annotations

import html
from collections.abc import Sequence
from math import floor, log10

import numpy as np

STYLE = 'font-family="sans-serif" font-size="12"'
WIDTH, HEIGHT, MARGIN = 640, 400, 60
CELL = 44
LETTER, LONGEST = 7, 24  # pixels of a character, characters of a name
SHOWN = 32  # classes with numbers in the cells; more make a picture of colours


def curve(x: Sequence[float], y: Sequence[float], *, title: str, labels: tuple[str, str], mark: float | None) -> str:
    """A curve over a logarithmic axis, with a line at `mark`.

    >>> curve([0.1, 1.0], [2.0, 1.0], title="loss", labels=("rate", "loss"), mark=0.1)[:4]
    '<svg'
    """
    along, up = np.log10(np.asarray(x, float)), np.asarray(y, float)
    right, top = _scale(along, MARGIN, WIDTH - 20), _scale(up, HEIGHT - MARGIN, 40)
    points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(right(along), top(up), strict=True))
    lines = [_frame(), f'<polyline points="{points}" fill="none" stroke="#1f77b4" stroke-width="2"/>']
    for power in range(int(np.ceil(along.min())), int(np.floor(along.max())) + 1):
        lines.append(_text(float(right(np.array(power))), HEIGHT - MARGIN + 18, f"1e{power}"))
    for value in np.linspace(up.min(), up.max(), 5):
        lines.append(_text(MARGIN - 6, float(top(value)) + 4, f"{value:.3g}", anchor="end"))
    if mark is not None:
        place = float(right(np.log10(mark)))
        lines.append(f'<line x1="{place:.1f}" x2="{place:.1f}" y1="40" y2="{HEIGHT - MARGIN}" stroke="#d62728"/>')
    lines += [
        _text(WIDTH / 2, 24, title),
        _text(WIDTH / 2, HEIGHT - 16, labels[0]),
        _text(8, 30, labels[1], anchor="start"),
    ]
    return _svg(WIDTH, HEIGHT, lines)


def round_step(span: float) -> float:
    """The distance between marks on an axis of length `span`: a round number that makes about four parts.

    >>> round_step(1.0), round_step(37)
    (0.2, 10.0)
    """
    power = 10.0 ** floor(log10(span / 4))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= span / 5)


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
    lines = [
        _text(20, 24, title, anchor="start"),
        _text(20, 44, "rows: target, columns: prediction", anchor="start"),
    ]
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
            lines.append(_text(x + size / 2, y + size / 2 + 4, str(counts[row, column]), fill=colour))
    for place, name in enumerate(shown):
        middle = place * size + size / 2
        lines.append(_text(left - 6, top + middle + 4, name, anchor="end"))
        lines.append(_upright(left + middle + 4, top - 6, name) if is_upright else _text(left + middle, top - 6, name))
    width = max(left + side, 40 + LETTER * max(len(title), 34))
    return _svg(width + 20, top + side + 20, lines)


def _scale(values: np.ndarray, start: float, stop: float):  # type: ignore[no-untyped-def]  # a function of arrays
    low, high = float(values.min()), float(values.max())
    return lambda value: start + (value - low) / ((high - low) or 1.0) * (stop - start)


def _frame() -> str:
    width, height = WIDTH - 20 - MARGIN, HEIGHT - MARGIN - 40
    return f'<rect x="{MARGIN}" y="40" width="{width}" height="{height}" fill="none" stroke="#888"/>'


def _text(x: float, y: float, text: str, *, anchor: str = "middle", fill: str = "#000") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{fill}">{html.escape(text)}</text>'


def _upright(x: float, y: float, text: str) -> str:
    return f'<text transform="translate({x:.1f},{y:.1f}) rotate(-90)">{html.escape(text)}</text>'


def _blue(depth: float) -> str:
    """White to dark blue."""
    red, green, blue = (round(255 + depth * (end - 255)) for end in (8, 48, 107))
    return f"#{red:02x}{green:02x}{blue:02x}"


def _svg(width: float, height: float, lines: Sequence[str]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" {STYLE}>'
    return "\n".join([head, f'<rect width="{width}" height="{height}" fill="#fff"/>', *lines, "</svg>"]) + "\n"
