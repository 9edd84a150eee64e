"""Weights that are read within a trace and not trained: those of an experiment within another."""

from __future__ import annotations

from typing import Any

import keras
from keras.src.backend.common.stateless_scope import get_stateless_scope

from experimentator.graph import GraphError


def within_no_gradient() -> bool:
    """Whether one of the scopes around is `NoGradient`."""
    return outward(get_stateless_scope(), NoGradient) is not None


def outward(scope: Any, kind: type) -> Any:
    """The scope itself, or the nearest around it that is of this kind; None without one."""
    while scope is not None and not isinstance(scope, kind):
        scope = getattr(scope, "original_scope", None)
    return scope


def check_built() -> None:
    """Refuse to make weights of an experiment within another, where they would be lost."""
    if within_no_gradient():
        raise GraphError(
            "An experiment within another has no weights yet.\nSeen: a layer that is not built.\n"
            "Give that experiment a subset, which shows what it is built for, or call its `predict` on a batch before."
        )


class NoGradient(keras.StatelessScope):
    """A scope in which no gradient reaches a Keras variable, and none is changed but states of seed generators."""

    def add_update(self, update: Any) -> None:
        """Pass on integers, such as states of seed generators; other updates are dropped with the scope."""
        super().add_update(update)
        variable, value = update
        if "float" not in str(variable.dtype):
            if self.original_scope is None:
                variable._direct_assign(value)
            else:
                self.original_scope.add_update(update)

    def get_current_value(self, variable: Any) -> Any:
        """The value that the scope around has, or the variable's own, behind a stop of gradients."""
        own, around = super().get_current_value(variable), self.original_scope
        if own is not None:
            return own
        value = None if around is None else around.get_current_value(variable)
        value = variable._value if value is None else value
        return None if value is None else keras.ops.stop_gradient(value)
