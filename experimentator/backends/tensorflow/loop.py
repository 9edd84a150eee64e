"""The compiled loop: gather a batch, run the graph, take gradients, update; K times in one call."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from contextlib import nullcontext
from math import prod
from typing import Any

import numpy as np
import tensorflow as tf

from experimentator.backends import Columns
from experimentator.backends.keras.context import Forward, update
from experimentator.backends.keras.state import variables_of
from experimentator.backends.keras.step import EAGER, KerasStep
from experimentator.backends.keras.traces import Traces
from experimentator.backends.keras.variables import copied
from experimentator.backends.tensorflow.draws import draws_with_state, quick_draws
from experimentator.backends.tensorflow.failures import failed_running, kept_from_a_trace, why_not_compiled
from experimentator.backends.tensorflow.gradients import with_gradients
from experimentator.backends.tensorflow.ids import odd_ids_are_nan
from experimentator.graph import Graph
from experimentator.loading.blocks import padded

log = logging.getLogger(__name__)
# How a training step may be compiled, and the `jit_compile` that asks for it: by TensorFlow alone; by XLA together with
# the loop around it; by XLA, called from a loop of TensorFlow's, since on a CPU XLA runs convolutions slower in a loop.
COMPILERS = {"graph": False, "xla": True, "xla-step": "step"}
FAILURES = (tf.errors.InvalidArgumentError, tf.errors.UnimplementedError, tf.errors.InternalError)
PROBE_SECONDS = 0.1  # how long each compiler is timed, once compiled
PROBES = 3  # times
CLEARLY = 0.95  # XLA is taken below this share of the time without: a toss-up must not change bits from run to run
TRIAL = 3.0  # what trying XLA costs, its compilation above all, in times of the first call without it
WORTH = 3.0  # a trial is made if the batches take so many times as long
HOPELESS = 2.0  # times as slow as without XLA: not timed again
CALL_SECONDS = 1e-4  # what a call of XLA for one batch costs
DRAWS = (
    "%s draws by %s, whose state cannot be saved: a resumed run draws other numbers, and under XLA every run "
    "does. Write keras.random.normal(..., seed=keras.random.SeedGenerator(1)), or an op of experimentator.ops."
)
GRAPH, LOOP, BATCH = COMPILERS


class TensorflowStep(KerasStep):
    """A compiled graph; see `experimentator.backends.Step`.

    A call runs at most `capacity` batches; more are split. Calls share a function whose count of batches varies; those
    of the most common size may use a function with that count fixed (`fixed=True`), which runs quicker. With
    `jit_compile="auto"` a GPU uses XLA, and a CPU what `choose` finds to be fastest for this graph: no XLA, XLA around
    the loop, or around each step of it; until then it runs without XLA.
    """

    default = GRAPH

    def __init__(
        self, graph: Graph, forward: Forward, outputs: Columns, weights: list[Any], optimizer: Any, **options: Any
    ):
        super().__init__(graph, weights, outputs, **options)
        self.forward, self.optimizer = forward, optimizer
        self.timings: dict[str, float] = {}
        self._first_seconds = self._trial_seconds = 0.0
        self._functions: dict[Any, Any] = {}
        self._rows: dict[str, int] = {}  # lengths of the columns that the function of any count was traced for
        self._told = Traces(by_length=False)

    def _choice(self, jit_compile: Any, like: str | None) -> str | None:
        if like is not None:
            return like if like in COMPILERS else GRAPH
        if jit_compile == "auto":
            return LOOP if has_gpu() else None
        for compiler, setting in COMPILERS.items():
            if setting == jit_compile:
                return compiler
        raise ValueError(f"jit_compile={jit_compile!r} is not known. Write 'auto', True, False or 'step'.")

    def _run(self, columns: Mapping[str, Any], index: np.ndarray, *, fixed: bool) -> dict[str, Any]:
        if self.chosen == EAGER:
            with odd_ids_are_nan() if has_gpu() else nullcontext():
                return self._loop(columns, tf.constant(index), None)
        try:
            return self._call(self.compiler, columns, index, fixed=fixed)
        except FAILURES as error:
            if self.compiler == GRAPH or not (self.auto and self._falls_back(error)):
                raise self._refused(error) or error from None
        return self._call(GRAPH, columns, index, fixed=fixed)

    def result_bytes(self, batch_size: int) -> int:
        """Bytes that come back for each batch; sizes that are not known count as the batch size."""
        known = [(spec.dtype.size, spec.shape if spec.shape.rank else ()) for spec in self.outputs.values()]
        return sum(width * prod(size or batch_size for size in sizes) for width, sizes in known)

    def choose(self, columns: Mapping[str, Any], index: np.ndarray, *, remaining: int) -> None:
        """Settle an open choice of compiler for `remaining` batches, by timing each on a copy of the state.

        Compilers are tried one by one, each as soon as the batches done and ahead take much longer than its trial.
        """
        if self._untried(remaining) is None:
            return
        columns = {name: _lengthened(columns[name], self._rows.get(name, 0)) for name in self.graph.inputs}
        self.capacity = self.capacity or len(index)
        index = np.asarray(index[: self.capacity], dtype=np.int32)
        put_back = copied([*self.weights, *variables_of(self.optimizer)])
        try:
            while compiler := self._untried(remaining):
                self._try(compiler, columns, index)
        finally:
            put_back()

    def _untried(self, remaining: int) -> str | None:
        """The compiler to try next; None where that would not pay, or nothing is open."""
        if self.is_settled:
            return None
        if GRAPH not in self.timings:  # it says whether others are worth a trial
            return GRAPH
        untried = BATCH if LOOP in self.timings else LOOP
        return untried if (self.batches + remaining) * self.timings[GRAPH] > WORTH * self._trial_seconds else None

    def _call(self, compiler: str, columns: Mapping[str, Any], index: np.ndarray, *, fixed: bool) -> dict[str, Any]:
        count = len(index)
        try:
            if fixed:
                return dict(self._function(compiler, fixed)(columns, index))
            self._rows = {name: column.shape[0] for name, column in columns.items()}
            outputs = self._function(compiler, fixed)(columns, padded(index, self.capacity or 0), np.int32(count))
        except TypeError as error:
            raise kept_from_a_trace(error, self.graph.nodes) or error from None
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
            self.draws_with_state |= found
        return {name: outputs[name] for name in self.outputs}

    def _train_batch(self, tensors: Any) -> Any:
        kept = self.forward.trained(self.weights)
        outputs, pairs = with_gradients(self.forward, tensors, kept, self.optimizer)
        reached = [variable for _, variable in pairs]
        self.forward.reach.check(kept, reached, self.optimizer, eager=self.chosen == EAGER)
        update(self.optimizer, [g for g, _ in pairs], [v for _, v in pairs])
        return outputs

    def _try(self, compiler: str, columns: Mapping[str, Any], index: np.ndarray) -> None:
        """Time a compiler and TensorFlow alone by turns, so that a busy machine slows both."""
        start = time.perf_counter()
        if compiler == GRAPH:
            self._probe(GRAPH, columns, index)
            self._trial_seconds = TRIAL * self._first_seconds
            return
        for _ in range(PROBES):
            self._probe(compiler, columns, index)
            if self.chosen == GRAPH or self.timings[compiler] > HOPELESS * self.timings[GRAPH]:
                break
            self._probe(GRAPH, columns, index)
        self._trial_seconds = time.perf_counter() - start  # the next one will take about as long
        if self.timings[compiler] < CLEARLY * self.timings[GRAPH]:
            self.chosen = compiler
        elif compiler == BATCH or self.timings[GRAPH] < CALL_SECONDS:  # XLA's calls for each step would take longer
            self.chosen = GRAPH
        log.info("seconds per batch: %s; using %s", self.timings, self.compiler)

    def _probe(self, compiler: str, columns: Mapping[str, Any], index: np.ndarray) -> None:
        try:
            seconds = self._timed(compiler, columns, index)
        except FAILURES as error:
            if compiler == GRAPH or not self._falls_back(error):
                raise
            seconds = float("inf")
        self.timings[compiler] = min(self.timings.get(compiler, seconds), seconds)

    def _falls_back(self, error: Exception) -> bool:
        """Whether `error` means that XLA cannot compile the graph, which then runs without XLA, with a warning."""
        reason = why_not_compiled(error, self.graph.nodes)
        if reason:
            self.chosen = GRAPH
            log.warning("XLA cannot compile this graph, which runs without it: %s", reason)
        return bool(reason)

    def _refused(self, error: Exception) -> ValueError | None:
        """The error where XLA was asked for and cannot compile the graph; None for an `error` about something else."""
        reason = "" if self.compiler == GRAPH else why_not_compiled(error, self.graph.nodes)
        seen = f"Seen: jit_compile={COMPILERS.get(self.compiler)!r}."
        change = "Write jit_compile='auto', or False."
        return ValueError(f"XLA cannot compile this graph: {reason}\n{seen}\n{change}") if reason else None

    def _timed(self, compiler: str, columns: Mapping[str, Any], index: np.ndarray) -> float:
        """Seconds per batch, the best of a few calls of growing length."""
        rows, best, spent, start = index[:1], float("inf"), 0.0, time.perf_counter()
        _ready(self._call(compiler, columns, rows, fixed=False))
        self._first_seconds = self._first_seconds or time.perf_counter() - start
        while spent < PROBE_SECONDS:
            start = time.perf_counter()
            _ready(self._call(compiler, columns, rows, fixed=False))
            seconds = time.perf_counter() - start
            best, spent = min(best, seconds / len(rows)), spent + seconds
            if seconds < PROBE_SECONDS / 4 and 2 * len(rows) <= (self.capacity or 1):
                rows = np.concatenate([rows, rows])
        return best


def has_gpu() -> bool:
    """Whether steps run on a GPU."""
    return bool(tf.config.list_logical_devices("GPU"))


def _lengthened(column: Any, rows: int) -> Any:
    """A column with rows of zeros behind it, up to so many, for which the function was traced."""
    short = max(0, rows - column.shape[0])
    return tf.concat([column, tf.zeros([short, *column.shape[1:]], column.dtype)], axis=0) if short else column


def _ready(outputs: Mapping[str, Any]) -> None:
    for values in outputs.values():
        values.numpy()
