"""What layers build outlives the trace that builds it; tensors of a trace do not outlive it in attributes."""

from __future__ import annotations

import logging
import reprlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial, wraps
from typing import Any

import keras
from keras.src.layers.rnn.dropout_rnn_cell import DropoutRNNCell

from experimentator.graph.recorded import as_listed
from experimentator.reads import goes_on

log = logging.getLogger(__name__)

KEPT = (
    "Make constants with numpy, or in the `build` of a layer, or keep them in an attribute of their own. What one "
    "batch leaves for the next is a keras.Variable(..., trainable=False), which the processor assigns."
)
LOSS_WITHIN = "Let no layer add a loss (add_loss) within a branch, a loop or the cell of a recurrent layer."
OWN_GRADIENT = (
    "A function with a gradient of its own (keras.ops.custom_gradient, and those of the frameworks) is given the "
    "weights that it uses, and returns their gradients, too: function(tensor, keras.ops.copy(weight))."
)


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


class TraceLeaks:
    """Puts back attributes of processors and layers: none keeps a tensor of a trace that has ended.

    A table kept in a cached property is made anew in the next trace, for which the old one would be out of reach. So
    are the dropout masks that a recurrent cell of Keras keeps for the steps of one batch: `keras.layers.RNN` takes them
    from the cell that it calls, and nobody does so in a loop of one's own.

    An attribute that held values before, as of a running mean, is warned of: the code reads like one that goes on from
    batch to batch.
    """

    def __init__(self, is_traced: Callable[[Any], bool]):
        self.is_traced = is_traced
        self.told: set[tuple[str, str]] = set()
        self._before: dict[int, tuple[Any, dict[str, Any]]] | None = None

    @contextmanager
    def undone(self, processors: Iterable[Any]) -> Iterator[None]:
        """Run a list within; afterwards, attributes that hold a tensor of its trace are as they were before."""
        outer, self._before = self._before, {}
        for processor in processors:
            self.note(as_listed(processor))
        try:
            yield
        finally:
            noted, self._before = self._before, outer
            for one, known in noted.values():
                self.put_back(one, known)
                forget_masks(one)

    def note(self, one: Any) -> None:
        """Note what a processor or a layer holds, before it is called."""
        if self._before is not None and hasattr(one, "__dict__"):
            self._before.setdefault(id(one), (one, dict(one.__dict__)))

    def put_back(self, one: Any, known: dict[str, Any]) -> None:
        """Give attributes that hold a tensor of a trace what they had before; warn, once, of those meant to go on."""
        attributes = vars(one)
        for name, value in list(attributes.items()):
            if value is known.get(name) or not any(map(self.is_traced, keras.tree.flatten(value))):
                continue
            before = known[name] if name in known else getattr(type(one), name, None)
            if name in known:
                attributes[name] = before
            else:
                del attributes[name]
            had_values = not hasattr(before, "__get__") and any(part is not None for part in keras.tree.flatten(before))
            if had_values and (type(one).__name__, name) not in self.told and goes_on(one, name):
                self.told.add((type(one).__name__, name))
                write = f"self.{name} = keras.Variable(..., trainable=False) in __init__, and self.{name}.assign(...)"
                if hasattr(one, "register_buffer") and not isinstance(one, keras.Layer):
                    write = f"self.register_buffer({name!r}, ...) in __init__"
                log.warning(
                    "%s assigns a tensor to self.%s that ends with the batch: compiled, each begins with %s. Write %s.",
                    *(type(one).__name__, name, reprlib.repr(before), write),
                )


def forget_masks(layer: Any) -> None:
    """Let a recurrent cell of Keras draw other dropout masks for the next batch, also where nothing is traced."""
    if isinstance(layer, DropoutRNNCell):
        layer.reset_dropout_mask()
        layer.reset_recurrent_dropout_mask()
