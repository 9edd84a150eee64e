"""The shelf of ready chunk processors, written on `keras.ops`, for TensorFlow, JAX and PyTorch alike.

Tensor names come first, parameters after; every op takes `mode=`, `node=` (its label) and `after=`. Ops that read one
tensor and write it back take `output=` to write another name instead.

>>> import numpy as np
>>> from experimentator.graph import Graph
>>> graph = Graph([Scale("x"), ArgMax("x", output="brightest")], provided={"x"}).select("brightest")
>>> int(graph.run({"x": np.array([[0, 255, 3]])})["brightest"][0])
1
"""

import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from experimentator.ops.activations import ArgMax, Sigmoid, Softmax
from experimentator.ops.apply import Apply
from experimentator.ops.augment import RandomCrop, RandomFlip
from experimentator.ops.checks import AssertFinite, AssertShape, Print
from experimentator.ops.combination import CombineLosses, UncertaintyWeighting
from experimentator.ops.counts import ConfusionMatrix, PrecisionRecall
from experimentator.ops.elsewhere import op_for
from experimentator.ops.embeddings import Contrastive, Triplet
from experimentator.ops.errors import NotFiniteError, SignatureError, TensorError
from experimentator.ops.flow import Mask, Rename, StopGradient, Where
from experimentator.ops.gradients import GradientNorm
from experimentator.ops.images import CenterCrop, Pad, Resize, ToUint8
from experimentator.ops.imbalance import Dice, Focal
from experimentator.ops.intensity import Gamma, Noise, RandomBrightness, RandomContrast
from experimentator.ops.joining import Concatenate, NamedOutputs, Split, Stack
from experimentator.ops.losses import Huber, MeanSquaredError, SigmoidCrossEntropy, SoftmaxCrossEntropy
from experimentator.ops.metrics import Accuracy, MeanAbsoluteError, TopKAccuracy
from experimentator.ops.mixing import CutMix, MixUp
from experimentator.ops.model import Model
from experimentator.ops.peaks import Heatmap, TopKPeaks
from experimentator.ops.places import Drop, Select
from experimentator.ops.pooling import GlobalAveragePool, GlobalMaxPool
from experimentator.ops.preprocessing import Cast, ExpandDims, OneHot, Scale, Standardize
from experimentator.ops.rotation import RandomRotation
from experimentator.ops.stateful import KerasMetric

__all__ = [
    "Accuracy",
    "Apply",
    "ArgMax",
    "AssertFinite",
    "AssertShape",
    "Cast",
    "CenterCrop",
    "CombineLosses",
    "Concatenate",
    "ConfusionMatrix",
    "Contrastive",
    "CutMix",
    "Dice",
    "Drop",
    "ExpandDims",
    "Focal",
    "Gamma",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "GradientNorm",
    "Heatmap",
    "Huber",
    "KerasMetric",
    "Mask",
    "MeanAbsoluteError",
    "MeanSquaredError",
    "MixUp",
    "Model",
    "NamedOutputs",
    "Noise",
    "NotFiniteError",
    "OneHot",
    "Pad",
    "PrecisionRecall",
    "Print",
    "RandomBrightness",
    "RandomContrast",
    "RandomCrop",
    "RandomFlip",
    "RandomRotation",
    "Rename",
    "Resize",
    "Scale",
    "Select",
    "Sigmoid",
    "SigmoidCrossEntropy",
    "SignatureError",
    "Softmax",
    "SoftmaxCrossEntropy",
    "Split",
    "Stack",
    "Standardize",
    "StopGradient",
    "TensorError",
    "ToUint8",
    "TopKAccuracy",
    "TopKPeaks",
    "Triplet",
    "UncertaintyWeighting",
    "Where",
]

if not TYPE_CHECKING:  # to type checkers, what is not listed is an error

    def __getattr__(name: str) -> Any:
        error: Exception
        error = AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name, obj=sys.modules[__name__])
        if write := op_for(name):
            is_import = sys._getframe(1).f_code.co_name == "_handle_fromlist"  # which drops notes of AttributeErrors
            if is_import and find_spec(f"{__name__}.{name}") is None:
                error = ImportError(f"cannot import name {name!r} from {__name__!r}", name=__name__)
            error.add_note(write)
        raise error
