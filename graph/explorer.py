"""Graphs for Google's Model Explorer (package ai-edge-model-explorer), which opens the file as it is."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from experimentator.graph.description import Box, Description, Edge, Port, edges_into
from experimentator.graph.text import priced, weighed
from experimentator.graph.versions import Ref


def to_model_explorer(description: Description) -> str:
    """JSON of one graph for the viewer: groups as layers, shapes on the edges, all other facts in the side panel.

    >>> from experimentator.graph import Graph, chunk_processor, describe_graph
    >>> graph = Graph([chunk_processor(inputs=["x"], outputs=["y"], node="model/Head")(lambda x: -x)], provided={"x"})
    >>> nodes = json.loads(to_model_explorer(describe_graph(graph)))["graphs"][0]["nodes"]
    >>> [(node["label"], node["namespace"]) for node in nodes]
    [('x', ''), ('Head', 'model'), ('y', '')]
    """
    into = edges_into(description)
    places = _places(description)
    nodes = [
        *(_port(description, port, places, into[port.id]) for port in description.inputs),
        *(_box(description, box, places, into[box.id]) for box in description.boxes),
        *(_port(description, port, places, into[port.id]) for port in description.outputs),
    ]
    graph = {"id": description.title or description.mode, "nodes": nodes}
    return json.dumps({"label": description.headline, "graphs": [graph]}, indent=1) + "\n"


def _places(description: Description) -> Mapping[tuple[str, Ref], str]:
    """For each source and version, which output of the source it is (a number as text)."""
    written = {(box.id, ref): str(place) for box in description.boxes for place, ref in enumerate(box.writes)}
    return {**written, **{(port.id, port.ref): "0" for port in description.inputs}}


def _box(description: Description, box: Box, places: Mapping[tuple[str, Ref], str], into: list[Edge]) -> dict[str, Any]:
    group = box.group or ""
    return {
        "id": box.id,
        "label": box.name.removeprefix(f"{group}/"),
        "namespace": group,
        "attrs": _pairs(_facts(description, box)),
        "incomingEdges": _incoming(into, places),
        "inputsMetadata": [_metadata(description, str(place), ref) for place, ref in enumerate(box.reads)],
        "outputsMetadata": [_metadata(description, str(place), ref) for place, ref in enumerate(box.writes)],
    }


def _port(description: Description, port: Port, places: Mapping[tuple[str, Ref], str], into: list[Edge]) -> Any:
    return {
        "id": port.id,
        "label": port.name,
        "namespace": "",
        "attrs": _pairs([("role", port.role), ("state", port.state)]),
        "incomingEdges": _incoming(into, places),
        "inputsMetadata": [],
        "outputsMetadata": [_metadata(description, "0", port.ref)],
    }


def _facts(description: Description, box: Box) -> Iterator[tuple[str, str]]:
    yield "processor", box.text
    yield "kind", box.kind
    yield from box.arguments
    yield "code", box.code or ""
    yield "source", box.source or ""
    yield "mode", box.mode
    yield "role", box.role
    yield "parameters", weighed(box)
    yield "cost", priced(box.cost)
    yield "status", box.status or ""
    yield "state", box.state
    yield "why", "; ".join(box.notes)
    yield "stands for", ", ".join(member.name for member in box.members) if box.folded else ""


def _incoming(edges: list[Edge], places: Mapping[tuple[str, Ref], str]) -> list[dict[str, str]]:
    return [
        {
            "sourceNodeId": edge.source,
            "sourceNodeOutputId": places.get((edge.source, edge.ref), "after") if edge.ref else "after",
            "targetNodeInputId": str(place),
        }
        for place, edge in enumerate(edges)
    ]


def _metadata(description: Description, place: str, ref: Ref) -> dict[str, Any]:
    """`shape` and `__tensor_tag` are the names under which the viewer shows them on edges."""
    pairs = [("__tensor_tag", description.shown(ref)), ("name", str(ref)), ("shape", description.spec(ref))]
    return {"id": place, "attrs": _pairs(pairs)}


def _pairs(facts: Iterable[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"key": key, "value": value} for key, value in facts if value]
