"""Nodes: chunk processors with a place in the list, a name, and the versions they read and write."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable
from functools import partial
from typing import Any

from experimentator.graph.errors import DeclarationError, UnknownModeError
from experimentator.graph.foreign import foreign
from experimentator.graph.mode import Mode
from experimentator.graph.processor import ChunkProcessor, UndeclaredFunction, describe, label_of, names_of, source_of
from experimentator.graph.recorded import RecordedProcessor, as_listed
from experimentator.graph.signatures import signature_of
from experimentator.graph.versions import Ref, Signature


class Node:
    """A chunk processor at its place in the list; two equal processors are two nodes.

    `inputs` and `outputs` are names, in the order declared; `reads` and `writes` are their versions, once bound.
    `declared` is False for a callable whose names are not known yet. `earlier` counts the nodes above it of the very
    same entry: with the entry, it tells a node whatever else is listed.
    """

    __slots__ = (
        "after", "declared", "earlier", "index", "inputs", "mode", "name",
        "outputs", "processor", "reads", "signature", "writes",
    )  # fmt: skip

    def __init__(self, index: int, name: str, processor: Callable[[Any], Any], earlier: int = 0):
        signature = _signature(processor, index)
        self.index, self.earlier = index, earlier
        self.name = name
        self.processor = processor
        self.declared = signature is not None
        self.signature = signature or Signature((), ())
        self.inputs, self.outputs, _ = self.signature
        self.mode = _mode(processor, index)
        self.after = _after(processor, index)
        self.reads: tuple[Ref, ...] = ()
        self.writes: tuple[Ref, ...] = ()

    def runs_in(self, mode: Mode) -> bool:
        """Whether the processor takes part in a graph of this mode."""
        return int.__and__(self.mode, mode) != 0  # ten times quicker than the flags' own &

    @property
    def source(self) -> str | None:
        """`file:line` that lists the processor, where known."""
        return source_of(self.processor)

    @property
    def listed(self) -> Any:
        """The processor as the user listed it; `processor` may be a RecordedProcessor around it."""
        return as_listed(self.processor)

    @property
    def failed(self) -> str | None:
        """The missing name that stopped the recording of an undeclared callable; its outputs are then unknown."""
        return self.processor.failed if isinstance(self.processor, RecordedProcessor) else None

    @property
    def misses(self) -> tuple[str, ...]:
        """Names that a recorded callable asked for and did not find."""
        return self.processor.misses if isinstance(self.processor, RecordedProcessor) else ()

    @property
    def deletes(self) -> tuple[str, ...]:
        """Names the processor deletes: those below do not see them."""
        return self.signature.deletes

    @property
    def expected(self) -> tuple[str, ...]:
        """Every name the processor may ask its chunk for."""
        return (*self.inputs, *self.outputs, *self.deletes, *self.misses)

    @property
    def described(self) -> str:
        """The processor in one line, with its label in front where the line lacks it."""
        line = describe(self.processor)
        label = getattr(self.listed, "node", None)
        return f"{label}: {line}" if label and label not in line else line

    def __str__(self) -> str:
        return f"#{self.index} {self.described}"

    def __repr__(self) -> str:
        return f"<Node {self}>"


def nodes_of(processors: Iterable[Any]) -> list[Node]:
    """One node per entry that is not None, named and declared; versions are not bound yet."""
    nodes: list[Node] = []
    taken: dict[str, int] = {}
    listed: dict[int, int] = {}
    for index, entry in enumerate(processors):
        if entry is not None:
            known = id(as_listed(entry))
            earlier = listed[known] = listed.get(known, -1) + 1
            try:
                nodes.append(Node(index, _unique(label_of(entry), taken), entry, earlier))
            except Exception as error:
                if not isinstance(error, DeclarationError):  # which names the place itself
                    error.add_note(f"While reading what {describe(entry)} at chunk_processors[{index}] declares.")
                raise
    return nodes


def require_place_for_chunk(node: Node) -> None:
    """Refuse an undeclared callable that cannot be called with the chunk alone; one without a signature may try."""
    call: Any = node.processor
    call = call.function if isinstance(call, UndeclaredFunction) else call
    if not (inspect.isroutine(call) or inspect.isclass(call) or isinstance(call, partial)):
        call = call.__call__  # as Python finds it: it may be static, or made by a decorator
    if hasattr(call, "__signature__"):  # written by hand, and perhaps wrong
        return
    try:
        signature = signature_of(call, follow_wrapped=False)  # a decorator's own parameters count
    except (TypeError, ValueError):
        return
    try:
        signature.bind(None)
    except TypeError:
        named = [name for name, one in signature.parameters.items() if one.kind is not one.VAR_KEYWORD]
        declare = f"@chunk_processor(inputs={named}, outputs=[...])"
        write = "Write `lambda chunk: ...`" + (f", or declare tensors by name: {declare}." if named else ".")
        seen = f"it is given the chunk, and its parameters are {', '.join(named) or 'none'}"
        raise _error(node.processor, node.index, seen, write) from None


def _unique(label: str, taken: dict[str, int]) -> str:
    """`Cast`, then `Cast#2`: `taken` counts how often a label was given."""
    name = label
    while name in taken:
        taken[label] += 1
        name = f"{label}#{taken[label]}"
    taken[name] = 1
    return name


def _signature(processor: Any, index: int) -> Signature | None:
    """The declared names; None where the processor declares none."""
    if not callable(processor):
        spliced = isinstance(processor, list | tuple)
        write = "Splice a list: [*those, ...]." if spliced else "List functions of the chunk, or None."
        raise _error(processor, index, "it is not callable", write)
    if isinstance(processor, type) and issubclass(processor, ChunkProcessor):
        raise _error(processor, index, "it is a class", f"List an object of it: {processor.__name__}(...).")
    inputs, outputs = getattr(processor, "inputs", None), getattr(processor, "outputs", None)
    if inputs is None and outputs is None:
        if not isinstance(processor, ChunkProcessor) and (found := foreign(processor)):
            what, write = found
            raise _error(processor, index, f"it is {what}, which takes tensors and not the chunk", write)
        return None
    deletes = getattr(processor, "deletes", None)
    return Signature(*[names_of(names, of=processor, place=index) for names in (inputs, outputs, deletes)])


def _mode(processor: Any, index: int) -> Mode:
    mode = getattr(processor, "mode", Mode.ALL)
    if type(mode) is Mode and 0 < mode._value_ <= 7:
        return mode
    try:
        return Mode.of(mode)
    except UnknownModeError as error:
        raise _error(processor, index, f"its mode is {error.shown}", error.write) from None


def _after(processor: Any, index: int) -> tuple[Any, ...]:
    """`after` as a tuple of labels, classes and processors; a single one needs no list."""
    after = getattr(processor, "after", None)
    if after is None or (isinstance(after, tuple) and not after):
        return ()
    if isinstance(after, str) or callable(after):
        return (after,)
    if isinstance(after, Collection) and all(isinstance(target, str) or callable(target) for target in after):
        return tuple(after)
    write = 'Give names, classes or processors of the list: after = ["Cast"].'
    raise _error(processor, index, f"its `after` is {type(after).__name__}", write)


def _error(processor: Any, index: int, seen: str, write: str) -> DeclarationError:
    return DeclarationError(f"{describe(processor)} at chunk_processors[{index}]", seen=seen, write=write)
