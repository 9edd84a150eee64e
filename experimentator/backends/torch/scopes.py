"""Names of processors on the operations of a recorded program, of the forward and of the backward pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from threading import local
from typing import Any

import torch
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from experimentator.patches import patched

BACKWARD = "gradient_tape/"  # before the name of a scope, as TensorFlow writes it
_HERE = local()


@contextmanager
def scope(name: str) -> Iterator[None]:
    """Within, operations carry a name that profilers show; what autograd notes of them, `backward` finds."""
    first = torch.autograd._get_sequence_nr()
    with torch.profiler.record_function(name):
        yield
    if (spans := getattr(_HERE, "spans", None)) is not None:  # those within are there already
        spans.append((range(first, torch.autograd._get_sequence_nr()), name))


def remembering() -> AbstractContextManager[None]:
    """Within, in this thread, scopes are remembered for `backward`."""
    return patched(_HERE, spans=[])


@contextmanager
def backward(objective: torch.Tensor) -> Iterator[None]:
    """Within, what is recorded of the backward pass carries the name of the scope that the forward pass ran in."""
    with ExitStack() as stack:
        for step in _steps(objective) if get_proxy_mode() is not None else ():
            name = next((name for span, name in _HERE.spans if step._sequence_nr() in span), None)
            if name is not None:
                _mark(step, BACKWARD + name, stack)
        yield


def _mark(step: Any, name: str, stack: ExitStack) -> None:
    """Let a step of the backward pass run under a name, until the stack is left."""
    marks: list[Any] = []

    def begin(*_: Any) -> None:
        marks.append(torch.profiler.record_function(name))
        marks[-1].__enter__()

    def end(*_: Any) -> None:
        marks.pop().__exit__(None, None, None)

    for handle in (step.register_prehook(begin), step.register_hook(end)):
        stack.callback(handle.remove)


def _steps(objective: torch.Tensor) -> Iterator[Any]:
    """All that autograd noted for the gradient of a tensor."""
    found, left = set(), [objective.grad_fn]
    while left:
        step = left.pop()
        if step is not None and step not in found:
            found.add(step)
            left += [one for one, _ in step.next_functions]
            yield step
