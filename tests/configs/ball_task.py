"""A task file in the shape of earlier versions of the library, but for the import lines: is there a ball, how large?"""

import os
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from experimentator import Callback, ChunkProcessor, ExperimentMode, Subset, TensorflowExperiment


class BallKey(NamedTuple):
    game: int
    frame: int


class Calibration:
    def __init__(self, focal):
        self.focal = focal


class BallDataset:
    def __init__(self, count=24, side=16):
        self.side = side
        self.keys = tuple(BallKey(frame % 3, frame) for frame in range(count))

    def query_item(self, key):
        random = np.random.default_rng(key.frame)
        size = random.uniform(2, 6)
        image = random.integers(0, 40, size=(self.side, self.side, 3)).astype(np.uint8)
        image[: int(size), : int(size)] = 255
        return {
            "input_image": image,
            "ball_size": np.float32(size if key.frame % 4 else np.nan),
            "presence": np.int32(size > 4),
            "ball": {"visible": key.frame % 4 > 0},
            "calib": Calibration(focal=key.game + 1.0),
        }


class GameDataset:
    def __init__(self, parent, games):
        self.parent = parent
        self.keys = [key for key in parent.keys if key.game in games]

    def query_item(self, key):
        return self.parent.query_item(key)


class BallExperiment(TensorflowExperiment):
    batch_inputs_names = ["batch_input_image", "batch_ball_size", "batch_presence"]
    batch_outputs_names = ["predicted"]

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        assert self.cfg["side"] % 4 == 0
        self.shuffled = []

    @cached_property
    def batch_metrics_names(self):
        return ["batch_ball_size", "predicted", *(["loss_presence"] if self.get("with_presence") else [])]

    @property
    def metrics(self):
        metrics = super().metrics
        metrics["size_error"] = tf.abs(self.chunk["predicted"] - self.chunk["batch_ball_size"])
        return metrics

    @cached_property
    def outputs(self):
        return {**super().outputs, "presence": self.chunk["batch_presence_logits"]}

    @cached_property
    def subsets(self):
        subsets = super().subsets
        for subset in subsets:
            if subset.is_training:
                subset.shuffled_keys = self.wrapped(subset.shuffled_keys)
        return subsets

    def wrapped(self, shuffled_keys):
        def shuffle():
            keys = [key for key in shuffled_keys() if key.game == 0] * 3
            self.shuffled.append(len(keys))
            return keys

        return shuffle

    def train(self, *args, **kwargs):
        self.cfg["trained_on"] = [subset.name for subset in self.subsets if subset.type == ExperimentMode.TRAIN]
        return super().train(*args, **kwargs)

    def save_weights(self, *args, **kwargs):
        self.state["saved"] = self.state.get("saved", 0) + 1
        super().save_weights(*args, **kwargs)

    def load_weights(self, *args, **kwargs):
        self.state["loaded"] = True
        return super().load_weights(*args, **kwargs)


# Chunk processors


class CastFloat(ChunkProcessor):
    def __init__(self, tensor_names):
        self.tensor_names = tensor_names

    def __call__(self, chunk):
        for name in self.tensor_names:
            if name in chunk:
                chunk[name] = tf.cast(chunk[name], tf.float32)


class Normalize(ChunkProcessor):
    def __init__(self, tensor_name, by):
        self.tensor_name = tensor_name
        self.by = by

    def __call__(self, chunk):
        chunk[self.tensor_name] = chunk[self.tensor_name] / self.by
        return "ignored"


class Flip(ChunkProcessor):
    mode = ExperimentMode.TRAIN

    def __call__(self, chunk):
        chunk["batch_input_image"] = tf.transpose(chunk["batch_input_image"], (0, 2, 1, 3))


class Backbone(ChunkProcessor):
    def __init__(self, features=8):
        self.features = features

    @cached_property
    def model(self):
        return tf.keras.Sequential([tf.keras.layers.Conv2D(self.features, 3, padding="same", activation="relu")])

    def __call__(self, chunk):
        _, height, width, _ = chunk["batch_input_image"].shape
        assert height >= 8 and width >= 8, "too small"  # noqa: PT018 - as task files have it
        chunk["batch_features"] = self.model(chunk["batch_input_image"])


