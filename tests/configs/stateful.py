"""Everything that holds state: dropout, batch norm, augmentation, noise in evaluation, Adam with warm-up and cosine,
shuffle, a partial last batch, early stopping, the best so far, averages of weights, of metrics, counts, lines of a log.
"""

import keras
from sklearn.datasets import load_digits

from experimentator import (
    AverageMetrics,
    ConfusionMatrix,
    EarlyStopping,
    ExponentialMovingAverage,
    GatherCycleMetrics,
    LearningRateCosine,
    LearningRateWarmUp,
    MeasureTime,
    Mode,
    SaveLearningRate,
    SaveWeights,
    StateLogger,
    Subset,
)
from experimentator.ops import Accuracy, Model, Noise, RandomCrop, Scale, SoftmaxCrossEntropy

seed = 3
epochs = 4
jit_compile = False
batch_size = 16
learning_rate = 1e-2
images, classes = load_digits(return_X_y=True)
images = images.reshape(-1, 8, 8, 1).astype("uint8")
subsets = [
    Subset("training", Mode.TRAIN, {"input": images[:200], "target": classes[:200]}),
    Subset("validation", Mode.EVAL, {"input": images[200:300], "target": classes[200:300]}),
]
optimizer = keras.optimizers.Adam(learning_rate)
layers = keras.layers
network = keras.Sequential(
    [layers.Conv2D(4, 3), layers.BatchNormalization(), layers.Flatten(), layers.Dropout(0.3), layers.Dense(10)]
)
chunk_processors = [
    Scale("batch_input", 16.0),
    RandomCrop("batch_input", size=(8, 8), padding=1),
    Noise("batch_input", 0.05, mode=Mode.TRAIN | Mode.EVAL),
    Model(network, inputs="batch_input", outputs="batch_logits"),
    SoftmaxCrossEntropy("batch_logits", "batch_target"),
    Accuracy("batch_logits", "batch_target"),
]
callbacks = [
    LearningRateWarmUp(1),
    LearningRateCosine(start=1),
    ExponentialMovingAverage(0.9),
    EarlyStopping("validation_loss", 50),
    SaveWeights("best", "validation_accuracy"),
    AverageMetrics([".*accuracy"]),
    ConfusionMatrix("batch_logits", "batch_target", classes=10),
    GatherCycleMetrics(["batch_logits"]),
    StateLogger(),
    MeasureTime(),
    SaveLearningRate(),
]
