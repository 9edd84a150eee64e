"""What accumulates over a pass: set back when it begins; its last value stands for all of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from experimentator.graph import Graph, Node


class Running(np.ndarray):
    """Values [K] after each batch of something that accumulates; averages take the last.

    >>> np.array([0.5, 0.75]).view(Running)
    Running([0.5 , 0.75])
    """


def begin(graph: Graph) -> None:
    """Set back what the processors of a graph accumulate: a pass begins."""
    for node in _running(graph):
        running: Any = node.processor
        running.reset(graph.mode)


def marked(graph: Graph, outputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The results of a call, those that accumulate marked as such."""
    names = {name for node in _running(graph) for name in node.outputs}
    return outputs | {name: outputs[name].view(Running) for name in names & outputs.keys()}


def _running(graph: Graph) -> Iterator[Node]:
    return (node for node in graph.nodes if getattr(node.processor, "is_running", False))
