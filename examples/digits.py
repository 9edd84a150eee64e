"""A small convolutional network classifies handwritten digits of 8x8 pixels.

Command:  experimentator run examples/digits.py      (or: make demo)
Result:   validation accuracy of 0.985 or more after 20 epochs
Time:     about 15 seconds of training on two CPU cores
"""

import keras
import numpy as np
from keras import layers
from sklearn.datasets import load_digits

from experimentator import AsyncExperiment, BaseExperiment, CallbackedExperiment, Mode, Subset, ops

experiment_type = [BaseExperiment, CallbackedExperiment, AsyncExperiment]
seed = 1
batch_size = 32
epochs = 20
learning_rate = 3e-3

digits = load_digits()
dataset = {"input": digits.images.astype(np.uint8)[..., None], "target": digits.target.astype(np.int32)}
shuffled = np.random.default_rng(seed).permutation(len(digits.target))
training, validation = shuffled[360:].tolist(), shuffled[:360].tolist()

subsets = [
    Subset("training", Mode.TRAIN, dataset, keys=training),
    Subset("validation", Mode.EVAL, dataset, keys=validation),
]

network = keras.Sequential(
    [
        layers.Conv2D(32, 3, padding="same", use_bias=False),
        layers.BatchNormalization(momentum=0.9),
        layers.ReLU(),
        layers.Conv2D(64, 3, padding="same", use_bias=False),
        layers.BatchNormalization(momentum=0.9),
        layers.ReLU(),
        layers.MaxPooling2D(),
        layers.Flatten(),
        layers.Dense(64, activation="relu"),
        layers.Dense(10),
    ]
)

chunk_processors = [
    ops.Scale("batch_input", 16.0),
    ops.RandomCrop("batch_input", size=(8, 8), padding=1),
    ops.Model(network, inputs="batch_input", outputs="batch_logits"),
    ops.SoftmaxCrossEntropy("batch_logits", "batch_target"),
    ops.Accuracy("batch_logits", "batch_target"),
    ops.Softmax("batch_logits", output="batch_probabilities"),
]
outputs = ["batch_probabilities"]
steps = epochs * (len(training) // batch_size)
optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(learning_rate, steps))
