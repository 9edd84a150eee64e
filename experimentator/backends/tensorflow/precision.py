"""Mixed precision: which layers a graph calls, and the policy they compute with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras

POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}


@contextmanager
def layers_noted(note: Callable[[Any], None]) -> Iterator[None]:
    """Within, every Keras layer that is called is noted, wherever the call stands.

    Attribute scans would miss the layers that a lambda finds among its globals.
    """
    original = keras.Layer.__call__

    def call(layer: Any, *tensors: Any, **options: Any) -> Any:
        note(layer)
        return original(layer, *tensors, **options)

    keras.Layer.__call__ = call
    try:
        yield
    finally:
        keras.Layer.__call__ = original


def set_precision(layers: list[Any], precision: str) -> None:
    """Let layers compute in `precision`; their weights stay float32.

    Per layer, since Keras ignores a global policy that is set after a layer was made.
    """
    policy = POLICIES[precision]
    for layer in layers:
        if layer.dtype_policy.name != policy:
            layer.dtype_policy = policy


def loss_scaled(optimizer: Any) -> Any:
    """The optimizer with dynamic loss scaling around it, which float16 gradients need (Micikevicius et al., 2018)."""
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        return optimizer
    return keras.optimizers.LossScaleOptimizer(optimizer)
