"""The averages of weights that an optimizer keeps: given to the weights, and restarted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras

from experimentator.backends.keras.variables import copied
from experimentator.optimizer_parts import parts_of


def give_averages(optimizer: Any, weights: Sequence[Any], layers: Mapping[int, Any]) -> None:
    """Give `weights` their averages; untrained numbers that none of the layers owns stay as they are."""
    of_layers = {id(variable) for layer in layers.values() for variable in layer.variables}
    given = {id(one) for one in weights if one.trainable or id(one) in of_layers}
    averaged = optimizer._trainable_variables  # Keras goes by their order, and processors may have another one by now
    put_back = copied([one for one in averaged if id(one) not in given])
    optimizer.finalize_variable_values(averaged)
    put_back()


def begin_averages(optimizer: Any, weights: Iterable[Any]) -> None:
    """Restart the averages of some weights from their present values, as after reading a file of weights."""
    chosen = {id(variable) for variable in weights}
    for part in (one for one in parts_of(optimizer) if getattr(one, "use_ema", False) and one.built):
        for variable, average in zip(part._trainable_variables, part._model_variables_moving_average, strict=True):
            if id(variable) in chosen:
                average.assign(keras.ops.copy(variable))
