"""Undeclared callables with the names that recording found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from experimentator.graph.chunk import Chunk
from experimentator.graph.mode import Mode
from experimentator.graph.processor import ChunkProcessor, describe, label_of, source_of


class RecordedProcessor(ChunkProcessor):
    """An undeclared callable with the names it was seen to read, miss, write and delete.

    `failed` is the name whose absence stopped it; then what it writes is not known.
    """

    def __init__(self, processor: Callable[[Chunk], Any], chunk: Chunk, failed: str | None):
        self.processor = processor
        self.inputs = (*chunk.reads, failed) if failed else chunk.reads
        self.outputs, self.deletes, self.misses = chunk.writes, chunk.deletes, chunk.misses
        self.mode = getattr(processor, "mode", Mode.ALL)
        self.after = getattr(processor, "after", ())
        self.node = label_of(processor)
        self.failed = failed
        self.is_metric = getattr(processor, "is_metric", False)
        self.weights_of = getattr(processor, "weights_of", {})
        self._source = source_of(processor)

    def __call__(self, chunk: Chunk) -> None:
        self.processor(chunk)

    def __repr__(self) -> str:
        return describe(self.processor)


def as_listed(processor: Any) -> Any:
    """The entry of the user's list behind a processor, recorded or not."""
    return processor.processor if isinstance(processor, RecordedProcessor) else processor
