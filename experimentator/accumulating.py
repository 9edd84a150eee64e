"""Results that a pass does not simply average: those that accumulate, and those that say how much they weigh.

What accumulates is set back when a pass begins, and its last value stands for all of it. A processor whose
`weights_of` maps a name that it writes to another says by the latter how much of the batch the former is the mean of.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from experimentator.graph import Graph, Node
from experimentator.saving.matching import node_of

SEEDS = "/seed_generator_state"  # how keys of the states end that `keras.random.SeedGenerator`s have


class Running(np.ndarray):
    """Values [K] after each batch of something that accumulates; averages take the last.

    >>> np.array([0.5, 0.75]).view(Running)
    Running([0.5 , 0.75])
    """


class Weighed(np.ndarray):
    """Values [K], one for each batch, and the `weights` [K] that each has in an average."""

    weights: Any = None

    @classmethod
    def of(cls, values: np.ndarray, weights: np.ndarray) -> Weighed:
        """The values with these weights.

        >>> Weighed.of(np.array([1.0, 0.5]), np.array([3, 1])).weights
        array([3, 1])
        """
        weighed = values.view(cls)
        weighed.weights = weights
        return weighed


def with_weights(graph: Graph) -> Graph:
    """Select what selected names weigh, too, and the parts of sums that have weights of their own."""
    if parts := _weighed_parts(graph):
        graph = graph.select(*graph.results, *parts)
    weights = _weights(graph).values()
    return graph.select(*graph.results, *weights) if weights else graph


def marked_in(processors: Iterable[Any]) -> list[str]:
    """What the metric processors of a list measure."""
    return [name for one in processors if getattr(one, "is_metric", False) for name in measured_by(one)]


def measured_by(processor: Any) -> list[str]:
    """What a metric writes, less the names that are weights of others."""
    weights = getattr(processor, "weights_of", {}).values()
    return [name for name in processor.outputs if name not in weights]


def weighing(graph: Graph) -> set[str]:
    """Names of a graph that are weights of others."""
    return {weight for node in graph.nodes for weight in _said(node).values()}


def lasting(weights: Mapping[str, np.ndarray], graphs: Iterable[Graph]) -> dict[str, np.ndarray]:
    """Weights by key, less what lives for one pass: what metrics accumulate, and counts of draws.

    >>> [*lasting({"Model/0/kernel": np.zeros(2), "Model/1/seed_generator_state": np.zeros(2)}, graphs=[])]
    ['Model/0/kernel']
    """
    nodes = {node.name for graph in graphs for node in _running(graph)}
    kept = (key for key in weights if not key.endswith(SEEDS) and node_of(key) not in nodes)
    return {key: weights[key] for key in kept}


def passing(weights: Mapping[str, np.ndarray], graphs: Iterable[Graph]) -> dict[str, np.ndarray]:
    """The others: copies of what lives for one pass."""
    kept = lasting(weights, graphs)
    return {key: np.array(values) for key, values in weights.items() if key not in kept}


def sums_in(graph: Graph) -> dict[str, Mapping[str, float]]:
    """Selected names that are sums of other selected names, each times a factor: {name: {part: factor}}.

    A processor says so in `sums_of`.
    """
    found: dict[str, Mapping[str, float]] = {}
    for node in graph.order:  # sums of sums come after these
        reads = {ref.name: ref for ref in node.reads}
        for name, parts in getattr(node.processor, "sums_of", {}).items():
            is_it = name in graph.results and graph.writers.get(graph.results[name]) is node
            if is_it and all(part in reads and graph.results.get(part) == reads[part] for part in parts):
                found[name] = parts
    return found


def _weighed_parts(graph: Graph) -> set[str]:
    """Parts of selected sums, and of sums among these, where one of them is no mean of a whole batch."""
    last = {name: node for node in graph.order for name in node.outputs}
    weighed = {name for name, node in last.items() if name in _said(node)}
    sums: dict[str, set[str]] = {}
    for node in graph.order:  # sums of sums come after these
        read = {ref.name for ref in node.reads if graph.writers.get(ref) is last.get(ref.name)}
        for name, parts in getattr(node.processor, "sums_of", {}).items():
            if last[name] is node and read >= {*parts} and weighed & {*parts}:
                weighed.add(name)
                sums[name] = {*parts}
    wanted = set(graph.results)
    for name in reversed(sums):
        wanted |= sums[name] if name in wanted else set()
    return wanted - set(graph.results)


def begin(graph: Graph) -> None:
    """Set back what the processors of a graph accumulate: a pass begins."""
    for node in _running(graph):
        running: Any = node.processor
        running.reset(graph.mode)


class Marks:
    """Which results of a graph accumulate, and what others weigh: looked up once, since calls are many."""

    def __init__(self, graph: Graph):
        self.running = {name for node in _running(graph) for name in node.outputs} & graph.results.keys()
        self.weights = {name: weight for name, weight in _weights(graph).items() if weight in graph.results}

    def put(self, outputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The results of a call, so marked; weights go with what they weigh."""
        outputs = outputs | {name: outputs[name].view(Running) for name in self.running}
        outputs |= {name: Weighed.of(outputs[name], outputs[weight]) for name, weight in self.weights.items()}
        for weight in set(self.weights.values()):
            del outputs[weight]
        return outputs


def _weights(graph: Graph) -> dict[str, str]:
    """What each selected name weighs, where the processor that wrote it last says so."""
    found = {}
    for node in graph.nodes:
        for name, weight in _said(node).items():
            if name in graph.results and graph.writers.get(graph.results[name]) is node:
                found[name] = weight
    return found


def _said(node: Node) -> Mapping[str, str]:
    return getattr(node.processor, "weights_of", {})


def _running(graph: Graph) -> Iterator[Node]:
    return (node for node in graph.nodes if getattr(node.processor, "is_running", False))
