"""What differs between two graphs: of two modes, two configurations, or two runs."""

from __future__ import annotations

import re
from collections import defaultdict, deque
from collections.abc import Container, Hashable, Iterable, Iterator, Sequence
from dataclasses import replace
from difflib import SequenceMatcher
from typing import NamedTuple

from experimentator.graph.description import Box, Description, Edge, Port
from experimentator.graph.text import titled, weighed
from experimentator.graph.views import interleaved

_COUNTED = re.compile(r"(?<![\w'\"])([a-z][a-z0-9_]*?)_\d+(?![\w'\"])")


def difference(before: Description, after: Description, *, title: str = "difference") -> Description:
    """`after`, with what was added, rewired or changed since `before` marked, and what was removed put back.

    Processors are matched by what they are and where they stand, not by number: one inserted above the others is
    one difference. A rewired one reads from another source; a changed one has other arguments or parameters.

    >>> from experimentator.graph import Graph, Mode, describe_graph, chunk_processor
    >>> crop = chunk_processor(inputs=["x"], outputs=["x"], mode=Mode.TRAIN, node="Crop")(lambda x: -x)
    >>> head = chunk_processor(inputs=["x"], outputs=["y"], node="Head")(lambda x: -x)
    >>> train, infer = [describe_graph(Graph([crop, head], provided={"x"}, mode=mode)) for mode in ("train", "infer")]
    >>> [(box.name, box.state, box.notes) for box in difference(train, infer).boxes]
    [('Crop', 'removed', ()), ('Head', 'rewired', ('x: from Crop to input',))]
    """
    return _Difference(before, after).description(title)


class _Difference:
    """Two descriptions, and which of their boxes and ports correspond."""

    def __init__(self, before: Description, after: Description):
        self.before, self.after = before, after
        pairs = list(_pairs(before.boxes, after.boxes))
        self.old = {new.id: old for old, new in pairs}
        self.ids = {old.id: new.id for old, new in pairs}  # from the ids of before to those of after
        for olds, news in ((before.inputs, after.inputs), (before.outputs, after.outputs)):
            named = {port.name: port.id for port in news}
            self.ids.update((port.id, named[port.name]) for port in olds if port.name in named)
        self.names = {**{box.id: box.name for box in after.boxes}, **{f"r{box.id}": box.name for box in before.boxes}}
        moved = [replace(edge, source=self._new(edge.source), target=self._new(edge.target)) for edge in before.edges]
        self.was, self.now = ({_key(edge): edge for edge in edges} for edges in (moved, after.edges))
        self.lost, self.won = _by_target(self.was, self.now), _by_target(self.now, self.was)

    def description(self, title: str) -> Description:
        boxes = [self._compared(box) for box in self.after.boxes]
        gone = [box for box in self.before.boxes if box.id not in self.ids]
        removed = [replace(box, id=f"r{box.id}", state="removed") for box in gone]
        return replace(
            self.after,
            mode=" -> ".join(dict.fromkeys((self.before.mode, self.after.mode))),
            boxes=interleaved(boxes, removed),
            inputs=self._ports(self.before.inputs, self.after.inputs),
            outputs=self._ports(self.before.outputs, self.after.outputs),
            edges=tuple(self._edges()),
            tensors=tuple({tensor.ref: tensor for tensor in (*self.before.tensors, *self.after.tensors)}.values()),
            title=title,
        )

    def _new(self, old: str) -> str:
        return self.ids.get(old, f"r{old}")

    def _edges(self) -> Iterator[Edge]:
        for key, edge in self.now.items():
            yield edge if key in self.was else replace(edge, state="added")
        yield from (replace(edge, state="removed") for key, edge in self.was.items() if key not in self.now)

    def _ports(self, before: Sequence[Port], after: Sequence[Port]) -> tuple[Port, ...]:
        stayed = {self.ids.get(port.id) for port in before}
        ports = [port if port.id in stayed else replace(port, state="added") for port in after]
        gone = [replace(port, id=f"r{port.id}", state="removed") for port in before if port.id not in self.ids]
        return (*ports, *gone)

    def _compared(self, box: Box) -> Box:
        old = self.old.get(box.id)
        if old is None:
            return replace(box, state="added")
        changed, rewired = list(self._changes(old, box)), list(self._rewired(old, box))
        return replace(box, state="changed" if changed else "rewired" if rewired else "", notes=(*changed, *rewired))

    def _changes(self, old: Box, new: Box) -> Iterator[str]:
        one, other = dict(old.arguments), dict(new.arguments)
        for name in dict.fromkeys((*one, *other)):
            if _uncounted(one.get(name)) != _uncounted(other.get(name)):
                yield f"{name}: {one.get(name, 'default')} -> {other.get(name, 'default')}"
        if one == other and (_uncounted(old.text), old.code) != (_uncounted(new.text), new.code):
            yield f"{titled(old)} -> {titled(new)}"
        if old.mode != new.mode:
            yield f"mode: {old.mode} -> {new.mode}"
        if (weighed(old) != weighed(new)) and None not in (old.trainable, new.trainable):
            yield f"parameters: {weighed(old) or 'none'} -> {weighed(new) or 'none'}"
        given = {ref.name: ref for ref in new.reads if ref in self.after.given}
        read = [(ref, given[ref.name]) for ref in old.reads if ref in self.before.given and ref.name in given]
        for was, now in (*read, *zip(old.writes, new.writes, strict=False)):
            specs = self.before.spec(was), self.after.spec(now)
            if all(specs) and specs[0] != specs[1]:
                yield f"{now.name}: {specs[0]} -> {specs[1]}"

    def _rewired(self, old: Box, new: Box) -> Iterator[str]:
        was, now = (
            {key.name: self.names.get(key.source, "input") for key in keys[new.id]} for keys in (self.lost, self.won)
        )
        for name in dict.fromkeys((*was, *now)):
            yield f"{name or 'after'}: from {was.get(name, 'nowhere')} to {now.get(name, 'nowhere')}"
        wrote, writes = (", ".join(ref.name for ref in box.writes) or "nothing" for box in (old, new))
        if wrote != writes:
            yield f"writes: {wrote} -> {writes}"


