"""Descriptions as JSON files, so that graphs of two runs can be compared without running anything.

The file is one object. `format` is "experimentator graph", `version` is 1; readers refuse a higher version and
ignore names they do not know. docs/graph.schema.json is its JSON schema. The rest are the fields of
`Description`, those with default values left out:

    mode, total, title
    boxes     id, index, name, kind, text, label, arguments [[name, value], ...], source, code, mode, role, declared,
              reads [[name, version], ...], writes, deletes, group, trainable, frozen, shares [name, ...], cost,
              status, state, notes, folded (boxes)
    inputs, outputs     id, ref [name, version], role, name, state, folded
    edges     source, target (ids of boxes and ports), ref [name, version] or null for an order alone, state
    tensors   name, version, shape (null for the batch), dtype
"""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass
from functools import cache
from math import isfinite
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

from experimentator.graph.description import MARKS, ROLES, Description, DescriptionError
from experimentator.graph.versions import Ref

FORMAT, VERSION = "experimentator graph", 1
_WRITE = "Write the file anew: experimentator graph CONFIG -o FILE.json."
_KEYWORDS = {"digraph", "edge", "end", "graph", "node", "strict", "subgraph"}
_DEEPEST = 100
_hints = cache(get_type_hints)


def to_json(description: Description) -> str:
    """A description as JSON text; `from_json` reads it back, equal.

    >>> from experimentator.graph import Graph, describe_graph
    >>> description = describe_graph(Graph([], provided={"x"}))
    >>> from_json(to_json(description)) == description
    True
    """
    return json.dumps({"format": FORMAT, "version": VERSION, **_plain(description)}, indent=1) + "\n"


def from_json(text: str) -> Description:
    """The description that `to_json` wrote.

    >>> from experimentator.graph import Graph, chunk_processor, describe_graph
    >>> half = chunk_processor(inputs=["x"], outputs=["half"], node="Half")(lambda x: x / 2)
    >>> description = describe_graph(Graph([half], provided={"x"}))
    >>> from_json(to_json(description)) == description
    True

    Raises:
        DescriptionError: when the text is no such file, of a later version, or damaged.
    """
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DescriptionError("This file holds no graph.", seen=f"not JSON, {error}", write=_WRITE) from None
    found = data.get("format") if isinstance(data, dict) else type(data).__name__
    if found != FORMAT:
        raise DescriptionError("This file holds no graph.", seen=f'"format": {json.dumps(found)}', write=_WRITE)
    if data.get("version") != VERSION:
        seen = f'"version": {json.dumps(data.get("version"))}, where {VERSION} is known'
        raise DescriptionError("This graph was written by another version.", seen=seen, write=_WRITE)
    try:
        described: Description = _read(Description, data, "the file")
    except RecursionError:
        raise _damaged("folded boxes of the file", "boxes within boxes, too deep") from None
    _check(described)
    return described


def _check(description: Description) -> None:
    """Refuse what no face could draw: unknown states and roles, odd ids, edges whose ends do not exist."""
    for made in description.drawn:
        if made.state not in ("", *MARKS) or made.role not in ROLES:
            raise _damaged(f"{made.id!r} of the file", f"state {made.state!r} and role {made.role!r}")
    ids = {made.id for made in description.drawn}
    words = all(one.isidentifier() and one.casefold() not in _KEYWORDS for one in ids)
    if len(ids) < len(description.drawn) or not words:
        raise _damaged("ids of the file", "one twice, or one that is no word, or a word of DOT or Mermaid")
    if any((box.group or "").count("/") > _DEEPEST for box in description.boxes):
        raise _damaged("groups of the file", f"more than {_DEEPEST} within each other")
    for edge in description.edges:
        if not ids.issuperset((edge.source, edge.target)):
            raise _damaged("edges of the file", f"an edge {edge.source!r} -> {edge.target!r}, which has an unknown end")
        if edge.state not in ("", *MARKS):
            raise _damaged("edges of the file", f"state {edge.state!r}")


def _plain(value: Any) -> Any:
    """Dataclasses as dictionaries, without fields that hold their default; no number that JSON lacks."""
    if is_dataclass(value):
        pairs = [(field, getattr(value, field.name)) for field in fields(value)]
        return {field.name: _plain(one) for field, one in pairs if one != field.default}
    if isinstance(value, float) and not isfinite(value):
        return None
    return [_plain(one) for one in value] if isinstance(value, tuple) else value


def _read(kind: Any, value: Any, place: str) -> Any:
    """A value of type `kind` from its plain JSON form; checked, as the file may come from anywhere."""
    if is_dataclass(kind):
        return _read_object(kind, value, place)
    if get_origin(kind) is UnionType:
        fitting = NoneType if value is None else next(one for one in get_args(kind) if one is not NoneType)
        return _read(fitting, value, place)
    if kind is Ref:
        return Ref(*_read(tuple[str, int], value, place))
    if get_origin(kind) is tuple:
        return _read_tuple(get_args(kind), value, place)
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise _damaged(place, f"{json.dumps(value)[:60]} where {kind.__name__} is expected")
    return value


def _read_object(kind: Any, value: Any, place: str) -> Any:
    if not isinstance(value, dict):
        raise _damaged(place, f"{json.dumps(value)[:60]} where an object is expected")
    known = {name: hint for name, hint in _hints(kind).items() if name in value}
    read = {name: _read(hint, value[name], f"{name} of {place}") for name, hint in known.items()}
    try:
        return kind(**read)
    except TypeError as error:
        raise _damaged(place, str(error).partition(" ")[2]) from None


def _read_tuple(kinds: tuple[Any, ...], value: Any, place: str) -> tuple[Any, ...]:
    if not isinstance(value, list) or (kinds[-1] is not ... and len(value) != len(kinds)):
        raise _damaged(place, f"{json.dumps(value)[:60]} where a list is expected")
    each = kinds if kinds[-1] is not ... else (kinds[0],) * len(value)
    return tuple(_read(kind, one, place) for kind, one in zip(each, value, strict=True))


def _damaged(place: str, seen: str) -> DescriptionError:
    return DescriptionError(f"This graph file is damaged, in {place}.", seen=seen, write=_WRITE)
