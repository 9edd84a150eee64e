"""Losses, metrics, layers and modules of other libraries, which take tensors and not chunks, found by class names.

No framework is imported.
"""

from __future__ import annotations

from typing import Any

from experimentator.graph.signatures import signature_of

# (module of a class, name of a class): what it is, and what to write.
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


_ROOMS = {room.partition(".")[0] for room, _ in _KINDS} | {"lightning", "pytorch_lightning"}


def foreign(processor: Any) -> tuple[str, str] | None:
    """What a listed loss, metric, layer or module is, and what to write instead; None for what can take the chunk.

    A class of the user's with its own `__call__` can, and a module of PyTorch whose `forward` has a parameter `chunk`.

    >>> foreign(print) is None
    True
    """
    classes = type(processor).__mro__
    first = next((kind for kind in classes if "__call__" in vars(kind)), object)
    if first.__module__.partition(".")[0] not in _ROOMS:  # the user's own `__call__` may take a chunk
        return None
    kinds = [(f"{kind.__module__}.", kind.__name__) for kind in classes]
    for (room, name), found in _KINDS.items():
        if any(at.startswith(f"{room}.") and called == name for at, called in kinds):
            forward = getattr(processor, "forward", None)
            takes_a_chunk = forward is not None and "chunk" in signature_of(forward).parameters
            return None if takes_a_chunk else found
    return None
