"""Values in place of parameters, for functions that PyTorch calls past every `TorchFunctionMode`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from threading import local
from typing import Any

import torch
from torch._functorch import eager_transforms, vmap
from torch.utils import _pytree, checkpoint

from experimentator.backends.keras.memoised import ONE_AT_A_TIME
from experimentator.patches import patched


class _Here(local):
    """What gives the values of parameters in this thread."""

    value: Callable[[Any], Any] | None = None


_HERE = _Here()


def standing(arguments: Any) -> Any:
    """Arguments, with values in place of the parameters among them."""
    return arguments if _HERE.value is None else _pytree.tree_map_only(torch.nn.Parameter, _HERE.value, arguments)


@contextmanager
def handed(value: Callable[[Any], Any]) -> Iterator[None]:
    """Within, in this thread, `torch.autograd.Function`, `torch.vmap` and the like get the `value` of a parameter.

    Functions of TorchScript run from their Python source, since their compiled form cannot be recorded.
    """
    with ONE_AT_A_TIME, patched(_HERE, value=value), ExitStack() as stack:
        for (owner, name), own in _OWN.items():
            stack.enter_context(patched(owner, **{name: own}))
        yield


def _apply(cls: Any, *arguments: Any, **options: Any) -> Any:
    if cls is checkpoint.CheckpointFunction and _HERE.value is not None:  # use_reentrant=True
        function, keeps_state, *others = arguments
        return checkpoint.checkpoint(function, *others, use_reentrant=False, preserve_rng_state=keeps_state)
    usual = _USUAL[torch.autograd.Function, "apply"]
    return usual.__get__(None, cls)(*standing(arguments), **options)  # of Python or of C, as Python 3.13 has it


def _taking(usual: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(usual)
    def take(tensor: Any, *others: Any) -> Any:
        return usual(standing(tensor), *others)

    return take


def _scripted(function: Any, *arguments: Any, **options: Any) -> Any:
    written = getattr(function, "_torchdynamo_inline", None)
    if _HERE.value is None or written is None:
        return _USUAL[torch._C.ScriptFunction, "__call__"](function, *arguments, **options)
    return written(*arguments, **options)


_PLACES = [
    (torch.autograd.Function, "apply"),
    (torch._C.ScriptFunction, "__call__"),
    (vmap, "_add_batch_dim"),
    (eager_transforms, "_wrap_for_grad"),
]
_USUAL: dict[Any, Any] = {(owner, name): vars(owner)[name] for owner, name in _PLACES}
_OWN: dict[Any, Any] = dict(zip(_PLACES, [classmethod(_apply), _scripted], strict=False)) | {
    place: _taking(_USUAL[place]) for place in _PLACES[2:]
}
