"""Runs arrays that are given to `predict` or `batch_train`, outside of any pass."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from experimentator.accumulating import reset, weighing
from experimentator.backends import Step
from experimentator.config import ConfigError
from experimentator.data.padding import together
from experimentator.diagnosis import tell_many, tell_unused
from experimentator.flags import check_flags, with_flags
from experimentator.graph import Mode
from experimentator.legacy import check_given
from experimentator.loading.blocks import specs_of
from experimentator.runner import fetched

if TYPE_CHECKING:
    from experimentator.program import Program


class Predictor:
    """Steps for given arrays, compiled from the graphs of a program when first needed."""

    def __init__(self, program: Program):
        self.program = program
        self.steps: dict[tuple[Any, ...], Step] = {}  # INFER, by names, shapes, dtypes and outputs
        self.single: dict[tuple[Any, ...], Step] = {}  # TRAIN and EVAL, for one batch, by mode and dtypes

    @property
    def traces(self) -> int:
        """How often steps for INFER were traced, as far as they are kept."""
        return sum(step.traces for step in self.steps.values())

    def clear(self) -> bool:
        """Drop what was compiled; returns whether anything was."""
        found = bool(self.steps or self.single)
        self.steps.clear()
        self.single.clear()
        return found

    def predict(self, columns: Mapping[str, Any], outputs: Sequence[str] | None) -> dict[str, np.ndarray]:
        """Run INFER over rows given as arrays, a batch at a time."""
        self.program.notice()
        total, size, step = len(next(iter(columns.values()))), self.program.exp.batch_size, self._step(columns, outputs)
        starts, parts = range(0, max(total, 1), size), list[dict[str, np.ndarray]]()
        rows = [np.arange(min(size, total - start), dtype=np.int32)[None] for start in starts]
        put, read = self.program.exp.backend.put, {name: columns[name] for name in sorted(step.graph.inputs)}
        for batch, (start, row) in enumerate(zip(starts, rows, strict=True)):  # only a batch's rows travel
            results = step(put({name: values[start : start + size] for name, values in read.items()}), row)
            parts.append(fetched(step, results, batches=1))
            check_flags(step.graph, parts[-1], first=batch)
        asked = outputs or self.program.selection.outputs(step.graph)
        found = {name: _joined(name, [part[name] for part in parts], rows, asked) for name in parts[0]}
        return {name: values for name, values in found.items() if values is not None}

    def once(self, data: Mapping[str, Any], mode: Mode) -> dict[str, np.ndarray]:
        """Run one batch in a mode; in TRAIN it updates the weights."""
        data = {name: _numbers(values) if isinstance(values, list) else values for name, values in data.items()}
        columns = {name: np.asarray(data[name]) for name in specs_of(data)}
        step = self._step(columns, None) if mode == Mode.INFER else self._single(columns, mode)
        read = {name: columns[name] for name in columns if name in step.graph.inputs}
        check_lengths(read, "A batch")
        size = len(next(iter((read or columns).values()), ()))
        outputs = step(self.program.exp.backend.put(read), np.arange(size, dtype=np.int32)[None])
        results = fetched(step, outputs, batches=1)
        check_flags(step.graph, results)
        return {name: values[0] for name, values in results.items() if name not in weighing(step.graph)}

    def _step(self, columns: Mapping[str, Any], outputs: Sequence[str] | None) -> Step:
        """The INFER step for these names, shapes and dtypes, for any batch size."""
        specs, program = specs_of(columns), self.program
        shapes = tuple(sorted((name, spec.shape, str(spec.dtype)) for name, spec in specs.items()))
        key = (shapes, tuple(outputs or "*"))
        if key not in self.steps:
            graph = program.whole(Mode.INFER, specs)
            wanted = outputs or program.selection.inferred(graph) or program.selection.last_written(graph)
            graph = with_flags(graph, wanted)
            tell_unused(specs, graph)
            tell_many([kind for kind, _ in self.steps], shapes)
            self.steps[key] = program.compiled(graph, specs, jit_compile=False, capacity=1)
        return self.steps[key]

    def _single(self, columns: Mapping[str, Any], mode: Mode) -> Step:
        """The step that trains or evaluates one batch."""
        graph, specs = self.program.graph(mode), specs_of(columns)
        check_given(columns, graph)
        key = (mode, *sorted((name, str(spec.dtype)) for name, spec in specs.items()))
        if key not in self.single or self.single[key].stale:
            self.single[key] = self.program.compiled(graph, specs, jit_compile=False, capacity=1)
        reset(graph)
        return self.single[key]


def not_by_row(name: str, of: str, seen: str) -> ConfigError:
    """The error for an output that is asked for and has no value for each row."""
    write = "Name another output; predict gives values of a whole batch only for at most batch_size rows."
    return ConfigError(f"{name!r} has no value for each row of {of}.", f"Seen: {seen}.", write)


def _joined(name: str, results: Sequence[np.ndarray], rows: Sequence[np.ndarray], asked: Iterable[str]) -> Any:
    """The results of batches, [1, B, ...] each, concatenated to [N, ...]; of a scalar, [1] each, one for each batch.

    Where batches have several lengths, these are padded with zeros to the longest.

    `rows` are [1, B] each. Of several batches, an array without a value for each row is None, and refused if `asked`.
    """
    values = [one[0] if one.ndim > 1 else one for one in results]
    for one, row in zip(values, rows, strict=True):
        if len(rows) > 1 and results[0].ndim > 1 and one.shape[:1] != (row.size,):
            if name in asked:
                seen = f"{list(one.shape)} for {row.size} rows, in {len(rows)} batches"
                raise not_by_row(name, "what is given", seen)
            return None
    return together(values)


def check_lengths(columns: Mapping[str, np.ndarray], what: str) -> None:
    """Refuse arrays of which one has fewer rows than another, or none at all."""
    sizes = {name: values.shape[:1] for name, values in columns.items()}
    if len(set(sizes.values())) > 1 or () in sizes.values():
        raise ValueError(
            f"{what} needs arrays of equal length.\nSeen: {sizes}.\nGive each a batch axis of the same length."
        )


def _numbers(values: list[Any]) -> Any:
    """A list of numbers as an array; a list of other objects stays, as in a batch."""
    try:
        array = np.asarray(values)
    except ValueError:  # ragged
        return values
    return array if array.dtype.kind in "biufc" else values
