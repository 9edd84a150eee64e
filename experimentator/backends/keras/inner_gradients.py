"""Gradients that processors compute themselves, as a part of the graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

import keras


def gradient(function: Callable[..., Any], *inputs: Any) -> Any:
    """The gradient of `function(*inputs)` by each input: a tensor like it, or a tuple of them for several inputs.

    What the function returns is summed, so that rows which do not depend on each other have a gradient each. Inputs are
    float tensors; one that the function does not use has zeros. Layers may be called within, and train as elsewhere.
    The result is a tensor like any other: losses of it are trained on, and it has gradients of its own. Works in chunk
    processors and outside, on TensorFlow, JAX and PyTorch.

    >>> images = keras.ops.convert_to_tensor([[1.0, 2.0]])
    >>> [float(value) for value in gradient(lambda x: x**2, images)[0]]
    [2.0, 4.0]
    >>> x, y = gradient(lambda x, y: x * y, images, 3 * images)
    >>> [float(value) for value in x[0]], [float(value) for value in y[0]]
    ([3.0, 6.0], [1.0, 2.0])

    Raises:
        TypeError: without inputs, for one that is no float tensor, for a list of them, or for a function that returns
            anything else.
    """
    _refuse_groups(inputs)
    tensors = [keras.ops.convert_to_tensor(one) for one in inputs]
    kinds = [str(keras.backend.standardize_dtype(one.dtype)) for one in tensors]
    if not kinds:
        raise TypeError(
            "gradient(function, *inputs) was given no input.\nSeen: a function alone.\n"
            "Give the tensors to take the gradient by; a network has weights once it was called, or is built."
        )
    if not all(map(keras.backend.is_float_dtype, kinds)):
        raise TypeError(
            f"gradient(function, *inputs) takes float tensors.\nSeen: {', '.join(kinds)}.\n"
            'Write gradient(function, keras.ops.cast(images, "float32")).'
        )

    def total(*given: Any) -> Any:
        result = function(*given)
        kind = getattr(result, "dtype", None)
        if kind is None or not keras.backend.is_float_dtype(keras.backend.standardize_dtype(kind)):
            raise TypeError(
                f"gradient needs a function that returns one float tensor.\nSeen: {kind or type(result).__name__}.\n"
                "Let it return a sum of what it computes."
            )
        return keras.ops.sum(result)

    own = import_module(f"experimentator.backends.{keras.backend.backend()}.inner_gradients")
    found = own.gradients(total, tensors)
    return found[0] if len(found) == 1 else tuple(found)


def _refuse_groups(inputs: tuple[Any, ...]) -> None:
    """Raise for tensors in a list or a dictionary: those of one shape would be stacked, others end in the framework."""
    for one in inputs:
        is_list = isinstance(one, list | tuple) and any(hasattr(part, "dtype") for part in one)
        if is_list or isinstance(one, Mapping):
            listed = "weights" if is_list else "tensors.values()"
            raise TypeError(
                f"gradient(function, *inputs) takes tensors one by one.\nSeen: a {type(one).__name__} of {len(one)}.\n"
                f"Write gradient(function, *{listed}), for a function that takes as many: lambda *weights: ..."
            )
