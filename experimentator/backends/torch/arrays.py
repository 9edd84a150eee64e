"""Numpy arrays that meet tensors in a processor are constants, as on other frameworks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import get_ident
from typing import Any

import keras
import numpy as np
import torch

from experimentator.backends.keras.memoised import ONE_AT_A_TIME
from experimentator.patches import patched

NAMES = {"remainder": "mod", "invert": "bitwise_not"}  # of numpy, where keras.ops has others


@contextmanager
def taken() -> Iterator[None]:
    """Within, in this thread, `array + tensor`, `tensor > array`, `numpy.sqrt(tensor)` and the like give tensors.

    PyTorch would make numpy arrays of the tensors, which have no gradients, and no place in a recorded program.
    """
    thread = get_ident()

    def call(_: Any, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        """Called by numpy, for operators and ufuncs, where a tensor is among the inputs."""
        function = getattr(keras.ops, NAMES.get(ufunc.__name__, ufunc.__name__), None)
        if get_ident() != thread or function is None or method != "__call__" or options:
            return _of_numpy(getattr(ufunc, method), inputs, options)
        is_double = any(isinstance(one, torch.Tensor) and one.dtype == torch.float64 for one in inputs)
        return function(*(_constant(one, is_double) for one in inputs))

    with ONE_AT_A_TIME, patched(torch.Tensor, __array_ufunc__=call):
        yield


def _constant(value: Any, is_double: bool) -> Any:
    """A float64 array, numpy's default, in Keras' default dtype: else all that is computed with it became float64."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray) and value.dtype == np.float64 and not is_double:
        return value.astype(keras.config.floatx())
    return value


def _of_numpy(function: Any, inputs: Any, options: Any) -> Any:
    """What numpy does by itself: it computes on arrays; the result becomes a tensor."""
    found = function(*(np.asarray(one) if isinstance(one, torch.Tensor) else one for one in inputs), **options)
    return found if "out" in options else keras.tree.map_structure(torch.as_tensor, found)
