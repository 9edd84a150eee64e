"""The loop: gather a batch, run the graph, take gradients, update; K times in one call."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
import torch

from experimentator.backends.torch.batch import Batch
from experimentator.backends.torch.program import ASKED, Program, Tensors, looped
from experimentator.graph import Graph

log = logging.getLogger(__name__)
# A program of PyTorch's operations, run one after the other; or the loop around it, compiled by Inductor.
COMPILERS = {"graph": False, "inductor": True}
GRAPH, LOOP = COMPILERS
Columns = Mapping[str, torch.Tensor]


class TorchStep:
    """A compiled graph; see `experimentator.backends.Step`.

    One run of Python on tensors without values records which operations a batch takes, forward, backward and update.
    They run one after the other, without Python's or autograd's part; or Inductor makes one function of them and of the
    loop around them. A graph that looks at values runs as it is.
    """

    draws_with_state: Mapping[str, str] = {}

    def __init__(
        self,
        graph: Graph,
        batch: Batch,
        outputs: Mapping[str, Any],
        put: Callable[[Mapping[str, Any]], Columns],
        *,
        jit_compile: Any = "auto",
        like: str | None = None,
        eager: bool = False,
        capacity: int | None = None,
        seed: int = 0,
    ):
        self.graph, self.batch, self.outputs, self.put = graph, batch, outputs, put
        self.eager, self.capacity = eager, capacity
        self.chosen: str | None = like or (None if jit_compile == "auto" else GRAPH if jit_compile is False else LOOP)
        self.traces = self.batches = 0
        self._programs: dict[Any, Program] = {}
        self._loops: dict[Any, Any] = {}
        self._trained = [variable.trainable for variable in batch.weights]

    @property
    def compiler(self) -> str:
        """How the step runs: one of `COMPILERS`, or `eager`."""
        return "eager" if self.eager else self.chosen or GRAPH

    @property
    def is_settled(self) -> bool:
        """Whether `choose` has chosen, or nothing was left open."""
        return self.eager or self.chosen is not None

    @property
    def stale(self) -> bool:
        """Whether a layer was frozen or thawed since, so that the step must be compiled again."""
        return [variable.trainable for variable in self.batch.weights] != self._trained

    def __call__(self, columns: Mapping[str, Any], index: np.ndarray, *, fixed: bool | None = None) -> dict[str, Any]:
        """Every selected name stacked over the batches: {name: [K, ...]}; `fixed` changes nothing."""
        columns = {name: columns[name] for name in self.graph.inputs}
        index = np.asarray(index, dtype=np.int32)
        self.capacity = self.capacity or len(index)
        if len(index) > self.capacity:
            parts = [self(columns, part) for part in np.split(index, range(self.capacity, len(index), self.capacity))]
            return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        self.batches += len(index)
        columns, index = self._placed(columns, index)
        state, results = self._run(self.compiler, columns, index)
        self._keep(state)
        return {name: keras.ops.convert_to_numpy(values) for name, values in zip(self.outputs, results, strict=True)}

    def result_bytes(self, batch_size: int) -> int:
        """Bytes that come back for each batch."""
        return sum(one.dtype.itemsize * one.shape.numel() for one in self.outputs.values())

    def choose(self, columns: Mapping[str, Any], index: np.ndarray, *, remaining: int) -> None:
        """Settle an open choice."""

    def _run(self, compiler: str, columns: Columns, index: np.ndarray) -> tuple[Tensors, Tensors]:
        """The state after all batches, and the results."""
        rows = torch.as_tensor(index.astype(np.int64))
        weights, slots, tables = self.batch.state()
        state = [*weights, *slots, *tables]
        if compiler == LOOP:
            return self._compiled(state, columns, rows)
        rows = rows.to(next(iter(columns.values())).device) if columns else rows
        results = []
        for picked in rows:
            tensors = [columns[name][picked] for name in columns]
            state, given = self._one(compiler, state, tensors)
            results.append(given)
        return state, [torch.stack(values) for values in zip(*results, strict=True)]

    def _one(self, compiler: str, state: Tensors, tensors: Tensors) -> tuple[Tensors, Tensors]:
        if compiler == "eager":
            return self._batch(state, tensors)
        return self._program(state, tensors)(state, tensors)

    def _batch(self, state: Tensors, tensors: Tensors) -> tuple[Tensors, Tensors]:
        """One batch, in Python."""
        first, second = len(self.batch.weights), len(self.batch.weights) + len(self.batch.slots)
        parts = state[:first], state[first:second], state[second:]
        given = dict(zip(self._names, tensors, strict=True))
        (weights, slots, tables), outputs = self.batch(parts, given)
        return [*weights, *slots, *tables], [outputs[name] for name in self.outputs]

    def _program(self, state: Tensors, tensors: Tensors) -> Program:
        key = tuple((tensor.shape, tensor.dtype) for tensor in [*tensors, *state[len(state) - 0 :]])
        if key not in self._programs:
            self.traces += 1
            self._programs[key] = Program(self._batch, state, tensors)
        return self._programs[key]

    def _compiled(self, state: Tensors, columns: Columns, rows: torch.Tensor) -> tuple[Tensors, Tensors]:
        sample = [columns[name][rows[0]] for name in columns]
        program = self._program(state, sample)
        if id(program) not in self._loops:
            self._loops[id(program)] = torch.compile(
                looped(program, list(columns)), fullgraph=True, dynamic=False, options={"cpp_wrapper": True}
            )
        padded = torch.zeros((self.capacity or len(rows), rows.shape[1]), dtype=torch.int64)
        padded[: len(rows)] = rows
        with torch.no_grad():
            state, results = self._loops[id(program)](state, dict(columns), padded, torch.tensor(len(rows)))
        return state, [values[: len(rows)] for values in results]

    def _keep(self, state: Tensors) -> None:
        first, second = len(self.batch.weights), len(self.batch.weights) + len(self.batch.slots)
        self.batch.keep(state[:first], state[first:second])

    @property
    def _names(self) -> list[str]:
        return list(self.graph.inputs)

    def _placed(self, columns: Mapping[str, Any], index: np.ndarray) -> tuple[Columns, np.ndarray]:
        """Columns on the device; of those on the host the rows of this call alone."""
        if all(isinstance(column, torch.Tensor) for column in columns.values()):
            return columns, index
        rows = {name: np.asarray(column)[index.ravel()] for name, column in columns.items()}
        return self.put(rows), np.arange(index.size, dtype=np.int32).reshape(index.shape)
