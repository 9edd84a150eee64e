"""A diffusion model (Ho et al., 2020) makes digits from noise, step by step; the whole sampler is part of the graph.

Command:  experimentator run examples/digit_diffusion.py
Result:   a classifier of real images recognises 19 of 20 generated digits as the one asked for; prints some of them
Time:     about 10 seconds of training on two CPU cores
"""

import keras
import numpy as np
from keras import layers, ops
from sklearn.datasets import load_digits
from sklearn.svm import SVC

from experimentator import Callback, ExponentialMovingAverage, LearningRateCosine, Mode, Subset, chunk_processor
from experimentator.ops import MeanSquaredError, Model

seed = 1
batch_size = 64
epochs = 150
width = 192
steps = 50  # from noise to an image

digits = load_digits()
images = (digits.images / 8 - 1).astype(np.float32).reshape(-1, 64)
subsets = [
    Subset("training", Mode.TRAIN, {"input": images, "digit": digits.target}, keys=range(300, len(images))),
    Subset("validation", Mode.EVAL, {"input": images, "digit": digits.target}, keys=range(300)),
]

# What is left of an image after each step (Nichol and Dhariwal, 2021), and how much noise a step adds.
left = np.cos(np.linspace(0, 0.49 * np.pi, steps + 1)).astype(np.float32) ** 2
added = 1 - left[1:] / left[:-1]
waves = np.exp(np.linspace(0, np.log(steps), width // 2)).astype(np.float32) * np.pi / steps
draws = keras.random.SeedGenerator(seed)


class Denoiser(keras.Model):
    """Which noise is in images [B, 64], given the step [B] they are at and the digit [B] they show."""

    def __init__(self):
        super().__init__(name="denoiser")
        self.take, self.digit, self.give = layers.Dense(width), layers.Embedding(10, width), layers.Dense(64)
        self.time = keras.Sequential([layers.Dense(width, activation="silu"), layers.Dense(width)])
        self.blocks = [
            keras.Sequential([layers.LayerNormalization(), layers.Dense(width, activation="silu"), layers.Dense(width)])
            for _ in range(3)
        ]

    def call(self, inputs):
        noisy, step, digit = inputs
        angle = ops.cast(step, "float32")[:, None] * ops.convert_to_tensor(waves)
        told = self.time(ops.concatenate([ops.sin(angle), ops.cos(angle)], axis=-1)) + self.digit(digit)
        found = self.take(noisy)
        for block in self.blocks:
            found = found + block(found + told)
        return self.give(found)


denoiser = Denoiser()


@chunk_processor(
    inputs=["batch_input"], outputs=["batch_noisy", "batch_step", "batch_noise"], mode=Mode.TRAIN | Mode.EVAL
)
def diffuse(image):
    step = keras.random.randint(ops.shape(image)[:1], 0, steps, seed=draws)
    noise = keras.random.normal(ops.shape(image), seed=draws)
    share = ops.take(ops.convert_to_tensor(left[1:]), step)[:, None]
    return ops.sqrt(share) * image + ops.sqrt(1 - share) * noise, step, noise


@chunk_processor(inputs=["batch_digit"], outputs=["batch_image"], mode=Mode.INFER)
def sample(digit):
    """All steps from noise to images [B, 64], in one loop of the framework; what it draws is drawn before it."""
    noise = keras.random.normal((steps + 1, ops.shape(digit)[0], 64), seed=draws)
    kept, new = ops.convert_to_tensor(left[1:]), ops.convert_to_tensor(added)

    def back(turn, image):
        step = steps - 1 - turn
        found = denoiser((image, ops.full_like(digit, step), digit))
        mean = (image - new[step] / ops.sqrt(1 - kept[step]) * found) / ops.sqrt(1 - new[step])
        return mean + ops.sqrt(new[step]) * noise[turn + 1] * ops.cast(step > 0, "float32")

    return ops.fori_loop(0, steps, back, noise[0])


chunk_processors = [
    diffuse,
    Model(denoiser, inputs=["batch_noisy", "batch_step", "batch_digit"], outputs="batch_found", node="Denoiser"),
    MeanSquaredError("batch_found", "batch_noise"),
    sample,
]
outputs = ["batch_image"]
optimizer = keras.optimizers.Adam(2e-3, global_clipnorm=1.0)


class Recognised(Callback):
    """At the end: how many of 500 images a classifier of real ones takes for the digit that was asked for."""

    def on_epoch_end(self, epoch, epochs, **_):
        if epoch == epochs:
            wished = np.arange(500) % 10
            made = self.exp.predict({"batch_digit": wished})["batch_image"]
            seen = SVC().fit(images, digits.target).predict(made)
            self.exp.history[-1]["recognised"] = float(np.mean(seen == wished))
            for row in made[:10].reshape(10, 8, 8).transpose(1, 0, 2):
                print(
                    "  ".join("".join(2 * " ░▒▓█"[int(4.99 * (ink + 1) / 2)] for ink in one.clip(-1, 1)) for one in row)
                )

    def state_dict(self):
        return {}


callbacks = [ExponentialMovingAverage(0.995), LearningRateCosine(floor=0.05), Recognised()]
