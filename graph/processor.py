"""Chunk processors: the nodes of the graph, and the ways to declare one.

>>> @chunk_processor(inputs=["batch_input"], outputs=["batch_mean", "batch_span"])
... def measure(batch_input):
...     return sum(batch_input) / len(batch_input), max(batch_input) - min(batch_input)
>>> chunk = Chunk({"batch_input": [1, 2, 6]}, mode=Mode.ALL)
>>> measure(chunk)
>>> chunk["batch_mean"], chunk["batch_span"]
(3.0, 5)
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial, update_wrapper
from pathlib import PurePath
from types import CodeType
from typing import Any, Self

from experimentator.graph.chunk import Chunk
from experimentator.graph.errors import DeclarationError, UndeclaredWriteError, UnwrittenOutputError, brief
from experimentator.graph.mode import Mode
from experimentator.graph.signatures import (
    asks_for_training,
    required_parameters,
    signature_of,
    told_of_training,
    ways_to_pass,
)
from experimentator.graph.text import cut


class _Undeclared:
    """None on objects that set nothing; absent from the class, where a dataclass would take a value for a default."""

    def __set_name__(self, kind: type, name: str) -> None:
        self.name = name

    def __get__(self, processor: Any, kind: type) -> None:
        if processor is None:
            raise AttributeError(f"{kind.__name__} declares no {self.name}.")


class ChunkProcessor:
    """A node: reads the names in `inputs` and writes those in `outputs`, in the modes of `mode`.

    Set the attributes in the class, in `__init__`, as dataclass fields or as properties. A processor that sets
    neither `inputs` nor `outputs` is undeclared: what it reads and writes is recorded when data first passes.
    In a call, `chunk.mode` and `chunk.training` tell the mode; a parameter `training` of `__call__` gets the latter.

    >>> class Halve(ChunkProcessor):
    ...     inputs, outputs = ["x"], ["half"]
    ...     def __call__(self, chunk):
    ...         chunk["half"] = chunk["x"] / 2
    """

    inputs: Sequence[str] | None = _Undeclared()  # type: ignore[assignment]
    outputs: Sequence[str] | None = _Undeclared()  # type: ignore[assignment]
    mode: Mode = Mode.ALL
    after: Sequence[Any] = ()
    node: str | None = None
    _source: str | None = None

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        if (args or kwargs) and cls.__init__ is object.__init__ and cls.__new__ is ChunkProcessor.__new__:
            seen = f"it is made with {', '.join(map(brief, (*args, *kwargs.values())))}, and its class takes nothing"
            raise DeclarationError(cls.__name__, seen=seen, write="Write @dataclass(eq=False) above it, or __init__.")
        processor = super().__new__(cls)
        frame = sys._getframe(1)  # the line that lists the processor, for messages
        object.__setattr__(processor, "_source", f"{PurePath(frame.f_code.co_filename).name}:{frame.f_lineno}")
        return processor

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__repr__" not in vars(cls):  # or @dataclass would write one that can fail
            cls.__repr__ = cls.__repr__  # type: ignore[method-assign]  # the inherited one
        call = cls.__call__  # it may come from a mixin
        if not hasattr(call, "tells_of_training") and asks_for_training(call):
            cls.__call__ = told_of_training(call)  # type: ignore[method-assign]

    def __call__(self, chunk: Chunk) -> None:
        raise DeclarationError(
            type(self).__name__, seen="it has no __call__", write="Write `def __call__(self, chunk): ...`."
        )

    def __repr__(self) -> str:
        return _made(self, arguments_of(self))


class FunctionProcessor(ChunkProcessor):
    """A plain function of named tensors as a node; `@chunk_processor` makes it."""

    def __init__(self, function: Callable[..., Any], *, inputs: Sequence[str], outputs: Sequence[str], **options: Any):
        update_wrapper(self, function)
        self.function, self.__name__ = function, _name(function)
        vars(self).update(options)
        self.inputs, self.outputs = names_of(inputs, of=function), names_of(outputs, of=function)
        self._takes_chunk = "chunk" not in self.inputs and required_parameters(function) == ("chunk",)
        names = inputs if isinstance(inputs, list | tuple) else self.inputs  # one that is in it twice is passed twice
        self._in_order, self._by_name, self._training = self._ways(("chunk",) if self._takes_chunk else tuple(names))
        self._only = self.outputs[0] if len(self.outputs) == 1 else None
        self._source = _place(function)

    def __call__(self, chunk: Chunk) -> None:
        given: Any = chunk
        if not isinstance(given, dict):
            raise TypeError(f"{self!r} takes a chunk, and its `.function` the tensors.\nSeen: {type(given).__name__}.")
        given = {"chunk": chunk} if self._takes_chunk else chunk
        named = {name: given[name] for name in self._by_name} if self._by_name else {}
        if self._training:
            named["training"] = chunk.training
        result = self.function(*[given[name] for name in self._in_order], **named)
        if self._takes_chunk and result is None:
            return
        if self._only is not None and result is not None and not hasattr(result, "keys"):
            chunk[self._only] = result  # as below, in half the time
            return
        for name, value in self._written(result).items():
            chunk[name] = value

    def __repr__(self) -> str:
        return f"{_name(self.function)}({', '.join(map(str, self.inputs or ()))})"

    def _ways(self, names: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...], bool]:
        ways = ways_to_pass(names, to=self.function)
        if ways is None:
            raise DeclarationError(
                _name(self.function),
                seen=f"its parameters are {signature_of(self.function)} and its inputs "
                f"{', '.join(self.inputs or ()) or 'none'}",
                write="Name the parameters after the inputs, or one for each in order; `chunk` alone has chunk.mode.",
            )
        return ways

    def _written(self, result: Any) -> Mapping[str, Any]:
        outputs = tuple(self.outputs or ())
        if hasattr(result, "keys") and isinstance(result, Mapping):  # `hasattr` alone is quick
            if unknown := [name for name in result if name not in outputs]:
                raise UndeclaredWriteError(self, name=str(unknown[0]), outputs=outputs)
            return result
        values = () if result is None else (result,) if len(outputs) == 1 else result
        if isinstance(values, (tuple, list)) and len(values) == len(outputs):
            return dict(zip(outputs, values, strict=True))
        seen = f"it returned {_kind(result)} for {_counted(len(outputs), 'output')}"
        if not outputs:
            raise DeclarationError(describe(self), seen=seen, write='Name what it returns: outputs=["..."].')
        write = "Return a value for each, name what else it returns" if outputs[1:] else "Return its value"
        raise UnwrittenOutputError(self, missing=outputs, seen=f": {seen}", write=write)


class UndeclaredFunction(ChunkProcessor):
    """A callable taking the chunk, with a mode or a label of its own; `@chunk_processor(mode=...)` makes it."""

    def __init__(self, function: Callable[[Chunk], Any], **options: Any):
        update_wrapper(self, function)
        self.function, self.__name__ = function, _name(function)
        vars(self).update(options, inputs=None, outputs=None)  # the function may have such attributes of its own
        self._source = _place(function)

    def __call__(self, chunk: Chunk) -> Any:
        return self.function(chunk)

    def __repr__(self) -> str:
        return describe(self.function)


def chunk_processor(
    function: Callable[..., Any] | None = None,
    /,
    *,
    inputs: Sequence[str] | None = None,
    outputs: Sequence[str] | None = None,
    mode: Mode = Mode.ALL,
    node: str | None = None,
    after: Sequence[Any] = (),
    weights: Mapping[str, str] | None = None,
) -> Callable[[Callable[..., Any]], ChunkProcessor]:
    """Declare a plain function of tensors as a chunk processor.

    The function receives the tensors by name (in order, where its parameters have other names) and returns one
    tensor, a tuple in the order of `outputs`, or a dictionary. `inputs` default to its parameters without a default. A
    parameter `training` that is no input receives whether this call trains; a function of `chunk` alone receives the
    chunk, limited to the declared names. Where neither `inputs` nor `outputs` are given, any function receives the
    chunk, and what it reads and writes is recorded.

    Averages over a pass weigh each batch by its size. If an output is the mean over only a part of the batch, `weights`
    maps it to the output that holds the size of that part: `weights={"loss": "count"}`. In a class it is `weights_of`.

    >>> @chunk_processor(outputs=["batch_x"], mode=Mode.TRAIN)
    ... def shift(batch_x, by=1):
    ...     return batch_x + by
    >>> shift
    shift(batch_x)
    >>> shift(chunk := Chunk({"batch_x": 3}, mode=Mode.TRAIN))
    >>> chunk["batch_x"]
    4
    """
    options: dict[str, Any] = {"mode": Mode.of(mode), "node": node, "after": after}
    own = names_of(outputs, of=function)
    if isinstance(outputs, list | tuple) and len(own) < len(outputs):
        raise DeclarationError("chunk_processor(...)", seen=f"its outputs are {[*outputs]}", write="Name each once.")
    if weights is not None:
        named = isinstance(weights, Mapping)
        strange = [name for name in ((*weights, *weights.values()) if named else (weights,)) if name not in own]
        if strange:
            seen, write = f"its weights name {strange[0]!r}", 'Name outputs of it: weights={"loss": "count"}.'
            raise DeclarationError("chunk_processor(...)", seen=seen, write=write)
        options["weights_of"] = dict(weights)
    if function is not None:
        write = "Write @chunk_processor(inputs=[...], outputs=[...]) above it, by name; or list the function as it is."
        raise DeclarationError(brief(function), seen="chunk_processor is given it by position", write=write)

    def declare(function: Any) -> ChunkProcessor:
        if not callable(function):
            write = "Write `chunk_processor(...)(function)`, or decorate a function."
            raise DeclarationError(brief(function), seen="it is not callable", write=write)
        if inputs is None and outputs is None:
            return UndeclaredFunction(function, **options)
        reads = required_parameters(function) if inputs is None else inputs
        return FunctionProcessor(function, inputs=reads, outputs=outputs or (), **options)

    return declare


def names_of(names: Any, *, of: Any, place: int | None = None) -> tuple[str, ...]:
    """The names of a declaration, without duplicates; a single string is one name."""
    if names is None:
        return ()
    if isinstance(names, str):
        return (names,)
    if type(names) not in (tuple, list) and not isinstance(names, Collection):  # an iterator would be empty next time
        seen = f"its names come as {type(names).__name__}"
        raise DeclarationError(_at(of, place), seen=seen, write='Give lists of names: inputs=["batch_input"].')
    for name in names:
        if not isinstance(name, str):
            seen = f"its inputs and outputs are {type(name).__name__}, not names"
            write = "A layer or model becomes a processor as ops.Model(model, inputs=[...], outputs=[...])."
            raise DeclarationError(_at(of, place), seen=seen, write=f"Give lists of names. {write}")
    # The order of a set of strings differs from process to process.
    return tuple(sorted(names)) if isinstance(names, (set, frozenset)) else tuple(dict.fromkeys(names))


def describe(processor: Any) -> str:
    """One line for pictures and messages; it cannot fail, whatever the processor's own `repr` does.

    >>> describe(abs), describe(partial(max, 3))
    ('abs', 'max')
    """
    if isinstance(processor, ChunkProcessor):
        try:
            # Tensor names are left out of the standard `repr`: they stand on the edges.
            is_standard = type(processor).__repr__ is ChunkProcessor.__repr__
            text = _made(processor, arguments_of(processor, tensors=False)) if is_standard else repr(processor)
            text = " ".join(text.split())
        except Exception:  # a repr that fails must not take the message down with it
            text = f"{type(processor).__name__}()"
        return cut(text, 200)
    if not callable(processor):
        return brief(processor)
    place, name = _place(processor), _name(processor)
    return f"lambda ({place})" if name == "<lambda>" and place else name


def label_of(processor: Any) -> str:
    """The label from `node=` if given, else the name of the class or function."""
    label = getattr(processor, "node", None)
    return label if isinstance(label, str) and label else kind_of(processor)


def kind_of(processor: Any) -> str:
    """The name of the class or function."""
    return _name(processor).removesuffix("()").strip("<>")


def source_of(processor: Any) -> str | None:
    """`file:line` of where a processor was made, or its function defined."""
    return processor._source if isinstance(processor, ChunkProcessor) else _place(processor)


def _at(processor: Any, place: int | None) -> str:
    return describe(processor) if place is None else f"{describe(processor)} at chunk_processors[{place}]"


def _name(function: Any) -> str:
    """A function's name, or its class with `()`."""
    function = function.func if isinstance(function, partial) else function
    name = getattr(function, "__name__", None)
    return name if isinstance(name, str) else f"{type(function).__name__}()"


