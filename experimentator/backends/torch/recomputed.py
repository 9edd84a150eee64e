"""Rematerialization by `torch.utils.checkpoint`, with the same draws, statistics and seeds both times.

PyTorch resets its generators for that. In a recorded program no generator has a state that could be reset: what was
drawn the first time is kept, and used again.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from functools import wraps
from typing import Any

import torch
from torch.fx.experimental.proxy_tensor import get_proxy_mode
from torch.utils import _pytree, checkpoint
from torch.utils._python_dispatch import TorchDispatchMode

from experimentator.backends.keras.memoised import losses_to
from experimentator.backends.keras.remat import Within, place
from experimentator.backends.remat_hook import is_recomputing
from experimentator.backends.torch.draws import computed

Contexts = tuple[AbstractContextManager[Any], AbstractContextManager[Any]]


def recomputed(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """The result of a function of which nothing is kept for gradients: it is computed again for them."""
    return checkpoint.checkpoint(function, *arguments, use_reentrant=False, **options)


class _Noting(Within):
    """A scope that notes what it reads, and assigns to the scope around, or, as in `keras.Model.fit`, to variables."""

    def add_update(self, update: Any) -> None:
        if self.original_scope is None:
            update[0]._direct_assign(update[1])
        else:
            self.original_scope.add_update(update)

    def get_current_value(self, variable: Any) -> Any:
        value = super().get_current_value(variable)
        read = variable._value if value is None else value
        if variable.trainable and read is not None:  # it may be assigned later
            self.known.setdefault(id(variable), read)
        return value


class _Draws(TorchDispatchMode):
    """Notes numbers that are drawn; with `again`, returns those instead."""

    def __init__(self, drawn: list[Any], *, again: bool):
        super().__init__()
        self.drawn, self.again, self.count = drawn, again, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded not in func.tags or _draws_nothing(func, args, kwargs):
            return func(*args, **kwargs)
        if not self.again:
            made = func(*args, **kwargs)
            self.drawn.append(_copied(made))
            return made
        made, self.count = self.drawn[self.count], self.count + 1
        return args[0].copy_(made) if func._schema.is_mutable else _copied(made)


def _draws_nothing(function: Any, arguments: Any, options: Any) -> bool:
    """Whether it is an attention without dropout."""
    names = [one.name for one in function._schema.arguments]
    given = {one.name: one.default_value for one in function._schema.arguments if one.has_default_value()}
    given |= dict(zip(names, arguments, strict=False)) | options
    return "dropout_p" in given and not given["dropout_p"]


def _copied(values: Any) -> Any:
    return _pytree.tree_map_only(torch.Tensor, torch.clone, values)


class _Around(TorchDispatchMode):
    """Contexts around the first computation, or around each that repeats it.

    It does nothing as a mode, but in a trace PyTorch takes no other context.
    """

    def __init__(self, *contexts: Callable[[], AbstractContextManager[Any]]):
        super().__init__()
        self.contexts = contexts
        self.entered: list[ExitStack] = []

    def __enter__(self) -> None:
        with ExitStack() as stack:
            for context in self.contexts:
                stack.enter_context(context())
            self.entered.append(stack.pop_all())

    def __exit__(self, *error: Any) -> bool | None:
        return self.entered.pop().__exit__(*error)


def _contexts(asked: Callable[[], Contexts]) -> Contexts:
    """The contexts that a caller asked for, with ours around them."""
    there, known, drawn = place(), dict[int, Any](), list[Any]()
    first, again = asked()
    dropping, reading = lambda: losses_to(lambda layer, loss: None), lambda: Within(known, again=True)
    draws = [] if get_proxy_mode() is None else [lambda: _Draws(drawn, again=False), lambda: _Draws(drawn, again=True)]
    noting = _Around(lambda: _Noting(known), lambda: first, *draws[:1])
    return noting, _Around(there, computed, dropping, reading, lambda: again, *draws[1:])


# Every checkpoint begins there, even of a caller that imported the function before; PyTorch 2.15 renamed it.
_PLACES = ("_checkpoint_without_reentrant_generator_impl", "_checkpoint_without_reentrant_generator")
_NAME = next(name for name in _PLACES if hasattr(checkpoint, name))
_USUAL = getattr(checkpoint, _NAME)


@wraps(_USUAL)
def _generator(*arguments: Any, **options: Any) -> Any:
    if not is_recomputing():
        return (yield from _USUAL(*arguments, **options))
    if "context_fn" in options:
        asked = options["context_fn"]
        options["context_fn"] = lambda: _contexts(asked)
    else:
        function, preserve, asked, *others = arguments
        arguments = function, preserve, lambda: _contexts(asked), *others
    with checkpoint.set_checkpoint_early_stop(False):  # layers drop at the end of a call what they keep for it
        return (yield from _USUAL(*arguments, **options))


setattr(checkpoint, _NAME, _generator)
