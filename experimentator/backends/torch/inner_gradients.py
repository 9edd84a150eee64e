"""Gradients that processors take within a graph, whose computation is recorded, too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch._C._functorch import maybe_current_level


def gradients(function: Callable[..., Any], inputs: Sequence[Any]) -> list[Any]:
    """The gradient of one number by each input."""
    if maybe_current_level() is not None:  # within `keras.ops.vectorized_map`, where autograd adds up the rows
        return list(torch.func.grad(function, argnums=tuple(range(len(inputs))))(*inputs))
    with torch.inference_mode(False), torch.enable_grad():
        given = [one.clone() if one.is_inference() else one for one in inputs]
        own = [one.view_as(one) if one.requires_grad else one.detach().requires_grad_() for one in given]
        number = function(*own)
        if not number.requires_grad:  # it uses none of them
            return [torch.zeros_like(one) for one in inputs]
        return list(torch.autograd.grad(number, own, create_graph=True, allow_unused=True, materialize_grads=True))
