"""What layers build outlives the trace that builds it; tensors of a trace do not outlive it in attributes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial, wraps
from typing import Any

import keras

from experimentator.graph.recorded import as_listed


def build_outside(
    layer: Any, outside_of_traces: Callable[[], AbstractContextManager[Any]], later: list[Callable[[], Any]]
) -> None:
    """Build a layer outside of the trace that first calls it, so that weights and constants made there outlive it.

    A `keras.Sequential` calls its layers in its `build`, and ever after calls them in training or inference as it did
    there. So `later` gets a call that builds it again, to be made outside of training: the user's own
    `network(images)` then infers.
    """
    build = layer.build
    if layer.built or getattr(build, "_is_default", False):  # the default one runs `call`, on tensors of the trace
        return

    @wraps(build)
    def outside(*shapes: Any, **named: Any) -> Any:
        object.__setattr__(layer, "build", build)
        if type(layer) is keras.Sequential:  # Keras' own class only: a user's `build` may not run twice
            later.append(partial(build, *shapes, **named))
        with outside_of_traces():
            return build(*shapes, **named)

    object.__setattr__(layer, "build", outside)  # past Keras' tracking of attributes


@contextmanager
def without_traces(processors: Iterable[Any], is_traced: Callable[[Any], bool]) -> Iterator[None]:
    """Run a list within; afterwards, attributes of processors that hold a tensor of its trace are as they were before.

    A table kept in a cached property is then made anew in the next trace, for which the old one would be out of reach.
    """
    own = [as_listed(processor) for processor in processors]
    before = [(one.__dict__, dict(one.__dict__)) for one in own if hasattr(one, "__dict__")]
    try:
        yield
    finally:
        for attributes, known in before:
            put_back(attributes, known, is_traced)


def put_back(attributes: dict[str, Any], known: dict[str, Any], is_traced: Callable[[Any], bool]) -> None:
    """Give attributes that hold a tensor of a trace what they had before."""
    for name, value in list(attributes.items()):
        if value is not known.get(name) and any(map(is_traced, keras.tree.flatten(value))):
            if name in known:
                attributes[name] = known[name]
            else:
                del attributes[name]
