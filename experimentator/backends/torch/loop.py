"""The loop: gather a batch, run the graph, take gradients, update; K times in one call."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import keras
import numpy as np
import torch

from experimentator.backends.keras.scopes import owner
from experimentator.backends.keras.step import EAGER, put_rows
from experimentator.backends.keras.traces import Traces
from experimentator.backends.keras.trials import TriedStep
from experimentator.backends.torch.batch import Batch
from experimentator.backends.torch.failures import add_cures
from experimentator.backends.torch.program import (
    ASKED,
    FAILURES,
    Program,
    Tensors,
    compiled_loop,
    refuse_kept,
    why_asked,
    why_failed,
)
from experimentator.graph.text import failed_in
from experimentator.loading.memory import keep_large_buffers

log = logging.getLogger(__name__)
# A program of PyTorch's operations, run one after the other; or the loop around it, compiled by Inductor.
COMPILERS = {"program": False, "inductor": True}
PROGRAM, LOOP = COMPILERS
TRIAL, EACH = 4.0, 0.05  # seconds that compiling with Inductor takes, and more for each operation
KEPT = 1 << 18  # bytes of results in one compiled loop, which copies them at every batch
Columns = Mapping[str, torch.Tensor]


class TorchStep(TriedStep):
    """A compiled graph; see `experimentator.backends.Step`.

    One run of Python on tensors without values records the operations of a batch, forward, backward and update. They
    run one after the other, without Python or autograd; or Inductor makes one function of them and of the loop around
    them, where `jit_compile` asks for it, or with "auto" where `choose` finds that quicker. A graph that looks at
    values cannot be recorded, and runs in Python. Each number of rows is recorded separately.
    """

    compilers = COMPILERS

    def __init__(
        self,
        batch: Batch,
        outputs: Mapping[str, Any],
        put: Callable[[Mapping[str, Any]], Columns],
        *,
        asked: set[str] | None = None,
        **options: Any,
    ):
        super().__init__(batch.forward, outputs, **options)
        self.batch, self.put = batch, put
        if batch.place.type == "cpu":
            keep_large_buffers()
        self.is_profiled = False  # operations run one by one, under names, without the compiler
        self._most = 0  # rows that a batch had
        self._layout: list[Any] = []  # autocast, and dtypes and strides of the state, that programs were recorded with
        self._programs: dict[Any, Program] = {}
        self._loops: dict[Any, Callable[..., Any]] = {}
        self._told = Traces(by_length=True)
        self._asked: set[str] = set() if asked is None else asked  # reasons that were told of, for other steps as well

    def _automatic(self, like: str | None) -> str | None:
        return like if like is None or like in (*COMPILERS, EAGER) else PROGRAM

    def _run(self, columns: Mapping[str, Any], index: np.ndarray, *, fixed: bool) -> dict[str, Any]:
        state, results = self.run(*put_rows(columns, index, self.put, tensor=torch.Tensor))
        refuse_kept([*state, *results])
        self.batch.keep_flat(state)
        return dict(zip(self.outputs, map(keras.ops.convert_to_numpy, results), strict=True))

    def _undone(self) -> AbstractContextManager[Any]:
        """Within, batches draw, but no generator of PyTorch's goes on; a run changes no variable by itself."""
        return torch.random.fork_rng([self.batch.place] if self.batch.place.type == "cuda" else [])

    def _placed(self, columns: Columns, index: np.ndarray) -> tuple[Columns, np.ndarray]:
        return put_rows(columns, index, self.put, tensor=torch.Tensor)

    def _finish(self, compiler: str, columns: Columns, index: np.ndarray) -> None:
        for values in self.run(columns, index, compiler)[1]:
            values.cpu()

    def _trial_cost(self) -> float:
        return TRIAL + EACH * max((program.size for program in self._programs.values()), default=0)

    def run(self, columns: Columns, index: np.ndarray, compiler: str | None = None) -> tuple[Tensors, Tensors]:
        """The state after all batches, and the results, stacked; no variable is changed yet."""
        state = self.batch.flat_state()
        kind = self.batch.place.type
        casts = torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind)  # by a context of the caller's
        layout = [casts, *((value.dtype, value.stride()) for value in state)]
        if layout != self._layout:  # after module.to(...)
            self._programs, self._loops, self._layout = {}, {}, layout
        rows = torch.as_tensor(np.asarray(index, np.int64)).to(self.batch.place)
        self._most = max(self._most, rows.shape[1])
        is_rest = len(rows) == 1 and rows.shape[1] < self._most  # last rows of an evaluation, not worth a compilation
        if (compiler or self.compiler) == LOOP and not self.is_profiled and not is_rest:
            try:
                return self._looped(state, columns, rows)
            except ASKED as error:
                self._look(error)
            except FAILURES as error:
                self._go_without("Inductor", why_failed(error), error)
        results: list[Tensors] = []
        for picked in rows:  # from the second on, this loop alone holds the state
            tensors = {name: column[picked] for name, column in columns.items()}
            state, given = self._one(state, columns, tensors, own=bool(results))
            results.append(given)
        return state, [torch.stack(values) for values in zip(*results, strict=True)]

    def _one(self, state: Tensors, columns: Columns, tensors: Columns, *, own: bool) -> tuple[Tensors, Tensors]:
        if self.compiler != EAGER:
            try:
                program = self._program(state, tensors, columns)
            except ASKED as error:
                self._look(error)
            else:
                return self._run_program(program, state, list(tensors.values()), own=own)
        return self._batch(list(tensors))(state, list(tensors.values()))

    def _run_program(self, program: Program, state: Tensors, tensors: Tensors, *, own: bool) -> tuple[Tensors, Tensors]:
        """Run a program; where it fails, say in which processor."""
        try:
            return program(state, tensors, named=self.is_profiled, own=own)
        except (RuntimeError, IndexError) as error:
            if not isinstance(error, torch.OutOfMemoryError):
                node = owner(program.failing(state, tensors), self.graph.nodes)
                if node is not None:
                    add_cures(error)
                    error.add_note(failed_in(node, self.graph.mode))
            raise

    def _batch(self, names: list[str]) -> Callable[[Tensors, Tensors], tuple[Tensors, Tensors]]:
        """A function that runs one batch in Python: flat state and tensors of `names` in, state and results out."""

        def run(state: Tensors, tensors: Tensors) -> tuple[Tensors, Tensors]:
            after, outputs = self.batch(self.batch.parted(state), dict(zip(names, tensors, strict=True)))
            return [value for part in after for value in part], [outputs[name] for name in self.outputs]

        return run

    def _program(self, state: Tensors, tensors: Columns, columns: Columns) -> Program:
        """The batch as a program, recorded for tensors of these shapes; tables of rates may change their length."""
        given = [*tensors.values(), *self.batch.parted(state)[2]]
        key = tuple((tensor.shape, tensor.dtype) for tensor in given)
        if key not in self._programs:
            self.traces += 1
            self._told.tell("batch", columns)
            self._programs[key] = Program(self._batch(list(tensors)), state, list(tensors.values()))
        return self._programs[key]

    def _looped(self, state: Tensors, columns: Columns, rows: torch.Tensor) -> tuple[Tensors, Tensors]:
        """The compiled loop over all rows, a part at a time where much comes back."""
        program = self._program(state, {name: column[rows[0]] for name, column in columns.items()}, columns)
        count = max(1, min(self.capacity or len(rows), KEPT // (program.result_bytes or 1)))
        parts = []
        for some in rows.split(count):
            padded = torch.zeros((count, rows.shape[1]), dtype=torch.int64, device=rows.device)
            padded[: len(some)] = some
            limit = torch.tensor(len(some), device=rows.device)
            state, results = self._compiled(program, columns, padded)(state, columns, padded, limit)
            parts.append([values[: len(some)] for values in results])
        return state, parts[0] if len(parts) == 1 else [torch.cat(values) for values in zip(*parts, strict=True)]

    def _compiled(self, program: Program, columns: Columns, rows: torch.Tensor) -> Callable[..., Any]:
        key = id(program), *(len(column) for column in columns.values()), rows.shape
        if key not in self._loops:
            self._told.tell("loop", columns)
            self.traces += key[0] in {known for known, *_ in self._loops}
            self._loops[key] = compiled_loop(program, list(columns))
        return self._loops[key]

    def _look(self, error: Exception) -> None:
        """Warn which processor looks at values, so that the graph runs in Python; raise if it must be compiled."""
        reason = why_asked(error)
        if not self.auto and self.chosen == LOOP:
            change = "Write jit_compile='auto'; or keras.ops.where, or torch.where, instead of what looks at values."
            raise ValueError(f"The graph cannot be compiled: {reason}\nSeen: jit_compile=True.\n{change}") from None
        if reason not in self._asked:
            log.warning("The graph cannot be recorded, and runs in Python, which is slower: %s", reason)
        self._asked.add(reason)
        self.chosen = EAGER
