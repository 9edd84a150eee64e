"""The dictionary of named tensors that one chunk processor sees.

>>> chunk = Chunk({"batch_logits": 0.0}, mode=Mode.EVAL)
>>> (lambda chunk: chunk.update({"batch_scores": chunk["batch_logits"] + 1}))(chunk)
>>> chunk.reads, chunk.writes, chunk.training
(('batch_logits',), ('batch_scores',), False)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any

from experimentator.graph.errors import UndeclaredReadError, UndeclaredWriteError, UnknownNameError
from experimentator.graph.mode import Mode

if TYPE_CHECKING:
    from experimentator.graph.node import Node

    Tensors = dict[str, Any]
else:

    class Tensors(MutableMapping, dict):
        """A real `dict` whose other methods (`update`, `items`, ...) all go through `[]`, `del`, `in` and iteration."""

        __slots__ = ()


class Chunk(Tensors):
    """The named tensors of one call; notes which names the callable reads, misses, writes and deletes.

    Iterating over the names notes nothing; `chunk[name]`, `name in chunk`, `items()` and `values()` note reads.

    >>> chunk = Chunk({"batch_x": 3}, mode=Mode.TRAIN)
    >>> chunk["batch_y"] = chunk["batch_x"] * chunk.get("factor", 2)
    >>> chunk
    <Chunk batch_x, batch_y [TRAIN]>
    >>> chunk.reads, chunk.misses, chunk.writes
    (('batch_x',), ('factor',), ('batch_y',))
    """

    __slots__ = ("_deletes", "_misses", "_reads", "_writes", "mode")

    def __init__(self, tensors: Mapping[str, Any], *, mode: Mode):
        dict.__init__(self, tensors)
        self.mode = mode
        self._reads: dict[str, None] = {}
        self._misses: dict[str, None] = {}
        self._writes: dict[str, None] = {}
        self._deletes: dict[str, None] = {}

    @property
    def training(self) -> bool:
        """True in mode TRAIN: what layers take as `training`."""
        return self.mode == Mode.TRAIN

    @property
    def reads(self) -> tuple[str, ...]:
        """Names read before this chunk wrote them, in order of first use."""
        return tuple(self._reads)

    @property
    def misses(self) -> tuple[str, ...]:
        """Names asked for and absent, in order of first use."""
        return tuple(self._misses)

    @property
    def writes(self) -> tuple[str, ...]:
        """Names written and not deleted since, in order of first write."""
        return tuple(self._writes)

    @property
    def deletes(self) -> tuple[str, ...]:
        """Names deleted and not written since: later processors do not see them."""
        return tuple(self._deletes)

    def __getitem__(self, name: str) -> Any:
        tensor = dict.__getitem__(self, name)
        if name not in self._writes:
            self._reads[name] = None
        return tensor

    def __missing__(self, name: str) -> Any:
        self._misses[name] = None
        raise UnknownNameError(name, known=tuple(self))

    def __setitem__(self, name: str, tensor: Any) -> None:
        self._writes[name] = None
        self._deletes.pop(name, None)
        dict.__setitem__(self, name, tensor)

    def __delitem__(self, name: str) -> None:
        self[name]
        dict.__delitem__(self, name)
        self._writes.pop(name, None)
        self._deletes[name] = None

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(dict.keys(self)))

    def __len__(self) -> int:
        return dict.__len__(self)

    def __contains__(self, name: object) -> bool:
        present = dict.__contains__(self, name)
        if isinstance(name, str) and name not in self._writes:
            (self._reads if present else self._misses)[name] = None
        return present

    def get(self, name: str, default: Any = None) -> Any:
        """The tensor, or `default` where nothing above writes or provides the name."""
        return dict.__getitem__(self, name) if name in self else default

    def setdefault(self, name: str, default: Any = None) -> Any:
        """The tensor; writes `default` where nothing above writes or provides the name."""
        if name not in self:
            self[name] = default
        return self[name]

    def pop(self, name: str, *default: Any) -> Any:
        """Remove and return a tensor: processors below do not see it. `default`, if given, where there is none."""
        if default and name not in self:
            return default[0]
        tensor = self[name]
        del self[name]
        return tensor

    def copy(self) -> dict[str, Any]:
        """A plain dictionary of every tensor, all of them read."""
        return {**self}

    def __or__(self, other: Mapping[str, Any]) -> dict[str, Any]:  # type: ignore[override]  # a plain dictionary
        return {**self, **other}

    def __ior__(self, other: Mapping[str, Any] | Iterable[tuple[str, Any]]) -> Chunk:  # type: ignore[override]
        self.update(other)
        return self

    def __reduce__(self) -> tuple[type[dict[str, Any]], tuple[dict[str, Any]]]:
        return dict, (self.copy(),)  # copied and pickled as `copy` does

    def __repr__(self) -> str:
        return f"<Chunk {', '.join(map(str, self)) or 'empty'} [{self.mode}]>"


class DeclaredChunk(Chunk):
    """The chunk of a processor with declared names; reading from it is as quick as from a plain dictionary.

    A read or write outside the declaration raises, so that no processor reads a stale tensor by mistake. The caller
    sets `mode`, `node` and `unwritten` (the node's outputs): an `__init__` for it would cost a fifth of a call.
    """

    __slots__ = ("node", "unwritten")
    node: Node
    unwritten: set[str]  # outputs not written yet: a forgotten overwrite must not hand on the old tensor

    __init__ = dict.__init__
    __getitem__ = dict.__getitem__

    def __missing__(self, name: str) -> Any:
        if name in self.node.misses:
            raise UnknownNameError(name, known=tuple(self))
        raise UndeclaredReadError(self.node, name=name, inputs=self.node.inputs)

    def __setitem__(self, name: str, tensor: Any) -> None:
        if name in self.unwritten:
            self.unwritten.remove(name)
        elif name not in self.node.outputs and name not in self.node.deletes:
            raise UndeclaredWriteError(self.node, name=name, outputs=self.node.outputs)
        dict.__setitem__(self, name, tensor)

    def __delitem__(self, name: str) -> None:
        if name in self.node.outputs:
            self.unwritten.add(name)  # it has to be written again
        elif name not in self.node.deletes:
            own = self.node
            raise UndeclaredWriteError(own, name=name, outputs=own.outputs, deletes=own.deletes)
        dict.__delitem__(self, name)

    def __contains__(self, name: object) -> bool:
        present = dict.__contains__(self, name)
        if not present and isinstance(name, str) and name not in self.node.expected:
            raise UndeclaredReadError(self.node, name=name, inputs=self.node.inputs)
        return present
