"""What the signature of a callable says about how it is called."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Sequence
from functools import partial, wraps
from typing import Any

if sys.version_info >= (3, 14):  # annotations are computed when asked for: names that only type checkers import fail
    from annotationlib import Format, get_annotations

    signature_of = partial(inspect.signature, annotation_format=Format.STRING)
    annotations_of = partial(get_annotations, format=Format.STRING)
else:
    from inspect import get_annotations as annotations_of
    from inspect import signature as signature_of

__all__ = [
    "annotations_of",
    "asks_for_training",
    "required_parameters",
    "signature_of",
    "told_of_training",
    "ways_to_pass",
]


def asks_for_training(call: Callable[..., Any]) -> bool:
    """Whether a `__call__` takes `training` besides the chunk, itself or by `**kwargs` for a function that it wraps."""
    try:
        own, inner = (signature_of(call, follow_wrapped=follow).parameters for follow in (False, True))
    except (TypeError, ValueError):
        return False
    passes_on = any(one.kind is one.VAR_KEYWORD for one in own.values())
    found = own.get("training") or (inner.get("training") if passes_on else None)
    return found is not None and found.kind in (found.POSITIONAL_OR_KEYWORD, found.KEYWORD_ONLY)


def told_of_training(call: Callable[..., Any]) -> Callable[..., Any]:
    """A `__call__` that is given `training` by its chunk, where its caller does not."""
    signature = signature_of(call)

    @wraps(call)
    def told(self: Any, chunk: Any, *args: Any, **options: Any) -> Any:
        if "training" not in signature.bind_partial(self, chunk, *args, **options).arguments:
            options["training"] = chunk.training
        return call(self, chunk, *args, **options)

    told.tells_of_training = True  # type: ignore[attr-defined]
    return told


def required_parameters(function: Callable[..., Any]) -> tuple[str, ...]:
    """The parameters without a default, less `training`.

    >>> required_parameters(lambda x, training, scale=1: None)
    ('x',)
    """
    try:
        parameters = signature_of(function).parameters.values()
    except ValueError:  # builtins without a signature
        return ()
    required = [p for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    return tuple(parameter.name for parameter in required if parameter.name != "training")


def ways_to_pass(
    inputs: Sequence[str], *, to: Callable[..., Any]
) -> tuple[tuple[str, ...], tuple[str, ...], bool] | None:
    """Names to pass in order, names to pass by name, and whether `to` asks for `training`; None if they do not fit.

    >>> ways_to_pass(["a", "b"], to=lambda b, a: None), ways_to_pass(["a"], to=lambda x, training: None)
    (((), ('a', 'b'), False), (('a',), (), True))
    """
    inputs = tuple(inputs)
    try:
        signature = signature_of(to)
    except ValueError:
        return inputs, (), False
    training = "training" in signature.parameters and "training" not in inputs
    options = {"training": None} if training else {}
    same = [one.name for one in signature.parameters.values() if one.kind == one.POSITIONAL_OR_KEYWORD]
    for in_order, by_name in ((inputs, ()),) if same == [*inputs] else (((), inputs), (inputs, ())):
        try:
            signature.bind(*in_order, **dict.fromkeys(by_name), **options)
        except TypeError:
            continue
        if by_name or all(name == at for name, at in zip(signature.parameters, inputs) if name in inputs):
            return in_order, by_name, training
    return None
