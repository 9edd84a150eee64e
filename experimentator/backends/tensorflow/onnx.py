"""What converters to ONNX and LiteRT do not know, in terms of what they have; what they fail at, as errors of ours."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from experimentator.backends.keras.onnx import unknown
from experimentator.backends.places import part_of_keras
from experimentator.patches import patched

nn_of_keras, numpy_of_keras = part_of_keras("nn"), part_of_keras("numpy")
_SIGNBIT, _CTC_DECODE = numpy_of_keras.signbit, nn_of_keras.ctc_decode  # patched while a file is written
_CAPTURE = tf.__internal__.FuncGraph.capture


class Erfc:
    """1 - erf(x), of which an exact GELU is made."""

    @classmethod
    def version_9(cls, graph: Any, node: Any, **_: Any) -> None:
        """Replace the node by 1 - Erf(x), as ONNX has Erf."""
        (given,), (name,), shapes, dtypes = node.input, node.output, node.output_shapes, node.output_dtypes
        of_numpy = import_module("tf2onnx.utils").map_onnx_to_numpy_type
        one = graph.make_const(f"{node.name}_one", np.ones((), of_numpy(graph.get_dtype(given))))
        graph.remove_node(node.name)
        erf = graph.make_node("Erf", [given], op_name_scope=node.name, shapes=shapes, dtypes=dtypes)
        graph.make_node(
            "Sub", [one.output[0], erf.output[0]], outputs=[name], name=node.name, shapes=shapes, dtypes=dtypes
        )


@contextmanager
def to_onnx() -> Iterator[None]:
    """Within, the converter knows `Erfc`, and what it fails at is told as what ONNX lacks."""
    import_module("tf2onnx.handler").tf_op("Erfc")(Erfc)
    convert = import_module("tf2onnx.convert")
    usual = convert.from_function

    def from_function(function: Any, signature: Any, **options: Any) -> Any:
        function.get_concrete_function(*signature)  # traced: errors from here on are the converter's
        try:
            return usual(function, signature, **options)
        except Exception as error:
            raise unknown(" ".join(str(error).split())) from error

    with patched(convert, from_function=from_function):
        yield


@contextmanager
def to_litert() -> Iterator[None]:
    """Within, what the converter fails at is told as what LiteRT lacks."""
    try:
        yield
    except Exception as error:
        if type(error).__name__ != "ConverterError":  # TensorFlow's, which has no public place
            raise
        # its first line has the place in front: loc(...): error: loc(...): ...
        seen = str(error).partition("\n")[0].rpartition("): ")[2].rstrip(".")
        raise unknown(seen, "LiteRT") from error


@contextmanager
def in_known_operations() -> Iterator[None]:
    """Within, functions of `keras.ops` are made of operations that both converters write rightly.

    What was computed before, as the mean of a `Normalization`, is a constant: the one to ONNX takes it for an input.
    """
    with (
        patched(numpy_of_keras, signbit=_signbit),
        patched(nn_of_keras, ctc_decode=_ctc_decode),
        patched(tf.__internal__.FuncGraph, capture=_in_constants()),
    ):
        yield


def _in_constants() -> Callable[..., Any]:
    """How a graph takes a tensor from outside: those that have a value as constants, each once."""
    known: dict[tuple[int, int], tuple[Any, Any, Any]] = {}  # with graph and tensor, whose ids are theirs meanwhile

    def capture(graph: Any, tensor: Any, name: str | None = None, shape: Any = None) -> Any:
        if tf.is_symbolic_tensor(tensor) or tensor.dtype in (tf.resource, tf.variant):
            return _CAPTURE(graph, tensor, name, shape)
        key = id(graph), id(tensor)
        if key not in known:
            with graph.as_default(), tf.control_dependencies(None):
                known[key] = tf.constant(tensor.numpy(), tensor.dtype), graph, tensor
        return known[key][0]

    return capture


def _signbit(x: Any) -> Any:
    """Looks at no bits, and so does `keras.ops.argmax` of floats, for the sake of -0.0."""
    if isinstance(x, tf.SparseTensor) or not (tensor := keras.ops.convert_to_tensor(x)).dtype.is_floating:
        return _SIGNBIT(x)
    return tf.where(tensor == 0, 1 / tensor, tensor) < 0


def _ctc_decode(inputs: Any, sequence_lengths: Any, strategy: str = "greedy", **options: Any) -> Any:
    """The greedy reading: the converter to ONNX takes the last class for the blank, whichever it is."""
    if strategy != "greedy":
        return _CTC_DECODE(inputs, sequence_lengths, strategy, **options)
    scores, mask_index = tf.convert_to_tensor(inputs), options["mask_index"]
    steps, classes = tf.shape(scores)[1], scores.shape[-1]
    blank = classes - 1 if mask_index is None else mask_index % classes
    best, places = tf.argmax(scores, axis=-1, output_type=tf.int32), tf.range(steps)[None]
    is_there = places < tf.cast(sequence_lengths, tf.int32)[:, None]
    is_letter = is_there & (best != blank)
    if options["merge_repeated"]:
        is_letter &= best != tf.pad(best[:, :-1], [[0, 0], [1, 0]], constant_values=-1)
    order = tf.sort(tf.where(is_letter, places, steps), axis=1)
    text = tf.where(order < steps, tf.gather(best, tf.minimum(order, steps - 1), batch_dims=1), -1)
    score = tf.reduce_sum(tf.where(is_there, tf.reduce_max(scores, axis=-1), 0), axis=1, keepdims=True)
    return text[None], -score
