"""Looks inside an optimizer: it may be several (`Optimizers`), and be wrapped in Keras' LossScaleOptimizer."""

from __future__ import annotations

from typing import Any


def unscaled(optimizer: Any) -> Any:
    """The optimizer without the LossScaleOptimizer around it."""
    return getattr(optimizer, "inner_optimizer", optimizer)


def parts_of(optimizer: Any) -> list[Any]:
    """The optimizers that update weights: those of `experimentator.Optimizers`, or the optimizer itself."""
    plain = unscaled(optimizer)
    return list(getattr(plain, "optimizers", (plain,)))


def losses_of(optimizer: Any) -> list[str]:
    """Names of the tensors that it minimises besides `loss`."""
    return [*getattr(unscaled(optimizer), "losses", {}).values()]


def schedule_of(optimizer: Any) -> Any:
    """The first Keras schedule among the learning rates of its parts; None if all are numbers."""
    kept = (getattr(part, "_learning_rate", None) for part in parts_of(optimizer))
    return next((one for one in kept if hasattr(one, "get_config")), None)
