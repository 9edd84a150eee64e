"""Gradients of what a graph writes, each loss for the weights that minimise it; and what is computed again for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import keras
import tensorflow as tf

from experimentator.backends.keras.context import Forward, objective_of
from experimentator.backends.keras.optimizers import shares
from experimentator.backends.keras.remat import Apart


def with_gradients(
    run: Forward, tensors: Any, variables: Iterable[Any], optimizer: Any
) -> tuple[Any, list[tuple[Any, Any]]]:
    """What `run` writes for the tensors of a batch, and pairs of gradient and variable, where there is a gradient."""
    own = shares(optimizer, variables)
    with tf.GradientTape(persistent=len(own) > 1) as tape:
        outputs = run(tensors)
        objectives = {loss: objective_of(outputs[loss], run.added, of, optimizer) for loss, of in own.items()}
    pairs = []
    for loss, of in own.items():
        gradients = tape.gradient(objectives[loss], list(map(value_of, of)))
        pairs += [(gradient, one) for gradient, one in zip(gradients, of, strict=True) if gradient is not None]
    if run.norms.asked or not _adds(optimizer):
        # in a sparse gradient a row may stand several times, which add up: Keras would clip and square them one by one
        pairs = [(tf.convert_to_tensor(gradient), one) for gradient, one in pairs]
    return run.norms.put(outputs, pairs, optimizer), pairs


def recomputed(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """What a function gives, of which nothing is kept for gradients: it is computed again for them."""
    apart, flat = Apart(), keras.tree.flatten((arguments, options))
    places = [place for place, one in enumerate(flat) if _is_float(one)]
    first: list[Any] = []

    def traced(*tensors: Any) -> list[Any]:
        whole = dict(enumerate(flat)) | dict(zip(places, tensors, strict=True))
        given, named = keras.tree.pack_sequence_as((arguments, options), list(whole.values()))
        result, values, losses = apart.run(lambda: function(*given, **named))
        first[:] = first or [result, values, len(losses)]
        return [one for one in keras.tree.flatten(result) if _is_float(one)] + losses

    found = tf.recompute_grad(traced)(*(flat[place] for place in places))
    result, values, count = first
    split = len(found) - count
    apart.keep(values, found[split:])
    floats = iter(found[:split])
    return keras.tree.map_structure(lambda one: next(floats) if _is_float(one) else one, result)


def _is_float(value: Any) -> bool:
    return bool(keras.ops.is_tensor(value)) and value.dtype.is_floating


def _adds(optimizer: Any) -> bool:
    """Whether an optimizer does nothing with gradients but add them up: sparse ones stay small for it."""
    others = ("clipnorm", "clipvalue", "global_clipnorm", "gradient_accumulation_steps", "loss_scale_factor")
    return type(optimizer) is keras.optimizers.SGD and all(getattr(optimizer, name) is None for name in others)


def value_of(variable: Any) -> Any:
    """TensorFlow's variable, which Keras' may stand around."""
    return variable if isinstance(variable, tf.Variable) else variable.value
