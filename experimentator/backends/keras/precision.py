"""Mixed precision: the policy that the layers of a graph compute with."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import keras

POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}
_OWN: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()  # policies that layers had, as experiments may share layers
_KEPT: WeakSet[Any] = WeakSet()  # layers that were made with a `dtype`, and those in them


def set_precision(layer: Any, precision: str | None) -> None:
    """Let a layer compute in `precision`, with weights in float32; for None, as it did before it was first changed.

    Per layer, since Keras ignores a global policy that is set after a layer was made; with the layers in it, since a
    recurrent one makes a state for its cell before it calls it. Layers made with a `dtype` keep it, and all in them; so
    do layers of integers.
    """
    for part in layer._flatten_layers() if precision or _OWN else ():
        if precision is None:
            if part in _OWN:
                part.dtype_policy = _OWN.pop(part)
        elif _was_chosen(part):
            _KEPT.update(part._flatten_layers())
        elif part not in _KEPT and _is_plain(part.dtype_policy) and part.dtype_policy.name != POLICIES[precision]:
            _OWN.setdefault(part, part.dtype_policy)
            part.dtype_policy = POLICIES[precision]


def _is_plain(policy: Any) -> bool:
    """Whether a layer computes with floats: others give ids, as of bins, or have weights that were quantized."""
    return policy.quantization_mode is None and keras.backend.is_float_dtype(policy.compute_dtype)


def _was_chosen(layer: Any) -> bool:
    """Whether a layer was made with a `dtype`, as far as Keras keeps what it was made with: plain values alone.

    What was read from a file or copied got all arguments, `trainable` among them; which of them were chosen is lost.
    """
    given = getattr(getattr(layer, "_auto_config", None), "config", None) or {}
    return given.get("dtype") is not None and "trainable" not in given


def is_in_float16(layers: Iterable[Any]) -> bool:
    """Whether a layer computes in float16 by itself, as under a global policy of Keras."""
    return any(getattr(layer, "compute_dtype", None) == "float16" for layer in layers)


def loss_scaled(optimizer: Any) -> Any:
    """The optimizer with dynamic loss scaling around it, which float16 gradients need (Micikevicius et al., 2018)."""
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        return optimizer
    return keras.optimizers.LossScaleOptimizer(optimizer)
