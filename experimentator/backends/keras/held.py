"""Weights that are read within a trace and not trained."""

from __future__ import annotations

from typing import Any

import keras


class Held(keras.StatelessScope):
    """A scope in which no gradient reaches a Keras variable, and none is changed."""

    def get_current_value(self, variable: Any) -> Any:
        """What the scope around has, or the variable itself, behind a stop of gradients."""
        own, around = super().get_current_value(variable), self.original_scope
        if own is not None:
            return own
        value = None if around is None else around.get_current_value(variable)
        value = variable._value if value is None else value
        return None if value is None else keras.ops.stop_gradient(value)
