"""MNIST with a classic network: three convolutional blocks, then two dense layers.

Command:  experimentator run examples/mnist.py
Result:   validation accuracy of 0.985 or more after 5 epochs
Time:     about a minute an epoch on two CPU cores, seconds on a GPU; the data are downloaded once (11 MB)
"""

import contextlib
import sys

import keras
from keras import layers

from experimentator import Mode, Subset, ops

seed = 1
batch_size = 64
learning_rate = 1e-3
epochs = 5

try:
    with contextlib.redirect_stdout(sys.stderr):  # stdout is for results; Keras tells there that it downloads
        (train_images, train_targets), (test_images, test_targets) = keras.datasets.mnist.load_data()
except Exception as error:
    raise RuntimeError(
        "MNIST could not be fetched. Connect to the network once (Keras keeps it in ~/.keras/datasets), "
        "or put mnist.npz there. examples/digits.py needs no network."
    ) from error

subsets = [
    Subset("training", Mode.TRAIN, {"input": train_images[..., None], "target": train_targets.astype("int32")}),
    Subset("validation", Mode.EVAL, {"input": test_images[..., None], "target": test_targets.astype("int32")}),
]

blocks = [
    layer
    for filters in (4, 8, 16)
    for layer in (layers.Conv2D(filters, 3), layers.BatchNormalization(), layers.ReLU(), layers.MaxPooling2D())
]
network = keras.Sequential([*blocks, layers.Flatten(), layers.Dense(100, activation="relu"), layers.Dense(10)])

chunk_processors = [
    ops.Cast("batch_input", "float32"),
    ops.Scale("batch_input", 255.0),
    ops.Model(network, inputs="batch_input", outputs="batch_logits"),
    ops.SoftmaxCrossEntropy("batch_logits", "batch_target"),
    ops.Accuracy("batch_logits", "batch_target"),
    ops.ArgMax("batch_logits", output="batch_digit"),
]
outputs = ["batch_digit"]
optimizer = keras.optimizers.Adam(learning_rate)
