"""Names of losses, metrics and layers elsewhere, and what to write for them here."""

from __future__ import annotations

from collections.abc import Mapping

import keras

_BINARY = 'Write ops.SigmoidCrossEntropy("batch_logits", "batch_target"): of logits, before any sigmoid.'
_CLASSES = 'Write ops.SoftmaxCrossEntropy("batch_logits", "batch_target"): of logits, before any softmax.'
_ACCURACY = 'Write ops.Accuracy("batch_logits", "batch_target"), with threshold=0.5 for probabilities of two classes.'
_SUM = 'Write ops.CombineLosses({"one_loss": 1.0, "other_loss": 0.5}).'
_ANY = 'Write ops.Apply(function, ["batch_prediction", "batch_target"], "loss"), for any function of tensors.'
OPS: Mapping[str, str] = {
    "bceloss": _BINARY,
    "bcewithlogitsloss": _BINARY,
    "binaryaccuracy": _ACCURACY,
    "binarycrossentropy": _BINARY,
    "categoricalaccuracy": _ACCURACY,
    "categoricalcrossentropy": _CLASSES,
    "crossentropy": _CLASSES,
    "crossentropyloss": _CLASSES,
    "l1loss": 'Write ops.MeanAbsoluteError("batch_prediction", "batch_target", output="loss").',
    "lambda": _ANY,
    "loss": _ANY,
    "mae": 'Write ops.MeanAbsoluteError("batch_prediction", "batch_target").',
    "map": _ANY,
    "metric": 'Write ops.KerasMetric(keras.metrics.AUC(), "batch_score", "batch_target").',
    "mse": 'Write ops.MeanSquaredError("batch_prediction", "batch_target").',
    "mseloss": 'Write ops.MeanSquaredError("batch_prediction", "batch_target").',
    "sparsecategoricalaccuracy": _ACCURACY,
    "sparsecategoricalcrossentropy": _CLASSES,
    "sumlosses": _SUM,
    "weightedsum": _SUM,
}
_OF_KERAS = {  # its rooms, and what takes what is in them
    "losses": 'Write ops.Apply(keras.losses.{}(...), ["batch_target", "batch_prediction"], "loss").',
    "metrics": 'Write ops.KerasMetric(keras.metrics.{}(...), "batch_score", "batch_target").',
    "layers": 'Write ops.Model(keras.layers.{}(...), "batch_input", "batch_output").',
}


def op_for(name: str) -> str:
    """What to write for a name that the shelf lacks, whatever its case; empty where nobody has it.

    >>> op_for("BCELoss")
    'Write ops.SigmoidCrossEntropy("batch_logits", "batch_target"): of logits, before any sigmoid.'
    >>> op_for("Recall")
    'Write ops.KerasMetric(keras.metrics.Recall(...), "batch_score", "batch_target").'
    """
    theirs = (write.format(name) for room, write in _OF_KERAS.items() if hasattr(getattr(keras, room), name))
    return OPS.get(name.replace("_", "").lower()) or next(theirs, "")
