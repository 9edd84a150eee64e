"""Fold large graphs until they can be read: chains, rows of like boxes and groups become boxes that list them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from experimentator.graph.description import Box, Description, Edge, Port

if TYPE_CHECKING:
    from collections.abc import Hashable

FOLD_ABOVE = 40  # boxes
GROUPS_ABOVE = 120  # boxes; only then are groups folded as wholes
_CHAIN, _ROW, _PORTS = 3, 4, 5  # fewest boxes of a chain, boxes of a row, and ports, that become one
_SHORTEST, _PARTS = 5, 20  # a part of a chain has at most 1/_PARTS of all processors, or _SHORTEST
_LONGEST = 50  # the limit doubles up to about so many, while too many boxes are left


def fold(description: Description, *, above: int = FOLD_ABOVE) -> Description:
    """The same graph in fewer boxes, if it has more than `above`; boxes marked by a difference or a bad status stay.

    >>> from experimentator.graph import Graph, chunk_processor, describe_graph
    >>> steps = [chunk_processor(inputs=[f"x{i}"], outputs=[f"x{i + 1}"])(lambda x: -x) for i in range(100)]
    >>> description = describe_graph(Graph(steps, provided={"x0"}).select("x100"))
    >>> [len(box.members) for box in fold(description).boxes]
    [5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5]
    """
    if len(description.boxes) <= above:
        return description
    longest = max(_SHORTEST, -(-len(description.boxes) // _PARTS)) if above else _LONGEST
    while len(description.boxes) > above:
        before = len(description.boxes)
        for batches in (_chains, _rows, _blocks):
            if len(description.boxes) > above:
                description = _merged(description, batches(description, longest))
        if len(description.boxes) == before and longest < _LONGEST:
            longest *= 2
        elif len(description.boxes) == before:
            if before > max(above, GROUPS_ABOVE):
                description = _merged(description, _groups(description), whole=True)
            if len(description.boxes) == before:
                break
    if len(description.boxes) > max(above, GROUPS_ABOVE):
        description = _merged(description, _stretches(description, above or FOLD_ABOVE))
    return _with_ports_folded(description)


def folded(description: Description, wanted: bool | None) -> Description:
    """The description folded (True), as it is (False), or folded if it is large (None)."""
    if wanted is False:
        return description
    return fold(description, above=0) if wanted else fold(description)


# What goes together


def _foldable(box: Box) -> bool:
    return box.state in ("", "pruned") and box.health not in ("failed", "warning")


def _alike(box: Box) -> Hashable:
    return box.group, box.mode, box.role, box.state, box.notes, box.health


def _chains(description: Description, longest: int) -> Iterator[list[Box]]:
    """Runs of boxes in which each feeds the next one only, and the next reads nothing else but inputs of the graph."""
    boxes = {box.id: box for box in description.boxes if _foldable(box) and box.role == "processor"}
    after, before = _ends(description.edges)
    inputs = {port.id for port in description.inputs}
    follows: dict[str, str] = {}
    for name, box in boxes.items():
        (only, *others) = after[name] or [""]
        if not others and only in boxes and _alike(box) == _alike(boxes[only]):
            if [one for one in before[only] if one not in inputs] == [name]:
                follows[name] = only
    inner = set(follows.values())
    for head in [name for name in follows if name not in inner]:
        chain = [boxes[head]]
        while chain[-1].id in follows:
            chain.append(boxes[follows[chain[-1].id]])
        yield from (part for part in _parts(chain, longest) if len(part) >= _CHAIN)


def _parts(chain: list[Box], longest: int) -> Iterator[list[Box]]:
    """A chain cut into parts of about equal length, of at most `longest` processors each."""
    total = sum(len(box.members) for box in chain)
    most = -(-total // -(-total // longest))
    part, count = [chain[0]], len(chain[0].members)
    for box in chain[1:]:
        if count + len(box.members) > most:
            yield part
            part, count = [], 0
        part, count = [*part, box], count + len(box.members)
    yield part


def _rows(description: Description, longest: int) -> Iterator[list[Box]]:
    """Boxes of one kind with the same sources and targets; ports that only one box has count as equal."""
    after, before = _ends(description.edges)
    ports = {port.id: port.role for port in (*description.inputs, *description.outputs)}
    found: defaultdict[Hashable, list[Box]] = defaultdict(list)

    def ends(name: str, others: Sequence[str], back: Mapping[str, list[str]]) -> Hashable:
        return frozenset(ports[one] if one in ports and back[one] == [name] else one for one in others)

    for box in description.boxes:
        if _foldable(box):
            sources = ends(box.id, before[box.id], after)
            targets = ends(box.id, after[box.id], before)
            kinds = tuple(sorted({member.kind for member in box.members}))
            found[_alike(box), kinds, len(box.members), sources, targets].append(box)
    return (row for row in found.values() if len(row) >= _ROW)


def _blocks(description: Description, longest: int) -> Iterator[list[Box]]:
    """A box with the boxes that feed only it, where all of them read from at most one other box: skips, branches."""
    boxes = {box.id: box for box in description.boxes if _foldable(box) and box.role == "processor"}
    after, before = _ends(description.edges)
    inputs = {port.id for port in description.inputs}
    taken: set[str] = set()
    for name, box in boxes.items():
        own = [one for one in before[name] if one in boxes and after[one] == [name]]
        block = [*(boxes[one] for one in own), box]
        entries = {source for one in (*own, name) for source in before[one]} - inputs - set(own)
        fits = len({_alike(one) for one in block}) == 1 and sum(len(one.members) for one in block) <= longest
        if own and len(entries) <= 1 and fits and taken.isdisjoint([*own, name]):
            taken |= {*own, name}
            yield block


def _stretches(description: Description, most: int) -> Iterator[list[Box]]:
    """The last resort: the execution order cut into about `most` stretches, none of which waits on a later one."""
    size = -(-len(description.boxes) // most)
    stretch: list[Box] = []
    for box in description.boxes:
        alike = stretch and (box.group, box.state, box.role) == (stretch[0].group, stretch[0].state, stretch[0].role)
        if not (_foldable(box) and alike and len(stretch) < size):
            yield from [stretch] if len(stretch) > 1 else []
            stretch = []
        stretch += [box] if _foldable(box) else []
    yield from [stretch] if len(stretch) > 1 else []


def _groups(description: Description) -> Iterator[list[Box]]:
    """The boxes of each of the most deeply nested groups."""
    found: defaultdict[Hashable, list[Box]] = defaultdict(list)
    deepest = max(((box.group or "").count("/") for box in description.boxes if box.group), default=0)
    for box in description.boxes:
        if _foldable(box) and box.group and box.group.count("/") == deepest:
            found[box.group, box.state].append(box)
    return iter(found.values())


def _ends(edges: Iterable[Edge]) -> tuple[defaultdict[str, list[str]], defaultdict[str, list[str]]]:
    """The targets of each source and the sources of each target, once each."""
    after: defaultdict[str, list[str]] = defaultdict(list)
    before: defaultdict[str, list[str]] = defaultdict(list)
    for source, target in dict.fromkeys((edge.source, edge.target) for edge in edges):
        after[source].append(target)
        before[target].append(source)
    return after, before


# How they become one


def _merged(description: Description, batches: Iterable[list[Box]], *, whole: bool = False) -> Description:
    """Each list of boxes as one box, at the place of its first; a whole group is one box of the group around it."""
    ones: dict[str, Box] = {}
    for batch in batches:
        one = _of_group(batch) if whole else _one(batch)
        ones.update((box.id, one) for box in batch)
    boxes = {box.id: box for box in [ones.get(box.id, box) for box in description.boxes]}
    edges = _moved(description.edges, {old: box.id for old, box in ones.items()})
    return replace(description, boxes=tuple(boxes.values()), edges=edges)


def _moved(edges: Iterable[Edge], ids: dict[str, str]) -> tuple[Edge, ...]:
    """The edges between the new ids, without those within one folded box."""
    moved: dict[Edge, None] = {}
    for edge in edges:
        source, target = ids.get(edge.source, edge.source), ids.get(edge.target, edge.target)
        if source != target or edge.source == edge.target:
            moved[replace(edge, source=source, target=target)] = None
    return tuple(moved)


def _one(batch: list[Box]) -> Box:
    first, last = batch[0], batch[-1]
    modes, roles = ({getattr(box, what) for box in batch} for what in ("mode", "role"))
    members = [member for box in batch for member in box.members]
    return Box(
        id=f"f{first.id}",
        index=first.index,
        name=f"{members[0].name} ... {members[-1].name}",
        kind="folded",
        text=f"{len(members)} processors: {members[0].name} ... {members[-1].name}",
        mode=first.mode if len(modes) == 1 else "ALL",
        role=first.role if len(roles) == 1 else "processor",
        reads=tuple(dict.fromkeys(ref for box in batch for ref in box.reads)),
        writes=tuple(dict.fromkeys(ref for box in batch for ref in box.writes)),
        group=first.group,
        trainable=_sum(box.trainable for box in batch),
        frozen=_sum(box.frozen for box in batch),
        shares=tuple(sorted({one for box in batch for one in box.shares} - {member.name for member in members})),
        cost=_sum(box.cost for box in batch),
        status=first.status if first.status == last.status else None,
        state=first.state,
        notes=first.notes,
        folded=tuple(batch),
    )


def _of_group(batch: list[Box]) -> Box:
    """One box for a group, named after it, even where the group has a single box."""
    around, _, label = (batch[0].group or "").rpartition("/")
    return replace(_one(batch), label=label, group=around or None)


def _sum(numbers: Iterable[float | None]) -> Any:
    known = [number for number in numbers if number is not None]
    return sum(known) if known else None


def _with_ports_folded(description: Description) -> Description:
    after, before = _ends(description.edges)
    whole = {box.id for box in description.boxes if not box.folded}
    ids: dict[str, str] = {}
    inputs = _fewer(description.inputs, after, ids, whole)
    outputs = _fewer(description.outputs, before, ids, whole)
    return replace(description, inputs=inputs, outputs=outputs, edges=_moved(description.edges, ids))


def _fewer(
    ports: Iterable[Port], ends: defaultdict[str, list[str]], ids: dict[str, str], whole: set[str]
) -> tuple[Port, ...]:
    """Ports with the same ends as one: from `_PORTS` of them on, or from two on where all their ends are folded."""
    found: defaultdict[Hashable, list[Port]] = defaultdict(list)
    for port in ports:
        found[port.role, port.state, tuple(ends[port.id])].append(port)
    fewer: list[Port] = []
    for same in found.values():
        if len(same) < (2 if whole.isdisjoint(ends[same[0].id]) else _PORTS):
            fewer += same
            continue
        ids.update((port.id, same[0].id) for port in same)
        names = [port.name for port in same]
        name = ", ".join(names) if len(same) < _PORTS else f"{len(same)}: {names[0]} ... {names[-1]}"
        fewer.append(replace(same[0], name=name, folded=tuple(names)))
    return tuple(fewer)
