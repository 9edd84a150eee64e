"""The compiled loop: gather a batch, run the graph, take gradients, update; K times in one call."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from itertools import count
from typing import Any

import jax
import numpy as np
from jax import lax
from jax import numpy as jnp

from experimentator.backends import Columns
from experimentator.backends.jax.batch import Batch, described
from experimentator.backends.keras.stateless import State
from experimentator.backends.keras.step import EAGER, KerasStep, put_rows
from experimentator.backends.keras.trace_leaks import KEPT, LOSS_WITHIN, OWN_GRADIENT
from experimentator.backends.keras.traces import Traces
from experimentator.graph import GraphError
from experimentator.loading.blocks import padded

# XLA with the loop around the step; or for each step, called from Python. On a CPU, convolutions within XLA's loop were
# 16 times as slow (32 and 64 channels), where other networks gain from the loop.
COMPILERS = {"xla": True, "xla-step": "step"}
LOOP, BATCH = COMPILERS
SEED = "uint32[2]"  # how errors of JAX name the state of a seed generator
IN_LOOP = (
    "Layers that draw or assign, such as Dropout and BatchNormalization, are called with training=False there; or "
    "write a few turns as a Python `for`, and a branch as keras.ops.where."
)
_NUMBERS = count(1)
_LOOPED = re.compile(r"leaked was (.+) traced for (cond|switch|scan|fori_loop|while_loop)\b")


class JaxStep(KerasStep):
    """A compiled graph; see `experimentator.backends.Step`.

    A call runs at most `capacity` batches, more are split. On a GPU, whole calls are a `lax.scan`, which compiles for
    one count. All others are a `lax.fori_loop` whose count varies: on a CPU, where it is no slower, the same loop
    runs however a pass is cut into calls. `jit_compile="step"` compiles a batch, and calls that, as "auto" does for
    convolutions on a CPU. JAX compiles for one number of rows: another is another trace. What the optimizer keeps is
    updated in place; weights are not, since they may be held elsewhere.
    """

    compilers = COMPILERS

    def __init__(self, batch: Batch, outputs: Columns, put: Callable[[Columns], Columns], **options: Any):
        self.batch, self.put, self.is_host = batch, put, batch.devices.is_host
        super().__init__(batch.forward, outputs, **options)
        self._functions: dict[str, Any] = {}
        self._shapes: dict[str, Any] = {}
        self._told = Traces(by_length=True)

    def _automatic(self, like: str | None) -> str:
        return BATCH if self.batch.convolves and self.is_host else LOOP

    def _run(self, columns: Mapping[str, Any], index: np.ndarray, *, fixed: bool) -> dict[str, Any]:
        columns, index = put_rows(columns, index, self.put, tensor=jax.Array)
        if self.chosen in (EAGER, BATCH):
            results = jax.device_get([self._one(columns, rows) for rows in index])
            return {name: np.stack([outputs[name] for outputs in results]) for name in self.outputs}
        fixed = fixed and not self.is_host
        arguments = (index,) if fixed else (padded(index, self.capacity or 0), np.int32(len(index)))
        outputs = self._called("whole" if fixed else "any", self._loop, columns, *arguments)
        fits = fixed or len(index) == self.capacity  # a slice costs a call, even if it takes everything
        return {name: outputs[name] if fits else outputs[name][: len(index)] for name in self.outputs}

    def programs(self) -> list[str]:
        """The texts of the compiled programs, as of their first calls."""
        pairs = [(self._functions[kind], shapes) for kind, shapes in self._shapes.items()]
        return [function.lower(*shapes).compile().as_text() for function, shapes in pairs]

    def _one(self, columns: Mapping[str, Any], rows: np.ndarray) -> dict[str, Any]:
        """One batch; for `eager` without a compiler, to look into processors with a debugger."""
        if self.chosen != EAGER:
            return self._called("batch", self._batch, columns, rows)
        state, outputs = self._batch(self.batch.state(), columns, rows, compiled=False)
        self.batch.keep(*state[:2])
        return outputs

    def _called(
        self, kind: str, run: Callable[..., Any], columns: Mapping[str, Any], *arguments: Any
    ) -> dict[str, Any]:
        """Call a compiled function on the state, let the variables hold the new one, and return the outputs."""
        state = self.batch.state()
        if kind not in self._functions:
            self._functions[kind] = self._compiled(kind, run)
            self._shapes[kind] = described((*state, columns, *arguments))
        try:
            slots, weights, outputs = self._functions[kind](*state, columns, *arguments)
        except jax.errors.UnexpectedTracerError as error:
            raise kept(error) from None
        self.batch.keep(weights, slots)
        return dict(outputs)

    def _compiled(self, kind: str, run: Callable[..., Any]) -> Any:
        """A function of weights, slots and tables of the state, columns, index (and count) to slots, weights, results.

        Slots come first: JAX gives the memory of the first donated argument to the first result of its shape. Behind
        the weights, slots got one another's memory, and each was copied twice.
        """

        def traced(weights: Any, slots: Any, tables: Any, columns: Any, *arguments: Any) -> Any:
            self.traces += 1
            self._told.tell(kind, columns)
            (weights, slots, _), outputs = run((weights, slots, tables), columns, *arguments)
            return slots, weights, outputs

        traced.__name__ = f"{self.graph.mode}_{next(_NUMBERS)}"  # what profiles call it
        return jax.jit(traced, donate_argnums=1)

    def _batch(self, state: State, columns: Any, rows: Any, *, compiled: bool = True) -> tuple[State, dict[str, Any]]:
        """The state after one batch, and what was asked for."""
        tensors = {name: column[rows] for name, column in columns.items()}
        state, outputs = self.batch(state, tensors, compiled=compiled)
        return state, {name: outputs[name] for name in self.outputs}

    def _loop(self, state: State, columns: Any, index: Any, limit: Any = None) -> tuple[State, dict[str, Any]]:
        """The state after all batches of an index, or the first `limit` ones, and their results, stacked."""

        def one(state: State, rows: Any) -> tuple[State, dict[str, Any]]:
            return self._batch(state, columns, rows)

        if limit is None:
            return lax.scan(one, state, index)

        def body(place: Any, carried: tuple[State, Any]) -> tuple[State, Any]:
            state, outputs = one(carried[0], index[place])
            return state, {name: kept.at[place].set(outputs[name]) for name, kept in carried[1].items()}

        shapes = jax.eval_shape(one, state, index[0])[1]
        room = {name: jnp.zeros((len(index), *one.shape), one.dtype) for name, one in shapes.items()}
        return lax.fori_loop(0, limit, body, (state, room))


def kept(error: Exception) -> GraphError:
    """The error for a processor that kept a tensor of an earlier trace."""
    kind = re.search(r"value with type (\S+)", str(error))
    frames = re.findall(r"^(.+:\d+):\d+ \((.*)\)$", str(error), flags=re.MULTILINE)
    own = re.compile(r"[/\\]keras[/\\]src[/\\]|[/\\]experimentator[/\\]backends[/\\]")
    made = [f"{function}, {place}" for place, function in frames if not own.search(place)]
    if kind and kind[1] == SEED:
        return GraphError(
            "A chunk processor draws within a loop or a branch, which the new state of its generator cannot leave.\n"
            f"Seen: {SEED}, a seed of keras.random.SeedGenerator, within keras.ops.fori_loop, scan, cond or the like.\n"
            "Draw before it, for all turns at once: noise = keras.random.normal((turns, ...), seed=generator), and "
            f"take noise[turn] there. {IN_LOOP}"
        )
    if (within := _LOOPED.search(str(error))) and "(Variable.assign)" in str(error):
        return GraphError(
            "A chunk processor assigns a variable within a loop or a branch, which its new value cannot leave.\n"
            f"Seen: {kind[1] if kind else 'a tensor'}, such as the statistics of a BatchNormalization, in {within[1]}, "
            f"within keras.ops.{within[2]} or the like.\n"
            f"Assign it behind the loop or the branch. {IN_LOOP}"
        )
    given = f" {OWN_GRADIENT}" if "LinearizeTracer" in str(error) else ""
    return GraphError(
        "A chunk processor keeps a tensor of an earlier trace, which is out of reach in this one.\n"
        f"Seen: {kind[1] if kind else 'a tensor'}, made in {made[-1] if made else 'a processor'}.\n"
        f"{KEPT} {LOSS_WITHIN} What layers assign, such as the statistics of a BatchNormalization, can leave "
        "keras.remat(function), but not jax.checkpoint, and experimentator.gradient(function, tensor), but not "
        f"jax.grad.{given}"
    )
