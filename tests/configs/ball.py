import tensorflow as tf
from ball_task import (
    Backbone,
    BallDataset,
    BallExperiment,
    Brightest,
    CastFloat,
    ComputeSizeMetrics,
    Decide,
    Flip,
    Head,
    Normalize,
    PresenceLoss,
    Remember,
    SizeLoss,
    SumLosses,
    stage_subsets,
)

from experimentator import (
    AsyncExperiment,
    BaseExperiment,
    CallbackedExperiment,
    GatherCycleMetrics,
    LearningRateWarmUp,
    SaveLearningRate,
)

side = 16
batch_size = 4
with_presence = True
augment = False
debug = False
learning_rate = {True: 1e-3, False: 2e-2}[debug]

experiment_type = [
    BaseExperiment,
    CallbackedExperiment,
    AsyncExperiment if not debug else None,
    BallExperiment,
]

dataset = BallDataset(count=24, side=side)
training_games = [0, 1]
if debug:
    training_games = [0]
assert 2 not in training_games
subsets = stage_subsets(dataset, training_games)

# brightness of a white image
brightness = 255.0
factor = brightness / 2

globals().update(locals())  # required by earlier versions

backbone = Backbone()
chunk_processors = [
    CastFloat(["batch_input_image", "batch_nothing"]),
    Normalize("batch_input_image", factor),
    lambda chunk: chunk.update({"batch_input_image": chunk["batch_input_image"] - 1}) if side > 8 else None,
    lambda chunk: chunk.update({"batch_input_image": tf.zeros_like(chunk["batch_input_image"])}) if debug else None,
    Flip() if augment else None,
    backbone,
    Head("size"),
    Head("presence") if with_presence else None,
    SizeLoss(),
    PresenceLoss() if with_presence else None,
    SumLosses(),
    lambda chunk: chunk.update({"predicted": chunk["batch_size_logits"]}),
    Brightest(),
    Decide() if with_presence else None,
]

callbacks = [
    Remember(),
    ComputeSizeMetrics(),
    GatherCycleMetrics(),
    LearningRateWarmUp() if not debug else None,
    SaveLearningRate(),
]
optimizer = tf.keras.optimizers.Adam(learning_rate=learning_rate)
hide_progress = True
