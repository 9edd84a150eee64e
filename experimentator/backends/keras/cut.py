"""A cut through a graph, before which nothing is trained: for the cost of what stands before it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any

import keras

from experimentator.backends.keras.context import is_dense
from experimentator.backends.keras.variables import Variables
from experimentator.graph import Chunk, Graph, Node

TINY = 1e-30  # a part of a weight that changes no tensor
MOST = 4096  # numbers of that weight: it is updated, which has to cost next to nothing


class Cut:
    """Lets no gradient reach the first nodes of a graph, which are `held`, but for one number of one weight.

    Nodes behind the cut pass the gradient of what they read on, which is a part of their own cost. Were it stopped, no
    compiler would compute it, and it would pass for a cost of the node before. So where a weight before the cut is
    trained, what crosses it depends on the smallest one, a little. Where that is large, the gradient is stopped still.
    """

    def __init__(self, graph: Graph, first: int, variables: Variables, is_held: Callable[[Any], bool]):
        self.held = frozenset(node.index for node in graph.order[:first])
        self.weights: dict[int, Any] = {}  # by the index of a node: a weight that what it writes depends on
        for node in graph.order[:first]:
            found = [one for one in variables.read_by({node.name}) if "float" in str(one.dtype)]
            found = [one for one in found if one.trainable and not is_held(one) and prod(one.shape) <= MOST]
            writers = [graph.writers[ref].index for ref in node.reads if ref in graph.writers]
            if found := [*found, *(self.weights[index] for index in writers if index in self.weights)]:
                self.weights[node.index] = min(found, key=lambda one: prod(one.shape))

    def __call__(self, node: Node, chunk: Chunk) -> None:
        """Cut behind a node that is held, which has run."""
        stop = partial(_stopped, weight=self.weights.get(node.index))
        for name in node.outputs:
            chunk[name] = keras.tree.map_structure(stop, dict.__getitem__(chunk, name))


def _stopped(value: Any, weight: Any) -> Any:
    if not isinstance(value, keras.Variable) and not keras.ops.is_tensor(value):  # None, a number, a text
        return value
    value = keras.ops.stop_gradient(value)
    if weight is None or not is_dense(value) or "float" not in keras.backend.standardize_dtype(value.dtype):
        return value
    return value + keras.ops.cast(keras.ops.reshape(weight, [-1])[0] * TINY, value.dtype)
