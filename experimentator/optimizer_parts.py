"""What an optimizer is made of: one optimizer, or several, with the scaling of the loss around it or without."""

from __future__ import annotations

from typing import Any


def unscaled(optimizer: Any) -> Any:
    """The optimizer itself, less the scaling of the loss around it."""
    return getattr(optimizer, "inner_optimizer", optimizer)


def parts_of(optimizer: Any) -> list[Any]:
    """The optimizers that update: those of `experimentator.Optimizers`, or the one that there is."""
    plain = unscaled(optimizer)
    return list(getattr(plain, "optimizers", (plain,)))


def losses_of(optimizer: Any) -> list[str]:
    """The tensors that it minimises besides `loss`."""
    return [*getattr(unscaled(optimizer), "losses", {}).values()]


def schedule_of(optimizer: Any) -> Any:
    """The schedule of Keras that one of its parts takes the learning rate from; None where all are numbers."""
    kept = (getattr(part, "_learning_rate", None) for part in parts_of(optimizer))
    return next((one for one in kept if hasattr(one, "get_config")), None)
