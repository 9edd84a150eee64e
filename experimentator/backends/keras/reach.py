"""Tells of trained weights that no gradient reaches."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any

from experimentator.backends.keras.optimizers import shares
from experimentator.backends.keras.variables import Variables
from experimentator.graph import Graph, Node

log = logging.getLogger(__name__)

UNREACHED = (
    "No gradient reaches %s: the optimizer changes nothing there. If that is meant, make it with trainable=False; "
    "if not, let the loss depend on it, with no ops.StopGradient and nothing that rounds or compares on the way."
)
LATE = (
    "%s calls %s, whose weights are neither trained nor saved: it was not called when the graph was recorded. Call all "
    "layers in every batch, and choose between what they give, as by keras.ops.where."
)


def tell_late(node: Node, layers: Iterable[Any], variables: Variables) -> None:
    """Warn of layers that a node calls for the first time after it was recorded, with weights that nobody knows of."""
    for layer in layers:
        if any(one not in variables for one in layer.trainable_weights):
            log.warning(LATE, node, layer.name)


class Reach:
    """Looks at which weights the losses of a training graph reach; `variables` are all there are, by node."""

    def __init__(self, graph: Graph, variables: Variables):
        self.graph, self.variables = graph, variables

    def check(self, trained: Sequence[Any], reached: Sequence[Any], optimizer: Any, *, eager: bool) -> None:
        """Refuse a loss that reaches none of the `trained` variables; warn, once, of those read for it and not reached.

        Keras updates only those that have a gradient, which looks like a training that does not learn. In `eager`
        Python nothing is told: another batch may take another way.
        """
        if not reached:
            raise ValueError(
                "Nothing is trained: 'loss' depends on no trainable variable.\n"
                f"Seen: {len(trained)} trainable variables.\n"
                "Let the loss depend on a layer that is not frozen, with no ops.StopGradient on the way between them."
            )
        if eager:
            return
        needed = {node.name for node in self.graph.select(*shares(optimizer, trained)).nodes}
        missed = {id(one) for one in trained if "float" in str(one.dtype)} - set(map(id, reached))
        missed &= set(map(id, self.variables.read_by(needed)))
        keys = [key for key, one in self.variables.keyed().items() if id(one) in missed]
        if untold := [key for key in keys if key not in self.variables.unreached]:
            self.variables.unreached |= set(untold)
            more = f" and {len(untold) - 3} more" if len(untold) > 3 else ""
            log.warning(UNREACHED, ", ".join(untold[:3]) + more)
