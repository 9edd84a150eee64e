"""The networks of the cases, in Keras."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
from keras import layers

if TYPE_CHECKING:
    from _cases import Case

BLOCKS = ((64, 1), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1))  # filters and stride


def network(case: Case) -> keras.Model:
    """The network of a case, on float images."""
    if case.network == "resnet":
        return resnet()
    if case.network == "mlp":
        return keras.Sequential([layers.Input((64,)), layers.Dense(32, activation="relu"), layers.Dense(10)])
    blocks = [
        layer
        for filters in (4, 8, 16)
        for layer in (layers.Conv2D(filters, 3), layers.BatchNormalization(), layers.ReLU(), layers.MaxPooling2D())
    ]
    head = [layers.Flatten(), layers.Dense(100, activation="relu"), layers.Dense(10)]
    return keras.Sequential([layers.Input((28, 28, 1)), *blocks, *head])


def resnet() -> keras.Model:
    """ResNet-18 for 32x32 images."""
    inputs = keras.Input((32, 32, 3))
    x = layers.ReLU()(_convolved(inputs, 64))
    for filters, stride in BLOCKS:
        other = layers.ReLU()(_convolved(x, filters, stride))
        other = _convolved(other, filters)
        same = x if x.shape[-1] == filters else _convolved(x, filters, stride, size=1)
        x = layers.ReLU()(other + same)
    return keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))


def _convolved(x: Any, filters: int, stride: int = 1, size: int = 3) -> Any:
    x = layers.ZeroPadding2D(size // 2)(x) if size > 1 else x  # as torch pads, on all sides
    return layers.BatchNormalization()(layers.Conv2D(filters, size, stride, use_bias=False)(x))
