"""`keras.Model.fit`, quiet. Variants: default, 50 steps, XLA, XLA with 50 steps."""

from __future__ import annotations

import keras
from _serve import Case, Epoch, serve
from networks import network

OPTIONS = {
    "default": {},
    "50 steps": {"steps_per_execution": 50, "jit_compile": False},
    "XLA": {"jit_compile": True},
    "XLA, 50 steps": {"steps_per_execution": 50, "jit_compile": True},
}


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
