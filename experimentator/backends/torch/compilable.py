"""A graph as Inductor computes it right."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch

aten = torch.ops.aten


def compilable(module: Any) -> Any:
    """The same module, with draws by one probability made from an array of it.

    Inductor (that of PyTorch 2.13) fills memory with the former in place, and may do so behind what reads them.
    """
    graph = deepcopy(module.graph)
    for node in graph.find_nodes(op="call_function", target=aten.bernoulli.p):
        like, chance = (*node.args, 0.5)[:2]
        with graph.inserting_before(node):
            chances = graph.call_function(aten.full_like.default, (like, chance), {"dtype": torch.float32})
            drawn = graph.call_function(aten.bernoulli.default, (chances,))
            drawn = graph.call_function(aten._to_copy.default, (drawn,), {"dtype": node.meta["val"].dtype})
        node.replace_all_uses_with(drawn)
        graph.erase_node(node)
    return torch.fx.GraphModule(module, graph)
