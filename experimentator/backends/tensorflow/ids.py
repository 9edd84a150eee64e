"""Ids that an Embedding has no row for, where TensorFlow itself would not tell."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import keras
import tensorflow as tf

from experimentator.patches import patched


def odd_ids_are_nan() -> AbstractContextManager[None]:
    """Within, an Embedding gives NaN for an id that it has no row for, as it does on JAX, so that the loss tells of it.

    On a CPU TensorFlow refuses such an id; XLA takes the last row instead, and a GPU zeros, which would train on.
    """
    original = keras.layers.Embedding.call

    def call(layer: Any, inputs: Any) -> Any:
        rows = original(layer, inputs)
        is_dense = isinstance(inputs, tf.Tensor) and isinstance(rows, tf.Tensor)  # neither ragged nor sparse
        if not is_dense or not rows.dtype.is_floating:
            return rows
        ids, count = tf.cast(inputs, tf.int64), layer._embeddings.shape[0]  # a subclass may have more than `input_dim`
        is_there = (ids < count) & (ids >= -count)  # Keras counts negative ones from the end
        return tf.where(is_there[..., None], rows, tf.constant(float("nan"), rows.dtype))

    return patched(keras.layers.Embedding, call=call)
