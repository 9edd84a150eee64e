"""`keras.remat`, where a backend says how functions are computed again for gradients; elsewhere it is Keras' own.

It is replaced as soon as there are Keras and this library, before a configuration makes functions with it: Keras' own
draws other numbers when it computes again, as for dropout, and on TensorFlow reads weights that are updated already.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from threading import local
from typing import Any

from experimentator.patches import patched

Way = Callable[..., Any]  # calls a function, so that it is computed again for gradients
_HERE = local()


def recomputing(way: Way | None = None) -> AbstractContextManager[None]:
    """Within, in this thread, rematerialized functions are called by `way`; without one as around, or plainly."""
    return patched(_HERE, way=way or present_way() or _call)


def is_recomputing() -> bool:
    """Whether this thread stands where something may be computed again for its gradients."""
    return present_way() not in (None, _call)


def present_way() -> Way | None:
    """The way of this thread; None outside of `recomputing`."""
    return getattr(_HERE, "way", None)


def _call(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    return function(*arguments, **options)


def _remat(function: Callable[..., Any]) -> Callable[..., Any]:
    def run(*arguments: Any, **options: Any) -> Any:
        if (way := present_way()) is None:
            return _USUAL(function)(*arguments, **options)
        return way(function, *arguments, **options)

    return run


with suppress(ImportError, AttributeError):  # of a Keras that is no Keras 3, which backends refuse by themselves
    from experimentator.backends.places import replace

    _USUAL: Any = replace("remat", _remat)
