"""Flags: numbers that checking processors write, 0.0 where a check failed, looked at on the host."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from experimentator.graph import Graph


def with_flags(graph: Graph, wanted: Iterable[str]) -> Graph:
    """Select `wanted`, and the flags of the checking processors on the way to it."""
    selected = graph.select(*wanted)
    flags = [flag for node in selected.nodes for flag in getattr(node.processor, "checks", ())]
    return graph.select(*selected.results, *flags) if flags else selected


def check_flags(graph: Graph, outputs: dict[str, np.ndarray], *, where: str = "", first: int = 0) -> None:
    """Take the flags of checking processors out of the results; raise the failure of the first that is 0.0."""
    for node in graph.nodes:
        for flag in getattr(node.processor, "checks", ()):
            values = outputs.pop(flag)
            if not values.all():
                checking: Any = node.processor
                place = f"batch {first + int(np.argmin(values))}{f' of {where}' if where else ''}"
                error = checking.failure(f"values that are not finite, in {place}")
                error.add_note(f"In chunk processor {node} [{graph.mode}].")
                raise error
