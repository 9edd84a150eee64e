"""Attributes that are others for a while: of a framework's class or module, of an object, of a thread's own values."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def patched(owner: Any, **others: Any) -> Iterator[None]:
    """Within, these attributes of `owner` are others; afterwards it has its own again, or inherits as before.

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
    before = {name: vars(owner)[name] for name in others if name in vars(owner)}
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
