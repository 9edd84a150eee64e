"""Objects of other libraries that take tensors where a chunk is handed on, told by names: no framework is imported."""

from __future__ import annotations

import inspect
from typing import Any

# By where a class comes from, and what it is called: what it is, and what to write.
_KINDS = {
    ("keras", "Loss"): (
        "a loss",
        'Write ops.Apply(loss, inputs=["batch_target", "batch_logits"], outputs="loss"), or a ready op such as '
        'ops.SoftmaxCrossEntropy("batch_logits", "batch_target").',
    ),
    ("keras", "Metric"): ("a metric", 'Write ops.KerasMetric(metric, "batch_logits", "batch_target").'),
    ("keras", "Layer"): ("a layer", "Write ops.Model(layer, inputs=[...], outputs=[...])."),
    ("torchmetrics", "Metric"): (
        "a metric",
        'Write a ready op such as ops.Accuracy("batch_logits", "batch_target"), or a metric of Keras as '
        'ops.KerasMetric(metric, "batch_logits", "batch_target").',
    ),
    ("torch.nn.modules.loss", "_Loss"): (
        "a loss",
        'Write ops.Apply(loss, inputs=["batch_logits", "batch_target"], outputs="loss"); class ids that it takes are '
        'of ops.Cast("batch_target", "int64").',
    ),
    ("torch.nn", "Module"): ("a module", "Write ops.Model(module, inputs=[...], outputs=[...])."),
}


def stranger(processor: Any) -> tuple[str, str] | None:
    """What an object that takes tensors is, and what to write; None for any other.

    A module of PyTorch with a parameter called `chunk` takes that.

    >>> stranger(print) is None
    True
    """
    kinds = [(f"{kind.__module__}.", kind.__name__) for kind in type(processor).__mro__]
    for (room, name), found in _KINDS.items():
        if any(at.startswith(f"{room}.") and called == name for at, called in kinds):
            forward = getattr(processor, "forward", None)
            takes_a_chunk = forward is not None and "chunk" in inspect.signature(forward).parameters
            return None if takes_a_chunk else found
    return None
