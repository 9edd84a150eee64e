"""Turn graphs into descriptions: the only place where a picture looks at processors."""

from __future__ import annotations

import re
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from experimentator.graph.description import Box, Description, Edge, Port, Tensor
from experimentator.graph.processor import (
    ChunkProcessor,
    FunctionProcessor,
    UndeclaredFunction,
    arguments_of,
    describe,
    in_short,
    kind_of,
)
from experimentator.graph.source import code_of
from experimentator.graph.versions import Ref

if TYPE_CHECKING:
    from experimentator.graph.dag import Graph
    from experimentator.graph.node import Node

    Spec = tuple[Sequence[int | None] | None, str]

_FULL = 2000  # characters of one argument
_DEEPEST = 8  # groups within groups
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")  # a memory address, which differs in every process


def describe_graph(
    graph: Graph,
    *,
    shapes: Mapping[Ref, Spec] | None = None,
    weights: Mapping[str, tuple[int, int]] | None = None,
    shares: Mapping[str, Sequence[str]] | None = None,
    groups: Mapping[int, str] | None = None,
    metrics: Collection[str] = (),
    title: str = "",
) -> Description:
    """Describe a graph, broken and undeclared ones too, with all that is known about it; touches no device and no data.

    `shapes` maps versions to shape (None for the batch) and dtype. By node name: `weights` the numbers of trainable and
    frozen parameters, `shares` the nodes whose parameters it uses too. `groups` maps places in the list (else: the part
    of a name before its last `/`). `metrics` are names that are metrics, whatever writes them.

    >>> from experimentator.graph import Graph, Ref, chunk_processor
    >>> scale = chunk_processor(inputs=["x"], outputs=["x"], node="Scale")(lambda x: x / 10)
    >>> graph = Graph([scale], provided={"x"})
    >>> print(describe_graph(graph, shapes={Ref("x", 0): ((None, 3), "uint8")}))
    ALL: 1 processor, x -> x
    #  processor                reads             writes  mode
    0  Scale: lambda x: x / 10  x@0 [B, 3] uint8  x@1     ALL
    """
    boxes = tuple(_box(node, groups or {}, weights or {}, shares or {}) for node in _order(graph))
    boxes = _with_roles(boxes, {n.index for n in graph.nodes if getattr(n.listed, "is_metric", False) is True})
    inputs, outputs = _inputs(graph), _outputs(graph, boxes, metrics)
    return Description(
        mode=str(graph.mode),
        total=len(graph._unpruned),
        boxes=boxes,
        inputs=inputs,
        outputs=outputs,
        edges=tuple(_edges(graph, inputs, outputs)),
        tensors=_tensors(graph, shapes or {}),
        title=title,
    )


def with_costs(description: Description, costs: Mapping[str, float]) -> Description:
    """The description with the cost of each node, by name, in seconds.

    >>> from experimentator.graph import Graph, chunk_processor
    >>> half = chunk_processor(inputs=["x"], outputs=["half"], node="Half")(lambda x: x / 2)
    >>> print(with_costs(describe_graph(Graph([half], provided={"x"})), {"Half": 0.25}))
    ALL: 1 processor, x -> half
    #  processor              reads  writes  mode  cost
    0  Half: lambda x: x / 2  x      half    ALL   250 ms
    """
    boxes = [replace(box, cost=costs.get(box.name, box.cost)) for box in description.boxes]
    return replace(description, boxes=tuple(boxes))


def with_statuses(description: Description, statuses: Mapping[str, str]) -> Description:
    """The description with the status of each node, by name: `ok`, `failed: ...`, `not run`; others are warnings.

    >>> from experimentator.graph import Graph, chunk_processor
    >>> half = chunk_processor(inputs=["x"], outputs=["half"], node="Half")(lambda x: x / 2)
    >>> print(with_statuses(describe_graph(Graph([half], provided={"x"})), {"Half": "not run"}))
    ALL: 1 processor, x -> half
    #  processor              reads  writes  mode  status
    0  Half: lambda x: x / 2  x      half    ALL   not run
    """
    boxes = [replace(box, status=statuses.get(box.name, box.status)) for box in description.boxes]
    return replace(description, boxes=tuple(boxes))


def _order(graph: Graph) -> Sequence[Node]:
    """Execution order where there is one, else list order: a picture of a broken graph is still a picture."""
    try:
        return graph.order
    except ValueError:
        return graph.nodes


# Boxes


