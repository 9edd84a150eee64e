"""The compiled loop: gather a batch, run the graph, take gradients, update; K times in one call."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from math import prod
from typing import Any

import numpy as np
import tensorflow as tf

from experimentator.backends import Columns
from experimentator.backends.keras.context import Forward, update
from experimentator.backends.keras.state import variables_of
from experimentator.backends.keras.step import EAGER
from experimentator.backends.keras.traces import Traces
from experimentator.backends.keras.trials import TriedStep
from experimentator.backends.keras.variables import copied
from experimentator.backends.tensorflow.draws import draws_with_state, quick_draws
from experimentator.backends.tensorflow.failures import failed_running, kept_from_a_trace, why_not_compiled
from experimentator.backends.tensorflow.gradients import with_gradients
from experimentator.backends.tensorflow.ids import odd_ids_are_nan
from experimentator.loading.blocks import padded

log = logging.getLogger(__name__)
# How a training step may be compiled, and the `jit_compile` that asks for it: by TensorFlow alone; by XLA together with
# the loop around it; by XLA, called from a loop of TensorFlow's, since on a CPU XLA runs convolutions slower in a loop.
COMPILERS = {"graph": False, "xla": True, "xla-step": "step"}
FAILURES = (tf.errors.InvalidArgumentError, tf.errors.UnimplementedError, tf.errors.InternalError)
TRIAL = 3.0  # what trying XLA costs, its compilation above all, in times of the first call without it
CALL_SECONDS = 1e-4  # what a call of XLA for one batch costs
DRAWS = (
    "%s draws by %s, whose state cannot be saved: a resumed run draws other numbers, and under XLA every run "
    "does. Write keras.random.normal(..., seed=keras.random.SeedGenerator(1)), or an op of experimentator.ops."
)
GRAPH, LOOP, BATCH = COMPILERS


class TensorflowStep(TriedStep):
    """A compiled graph; see `experimentator.backends.Step`.

    A call runs at most `capacity` batches; more are split. Calls share a function whose count of batches varies; those
    of the most common size may use a function with that count fixed (`fixed=True`), which runs quicker. With
    `jit_compile="auto"` a GPU uses XLA, and a CPU what `choose` finds to be fastest for this graph: no XLA, XLA around
    the loop, or around each step of it; until then it runs without XLA.
    """

    compilers = COMPILERS

    def __init__(self, forward: Forward, outputs: Columns, optimizer: Any, **options: Any):
        super().__init__(forward, outputs, **options)
        self.optimizer = optimizer
        self._functions: dict[Any, Any] = {}
        self._rows: dict[str, int] = {}  # lengths of the columns that the function of any count was traced for
        self._told = Traces(by_length=False)

    def _automatic(self, like: str | None) -> str | None:
        if like is not None:
            return like if like in COMPILERS else GRAPH
        return LOOP if has_gpu() else None

    def _run(self, columns: Mapping[str, Any], index: np.ndarray, *, fixed: bool) -> dict[str, Any]:
        if self.chosen == EAGER:
            with odd_ids_are_nan() if has_gpu() else nullcontext():
                return self._loop(columns, tf.constant(index), None)
        return self._called(self.compiler, columns, index, fixed=fixed)

    def result_bytes(self, batch_size: int) -> int:
        """Bytes that come back for each batch; sizes that are not known count as the batch size."""
        known = [(spec.dtype.size, spec.shape if spec.shape.rank else ()) for spec in self.outputs.values()]
        return sum(width * prod(size or batch_size for size in sizes) for width, sizes in known)

    @contextmanager
    def _undone(self) -> Iterator[None]:
        put_back = copied([*self.weights, *variables_of(self.optimizer)])
        try:
            yield
        finally:
            put_back()

    def _placed(self, columns: Mapping[str, Any], index: np.ndarray) -> tuple[Mapping[str, Any], np.ndarray]:
        return {name: _lengthened(column, self._rows.get(name, 0)) for name, column in columns.items()}, index

    def _finish(self, compiler: str, columns: Mapping[str, Any], index: np.ndarray) -> None:
        for values in self._called(compiler, columns, index, fixed=False).values():
            values.numpy()

    def _trial_cost(self) -> float:
        return TRIAL * self._first_seconds

    def _verdict(self, tried: str) -> str | None:
        is_quick = self.timings[GRAPH] < CALL_SECONDS  # XLA's calls for each step would take longer
        return super()._verdict(tried) or (GRAPH if is_quick else None)

    def _called(self, compiler: str, columns: Mapping[str, Any], index: np.ndarray, *, fixed: bool) -> dict[str, Any]:
        """Run batches by a compiler; where XLA has no form for the graph, without."""
        try:
            return self._call(compiler, columns, index, fixed=fixed)
        except FAILURES as error:
            reason = "" if compiler == GRAPH else why_not_compiled(error, self.graph.nodes)
            if not reason:
                raise
            self._go_without("XLA", reason)
        return self._call(GRAPH, columns, index, fixed=fixed)

    def _call(self, compiler: str, columns: Mapping[str, Any], index: np.ndarray, *, fixed: bool) -> dict[str, Any]:
        count = len(index)
        try:
            if fixed:
                return dict(self._function(compiler, fixed)(columns, index))
            self._rows = {name: column.shape[0] for name, column in columns.items()}
            outputs = self._function(compiler, fixed)(columns, padded(index, self.capacity or 0), np.int32(count))
        except (TypeError, ValueError) as error:
            if (kept := kept_from_a_trace(error, self.graph.nodes)) is None:
                raise
            raise kept from None
        except tf.errors.InvalidArgumentError as error:
            raise failed_running(error, self.graph) from None
        return {name: values if count == self.capacity else values[:count] for name, values in outputs.items()}

    def _function(self, compiler: str, fixed: bool) -> Any:
        if (compiler, fixed) not in self._functions:

            def run(columns: Any, index: Any, count: Any = None) -> Any:
                self.traces += 1
                known = {name: column for name, column in columns.items() if column.shape[0] is not None}
                self._told.tell(f"{compiler}, fixed={fixed}", known)
                tf.compat.v1.get_default_graph().seed = self.seed
                with (
                    nullcontext() if compiler == GRAPH or has_gpu() else quick_draws(),
                    nullcontext() if compiler == GRAPH and not has_gpu() else odd_ids_are_nan(),
                ):
                    return self._loop(columns, index, count, compiled=compiler == BATCH)

            any_size = compiler == GRAPH and self.optimizer is None  # a second number of rows makes the trace for all
            jit = True if compiler == LOOP else None
            function = tf.function(run, jit_compile=jit, autograph=False, reduce_retracing=any_size)
            function._omit_frequent_tracing_warning = True  # it counts the steps of all experiments as one function
            self._functions[compiler, fixed] = function
        return self._functions[compiler, fixed]

    def _loop(self, columns: Any, index: Any, count: Any, *, compiled: bool = False) -> dict[str, Any]:
        capacity = index.shape[0] if index.shape[0] is not None else tf.shape(index)[0]
        arrays = {
            name: tf.TensorArray(spec.dtype, capacity, infer_shape=False, element_shape=None)
            for name, spec in self.outputs.items()
        }
        batch = tf.function(self._batch, jit_compile=True, autograph=False) if compiled else self._batch

        def body(place: Any, arrays: Any) -> Any:
            rows = index[place]
            outputs = batch({name: tf.gather(column, rows) for name, column in columns.items()})
            return place + 1, {name: array.write(place, outputs[name]) for name, array in arrays.items()}

        limit, place = capacity if count is None else count, tf.constant(0)
        if self.chosen == EAGER:  # in plain Python: no frames of TensorFlow around those of a processor
            while place < limit:
                place, arrays = body(place, arrays)
        else:
            _, arrays = tf.while_loop(lambda place, _: place < limit, body, (place, arrays), parallel_iterations=1)
        return {name: array.stack() for name, array in arrays.items()}

    def _batch(self, tensors: Any) -> Any:
        outputs = self.forward(tensors) if self.optimizer is None else self._train_batch(tensors)
        if self.chosen != EAGER:
            found = draws_with_state(self.graph.nodes)
            for node, kind in found.items() - self.draws_with_state.items():
                log.warning(DRAWS, node, kind)
            self.draws_with_state = {**self.draws_with_state, **found}
        return {name: outputs[name] for name in self.outputs}

    def _train_batch(self, tensors: Any) -> Any:
        kept = self.forward.trained()
        outputs, pairs = with_gradients(self.forward, tensors, kept, self.optimizer)
        reached = [variable for _, variable in pairs]
        self.forward.reach.check(kept, reached, self.optimizer, eager=self.chosen == EAGER)
        update(self.optimizer, [g for g, _ in pairs], [v for _, v in pairs])
        return outputs


def has_gpu() -> bool:
    """Whether steps run on a GPU."""
    return bool(tf.config.list_logical_devices("GPU"))


def _lengthened(column: Any, rows: int) -> Any:
    """A column with rows of zeros behind it, up to so many, for which the function was traced."""
    short = max(0, rows - column.shape[0])
    return tf.concat([column, tf.zeros([short, *column.shape[1:]], column.dtype)], axis=0) if short else column
