"""The loop as one would write it by hand around a graph: no experiment, feed or callbacks, data on the device."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import tensorflow as tf

from experimentator.backends import CannotRunError, Timed
from experimentator.backends.keras.context import Forward, update
from experimentator.backends.keras.fit import GraphModel
from experimentator.backends.tensorflow.draws import quick_draws
from experimentator.backends.tensorflow.failures import why_not_compiled
from experimentator.backends.tensorflow.gradients import with_gradients
from experimentator.backends.tensorflow.loop import BATCH, FAILURES, GRAPH, LOOP, has_gpu
from experimentator.graph import Node

Batch = Callable[[Any], Any]  # tensors of one batch in, tensors out
LOSSES = 1024


def looped(batch: Batch, compiler: str, nodes: Sequence[Node]) -> Timed:
    """`run(columns, index, count)`: runs `count` batches, of the rows `index` [R, B] in turn, and waits for them.

    The outputs of a batch are carried to the next one, so that no compiler can drop them; the last `LOSSES` losses are
    kept, too. A single row of `index` is given twice: else XLA sees that all batches are one, and takes out of the loop
    what depends on data alone.
    """

    def run(columns: Any, index: Any, count: Any) -> Any:
        step = tf.function(batch, jit_compile=True, autograph=False) if compiler == BATCH else batch

        def one(place: Any) -> Any:
            return step({name: tf.gather(column, index[place % index.shape[0]]) for name, column in columns.items()})

        def body(place: Any, _: Any, losses: Any) -> Any:
            given = one(place)
            loss = tf.cast(given["loss"], tf.float32) if "loss" in given else 0.0
            return place + 1, given, losses.write(place % LOSSES, loss)

        with nullcontext() if compiler == GRAPH or has_gpu() else quick_draws():
            losses = tf.TensorArray(tf.float32, LOSSES, element_shape=[])
            begin = (tf.constant(0), _zeros(one), losses.unstack(tf.zeros(LOSSES)))
            _, given, losses = tf.while_loop(lambda place, *_: place < count, body, begin, parallel_iterations=1)
            return given, losses.stack()

    function = tf.function(run, jit_compile=compiler == LOOP or None, autograph=False)
    function._omit_frequent_tracing_warning = True  # it counts all such loops as one function

    refused = (*(() if compiler == GRAPH else FAILURES), tf.errors.ResourceExhaustedError)

    def timed(columns: Mapping[str, Any], index: np.ndarray, count: int) -> None:
        rows = index if len(index) > 1 else np.concatenate([index, index])
        try:
            given, _ = function(columns, tf.constant(rows, tf.int32), tf.constant(count))
            min(given.values(), key=tf.size).numpy()  # the device works in order: once one has come, all have
        except refused as error:
            raise CannotRunError(why_not_compiled(error, nodes) or str(error).partition("\n")[0]) from error

    return timed


def inferring(forward: Forward) -> Batch:
    """The outputs of a graph for one batch; the batch itself if it has none."""
    return lambda tensors: _tensors(forward(tensors)) or tensors


def training(forward: Forward, optimizer: Any) -> Batch:
    """Forward, backward and update of one batch; no update where no gradient reaches a variable."""

    def batch(tensors: Any) -> Any:
        outputs, pairs = with_gradients(forward, tensors, forward.trained(), optimizer)
        if pairs:
            update(optimizer, *zip(*pairs, strict=True))
        return _tensors(outputs)

    return batch


class TensorflowModel(GraphModel):
    """A model whose training step is a batch that updates the variables."""

    def __init__(self, batch: Batch):
        super().__init__()
        self.batch = batch

    def train_step(self, data: Any) -> dict[str, Any]:
        tensors = data[0] if isinstance(data, tuple) else data
        self.mean_loss.update_state(self.batch(tensors)["loss"])
        return {"loss": self.mean_loss.result()}


def _tensors(outputs: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tf.convert_to_tensor(value) for name, value in outputs.items()}


def _zeros(one: Callable[[Any], Mapping[str, Any]]) -> dict[str, Any]:
    """Values shaped like a batch's outputs, to begin a loop with; shapes come from a trace, or else from a batch."""
    aside = tf.function(one, autograph=False).get_concrete_function(tf.TensorSpec([], tf.int32)).structured_outputs
    if all(spec.shape.is_fully_defined() for spec in aside.values()):
        return {name: tf.zeros(spec.shape, spec.dtype) for name, spec in aside.items()}
    return {name: tf.zeros_like(value) for name, value in one(tf.constant(0)).items()}
