"""`keras.Model.fit`, quiet. Variants: default, 50 steps, XLA, XLA with 50 steps."""

from __future__ import annotations

import keras
from _serve import Case, Epoch, serve
from keras import layers

OPTIONS = {
    "default": {},
    "50 steps": {"steps_per_execution": 50, "jit_compile": False},
    "XLA": {"jit_compile": True},
    "XLA, 50 steps": {"steps_per_execution": 50, "jit_compile": True},
}


def network(case: Case) -> keras.Model:
    """The network of a case, on float images."""
    if case.name == "mlp":
        return keras.Sequential([layers.Input((64,)), layers.Dense(32, activation="relu"), layers.Dense(10)])
    blocks = [
        layer
        for filters in (4, 8, 16)
        for layer in (layers.Conv2D(filters, 3), layers.BatchNormalization(), layers.ReLU(), layers.MaxPooling2D())
    ]
    head = [layers.Flatten(), layers.Dense(100, activation="relu"), layers.Dense(10)]
    return keras.Sequential([layers.Input((28, 28, 1)), *blocks, *head])


def build(case: Case, variant: str, steps: int) -> Epoch:
    x, y = case.data(steps)
    inputs = keras.Input(x.shape[1:], dtype="uint8")
    model = keras.Model(inputs, network(case)(keras.ops.cast(inputs, "float32") / case.scale))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-3), loss, **OPTIONS[variant])
    return lambda: model.fit(x, y, batch_size=case.batch, epochs=1, verbose=0)


if __name__ == "__main__":
    serve(build)
