"""Flags: numbers that checking processors write, 0.0 where a check failed, looked at on the host."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from experimentator.graph import Graph, Mode, Node
from experimentator.graph.text import failed_in


def with_flags(graph: Graph, wanted: Iterable[str]) -> Graph:
    """Select `wanted`, and the flags of the checking processors on the way to it."""
    selected = graph.select(*wanted)
    checking = [(node, getattr(node.processor, "checks", ())) for node in selected.nodes]
    refs = [ref for node, checks in checking for ref in node.writes if ref.name in checks]
    # several may check one name, each with a flag that is a version of its own
    flags = [ref.name if graph.results.get(ref.name) == ref else str(ref) for ref in refs]
    return selected.select(*selected.results, *flags) if flags else selected


def flags_in(graph: Graph) -> dict[str, Node]:
    """The processors whose flags are selected, by the names under which they are."""
    written = {name: (ref, graph.writers[ref]) for name, ref in graph.results.items() if ref in graph.writers}
    return {name: node for name, (ref, node) in written.items() if ref.name in getattr(node.processor, "checks", ())}


def check_flags(graph: Graph, outputs: dict[str, np.ndarray], *, where: str = "", first: int = 0) -> None:
    """Take the flags of checking processors out of the results; raise the failure of the first batch with a 0.0.

    Except in INFER, nothing is raised if the loss of an earlier batch is not finite: that came first, and
    `averages.check_finite` reports it, which looks at losses after this.
    """
    failed = []
    for flag, node in flags_in(graph).items():
        values = outputs.pop(flag)
        if not values.all():
            failed.append((int(np.argmin(values)), node))
    if not failed:
        return
    batch, node = min(failed, key=lambda one: (one[0], one[1].index))
    if graph.mode == Mode.INFER or np.isfinite(np.asarray(outputs.get("loss", ()), np.float64)[:batch]).all():
        checking: Any = node.processor
        of = f" of {where}" if where else ""
        error = checking.failure(f"values that are not finite, in batch {first + batch}{of}")
        error.add_note(failed_in(node, graph.mode))
        raise error
