"""Replaces attributes for a while: of a framework's class or module, of an object, of a thread-local."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def patched(owner: Any, **others: Any) -> Iterator[None]:
    """Within, `owner` has these attributes; afterwards it has its own again, or inherits as before.

    >>> class Layer:
    ...     kind = "plain"
    >>> class Dense(Layer):
    ...     pass
    >>> with patched(Dense, kind="dense"):
    ...     Dense.kind
    'dense'
    >>> Dense.kind, vars(Dense).get("kind")
    ('plain', None)
    """
    before = dict(_held(owner, others))
    for name, other in others.items():
        setattr(owner, name, other)
    try:
        yield
    finally:
        for name in others:
            if name in before:
                setattr(owner, name, before[name])
            else:
                delattr(owner, name)


def _held(owner: Any, names: Iterable[str]) -> Iterator[tuple[str, Any]]:
    """The attributes that the owner itself has, not inherited ones, with their values."""
    for name in names:
        if hasattr(getattr(type(owner), name, None), "__set__"):  # of a property or a slot, which cannot be deleted
            yield name, getattr(owner, name)
        elif name in vars(owner):
            yield name, vars(owner)[name]
