"""Break very wide rows of a picture into several, by invisible edges that hold one box below another."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from math import ceil, sqrt

from experimentator.graph.description import Description, edges_into

WRAP_ABOVE = 12  # processors side by side


def rows(description: Description) -> Iterator[tuple[str, str]]:
    """Pairs (upper, lower) of boxes for such edges; none where no more than WRAP_ABOVE boxes stand side by side."""
    levels: defaultdict[tuple[int, str | None], list[str]] = defaultdict(list)
    depth = _depths(description)
    for box in description.boxes:
        levels[depth[box.id], box.group].append(box.id)
    for level in levels.values():
        if len(level) > WRAP_ABOVE:
            width = max(WRAP_ABOVE // 2, ceil(sqrt(len(level))))
            yield from zip(level, level[width:], strict=False)


def _depths(description: Description) -> dict[str, int]:
    """How far each box is from the inputs; boxes stand in execution order, edges that go back are not counted."""
    into = edges_into(description)
    depths: dict[str, int] = {}
    for box in description.boxes:
        depths[box.id] = 1 + max((depths.get(edge.source, 0) for edge in into[box.id]), default=0)
    return depths
