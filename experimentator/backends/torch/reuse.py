"""Reuse of memory in a recorded program: values that nothing reads any more are changed in place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from operator import getitem
from typing import Any

import torch
from torch.utils import _pytree

UNSAFE_VIEW = torch.ops.aten._unsafe_view.default  # a view, though it does not say so


def reuse(graph: Any, own: Collection[Any] = ()) -> None:
    """Let operations write into `own` arguments and results of operations on lists, where nothing reads these later.

    Updates are operations on lists (`_foreach_*`). With many weights, touching new memory takes longer than arithmetic.
    """
    order = {node: place for place, node in enumerate(graph.nodes)}

    def is_free(one: Any, node: Any) -> bool:
        is_ours = one in own or (one.target is getitem and _is_on_lists(one.args[0]))
        return is_ours and all(order[reader] <= order[node] for reader in _readers(one))

    for node in list(graph.nodes):
        in_place = _in_place(node)
        if in_place is None:
            continue
        is_list = isinstance(node.args[0], list)
        written = node.args[0] if is_list else [node.args[0]]
        parts = {part.args[1]: part for part in node.users} if is_list else {0: node}
        others = _pytree.tree_leaves((node.args[1:], node.kwargs))
        read = {base(one) for one in others if isinstance(one, torch.fx.Node)}
        if (
            len(set(written)) == len(written)
            and all(isinstance(one, torch.fx.Node) and one not in read and is_free(one, node) for one in written)
            and all(looks(written[place]) == looks(part) for place, part in parts.items())
        ):
            node.target = in_place
            for place, part in parts.items():
                part.replace_all_uses_with(written[place])
                if is_list:
                    graph.erase_node(part)


def own(arguments: Sequence[Any], results: Sequence[int | None], computed: Sequence[Any], count: int) -> set[Any]:
    """Which of the first `count` arguments, a state, may be written into if an earlier run made that state.

    `results` has for each result, the new state first, the number of the argument that it is, or None for the next one
    of `computed`. Arguments whose new value shares memory with another result, or is a view, are left out.
    """
    values = iter(computed)
    given = [next(values) if place is None else arguments[place] for place in results]
    bases = Counter(base(value) for value in given)
    return {
        argument
        for argument, value in zip(arguments[:count], given, strict=False)
        if value.op == "call_function" and bases[value] == 1 and not bases[argument]
    }


def base(node: Any) -> Any:
    """The node whose memory a node uses: the one that it is a view of, or itself."""
    while (under := _under(node)) is not None:
        node = under
    return node


def _under(node: Any) -> Any:
    """The node that it is a view of; None if it has memory of its own."""
    if node.op != "call_function" or not isinstance(node.args[0], torch.fx.Node):
        return None  # an argument; or what is made of a number
    return node.args[0] if _is_view(node.args[0] if node.target is getitem else node) else None


def _is_view(node: Any) -> bool:
    return getattr(node.target, "is_view", False) or node.target is UNSAFE_VIEW


def _readers(node: Any) -> list[Any]:
    """All nodes that read it, or a view of it."""
    found = list(node.users)
    for reader in found:
        if _under(reader) is not None:
            found += [one for one in reader.users if one not in found]
    return found


def _in_place(node: Any) -> Any:
    """The operation that writes the result of this one into its first argument, or arguments; None if there is none."""
    is_known = getattr(node.target, "namespace", "") == "aten" and torch.Tag.pointwise in node.target.tags
    if not is_known and not _is_on_lists(node):
        return None
    written = getattr(torch.ops.aten, f"{node.target._opname}_", None)
    return getattr(written, node.target._overloadname, None)


def _is_on_lists(node: Any) -> bool:
    """Whether it is an operation on a list of tensors, each by itself, that makes new ones."""
    name = getattr(node.target, "_opname", "")
    return name.startswith("_foreach_") and not name.endswith("_") and isinstance(node.args[0], list)


def looks(node: Any) -> tuple[Any, ...]:
    """Shape, strides and dtype of a node's value."""
    value = node.meta["val"]
    return value.shape, value.stride(), value.dtype
