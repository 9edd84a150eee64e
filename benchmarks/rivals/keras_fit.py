"""`keras.Model.fit`, quiet. Variants: default, 50 steps, XLA, XLA with 50 steps."""

from __future__ import annotations

from typing import Any

import keras
from _serve import Case, Epoch, serve
from keras import layers

OPTIONS = {
    "default": {},
    "50 steps": {"steps_per_execution": 50, "jit_compile": False},
    "XLA": {"jit_compile": True},
    "XLA, 50 steps": {"steps_per_execution": 50, "jit_compile": True},
}
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


def set_precision(case: Case) -> None:
    """Let layers compute as the case says, with weights in float32."""
    keras.config.set_dtype_policy(f"mixed_{case.precision}" if case.precision else "float32")


def build(case: Case, variant: str, steps: int) -> Epoch:
    set_precision(case)
    x, y = case.data(steps)
    inputs = keras.Input(x.shape[1:], dtype="uint8")
    logits = network(case)(keras.ops.cast(inputs, "float32") / case.scale)
    model = keras.Model(inputs, keras.ops.cast(logits, "float32"))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-3), loss, **OPTIONS[variant])
    return lambda: model.fit(x, y, batch_size=case.batch, epochs=1, verbose=0)


if __name__ == "__main__":
    serve(build)
