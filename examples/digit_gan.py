"""A GAN makes digits from noise: generator and discriminator each have their own optimizer and their own loss.

Command:  experimentator run examples/digit_gan.py
Result:   a classifier of real images recognises 19 of 20 generated digits, or more, as the one asked for
Time:     about 10 seconds of training on two CPU cores
"""

import keras
import numpy as np
from keras import layers
from sklearn.datasets import load_digits
from sklearn.svm import SVC

from experimentator import Callback, Mode, Optimizers, Subset, chunk_processor, ops

seed = 1
batch_size = 64
epochs = 100
noise_size = 16

digits = load_digits()
images = (digits.images / 16).astype(np.float32)
subsets = [Subset("training", Mode.TRAIN, {"input": images, "digit": digits.target})]

generator = keras.Sequential(name="generator")
for units in (128, 128):
    generator.add(layers.Dense(units, activation="relu"))
    generator.add(layers.BatchNormalization())
generator.add(layers.Dense(64, activation="sigmoid"))
generator.add(layers.Reshape((8, 8)))

discriminator = keras.Sequential(name="discriminator")
for units in (256, 128):
    discriminator.add(layers.Dense(units, activation="leaky_relu"))
    discriminator.add(layers.Dropout(0.3))
discriminator.add(layers.Dense(1))

draws = keras.random.SeedGenerator(seed)


@chunk_processor(inputs=["batch_digit"], outputs=["batch_noise"])
def noise(batch_digit):
    return keras.random.normal((keras.ops.shape(batch_digit)[0], noise_size), seed=draws)


def beside_digit(values, output):
    """A processor that writes values, flat, and beside them which digit they are or should be."""

    @chunk_processor(inputs=[values, "batch_digit"], outputs=[output], node=output)
    def join(values, digit):
        return keras.ops.concatenate([layers.Flatten()(values), keras.ops.one_hot(digit, 10)], axis=-1)

    return join


@chunk_processor(inputs=["batch_real", "batch_fake"], outputs=["discriminator_loss", "generator_loss", "loss"])
def losses(real, fake):
    """Each network's own loss (Goodfellow et al., 2014); `loss`, their sum, is only looked at."""
    own = keras.ops.mean(keras.ops.softplus(-real)) + keras.ops.mean(keras.ops.softplus(fake))
    fooled = keras.ops.mean(keras.ops.softplus(-fake))
    return own, fooled, own + fooled


chunk_processors = [
    noise,
    beside_digit("batch_noise", "batch_wish"),
    ops.Model(generator, inputs="batch_wish", outputs="batch_image", node="Generator"),
    beside_digit("batch_input", "batch_real_pair"),
    beside_digit("batch_image", "batch_fake_pair"),
    ops.Model(discriminator, inputs="batch_real_pair", outputs="batch_real", node="Discriminator"),
    ops.Model(discriminator, inputs="batch_fake_pair", outputs="batch_fake", node="Discriminator, fooled"),
    losses,
]
metrics = ["generator_loss", "discriminator_loss"]
outputs = ["batch_image"]
optimizer = Optimizers(
    {
        "Generator": keras.optimizers.Adam(5e-4, beta_1=0.5),
        "Discriminator": keras.optimizers.Adam(1e-3, beta_1=0.5),
    },
    losses={"Generator": "generator_loss", "Discriminator": "discriminator_loss"},
)


class Recognised(Callback):
    """Every 20 epochs: how many of 500 images a classifier of real ones takes for the digit that was asked for."""

    def init(self, exp):
        self.exp = exp
        self.classifier = SVC().fit(images.reshape(-1, 64), digits.target)

    def on_epoch_end(self, epoch, **_):
        if epoch % 20 == 0 or epoch == epochs:
            wished = np.arange(500) % 10
            made = self.exp.predict({"batch_digit": wished})["batch_image"]
            seen = self.classifier.predict(made.reshape(-1, 64))
            self.exp.history[-1]["recognised"] = float(np.mean(seen == wished))

    def state_dict(self):
        return {}


callbacks = [Recognised()]
