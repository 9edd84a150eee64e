"""Any function as a chunk processor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from experimentator.graph import Chunk, DeclarationError, chunk_processor
from experimentator.graph.signatures import signature_of
from experimentator.ops.compared import minded
from experimentator.ops.op import Op, as_names


@dataclass(eq=False)
class Apply(Op):
    """Call a function: the tensors named by `inputs` by position, what it returns under the names of `outputs`.

    It returns one tensor, a tuple in the order of `outputs`, or a dictionary by name. A parameter `training` that no
    input fills receives whether this call trains.

    >>> from experimentator.graph import Mode
    >>> chunk = Chunk({"batch_left": 5, "batch_right": 3}, mode=Mode.ALL)
    >>> add_and_subtract = lambda a, b: (a + b, a - b)
    >>> Apply(add_and_subtract, inputs=["batch_left", "batch_right"], outputs=["batch_sum", "batch_gap"])(chunk)
    >>> chunk["batch_sum"], chunk["batch_gap"]
    (8, 2)

    Raises:
        DeclarationError: if the function does not take that many tensors, when the op is made.
        UnwrittenOutputError, UndeclaredWriteError: if it returns another number of values, or other names.
    """

    fn: Callable[..., Any]
    inputs: Sequence[str]
    outputs: Sequence[str]

    def __post_init__(self) -> None:
        self.inputs, self.outputs = as_names(self.inputs), as_names(self.outputs)
        super().__post_init__()
        names = tuple(dict.fromkeys(self.inputs))
        self._processor = chunk_processor(inputs=names, outputs=self.outputs)(_by_position(self, names))

    @property
    def predicted(self) -> tuple[str, ...]:
        """What a loss of Keras takes for the prediction: its second tensor."""
        return tuple(self.inputs[1:2])

    def minds(self, squash: str, width: int | None) -> str:
        """What to write if a loss of Keras takes logits, and the prediction is none, or the other way round."""
        return minded(self.fn, squash)

    def __call__(self, chunk: Chunk) -> None:
        self._processor(chunk)


def _by_position(op: Apply, names: Sequence[str]) -> Callable[..., Any]:
    """The op's function with its parameters' names out of sight, so that tensors reach it in the order listed."""
    places = [names.index(name) for name in op.inputs]
    training = _takes(op, len(places))

    def function(*tensors: Any) -> Any:
        return op.fn(*(tensors[place] for place in places))

    def function_with_training(*tensors: Any, training: bool) -> Any:
        return op.fn(*(tensors[place] for place in places), training=training)

    chosen = function_with_training if training else function
    chosen.__name__ = str(getattr(op.fn, "__name__", type(op.fn).__name__))  # for messages
    return chosen


def _takes(op: Apply, count: int) -> bool:
    """Whether the function asks for `training` besides `count` tensors."""
    op.require(callable(op.fn), seen="its function cannot be called", write="Give a function of tensors.")
    op.refuse_metric(op.fn)
    try:
        signature = signature_of(op.fn)
    except ValueError:  # builtins without a signature
        return False
    training = "training" in signature.parameters
    for options in ({"training": None}, {}) if training else ({},):
        try:
            signature.bind(*[None] * count, **options)
        except TypeError:
            continue
        return bool(options)
    seen = f"its function takes {signature} and it has {count} inputs"
    raise DeclarationError(repr(op), seen=seen, write="Name one input for each parameter, in order.")
