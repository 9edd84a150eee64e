"""What outlives the trace that makes it, and what must not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import tensorflow as tf


def build_outside(layer: Any) -> None:
    """Let what a layer makes in its `build`, constants too, outlive the trace that happens to build it."""
    build = layer.build
    if layer.built or getattr(build, "_is_default", False):  # which runs `call`, on tensors of the trace
        return

    @wraps(build)
    def outside(*shapes: Any, **named: Any) -> Any:
        object.__setattr__(layer, "build", build)
        with tf.init_scope():
            return build(*shapes, **named)

    object.__setattr__(layer, "build", outside)  # past Keras' tracking of attributes


@contextmanager
def without_traces(processor: Any) -> Iterator[None]:
    """After a call, attributes are again what they were where the call left a tensor of its trace in them.

    A table kept in a cached property is then made anew in the next trace, for which the old one would be out of reach.
    """
    attributes = getattr(processor, "__dict__", {})
    before = dict(attributes)
    yield
    for name, value in list(attributes.items()):
        if value is not before.get(name) and any(map(tf.is_symbolic_tensor, tf.nest.flatten(value))):
            if name in before:
                attributes[name] = before[name]
            else:
                del attributes[name]
