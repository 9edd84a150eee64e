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


def configured_in(exp: Any) -> Any:
    """The optimizer of an experiment: that of a task class with a property of its own, else that of the setting."""
    is_own = sum("optimizer" in vars(cls) for cls in type(exp).__mro__) > 1
    return exp.optimizer if is_own else exp.cfg.get("optimizer")


def required_in(exp: Any) -> Any:
    """The optimizer of an experiment; raises where there is none, or a property makes another each time."""
    optimizer = exp.optimizer
    if optimizer is None:
        raise ValueError(
            "There is no optimizer to train with.\nSeen: optimizer=None.\n"
            "Write optimizer = keras.optimizers.Adam(1e-3) in the configuration."
        )
    if optimizer is not exp.optimizer:
        raise ValueError(
            f"The property `optimizer` of {type(exp).__name__} makes another one each time, whose state and rate are "
            f"new.\nSeen: {optimizer!r:.80}.\nWrite @functools.cached_property above it, in place of @property."
        )
    return optimizer
