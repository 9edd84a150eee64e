"""Names of processors inside TensorFlow's graphs, so that compilers and profilers can say which one they mean."""

from __future__ import annotations

import re
from collections.abc import Sequence

from experimentator.graph import Node


def scope_of(node: Node) -> str:
    """The name scope that the operations of a processor stand in."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", node.name).lstrip("_.-") or "node"


def why_not_compiled(error: Exception, nodes: Sequence[Node]) -> str:
    """Which operation of which processor XLA refuses; empty where `error` is about something else."""
    text = str(error)
    if "tf2xla" not in text and "XLA_" not in text:
        return ""
    found = re.search(r"\{\{node ([^}]+)\}\}", text)
    path = found.group(1).split("/") if found else []
    if (node := owner(path, nodes)) is None:
        return text.split("\n")[0]
    return f"operation {path[-1]} of chunk processor {node} has no XLA form on this device."


def owner(path: Sequence[str], nodes: Sequence[Node]) -> Node | None:
    """The processor in whose scope an operation of that path stands; None for what stands outside."""
    scopes = {scope_of(node): node for node in nodes}
    owners = [scopes[part] for part in path if part in scopes]
    return owners[-1] if owners else None
