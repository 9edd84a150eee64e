"""Small chunk processors and an independent interpreter, for tests of any room."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from experimentator.graph import ChunkProcessor, Mode


@dataclass(frozen=True)
class Mix(ChunkProcessor):
    """Writes numbers that depend on everything that was read, on their order and on who wrote them."""

    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    salt: int = 0
    mode: Mode = Mode.ALL
    after: tuple[Any, ...] = ()
    node: str | None = None

    def __call__(self, chunk: Any) -> None:
        total = hash(tuple(chunk[name] for name in self.inputs))
        for place, name in enumerate(self.outputs):
            chunk[name] = hash((total, self.salt, place))


def mix(flow: str, **options: Any) -> Mix:
    """`mix("x y -> loss")` reads x and y and writes loss."""
    reads, _, writes = flow.partition("->")
    return Mix(tuple(reads.split()), tuple(writes.split()), **options)


class Op(ChunkProcessor):
    """`Op("x -> y")` writes zeros; it shows itself as `Op()`, made in line 12, for messages in full."""

    line: str | None = "task.py:12"

    def __init__(self, flow: str, **options: Any):
        reads, _, writes = flow.partition("->")
        self.inputs, self.outputs = reads.split(), writes.split()
        vars(self).update(options, _source=self.line)

    def __call__(self, chunk: Any) -> None:
        for name in self.outputs:
            chunk[name] = 0

    def __repr__(self) -> str:
        return f"{self.node or 'Op'}()"


def undeclared(processor: Mix) -> Callable[[Any], None]:
    """The same program text with nothing declared."""
    return lambda chunk: processor(chunk)


def in_list_order(program: Sequence[Mix], tensors: Mapping[str, Any]) -> dict[str, Any]:
    """What the list does when it is run from top to bottom on one dictionary."""
    chunk = dict(tensors)
    for processor in program:
        processor(chunk)
    return chunk


def by_demand(program: Sequence[Mix], tensors: Mapping[str, Any]) -> dict[str, Any]:
    """The last value of every written name, by the words of the binding rule and nothing else."""
    done: dict[int, dict[str, Any]] = {}

    def find(name: str, place: int) -> Any:
        if above := [i for i in range(place) if name in program[i].outputs]:
            return written(above[-1])[name]
        if name in tensors:
            return tensors[name]
        (below,) = [i for i in range(place + 1, len(program)) if name in program[i].outputs]
        return written(below)[name]

    def written(place: int) -> dict[str, Any]:
        if place not in done:
            done[place] = {name: find(name, place) for name in program[place].inputs}
            program[place](done[place])
        return done[place]

    return {name: find(name, len(program)) for processor in program for name in processor.outputs}
