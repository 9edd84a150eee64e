"""Two hundred of scikit-learn's digits and one layer: the smallest real training."""

import keras
from sklearn.datasets import load_digits

from experimentator import Mode, Subset
from experimentator.ops import Accuracy, Cast, Model, Scale, SoftmaxCrossEntropy

learning_rate = 1e-2
jit_compile = False
images, classes = load_digits(return_X_y=True)

subsets = [
    Subset("training", Mode.TRAIN, {"input": images[:160], "target": classes[:160]}),
    Subset("validation", Mode.EVAL, {"input": images[160:200], "target": classes[160:200]}),
]
batch_size = 32
optimizer = keras.optimizers.Adam(learning_rate)
chunk_processors = [
    Cast("batch_input", "float32"),
    Scale("batch_input", 16.0),
    Model(keras.layers.Dense(10), inputs="batch_input", outputs="batch_logits"),
    SoftmaxCrossEntropy("batch_logits", "batch_target"),
    Accuracy("batch_logits", "batch_target"),
]
