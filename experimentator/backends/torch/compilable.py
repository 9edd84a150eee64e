"""Changes to a graph, and to Inductor, so that Inductor compiles it right."""

from __future__ import annotations

from copy import deepcopy
from functools import wraps
from typing import Any

import torch
from torch._inductor.scheduler import SchedulerNode

aten = torch.ops.aten
MENDED = "experimentator-1"  # tags caches of compiled functions, as those from without these changes may be wrong
_USUAL = SchedulerNode.recompute_size_and_body


def compilable(module: Any) -> Any:
    """The same module, with draws by one probability made from an array of it, and `reshape` in place of `view`.

    Inductor computes such draws in place, in an order of its own, so that the same seed would give other numbers where
    something is computed again. Strides of results may differ there from those that views were recorded with.
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
    """Recompute what an operation reads, under the names that buffers have since they were written in place.

    Inductor (of PyTorch 2.13) takes the names from before, so that a sum may be read before it is complete, such as the
    gradient of an embedding.
    """
    _USUAL(node, *arguments, **options)
    node.set_read_writes(node.read_writes.rename(node.mutation_renames))


SchedulerNode.recompute_size_and_body = _recomputed
