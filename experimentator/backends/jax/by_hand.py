"""The loop as one would write it by hand around a graph: no experiment, feed or callbacks, data on the device."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from itertools import chain
from typing import Any

import jax
import numpy as np
from jax import lax
from jax import numpy as jnp

from experimentator.backends import CannotRunError, Timed
from experimentator.backends.jax.batch import Batch
from experimentator.backends.jax.loop import BATCH
from experimentator.backends.keras.fit import GraphModel
from experimentator.backends.keras.stateless import State

LOSSES = 1024
FAILURES = (jax.errors.JaxRuntimeError,)


def looped(batch: Batch, compiler: str) -> Timed:
    """`run(columns, index, count)`: runs `count` batches, of the rows `index` [R, B] in turn, and waits for them.

    The outputs of a batch are carried to the next one, so that the compiler cannot drop them; the last `LOSSES` losses
    are kept, too. A single row of `index` is given twice: else XLA sees that all batches are one, and takes out of the
    loop what depends on data alone.
    """

    def loop(weights: Any, slots: Any, tables: Any, columns: Any, index: Any, count: Any) -> Any:
        def body(place: Any, carried: Any) -> Any:
            state, given = _picked(batch, carried[0], columns, index[place % index.shape[0]])
            loss = given["loss"].astype(jnp.float32) if "loss" in given else jnp.float32(0)
            return state, given, carried[2].at[place % LOSSES].set(loss)

        state = (weights, slots, tables)
        shapes = jax.eval_shape(partial(_picked, batch), state, columns, index[0])[1]
        zeros = {name: jnp.zeros(shape.shape, shape.dtype) for name, shape in shapes.items()}
        (weights, slots, _), given, _ = lax.fori_loop(0, count, body, (state, zeros, jnp.zeros(LOSSES)))
        return slots, weights, given  # slots first, as in `JaxStep`

    def single(weights: Any, slots: Any, tables: Any, columns: Any, rows: Any) -> Any:
        (weights, slots, _), given = _picked(batch, (weights, slots, tables), columns, rows)
        return slots, weights, given

    looping, each = jax.jit(loop, donate_argnums=1), jax.jit(single, donate_argnums=1)

    def timed(columns: Mapping[str, Any], index: np.ndarray, count: int) -> None:
        rows = np.asarray(index if len(index) > 1 else [index[0]] * 2, np.int32)
        weights, slots, tables = batch.state()
        try:
            if compiler == BATCH:
                for place in range(count):
                    slots, weights, given = each(weights, slots, tables, dict(columns), rows[place % len(rows)])
            else:
                slots, weights, given = looping(weights, slots, tables, dict(columns), rows, np.int32(count))
            jax.block_until_ready((slots, weights, given))
        except FAILURES as error:
            raise CannotRunError(str(error).partition("\n")[0]) from error
        batch.keep(weights, slots)

    return timed


def _picked(batch: Batch, state: State, columns: Any, rows: Any) -> tuple[State, Any]:
    """The state after one batch of these rows, and its outputs; its tensors, if it has none."""
    tensors = {name: column[rows] for name, column in columns.items()}
    state, given = batch(state, tensors)
    return state, given or tensors


class JaxModel(GraphModel):
    """A model whose training step is a pure function, as Keras on JAX asks for."""

    def __init__(self, batch: Batch):
        super().__init__()
        self.batch = batch
        self.owned = list(batch.weights)  # so that Keras hands them to the step
        _, slots, self.tables = batch.state()
        known = {id(variable) for variable in batch.optimizer.variables}
        pairs = zip(batch.slots, slots, strict=True)
        self.rates = {id(v): value for v, value in pairs if id(v) not in known}  # rates that the optimizer follows

    def train_step(self, state: Any, data: Any) -> Any:
        *given, metrics = state
        parts = self.trainable_variables, self.non_trainable_variables, self.optimizer.variables
        tensors = data[0] if isinstance(data, tuple) else data
        known = self.rates | {id(v): x for v, x in zip(chain(*parts), chain(*given), strict=True)}
        weights, slots = ([known[id(one)] for one in own] for own in (self.batch.weights, self.batch.slots))
        (weights, slots, _), outputs = self.batch((weights, slots, list(self.tables)), tensors)
        own = *self.batch.weights, *self.batch.slots
        known |= {id(v): x for v, x in zip(own, [*weights, *slots], strict=True)}
        metrics = self.mean_loss.stateless_update_state(metrics, outputs["loss"])
        result = {"loss": self.mean_loss.stateless_result(metrics)}
        return result, (*([known[id(one)] for one in part] for part in parts), metrics)
