"""Operations that converters to ONNX and LiteRT do not know, in terms of those that they have."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras.src.backend.tensorflow import nn as nn_of_keras
from keras.src.backend.tensorflow import numpy as numpy_of_keras

from experimentator.patches import patched

_SIGNBIT, _CTC_DECODE = numpy_of_keras.signbit, nn_of_keras.ctc_decode  # patched while a file is written


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


def teach() -> None:
    """Let the converter know `Erfc`."""
    import_module("tf2onnx.handler").tf_op("Erfc")(Erfc)


@contextmanager
def in_known_operations() -> Iterator[None]:
    """Within, functions of `keras.ops` are made of operations that both converters write rightly."""
    with patched(numpy_of_keras, signbit=_signbit), patched(nn_of_keras, ctc_decode=_ctc_decode):
        yield


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
