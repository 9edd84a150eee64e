"""Gradients within a graph; what layers assign and add to the loss meanwhile comes out as values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import keras

from experimentator.backends.keras.made import losses_to
from experimentator.backends.keras.stateless import Assigned, stopped


class _Within(keras.StatelessScope):
    """A scope that reads what the scope around has, and knows which variables were assigned.

    No gradient passes an assignment, neither the inner one nor that of training.
    """

    def __init__(self) -> None:
        super().__init__()
        self.assigned: dict[int, Any] = {}

    def add_update(self, update: Any) -> None:
        """Remember the variable."""
        around: Any = self.original_scope
        while around is not None and not isinstance(around, Assigned):
            around = getattr(around, "original_scope", None)
        super().add_update(stopped(update, around.trained if around is not None else {}))
        self.assigned[id(update[0])] = update[0]

    def get_current_value(self, variable: Any) -> Any:
        """What was assigned within, else what the scope around has."""
        own, around = super().get_current_value(variable), self.original_scope
        return own if own is not None or around is None else around.get_current_value(variable)


def gradients(function: Callable[..., Any], inputs: Sequence[Any]) -> list[Any]:
    """The gradient of one number by each input."""
    assigned: list[Any] = []
    adding: list[Any] = []  # layers

    def traced(*given: Any) -> tuple[Any, Any]:
        added: list[tuple[Any, Any]] = []
        with losses_to(lambda layer, loss: added.append((layer, loss))), _Within() as scope:
            number = function(*given)
        assigned[:], adding[:] = scope.assigned.values(), (layer for layer, _ in added)
        return number, ([scope.state_mapping[id(variable)] for variable in assigned], [loss for _, loss in added])

    found, (values, losses) = jax.grad(traced, argnums=tuple(range(len(inputs))), has_aux=True)(*inputs)
    for variable, value in zip(assigned, values, strict=True):
        variable.assign(value)
    for layer, loss in zip(adding, losses, strict=True):
        layer.add_loss(loss)
    return list(found)
