"""Give every write of a tensor name its own version, so that overwrites become dataflow.

>>> steps = [(("x",), ("x",)), (("x",), ("y",)), (("x",), ("x",)), (("x", "y"), ("loss",))]
>>> for reads, writes in bind([Signature(*step) for step in steps], provided={"x"}):
...     print(*reads, "->", *writes)
x@0 -> x@1
x@1 -> y@1
x@1 -> x@2
x@2 y@1 -> loss@1
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple


class Ref(NamedTuple):
    """One version of one tensor name; version 0 is what the dataset provides.

    >>> str(Ref("batch_input", 1)), Ref.of("batch_input@1")
    ('batch_input@1', Ref(name='batch_input', version=1))
    """

    name: str
    version: int

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"

    @classmethod
    def of(cls, text: str) -> Ref | None:
        """Read `name@version`; None for a plain name."""
        name, _, version = text.rpartition("@")
        return cls(name, int(version)) if name and version.isdecimal() and len(version) < 10 else None


class Signature(NamedTuple):
    """The names one processor reads, writes and deletes."""

    reads: tuple[str, ...]
    writes: tuple[str, ...]
    deletes: tuple[str, ...] = ()


def bind(
    signatures: Sequence[Signature], *, provided: Collection[str]
) -> Iterator[tuple[tuple[Ref, ...], tuple[Ref, ...]]]:
    """The versions that each processor reads (one per name it reads, in that order) and writes; binding never fails.

    A read takes the nearest write above it in the list; else what the dataset provides; else the only write below
    it. A read that finds none is bound to a version that nobody provides or writes: selecting reports it.
    """
    writers = Counter([name for signature in signatures for name in signature.writes])
    latest: dict[str, int] = {}
    for reads, writes, deletes in signatures:
        bound = [
            Ref(name, latest[name]) if name in latest else _resolve(name, writes, writers, provided) for name in reads
        ]
        for name in (*writes, *deletes):
            latest[name] = latest.get(name, 0) + 1
        yield tuple(bound), tuple([Ref(name, latest[name]) for name in writes])


def _resolve(name: str, writes: tuple[str, ...], writers: Mapping[str, int], provided: Collection[str]) -> Ref:
    """The version of a name that nothing above writes."""
    if name in provided:
        return Ref(name, 0)
    if name not in writers:
        return Ref.of(name) or Ref(name, 0)
    return Ref(name, 1 if writers[name] == 1 and name not in writes else 0)
