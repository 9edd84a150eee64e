"""A graph as plain values: every face (table, tree, DOT, Mermaid, JSON) is drawn from them, and two can be compared.

>>> tensor = Tensor("batch_input", 1, (None, 28, 28, 1), "uint8")
>>> print(tensor.ref, tensor.spec)
batch_input@1 [B, 28, 28, 1] uint8
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from typing import Any

from experimentator.graph.errors import names_in_short
from experimentator.graph.text import cut, printable, spelled, table
from experimentator.graph.versions import Ref

MARKS: Mapping[str, str] = {"added": "+", "removed": "-", "rewired": "~", "changed": "~", "pruned": "x"}
ROLES = ("processor", "loss", "metric", "input", "missing", "output")


class DescriptionError(ValueError):
    """A description that cannot be read or made: what is wrong, what was seen, what to write."""

    def __init__(self, wrong: str, *, seen: str, write: str):
        super().__init__(f"{wrong}\nSeen: {seen}.\n{write}")


@dataclass(frozen=True)
class Tensor:
    """One version of a tensor name; a leading None in its shape is the batch, `[B, ...]`."""

    name: str
    version: int
    shape: tuple[int | None, ...] | None = None
    dtype: str | None = None

    @property
    def ref(self) -> Ref:
        """Name and version, by which boxes and edges refer to it."""
        return Ref(self.name, self.version)

    @property
    def spec(self) -> str:
        """`[B, 10] float32`, as far as it is known.

        >>> Tensor("loss", 1, (), "float32").spec, Tensor("x", 0).spec
        ('[] float32', '')
        """
        dtype = self.dtype or ""
        return dtype if self.shape is None else spelled(self.shape, dtype)


@dataclass(frozen=True)
class Port:
    """Where a tensor enters or leaves: `role` is input, missing (nobody provides it), output, loss or metric."""

    id: str
    ref: Ref
    role: str
    name: str
    state: str = ""
    folded: tuple[str, ...] = ()

    @property
    def mark(self) -> str:
        """`+` or `-` in a difference."""
        return MARKS.get(self.state, "")


@dataclass(frozen=True)
class Edge:
    """A tensor that passes from one box or port to another, by their ids; without `ref`, only an order (`after`)."""

    source: str
    target: str
    ref: Ref | None = None
    state: str = ""


@dataclass(frozen=True)
class Box:
    """One processor: what it is, how it differs from others of its kind, and what is known about it.

    `role` is processor, loss or metric. `state` is empty, or what a view found: added, removed, rewired, changed or
    pruned, with `notes` that say why. `shares` names the processors whose parameters it uses too. `cost` (seconds) and
    `status` come from a run. `folded` holds the boxes that a folded one stands for.
    """

    id: str
    index: int
    name: str
    kind: str
    text: str
    label: str | None = None
    arguments: tuple[tuple[str, str], ...] = ()
    source: str | None = None
    code: str | None = None
    mode: str = "ALL"
    role: str = "processor"
    declared: bool = True
    reads: tuple[Ref, ...] = ()
    writes: tuple[Ref, ...] = ()
    deletes: tuple[str, ...] = ()
    group: str | None = None
    trainable: int | None = None
    frozen: int | None = None
    shares: tuple[str, ...] = ()
    cost: float | None = None
    status: str | None = None
    state: str = ""
    notes: tuple[str, ...] = ()
    folded: tuple[Box, ...] = ()

    @property
    def described(self) -> str:
        """The processor in one line, with its label in front where the line lacks it."""
        return f"{self.label}: {self.text}" if self.label else self.text

    @property
    def mark(self) -> str:
        """`+`, `-`, `~` or `x`: what a view found, for eyes and printers that see no colours."""
        return MARKS.get(self.state, "")

    @property
    def health(self) -> str:
        """The status in one word: ok, failed, idle or warning; empty where there is none."""
        status = (self.status or "").casefold()
        words = {"ok": "ok", "failed": "failed", "not run": "idle"}
        return next((health for word, health in words.items() if status.startswith(word)), "warning" if status else "")

    @property
    def members(self) -> tuple[Box, ...]:
        """The processors it stands for; itself, unless folded."""
        return tuple(member for box in self.folded for member in box.members) or (self,)


@dataclass(frozen=True, repr=False)
class Description:
    """A graph as a picture shows it; `boxes` stand in execution order, `total` counts all processors of the mode.

    >>> from experimentator.graph import Graph, chunk_processor, describe_graph
    >>> graph = Graph([chunk_processor(inputs=["x"], outputs=["loss"])(lambda x: x)], provided={"x"})
    >>> description = describe_graph(graph)
    >>> [box.role for box in description.boxes], [port.role for port in description.outputs]
    (['loss'], ['loss'])
    """

    mode: str
    total: int
    boxes: tuple[Box, ...] = ()
    inputs: tuple[Port, ...] = ()
    outputs: tuple[Port, ...] = ()
    edges: tuple[Edge, ...] = ()
    tensors: tuple[Tensor, ...] = ()
    title: str = ""

    @property
    def drawn(self) -> tuple[Box | Port, ...]:
        """Everything that edges lead from and to."""
        return (*self.boxes, *self.inputs, *self.outputs)

    @property
    def kept(self) -> tuple[Box, ...]:
        """The boxes that run: neither pruned by a plan nor removed in a difference."""
        return tuple(box for box in self.boxes if box.state not in ("pruned", "removed"))

    @property
    def headline(self) -> str:
        """Mode, size, and what goes in and comes out."""
        kept = sum(len(box.members) for box in self.kept)
        size = f"{'' if kept == self.total else f'{kept} of '}{self.total} processor{'s' * (self.total != 1)}"
        ends = [names_in_short([cut(name, 60) for name in _names(ports)], 8) for ports in (self.inputs, self.outputs)]
        return printable(f"{self.title + ': ' if self.title else ''}{self.mode}: {size}, {' -> '.join(ends)}")

    def level(self, group: str = "") -> tuple[list[Box], list[str]]:
        """The boxes directly in a group (`""`: in none), and the groups directly within it."""
        start = f"{group}/" if group else ""
        here = [box for box in self.boxes if (box.group or "") == group]
        deeper = [box.group for box in self.boxes if box.group and box.group.startswith(start) and box.group != group]
        ends = [path.find("/", len(start) + 1) for path in deeper]  # of one letter at least: a path may begin with /
        inner = [path[:end] if end > 0 else path for path, end in zip(deeper, ends, strict=True)]
        return here, list(dict.fromkeys(inner))

    def shown(self, ref: Ref) -> str:
        """`name`, or `name@version` where several versions of the name are in play."""
        return str(ref) if self._versions[ref.name] > 1 else ref.name

    def spec(self, ref: Ref) -> str:
        """Shape and dtype of a version, as far as they are known."""
        return self._tensors[ref].spec if ref in self._tensors else ""

    def told(self, ref: Ref) -> str:
        """A version with its shape and dtype, as far as they are known."""
        return f"{self.shown(ref)} {self.spec(ref)}".rstrip()

    def __str__(self) -> str:
        return table(self)

    def __repr__(self) -> str:
        return f"<Description {self.headline}>"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        """For notebooks, the picture as SVG and the table as text; without a picture, the text says why."""
        diagram: Any = import_module("experimentator.diagram")  # by name: this room imports no other
        try:
            return {"image/svg+xml": diagram.picture(self).decode(), "text/plain": str(self)}
        except diagram.DiagramError as error:
            return {"text/plain": f"{self}\n\n{error}"}

    def _repr_svg_(self) -> str | None:
        return self._repr_mimebundle_().get("image/svg+xml")

    @cached_property
    def given(self) -> frozenset[Ref]:
        """Versions that come from outside."""
        return frozenset(port.ref for port in self.inputs)

    @cached_property
    def _tensors(self) -> Mapping[Ref, Tensor]:
        return {tensor.ref: tensor for tensor in self.tensors}

    @cached_property
    def _versions(self) -> Counter[str]:
        refs = {ref for box in self.kept for member in box.members for ref in (*member.reads, *member.writes)}
        return Counter([ref.name for ref in refs])


def edges_into(description: Description) -> defaultdict[str, list[Edge]]:
    """The incoming edges of each box and port, by its id; an empty list where there are none."""
    into: defaultdict[str, list[Edge]] = defaultdict(list)
    for edge in description.edges:
        into[edge.target].append(edge)
    return into


def bundles(description: Description) -> Mapping[tuple[str, str, str], Sequence[Ref]]:
    """The versions that pass along edges of the same source, target and state, which pictures draw as one edge."""
    along: defaultdict[tuple[str, str, str], list[Ref]] = defaultdict(list)
    for edge in description.edges:
        along[edge.source, edge.target, edge.state] += [] if edge.ref is None else [edge.ref]
    return along


def _names(ports: tuple[Port, ...]) -> list[str]:
    """Each name once, in order, without removed and pruned ports."""
    there = [port for port in ports if port.state not in ("removed", "pruned")]
    return list(dict.fromkeys(name for port in there for name in port.folded or (port.name,)))
