"""Gradients within a graph, by a tape of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf


def gradients(function: Callable[..., Any], inputs: Sequence[Any]) -> list[Any]:
    """The gradient of one number by each input."""
    own = [tf.identity(one) for one in inputs]  # what else uses the inputs is left out
    with tf.GradientTape() as tape:
        tape.watch(own)
        number = function(*own)
    found = tape.gradient(number, own, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    return [tf.convert_to_tensor(one) for one in found]  # of what was gathered, only the rows are known