def _box(
    node: Node,
    groups: Mapping[int, str],
    weights: Mapping[str, tuple[int, int]],
    shares: Mapping[str, Sequence[str]],
) -> Box:
    processor = node.listed
    text = _ADDRESS.sub("", describe(node.processor))
    label = getattr(processor, "node", None)
    trainable, frozen = weights.get(node.name, (None, None))
    return Box(
        id=f"p{node.index}",
        index=node.index,
        name=node.name,
        kind=kind_of(processor),
        text=text,
        label=label if isinstance(label, str) and label and label not in text else None,
        arguments=tuple(_in_full(processor)),
        source=node.source,
        code=_code(processor),
        mode=str(node.mode),
        declared=node.declared,
        reads=node.reads,
        writes=node.writes,
        deletes=node.deletes,
        group=groups.get(node.index) or _group(node.name),
        trainable=trainable,
        frozen=frozen,
        shares=tuple(shares.get(node.name, ())),
    )


def _code(processor: Any) -> str | None:
    """The source line of processors that nothing else describes: lambdas, and callables that declare nothing."""
    if isinstance(processor, FunctionProcessor):
        return code_of(processor.function) if processor.__name__ == "<lambda>" else None
    undeclared = isinstance(processor, UndeclaredFunction) or not isinstance(processor, ChunkProcessor)
    return code_of(processor) if undeclared else None


def _group(name: str) -> str | None:
    """The part of the name before its last `/`."""
    return "/".join(name.rpartition("/")[0].strip("/ ").split("/")[:_DEEPEST]) or None


def _in_full(processor: Any) -> Iterator[tuple[str, str]]:
    """The arguments that tell a processor from others of its kind, uncut; none if the class has its own `repr`."""
    if not isinstance(processor, ChunkProcessor) or type(processor).__repr__ is not ChunkProcessor.__repr__:
        return
    try:
        arguments = list(arguments_of(processor, tensors=False))
    except Exception:  # as in `describe`
        return
    for name, value in arguments:
        yield name, _ADDRESS.sub("", in_short(value, sys.maxsize))[:_FULL]


def _with_roles(boxes: Sequence[Box], metrics: set[int]) -> tuple[Box, ...]:
    """Role `loss` for the writer of the loss and for metrics that it reads, `metric` for other metrics."""
    loss = {box.index for box in boxes if "loss" in (ref.name for ref in box.writes)}
    parts = {ref for box in boxes if box.index in loss for ref in box.reads}
    loss |= {box.index for box in boxes if box.index in metrics and not parts.isdisjoint(box.writes)}
    roles = {**dict.fromkeys(metrics, "metric"), **dict.fromkeys(loss, "loss")}
    return tuple(replace(box, role=roles.get(box.index, "processor")) for box in boxes)


# Ports, edges, tensors


def _inputs(graph: Graph) -> tuple[Port, ...]:
    read = {ref for node in graph.nodes for ref in node.reads}
    refs = sorted({*read, *graph.results.values()} - graph.writers.keys())
    given = {ref: not ref.version and ref.name in graph.provided for ref in refs}
    return tuple(
        Port(f"in{place}", ref, "input" if given[ref] else "missing", str(ref) if ref.version else ref.name)
        for place, ref in enumerate(refs)
    )


def _outputs(graph: Graph, boxes: Sequence[Box], metrics: Collection[str]) -> tuple[Port, ...]:
    roles = {ref: box.role for box in boxes for ref in box.writes}
    ports = []
    for place, (name, ref) in enumerate(sorted(graph.results.items())):
        is_metric = name in metrics or roles.get(ref) in ("metric", "loss")
        role = "loss" if ref.name == "loss" else "metric" if is_metric else "output"
        ports.append(Port(f"out{place}", ref, role, name))
    return tuple(ports)


def _edges(graph: Graph, inputs: Sequence[Port], outputs: Sequence[Port]) -> Iterator[Edge]:
    sources = {port.ref: port.id for port in inputs}
    sources.update((ref, f"p{node.index}") for ref, node in graph.writers.items())
    for node in _order(graph):
        for ref in dict.fromkeys(node.reads):
            yield Edge(sources[ref], f"p{node.index}", ref)
        for earlier in graph.waits(node):
            yield Edge(f"p{earlier.index}", f"p{node.index}")
    for port in outputs:
        yield Edge(sources[port.ref], port.id, port.ref)


def _tensors(graph: Graph, shapes: Mapping[Ref, Spec]) -> tuple[Tensor, ...]:
    refs = {ref for node in graph.nodes for ref in (*node.reads, *node.writes)}.union(graph.results.values())
    known = {ref: (shape if shape is None else tuple(shape), dtype) for ref, (shape, dtype) in shapes.items()}
    return tuple(Tensor(*ref, *known.get(ref, (None, None))) for ref in sorted(refs))
