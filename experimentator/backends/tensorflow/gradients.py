"""Gradients of the losses that a graph writes, each for the weights that minimise it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras
import tensorflow as tf

from experimentator.backends.keras.context import Forward, objective_of
from experimentator.backends.keras.optimizers import shares
from experimentator.backends.tensorflow.recomputed import here


def with_gradients(
    forward: Forward, tensors: Any, variables: Iterable[Any], optimizer: Any
) -> tuple[Any, list[tuple[Any, Any]]]:
    """What a graph writes for the tensors of a batch, and pairs of gradient and variable, where there is a gradient."""
    own = shares(optimizer, variables)
    pairs = []
    with here():
        with tf.GradientTape(persistent=len(own) > 1) as tape:
            outputs = forward(tensors)
            objectives = {loss: objective_of(outputs[loss], forward.added, of, optimizer) for loss, of in own.items()}
        for loss, of in own.items():
            values = [one if isinstance(one, tf.Variable) else one.value for one in of]
            gradients = tape.gradient(objectives[loss], values)
            pairs += [(gradient, one) for gradient, one in zip(gradients, of, strict=True) if gradient is not None]
    if forward.norms.asked or not _adds(optimizer):
        # in a sparse gradient a row may occur several times, to be added up: Keras would clip and square each by itself
        pairs = [(tf.convert_to_tensor(gradient), one) for gradient, one in pairs]
    return forward.norms.put(outputs, pairs, optimizer), pairs


def _adds(optimizer: Any) -> bool:
    """Whether an optimizer does nothing with gradients but add them up: sparse ones stay small for it."""
    others = ("clipnorm", "clipvalue", "global_clipnorm", "gradient_accumulation_steps", "loss_scale_factor")
    return type(optimizer) is keras.optimizers.SGD and all(getattr(optimizer, name) is None for name in others)