def _place(function: Any) -> str | None:
    function = function.func if isinstance(function, partial) else function
    try:
        code = getattr(inspect.unwrap(function), "__code__", None)
    except ValueError:  # an object that answers to any attribute wraps itself without end
        return None
    return f"{PurePath(code.co_filename).name}:{code.co_firstlineno}" if isinstance(code, CodeType) else None


def _made(processor: ChunkProcessor, arguments: Iterable[tuple[str, Any]]) -> str:
    return f"{type(processor).__name__}({', '.join(f'{name}={in_short(value)}' for name, value in arguments)})"


def arguments_of(processor: ChunkProcessor, *, tensors: bool = True) -> Iterator[tuple[str, Any]]:
    """What a processor was made with, by name; with the names of its tensors, or without."""
    names = () if tensors else [*names_of(processor.inputs, of=None), *names_of(processor.outputs, of=None)]
    hidden = {"inputs", "outputs", "mode", "node", "after"}  # the picture shows these by itself
    fields = getattr(processor, "__dataclass_fields__", ())
    for name in dict.fromkeys((*fields, *vars(processor))):
        value = getattr(processor, name, None)
        told = isinstance(value, str) and value in names
        if name not in hidden and name[0] != "_" and not told and _differs(processor, name, value):
            yield name, value


def _differs(processor: ChunkProcessor, name: str, value: Any) -> bool:
    default = getattr(type(processor), name, in_short)
    try:
        return default is not value and not bool(default == value)
    except Exception:  # arrays and the like do not compare to one truth; then the value is worth showing
        return True


def in_short(value: Any, most: int = 48) -> str:
    """A value in at most `most` characters; functions, models and arrays by name, in at most 48."""
    try:
        if callable(value) or hasattr(value, "shape"):
            name = str(getattr(value, "name", None) or getattr(value, "__name__", type(value).__name__))
            return name.partition(":")[0].rpartition("/")[2][:48]  # less the scope of a trace and `:0`
    except Exception:  # as in `brief`
        return f"<{type(value).__name__}>"
    return brief(value, most)


def _kind(result: Any) -> str:
    if isinstance(result, (tuple, list)):
        return _counted(len(result), "value")
    if hasattr(result, "shape") and hasattr(result, "dtype"):
        return "one tensor"  # whose class, in a trace, says nothing
    return "None" if result is None else f"one {type(result).__name__}"


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
