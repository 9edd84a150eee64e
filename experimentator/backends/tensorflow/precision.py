"""Mixed precision: the policy that the layers of a graph compute with."""

from __future__ import annotations

from typing import Any

import keras

POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}


def set_precision(layer: Any, precision: str) -> None:
    """Let a layer compute in `precision`; its weights stay float32.

    Per layer, since Keras ignores a global policy that is set after a layer was made.
    """
    policy = POLICIES[precision]
    if layer.dtype_policy.name != policy:
        layer.dtype_policy = policy


def loss_scaled(optimizer: Any) -> Any:
    """The optimizer with dynamic loss scaling around it, which float16 gradients need (Micikevicius et al., 2018)."""
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        return optimizer
    return keras.optimizers.LossScaleOptimizer(optimizer)
