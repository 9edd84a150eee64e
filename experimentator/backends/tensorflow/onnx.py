"""Operations that converters to ONNX and LiteRT do not know, in terms of those that they have."""

from __future__ import annotations

from contextlib import AbstractContextManager
from importlib import import_module
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras.src.backend.tensorflow import numpy as of_keras

from experimentator.patches import patched

_SIGNBIT = of_keras.signbit  # the original, which is patched while a file is written


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


def signs_by_division() -> AbstractContextManager[None]:
    """Within, `keras.ops.signbit` looks at no bits: so does `keras.ops.argmax` of floats, for the sake of -0.0."""
    return patched(of_keras, signbit=_signbit)


def _signbit(x: Any) -> Any:
    if isinstance(x, tf.SparseTensor) or not (tensor := keras.ops.convert_to_tensor(x)).dtype.is_floating:
        return _SIGNBIT(x)
    return tf.where(tensor == 0, 1 / tensor, tensor) < 0