class Key(NamedTuple):
    """An edge without its version number, by which edges of the two graphs are matched."""

    source: str
    target: str
    name: str | None


def _key(edge: Edge) -> Key:
    return Key(edge.source, edge.target, edge.ref.name if edge.ref else None)


def _by_target(some: Iterable[Key], others: Container[Key]) -> defaultdict[str, list[Key]]:
    """The keys in `some` but not in `others`, by target."""
    found: defaultdict[str, list[Key]] = defaultdict(list)
    for key in some:
        if key not in others:
            found[key.target].append(key)
    return found


# Which processor is which


def _pairs(before: Sequence[Box], after: Sequence[Box]) -> Iterator[tuple[Box, Box]]:
    """Pairs of boxes: equal ones in the same sequence first, then equal ones that moved, then ever less alike."""
    olds, news = ([*sorted(boxes, key=lambda box: box.index)] for boxes in (before, after))
    blocks = SequenceMatcher(None, [*map(_whole, olds)], [*map(_whole, news)], autojunk=False).get_matching_blocks()
    found = [(olds[a + step], news[b + step]) for a, b, size in blocks for step in range(size)]
    yield from found
    for alike in (_whole, _place, _written, _name):
        paired = {id(box) for pair in found for box in pair}
        waiting: defaultdict[Hashable, deque[Box]] = defaultdict(deque)
        for old in olds:
            if id(old) not in paired:
                waiting[alike(old)].append(old)
        more = [(waiting[alike(new)].popleft(), new) for new in news if id(new) not in paired and waiting[alike(new)]]
        yield from more
        found += more


def _uncounted(text: str | None) -> str | None:
    """Text without the counters that Keras appends to layer names: `dense_3` is `dense`; 'dense_3' in quotes stays."""
    return text and _COUNTED.sub(r"\1", text)


def _whole(box: Box) -> Hashable:
    return box.kind, _uncounted(box.text), box.code, box.mode, _names(box)


def _place(box: Box) -> Hashable:
    return box.kind, _names(box)


def _written(box: Box) -> Hashable:
    return box.kind, tuple(ref.name for ref in box.writes)


def _name(box: Box) -> Hashable:
    return box.kind, box.name


def _names(box: Box) -> Hashable:
    return tuple(ref.name for ref in box.reads), tuple(ref.name for ref in box.writes)
