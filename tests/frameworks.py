"""What Keras runs on in this run of the tests: TensorFlow, or JAX with KERAS_BACKEND=jax."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

from experimentator.backends import get_backend

NAME = keras.backend.backend()
ON_JAX = NAME == "jax"
# `jit_compile` in every way that the framework knows.
COMPILERS: dict[str, Any] = {"xla": True, "xla-step": "step"} | ({} if ON_JAX else {"graph": False})
compilers = pytest.mark.parametrize("jit", list(COMPILERS.values()), ids=list(COMPILERS))


def backend_of_keras() -> Any:
    """A new backend of what Keras runs on."""
    return get_backend(NAME)


def variable(value: Any, **options: Any) -> Any:
    """A variable as the framework's own users make it: TensorFlow has one, JAX takes Keras'."""
    value = np.asarray(value, np.float32)
    if ON_JAX:
        return keras.Variable(value, **options)
    import tensorflow as tf

    return tf.Variable(value, **options)
