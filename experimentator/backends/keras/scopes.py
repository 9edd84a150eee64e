"""Names of processors inside compiled programs, so that compilers and profilers can say which one they mean."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from experimentator.graph import Node


def scope_of(node: Node) -> str:
    """The name scope that the operations of a processor stand in."""
    return plain(node.name)


def plain(name: str) -> str:
    """A name with letters that every framework takes.

    >>> plain("_my tâsk")
    'my_t_sk'
    """
    return re.sub(r"[^A-Za-z0-9_.-]", "_", name).lstrip("_.-") or "node"


def owner(path: Sequence[str], nodes: Sequence[Node]) -> Node | None:
    """The processor in whose scope an operation of that path stands; None for what stands outside."""
    scopes = {scope_of(node): node for node in nodes}
    owners = [scopes[part] for part in path if part in scopes]
    return owners[-1] if owners else None


def owner_of(path: str, scopes: Mapping[str, str]) -> str:
    """The processor whose scope an operation stands in; empty where it stands in none.

    >>> owner_of("while/gradient_tape/while/in_context/Model/dense/MatMul:MatMul", {"Model": "Model"})
    'Model'
    >>> owner_of("jit(TRAIN)/while/body/transpose(jvp(Model))/dense/dot_general", {"Model": "Model"})
    'Model'
    """
    parts = re.sub(r"\w+\(|\)", "", path.partition(":")[0]).split("/")
    return next((scopes[part] for part in parts if part in scopes), "")
