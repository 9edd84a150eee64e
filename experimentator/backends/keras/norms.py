"""Norms of gradients, for processors that ask for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import keras

from experimentator.graph import Graph
from experimentator.saving.matching import named_by


class Norms:
    """Norms of gradients that the processors of a graph ask for in `norm_of`; `keyed` gives all weights by key."""

    def __init__(self, graph: Graph, keyed: Callable[[], Mapping[str, Any]]):
        self.keyed = keyed
        self.asked: dict[str, Any] = {}  # by name, the patterns of the weights; None for all
        for name, ref in graph.results.items():
            of = getattr(graph.writers[ref].processor, "norm_of", {}) if ref in graph.writers else {}
            self.asked |= {name: of[name]} if name in of else {}

    def put(self, outputs: dict[str, Any], pairs: Iterable[tuple[Any, Any]], optimizer: Any) -> dict[str, Any]:
        """The outputs of a batch, with these norms; `pairs` are gradients and the variables that they are of."""
        if not self.asked:
            return outputs
        found, keyed = {id(variable): gradient for gradient, variable in pairs}, self.keyed()
        scale = getattr(optimizer, "dynamic_scale", optimizer.loss_scale_factor or 1.0)  # of the loss, as in float16
        lengths = {}
        for name, patterns in self.asked.items():
            own = keyed if patterns is None else named_by(patterns, keyed)
            lengths[name] = _length([found[id(keyed[key])] for key in own if id(keyed[key]) in found]) / scale
        return {**outputs, **lengths}


def _length(gradients: Iterable[Any]) -> Any:
    """The L2 norm of all of them as one vector: [] float32."""
    flat = [keras.ops.cast(keras.ops.convert_to_tensor(one), "float32") for one in gradients]
    return keras.ops.sqrt(sum((keras.ops.sum(keras.ops.square(one)) for one in flat), start=keras.ops.zeros(())))
