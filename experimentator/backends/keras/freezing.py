"""Freezing: training leaves some weights as they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import keras

_FROZEN = "_is_frozen_for_now"


def frozen(variables: Iterable[Any], layers: Iterable[Any]) -> Callable[[], None]:
    """Freeze `variables`; calling the result makes everything as it was.

    A layer all of whose weights are frozen is frozen itself: BatchNormalization then keeps its statistics too, which it
    would update otherwise.
    """
    held = {id(variable) for variable in variables}
    within = [layer for layer in layers if _weights(layer) and all(id(v) in held for v in _weights(layer))]
    concerned = (*variables, *_parts(within))
    trained = {id(one): one for one in concerned if one.trainable}
    for one in trained.values():
        _let(one, False)

    def thaw() -> None:
        flags = [(one, id(one) in trained or one.trainable) for one in concerned]
        for one, flag in reversed(flags):  # from outer layers to weights: Keras passes the flag of a layer on to these
            if one.trainable != flag:
                _let(one, flag)

    return thaw


def is_frozen(variable: Any) -> bool:
    """Whether it is a variable of the framework itself, not of Keras, that is frozen for now."""
    return getattr(variable, _FROZEN, False)


def _let(one: Any, flag: bool) -> None:
    if isinstance(one, keras.Variable | keras.Layer):
        one.trainable = flag
    else:  # a tf.Variable takes `trainable` when it is made, and not later
        one._trainable = flag
        setattr(one, _FROZEN, not flag)


def _weights(layer: Any) -> list[Any]:
    """The floating variables of a layer and its parts; seeds of random layers are no weights."""
    return [variable for variable in layer.variables if "float" in str(variable.dtype)]


def _parts(layers: Iterable[Any]) -> list[Any]:
    """Layers and the layers inside them, each once, inner ones first."""
    found = {id(part): part for layer in layers for part in reversed(list(layer._flatten_layers()))}
    return list(found.values())
