"""Names of processors inside compiled programs, so that compilers and profilers can say which one they mean."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TypeVar

from experimentator.graph import Node

Owner = TypeVar("Owner")


def scope_of(node: Node) -> str:
    """The name scope that the operations of a processor stand in."""
    return scope_name(node.name)


def scope_name(name: str) -> str:
    """A name in characters that every framework takes.

    >>> scope_name("_my tâsk")
    'my_t_sk'
    """
    return re.sub(r"[^A-Za-z0-9_.-]", "_", name).lstrip("_.-") or "node"


def owner(path: str, nodes: Iterable[Node]) -> Node | None:
    """The processor in whose scope an operation of that path stands; None for what stands outside."""
    return owner_of(path, {scope_of(node): node for node in nodes})


def owner_of(path: str, scopes: Mapping[str, Owner]) -> Owner | None:
    """The value of the outermost of these scopes in the path of an operation: layers within have scopes, too.

    >>> owner_of("while/gradient_tape/while/in_context/Model/dense/MatMul:MatMul", {"Model": "Model"})
    'Model'
    >>> owner_of("jit(TRAIN)/while/body/transpose(jvp(Model))/dense/dot_general", {"Model": "Model"})
    'Model'
    """
    parts = re.sub(r"\w+\(|\)", "", path.partition(":")[0]).split("/")
    return next((scopes[part] for part in parts if part in scopes), None)
