"""Gradients that processors take within a graph, and rematerialization, on JAX.

What layers assign and add to the loss meanwhile is returned as values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import keras

from experimentator.backends.keras.remat import Apart, of_tensors


def gradients(function: Callable[..., Any], inputs: Sequence[Any]) -> list[Any]:
    """The gradient of one number by each input."""
    apart = Apart()

    def traced(*given: Any) -> tuple[Any, tuple[list[Any], list[Any]]]:
        number, values, losses = apart.run(function, *given)
        return number, (values, losses)

    found, (values, losses) = jax.grad(traced, argnums=tuple(range(len(inputs))), has_aux=True)(*inputs)
    apart.keep(values, losses)
    return list(found)


def recomputed(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """The result of a function of which nothing is kept for gradients: it is computed again for them."""
    apart, (tensors, call) = Apart(), of_tensors(function, arguments, options, keras.ops.is_tensor)
    result, values, losses = jax.checkpoint(lambda tensors: apart.run(call, tensors))(tensors)
    apart.keep(values, losses)
    return result
