"""Keras' symbolic calls, by which it builds layers: on "meta", a device whose tensors have no values.

Where such a call fails there, Keras calls once more, on the usual device.
"""

from __future__ import annotations

from typing import Any

import keras
import torch

from experimentator.backends.places import part_of_keras

core = part_of_keras("core")  # where Keras looks its scope up


def is_symbolic() -> bool:
    """Whether Keras tries a call on tensors that have no values."""
    return bool(core.get_device() == "meta")


def stub(parameter: torch.Tensor) -> torch.Tensor:
    """A tensor in place of a parameter in such a call."""
    return parameter if parameter.device.type == "meta" else torch.empty_like(parameter, device="meta")


class ReadThrough(keras.StatelessScope):
    """Keras' scope around a symbolic call, through which the scope around it hears of reads, too.

    What was assigned in a call that failed on "meta" is no value for the second one.
    """

    def get_current_value(self, variable: Any) -> Any:
        if self.original_scope is not None:
            self.original_scope.get_current_value(variable)
        value = super().get_current_value(variable)
        return value if value is None or is_symbolic() or value.device.type != "meta" else None


core.StatelessScope = ReadThrough
