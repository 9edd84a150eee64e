"""Gradients that processors take within a graph, by a tape of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf


def gradients(function: Callable[..., Any], inputs: Sequence[Any]) -> list[Any]:
    """The gradient of one number by each input."""
    own = [tf.identity(one) for one in inputs]  # copies: other uses of the inputs do not count
    with tf.GradientTape() as tape:
        tape.watch(own)
        number = function(*own)
    found = tape.gradient(number, own, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    return [tf.convert_to_tensor(one) for one in found]  # that of a gather is sparse, and knows its rows only
