"""The shelf of ready chunk processors, written on `keras.ops`: TensorFlow now, JAX and PyTorch alike.

Tensor names come first, parameters after; every op takes `mode=`, `node=` (its label) and `after=`. Ops that read one
tensor and write it back take `output=` to write another name instead.

>>> import numpy as np
>>> from experimentator.graph import Graph
>>> graph = Graph([Scale("x"), ArgMax("x", output="brightest")], provided={"x"}).select("brightest")
>>> int(graph.run({"x": np.array([[0, 255, 3]])})["brightest"][0])
1
"""

from experimentator.ops.activations import ArgMax, Sigmoid, Softmax
from experimentator.ops.apply import Apply
from experimentator.ops.augment import RandomCrop, RandomFlip
from experimentator.ops.checks import AssertFinite
from experimentator.ops.errors import NotFiniteError, SignatureError, TensorError
from experimentator.ops.flow import Rename, StopGradient
from experimentator.ops.losses import CombineLosses, Huber, MeanSquaredError, SigmoidCrossEntropy, SoftmaxCrossEntropy
from experimentator.ops.metrics import Accuracy, TopKAccuracy
from experimentator.ops.model import Model
from experimentator.ops.preprocessing import Cast, ExpandDims, OneHot, Scale, Standardize

__all__ = [
    "Accuracy",
    "Apply",
    "ArgMax",
    "AssertFinite",
    "Cast",
    "CombineLosses",
    "ExpandDims",
    "Huber",
    "MeanSquaredError",
    "Model",
    "NotFiniteError",
    "OneHot",
    "RandomCrop",
    "RandomFlip",
    "Rename",
    "Scale",
    "Sigmoid",
    "SigmoidCrossEntropy",
    "SignatureError",
    "Softmax",
    "SoftmaxCrossEntropy",
    "Standardize",
    "StopGradient",
    "TensorError",
    "TopKAccuracy",
]
