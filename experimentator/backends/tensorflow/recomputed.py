"""Rematerialization in a graph of TensorFlow: values are computed again for gradients.

`tf.recompute_grad` has no gradients by tensors that a function closes over, none of gradients, and fails in loops.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from threading import local
from typing import Any

import keras
import tensorflow as tf
from tensorflow.python.eager.record import record_operation, stop_recording  # what `tf.custom_gradient` is built on

from experimentator.backends.keras.remat import Apart, of_tensors
from experimentator.patches import patched

_HERE = local()
_LOOK_UPS = {"sparse_read": tf.gather, "gather_nd": tf.gather_nd}  # of a variable, which TensorFlow asks first


def here() -> AbstractContextManager[None]:
    """Within, in this thread, functions called in the present graph may be computed again."""
    return patched(_HERE, graph=None if tf.executing_eagerly() else tf.compat.v1.get_default_graph())


def recomputed(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """The result of a function of which nothing is kept for gradients: it is computed again for them.

    Its values are kept after all in eager code, in branches and in loops; and where weights are assigned within, whose
    values before are gone.
    """
    graph = getattr(_HERE, "graph", None)
    if graph is None or tf.executing_eagerly() or tf.compat.v1.get_default_graph() is not graph:
        return function(*arguments, **options)
    # Weights are read once: of a second read, TensorFlow would not know that it comes before the update.
    trained: dict[int, Any] = {}
    apart, (given, call) = Apart(trained), of_tensors(function, arguments, options, _has_gradient)
    own = list(map(tf.identity, given))
    count = len(graph.get_operations())
    with tf.GradientTape() as reading:
        result, values, losses = apart.run(call, own)
    made = _floats(result, losses)
    if made and not any(variable.trainable for variable in apart.variables or ()):
        within = graph.get_operations()[count:]
        inputs = given, [*_closed_over(within, made, own), *trained.values()]
        read = [(variable, _first_read(variable, within)) for variable in reading.watched_variables()]
        made = _instead(lambda tensors: _floats(*apart.run(call, tensors)[::2]), made, inputs, read)
    split = len(made) - len(losses)
    apart.keep(values, made[split:])
    floats = iter(made[:split])
    return keras.tree.map_structure(lambda one: next(floats) if _has_gradient(one) else one, result)


def _instead(
    again: Callable[[Sequence[Any]], list[Any]],
    made: Sequence[Any],
    inputs: tuple[Sequence[Any], Sequence[Any]],
    variables: Sequence[tuple[Any, Any]],
) -> list[Any]:
    """Tensors like `made`, whose gradients, by given and other `inputs` and by variables, come from calling `again`.

    Each of `variables` is a tf.Variable with the value that was read of it.
    """
    (given, others), read = inputs, [value for _, value in variables]

    def backward(*gradients: Any) -> list[Any]:
        with _standing(variables):  # while gradients are taken, too: nested recomputation reads them then
            with tf.GradientTape() as tape, tf.control_dependencies(gradients):
                copies = [one + tf.cast(_nothing(gradients[0]), one.dtype) for one in given]
                ways = [*copies, *others, *read]
                tape.watch(ways)
                found = again(copies)
            inward = tape.gradient(found, ways, output_gradients=gradients)
        # TensorFlow forgets that a read comes before an update if only shapes lead from one to the other
        with tf.control_dependencies(read):
            return [None if one is None else tf.identity(one) for one in inward]

    with stop_recording():
        outputs = [tf.identity(one) for one in made]
    record_operation("Recomputed", outputs, [*given, *others, *read], backward)
    return outputs


@contextmanager
def _standing(variables: Sequence[tuple[Any, Any]]) -> Iterator[None]:
    """Within, these variables have the values that were read of them before, also where rows are looked up."""
    with ExitStack() as stack:
        for variable, value in variables:
            rows = {name: partial(look_up, value) for name, look_up in _LOOK_UPS.items()}
            stack.enter_context(patched(variable, _cached_value=value, **rows))
        yield


def _first_read(variable: Any, operations: Sequence[Any]) -> Any:
    """The value that was read of a variable; if only rows were looked up, it is read now."""
    handle = tf.compat.v1.get_default_graph().capture(variable.handle)
    read = (one.outputs[0] for one in operations if one.type == "ReadVariableOp" and one.inputs[0] is handle)
    first = next(read, None)
    return tf.convert_to_tensor(variable) if first is None else first


def _nothing(tensor: Any) -> Any:
    """A 0 that depends on the tensor, so that XLA computes what uses it afterwards."""
    first = tf.cast(tf.reduce_max(tf.math.real(tf.reshape(tensor, [-1])[:1])), tf.bool)
    return tf.where(tf.equal(first, first), 0.0, float("nan"))


def _closed_over(operations: Sequence[Any], made: Sequence[Any], given: Sequence[Any]) -> list[Any]:
    """Tensors made before, which these operations read or which `made` hands on, but for those that were given."""
    within, known = {id(one) for one in operations}, {id(one) for one in given}
    read = [one for operation in operations for one in operation.inputs] + list(made)
    found = {id(one): one for one in read if _has_gradient(one) and id(one.op) not in within}
    return [one for key, one in found.items() if key not in known]


def _floats(result: Any, losses: Sequence[Any]) -> list[Any]:
    return [one for one in keras.tree.flatten(result) if _has_gradient(one)] + list(losses)


def _has_gradient(value: Any) -> bool:
    return isinstance(value, tf.Tensor) and (value.dtype.is_floating or value.dtype.is_complex)
