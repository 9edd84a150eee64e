"""Results that a pass does not simply average: accumulating ones, and ones that come with a weight.

Accumulating processors are reset when a pass begins, and their last value is the result of the pass. A processor's
`weights_of` maps an output to another of its outputs, which says how many items of the batch the first is a mean of.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from experimentator.graph import Graph, Node
from experimentator.saving.matching import node_of

SEEDS = "/seed_generator_state"  # suffix of the keys of states of `keras.random.SeedGenerator`


class Running(np.ndarray):
    """Values [K] of an accumulating result, one after each batch; averages take the last.

    >>> np.array([0.5, 0.75]).view(Running)
    Running([0.5 , 0.75])
    """


class Weighed(np.ndarray):
    """Values [K], one for each batch, and `weights` [K]: the weight of each in an average."""

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
    """Select the weights of selected names, too, and the parts of sums where a part has weights, or accumulates."""
    if parts := _weighed_parts(graph):
        graph = graph.select(*graph.results, *parts)
    weights = _weights(graph).values()
    return graph.select(*graph.results, *weights) if weights else graph


def marked_in(processors: Iterable[Any]) -> list[str]:
    """The names that the metric processors of a list write, without weights, and the parts that a loss sums up."""
    marked = [one for one in processors if getattr(one, "is_metric", False)]
    parts = [name for one in marked if getattr(one, "measures_inputs", False) for name in one.inputs]
    return list(dict.fromkeys([*(name for one in marked for name in measured_by(one)), *parts]))


def measured_by(processor: Any) -> list[str]:
    """The outputs of a metric, as far as they are known, without those that are weights of others."""
    weights = getattr(processor, "weights_of", {}).values()
    return [name for name in processor.outputs or () if name not in weights]


def weighing(graph: Graph) -> set[str]:
    """The names in a graph that are weights of other names."""
    return {weight for node in graph.nodes for weight in _declared(node).values()}


def lasting(weights: Mapping[str, np.ndarray], graphs: Iterable[Graph]) -> dict[str, np.ndarray]:
    """Weights by key, without the state of a pass: accumulated metrics, and states of seed generators.

    >>> [*lasting({"Model/0/kernel": np.zeros(2), "Model/1/seed_generator_state": np.zeros(2)}, graphs=[])]
    ['Model/0/kernel']
    """
    nodes = {node.name for graph in graphs for node in _running(graph)}
    kept = (key for key in weights if not key.endswith(SEEDS) and node_of(key) not in nodes)
    return {key: weights[key] for key in kept}


def passing(weights: Mapping[str, np.ndarray], graphs: Iterable[Graph]) -> dict[str, np.ndarray]:
    """The weights that `lasting` leaves out, the state of a pass, copied."""
    kept = lasting(weights, graphs)
    return {key: np.array(values) for key, values in weights.items() if key not in kept}


def sums_in(graph: Graph) -> dict[str, Mapping[str, float]]:
    """Selected names that are weighted sums of other selected names: {name: {part: factor}}.

    A processor declares them in `sums_of`.
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
    """The parts of selected sums, also of nested ones, where a part has weights of its own, or accumulates."""
    last = {name: node for node in graph.order for name in node.outputs}
    running = {node.name for node in _running(graph)}
    weighed = {name for name, node in last.items() if name in _declared(node) or node.name in running}
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


def reset(graph: Graph) -> None:
    """Reset the accumulating processors of a graph, when a pass begins."""
    for node in _running(graph):
        running: Any = node.processor
        running.reset(graph.mode)


class Marks:
    """Which results of a graph accumulate, and which have weights: looked up once, not at every call."""

    def __init__(self, graph: Graph):
        self.running = {name for node in _running(graph) for name in node.outputs} & graph.results.keys()
        self.weights = {name: weight for name, weight in _weights(graph).items() if weight in graph.results}

    def put(self, outputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The results of a call as `Running` or `Weighed` arrays; the weights themselves are taken out."""
        outputs = outputs | {name: outputs[name].view(Running) for name in self.running}
        outputs |= {name: Weighed.of(outputs[name], outputs[weight]) for name, weight in self.weights.items()}
        for weight in set(self.weights.values()):
            del outputs[weight]
        return outputs


def _weights(graph: Graph) -> dict[str, str]:
    """For each selected name, the name of its weights, if the processor that wrote it last declares one."""
    found = {}
    for node in graph.nodes:
        for name, weight in _declared(node).items():
            if name in graph.results and graph.writers.get(graph.results[name]) is node:
                found[name] = weight
    return found


def _declared(node: Node) -> Mapping[str, str]:
    """The weights that a processor declares, whether or not they are selected."""
    return getattr(node.processor, "weights_of", {})


def _running(graph: Graph) -> Iterator[Node]:
    return (node for node in graph.nodes if getattr(node.processor, "is_running", False))
