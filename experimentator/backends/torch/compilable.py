"""A graph as Inductor computes it right."""

from __future__ import annotations

from copy import deepcopy
from functools import wraps
from typing import Any

import torch
from torch._inductor.scheduler import SchedulerNode

aten = torch.ops.aten
MENDED = "experimentator-1"  # for caches of what was compiled, in which may be what was compiled wrong
_USUAL = SchedulerNode.recompute_size_and_body


def compilable(module: Any) -> Any:
    """The same module, with draws by one probability made from an array of it, and views that may copy.

    Inductor fills memory with the former in place, in an order of its own, so that the same seed would draw otherwise
    where something is computed again. Steps of what operations give may be others there than those that the views were
    recorded with.
    """
    graph = deepcopy(module.graph)
    for node in graph.find_nodes(op="call_function", target=aten.view.default):
        node.target = aten.reshape.default
    for node in graph.find_nodes(op="call_function", target=aten.bernoulli.p):
        like, chance = (*node.args, 0.5)[:2]
        with graph.inserting_before(node):
            chances = graph.call_function(aten.full_like.default, (like, chance), {"dtype": torch.float32})
            drawn = graph.call_function(aten.bernoulli.default, (chances,))
            drawn = graph.call_function(aten._to_copy.default, (drawn,), {"dtype": node.meta["val"].dtype})
        node.replace_all_uses_with(drawn)
        graph.erase_node(node)
    return torch.fx.GraphModule(module, graph)


@wraps(_USUAL)
def _recomputed(node: Any, *arguments: Any, **options: Any) -> None:
    """Compute anew what an operation reads, under the names that this has since it was written in place.

    Inductor (that of PyTorch 2.13) takes those from before, so that a sum may be read before it is complete, such as
    the gradient of an embedding.
    """
    _USUAL(node, *arguments, **options)
    node.set_read_writes(node.read_writes.rename(node.mutation_renames))


SchedulerNode.recompute_size_and_body = _recomputed
