"""What undeclared callables read and write, found by running the list once.

>>> double = lambda chunk: chunk.update({"double": 2 * chunk["x"]})
>>> recorded, = record([double], {"x": 1, "y": 2}, mode=Mode.EVAL)
>>> recorded.inputs, recorded.outputs
(('x',), ('double',))
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from experimentator.graph.chunk import Chunk
from experimentator.graph.errors import DeclarationError, UnknownNameError
from experimentator.graph.mode import Mode
from experimentator.graph.node import Node, nodes_of, require_place_for_chunk
from experimentator.graph.processor import ChunkProcessor, UndeclaredFunction, describe, kind_of
from experimentator.graph.recorded import RecordedProcessor
from experimentator.graph.signatures import signature_of
from experimentator.graph.text import where

Call = Callable[[Node, Chunk], Any]  # returns what the processor does


class _RecordingChunk(Chunk):
    """A chunk in which names that only a node below writes can be read, though they are not listed."""

    __slots__ = ("ahead",)
    ahead: Mapping[str, Any]

    def __missing__(self, name: str) -> Any:
        return self.ahead[name] if name in self.ahead else super().__missing__(name)


def record(
    processors: Iterable[Any],
    tensors: Mapping[str, Any],
    *,
    mode: Mode,
    known: Mapping[int, RecordedProcessor] | None = None,
    call: Call | None = None,
) -> tuple[Any, ...]:
    """Run the list once on `tensors`, abstract or real; returns it with every undeclared callable recorded.

    A callable that reads a name written below waits for it. If the name never turns up, the callable keeps its record
    from `known` (by place in the list; of another mode, for instance), else it is marked as failed. Entries of other
    modes are returned as they are. `call(node, chunk)`, if given, is called in place of `node.processor(chunk)`.

    >>> total = lambda chunk: chunk.update(loss=chunk["half"] + 1)
    >>> half = lambda chunk: chunk.update(half=chunk["x"] / 2)
    >>> [(one.inputs, one.outputs) for one in record([total, half], {"x": 1.0}, mode=Mode.TRAIN)]
    [(('half',), ('loss',)), (('x',), ('half',))]
    """
    processors = tuple(processors)
    nodes = [node for node in nodes_of(processors) if node.runs_in(mode)]
    if all(node.declared for node in nodes) and call is None:
        return processors
    for node in nodes:
        if not node.declared:
            require_place_for_chunk(node)
    tape = _Tape(nodes, tensors, mode, call)
    tape.play()
    recorded = list(processors)
    for node in nodes:
        if not node.declared:
            failed = tape.failed.get(node)
            earlier = None if failed is None else (known or {}).get(node.index)
            recorded[node.index] = earlier or RecordedProcessor(node.processor, tape.chunks[node], failed)
    return tuple(recorded)


class _Tape:
    """Sweeps over the list until every node that can run has run: `chunks` are of their last calls, `failed` or not."""

    def __init__(self, nodes: Sequence[Node], tensors: Mapping[str, Any], mode: Mode, call: Call | None):
        self.nodes, self.tensors, self.mode = nodes, tensors, mode
        self.call = call or (lambda node, chunk: node.processor(chunk))
        self.chunks: dict[Node, Chunk] = {}
        self.failed: dict[Node, str] = {}

    def play(self) -> None:
        for _ in self.nodes:
            if not self._sweep() or not self.failed:
                break

    def _sweep(self) -> bool:
        """Run nodes that have not run yet, and all below the first one that now succeeds; returns whether one did."""
        visible, ahead, late = dict(self.tensors), self._ahead(), False
        for node in self.nodes:
            if late or node in self.failed or node not in self.chunks:
                late = self._try(node, visible, ahead) or late
            if node not in self.failed:
                visible.update(_written(self.chunks[node]))
                for name in self.chunks[node].deletes:
                    visible.pop(name, None)
        return late

    def _ahead(self) -> dict[str, Any]:
        """Tensors by name, of the names that only one node has written, wherever it stands."""
        ran = [chunk for node, chunk in self.chunks.items() if node not in self.failed]
        written = [item for chunk in ran for item in _written(chunk).items()]
        writers = Counter([name for name, _ in written])
        return {name: tensor for name, tensor in written if writers[name] == 1 and name not in self.tensors}

    def _try(self, node: Node, visible: Mapping[str, Any], ahead: Mapping[str, Any]) -> bool:
        chunk = self.chunks[node] = _RecordingChunk(visible, mode=self.mode)
        chunk.ahead = ahead
        self.failed.pop(node, None)
        try:
            returned = self.call(node, chunk)
            if not node.declared:
                _require_written(node, chunk, returned)
        except UnknownNameError as error:
            self.failed[node] = error.name
            return False
        except Exception as error:
            if mistaken := _mistaken(node, chunk, error):
                error.add_note(mistaken)
            error.add_note(where(node, self.mode, chunk))
            raise
        return True


def _require_written(node: Node, chunk: Chunk, returned: Any) -> None:
    """Refuse a function whose result nobody would see: it writes nothing, and returns tensors.

    A class may return what it likes, as it did in earlier versions, and a lambda be there for its effect.
    """
    called = _called(node)
    if chunk.writes or chunk.deletes or returned is chunk or isinstance(called, ChunkProcessor):
        return
    if isinstance(returned, Mapping):
        lost = [repr(name) for name, tensor in returned.items() if dict.get(chunk, name) is not tensor]
    else:
        made = [one for one in _several(returned) if all(one is not tensor for tensor in dict.values(chunk))]
        lost = ["a tensor"] * (kind_of(called) != "lambda" and any(hasattr(one, "dtype") for one in made))
    if lost:
        name = lost[0] if isinstance(returned, Mapping) else "'name'"
        declare = f"@chunk_processor(inputs={[*chunk.reads]}, outputs=[...])"
        raise DeclarationError(
            describe(node.processor),
            seen=f"it returns {', '.join(lost)}, but only what it writes counts",
            write=f"Write chunk[{name}] = ... instead, or declare a function that returns tensors: {declare}. "
            "One that is there for its effect returns nothing.",
        )


def _mistaken(node: Node, chunk: Chunk, error: Exception) -> str:
    """What to write where code that failed takes the chunk for a tensor, or its names for attributes; else empty."""
    with suppress(TypeError, ValueError):  # no signature
        first = next(iter(signature_of(_called(node), follow_wrapped=False).parameters), "")
        is_tensor = dict.__contains__(chunk, first) or first in getattr(chunk, "ahead", ())
        if is_tensor and not (chunk.reads or chunk.writes):  # else it knows that it is given a dictionary
            declare = f"@chunk_processor(inputs=[{first!r}], outputs=[...])"
            wrong = f"Its parameter {first!r} is the chunk, a dictionary"
            return f"{wrong}: take chunk[{first!r}] of it, or declare {declare}."
    if isinstance(error, AttributeError) and repr(type(chunk).__name__) in str(error):
        return f"The chunk is a dictionary. Write chunk[{error.name or str(error).rsplit(chr(39), 2)[-2]!r}]."
    return ""


def _called(node: Node) -> Any:
    """What a node calls with the chunk."""
    return node.processor.function if isinstance(node.processor, UndeclaredFunction) else node.processor


def _several(values: Any) -> Sequence[Any]:
    return values if isinstance(values, tuple | list) else (values,)


def _written(chunk: Chunk) -> dict[str, Any]:
    return {name: dict.__getitem__(chunk, name) for name in chunk.writes}