class Head(ChunkProcessor):
    def __init__(self, name, activation=None):
        self.name = name
        self.activation = activation

    def __call__(self, chunk):
        pooled = tf.keras.layers.GlobalAveragePooling2D()(chunk["batch_features"])
        chunk[f"batch_{self.name}_logits"] = tf.keras.layers.Dense(1, activation=self.activation)(pooled)[:, 0]


class SizeLoss(ChunkProcessor):
    mode = ExperimentMode.TRAIN | ExperimentMode.EVAL
    scale = None

    def __call__(self, chunk):
        if self.scale is None:
            self.scale = tf.Variable(0.0, name="scale")
        known = tf.logical_not(tf.math.is_nan(chunk["batch_ball_size"]))
        error = tf.boolean_mask(chunk["batch_size_logits"], known) - tf.boolean_mask(chunk["batch_ball_size"], known)
        chunk["loss_size"] = tf.reduce_mean(error**2) * tf.exp(-self.scale) + self.scale


class PresenceLoss(ChunkProcessor):
    mode = ExperimentMode.TRAIN | ExperimentMode.EVAL

    def __call__(self, chunk):
        chunk["loss_presence"] = tf.reduce_mean(
            tf.nn.sigmoid_cross_entropy_with_logits(
                labels=tf.cast(chunk["batch_presence"], tf.float32), logits=chunk["batch_presence_logits"]
            )
        )


class SumLosses(ChunkProcessor):
    mode = ExperimentMode.TRAIN | ExperimentMode.EVAL

    def __call__(self, chunk):
        losses = {name: chunk[name] for name in chunk if name.startswith("loss_")}
        chunk["loss"] = tf.add_n(list(losses.values()))


class Decide(ChunkProcessor):
    mode = ExperimentMode.INFER

    def __call__(self, chunk):
        chunk["batch_presence_logits"] = tf.cast(chunk["batch_presence_logits"] > 0, tf.int32)


class Brightest(ChunkProcessor):
    """Rewrites the features with another rank, after the heads have read them."""

    mode = ExperimentMode.EVAL | ExperimentMode.INFER

    def __call__(self, chunk):
        features = tf.reduce_max(chunk["batch_features"], axis=-1)
        count = tf.shape(features)[0]
        _, rows = tf.while_loop(
            lambda place, _: place < count,
            lambda place, rows: (place + 1, rows.write(place, tf.reduce_max(features[place]))),
            (tf.constant(0), tf.TensorArray(tf.float32, size=0, dynamic_size=True)),
        )
        chunk["batch_features"] = rows.stack()


# Callbacks


@dataclass
class ComputeSizeMetrics(Callback):
    before = ["StateLogger", "GatherCycleMetrics"]
    after = ["SomethingThatDoesNotExist"]
    when = ExperimentMode.EVAL
    threshold: float = 1.0

    def init(self, exp):
        self.exp = exp

    def on_cycle_begin(self, **_):
        self.errors, self.focals, self.frames = [], [], []

    def on_batch_end(self, keys, batch_ball, batch_calib, batch_ball_size, predicted, **_):
        for key, ball, calib, size, guess in zip(
            keys, batch_ball, batch_calib, batch_ball_size, predicted, strict=True
        ):
            if ball["visible"]:
                self.errors.append(abs(size - guess))
                self.focals.append(calib.focal)
                self.frames.append(key.frame)

    def on_cycle_end(self, state, **_):
        state["MAE"] = float(np.mean(self.errors))
        state["share"] = float(np.mean(np.array(self.errors) < self.threshold))


class Remember(Callback):
    after = ["ComputeSizeMetrics"]

    def __init__(self):
        self.seen = []

    def on_epoch_end(self, epoch, state, **_):
        self.seen.append((epoch, state["MAE"], state["validation_loss"]))


def plots(exp):
    return os.path.join(exp.folder, f"{exp.project_name}.png")


def stage_subsets(dataset, training_games):
    training, validation = GameDataset(dataset, training_games), GameDataset(dataset, [2])
    return [
        Subset("training", ExperimentMode.TRAIN, training, repetitions=1, desc="games to train on"),
        Subset("validation", ExperimentMode.EVAL, validation),
    ]
