"""What Keras runs on in this run of the tests: TensorFlow, or what KERAS_BACKEND says, JAX or PyTorch."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import keras
import numpy as np
import pytest

from experimentator.backends import get_backend

NAME = keras.backend.backend()
logging.getLogger("torch.__trace").setLevel(logging.CRITICAL)  # it never reaches a user, but what pytest captures
ON_JAX, ON_TORCH, ON_TENSORFLOW = (one == NAME for one in ("jax", "torch", "tensorflow"))
# `jit_compile` in every way that the framework knows.
COMPILERS: dict[str, Any] = {
    "tensorflow": {"xla": True, "xla-step": "step", "graph": False},
    "jax": {"xla": True, "xla-step": "step"},
    "torch": {"inductor": True, "program": False},
}[NAME]
compilers = pytest.mark.parametrize("jit", list(COMPILERS.values()), ids=list(COMPILERS))
# Inductor takes seconds for each program, which are those that run without it: a few of each kind go through it.
QUICK = {name: jit for name, jit in COMPILERS.items() if name != "inductor"}
quick_compilers = pytest.mark.parametrize("jit", list(QUICK.values()), ids=list(QUICK))


def one_elsewhere(*cases: Any) -> Sequence[Any]:
    """Cases for code that is the same on every framework: on TensorFlow all of them, elsewhere the first."""
    return cases if ON_TENSORFLOW else cases[:1]


def backend_of_keras() -> Any:
    """A new backend of what Keras runs on."""
    return get_backend(NAME)


def variable(value: Any, **options: Any) -> Any:
    """A variable as the framework's own users make it: TensorFlow has one, others take Keras'."""
    value = np.asarray(value, np.float32)
    if not ON_TENSORFLOW:
        return keras.Variable(value, **options)
    import tensorflow as tf

    return tf.Variable(value, **options)


def gradients(function: Callable[..., Any], *tensors: Any) -> list[np.ndarray]:
    """Of a number that a function gives, by the tensors it is given."""
    return value_and_gradients(function, *tensors)[1:]


def value_and_gradients(function: Callable[..., Any], *tensors: Any) -> list[np.ndarray]:
    """A number that a function gives, and its gradients by the tensors it is given."""
    tensors = tuple(keras.ops.convert_to_tensor(tensor) for tensor in tensors)
    if ON_JAX:
        import jax

        value, found = jax.value_and_grad(function, tuple(range(len(tensors))))(*tensors)
        return list(map(np.asarray, (value, *found)))
    if ON_TORCH:
        import torch

        tensors = tuple(tensor.detach().requires_grad_() for tensor in tensors)
        total = function(*tensors)
        found = torch.autograd.grad(total, tensors, allow_unused=True, materialize_grads=True)
        return list(map(np.asarray, (total.detach(), *found)))
    import tensorflow as tf

    with tf.GradientTape() as tape:
        tape.watch(tensors)
        total = function(*tensors)
    found = tape.gradient(total, tensors, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    return list(map(np.asarray, (total, *found)))


def gradients_of(function: Callable[[], Any], variables: Sequence[Any]) -> list[np.ndarray]:
    """Of a number that a function gives, by the Keras variables that it reads."""

    def of_values(*values: Any) -> Any:
        with keras.StatelessScope(zip(variables, values, strict=True)):
            return function()

    return gradients(of_values, *(variable.value for variable in variables))


def compiled(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A function of tensors, compiled."""
    if ON_JAX:
        import jax

        return jax.jit(function)
    if ON_TORCH:
        return partial(in_torch, function)
    import tensorflow as tf

    return tf.function(function, jit_compile=True, autograph=False)


def in_torch(function: Callable[[Any], Any], tensor: Any) -> Any:
    """A function of a tensor as a program that Inductor compiles, as the backend does it."""
    import torch

    from experimentator.backends.torch.program import Program

    program = Program(lambda _, given: ([], [function(*given)]), [], [tensor.detach()])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the compiler
        return torch.compile(program.module)(tensor)[0]
