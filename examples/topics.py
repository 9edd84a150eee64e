"""A small language model of the help texts that come with Python, letter by letter; batches of a few lengths (buckets).

Command:  experimentator run examples/topics.py
Result:   a validation loss of 1.5 nats per letter or less; the frequencies of letters alone give 3.1
Time:     about two minutes of training on two CPU cores
"""

import re
from pydoc_data.topics import topics

import keras
import numpy as np
from keras import layers

from experimentator import Buckets, Callback, Mode, Subset, ops, split

seed = 1
batch_size = 16
epochs = 10
learning_rate = 3e-3
width, heads, blocks = 96, 4, 2
sizes = [64, 128, 256, 512]  # letters; a paragraph is padded to the least that holds it
batch_sizes = [64, 32, 16, 8]  # so that each batch has about as many letters
beginning = "The statement "  # of what it writes in the end

paragraphs = [" ".join(one.split()) for text in topics.values() for one in re.split(r"\n\s*\n", text)]
paragraphs = [one for one in dict.fromkeys(paragraphs) if 20 <= len(one) <= sizes[-1] and one.isascii()]
keys = split(range(len(paragraphs)), {"training": 0.9, "validation": 0.1}, seed=seed)


def numbered(text):
    """Letters as 1 to 96, [letters] uint8; 0 is where there is none, 96 the end."""
    return np.array([ord(letter) - 31 for letter in text] + [96], np.uint8)


items = [{"letters": numbered(one)[:-1], "next": numbered(one)[1:]} for one in paragraphs]
buckets = Buckets({"letters": sizes, "next": sizes}, batch_sizes=batch_sizes)
subsets = [
    Subset("training", Mode.TRAIN, items, keys["training"], buckets=buckets),
    Subset("validation", Mode.EVAL, items, keys["validation"], buckets=buckets),
]


class Letters(layers.Layer):
    """Letters [B, T] as vectors [B, T, width] of each with those just before it, which tell its place as well."""

    def __init__(self):
        super().__init__()
        self.letters, self.near = layers.Embedding(97, width), layers.Conv1D(width, 6, padding="causal")

    def call(self, letters):
        return self.near(self.letters(letters))


class Block(layers.Layer):
    """Attention to what came before, and a network of two layers at each place; what is padded comes after."""

    def __init__(self):
        super().__init__()
        self.before, self.between = layers.LayerNormalization(), layers.LayerNormalization()
        self.attention = layers.MultiHeadAttention(heads, width // heads, dropout=0.1)
        self.wide, self.narrow = layers.Dense(4 * width, "gelu"), layers.Dense(width)

    def call(self, states):
        states = states + self.attention(own := self.before(states), own, use_causal_mask=True)
        return states + self.narrow(self.wide(self.between(states)))


chunk_processors = [
    ops.Model(Letters(), inputs="batch_letters", outputs="batch_states", node="Letters"),
    *(ops.Model(Block(), inputs="batch_states", outputs="batch_states", node="Block") for _ in range(blocks)),
    ops.Model(layers.Dense(97), inputs="batch_states", outputs="batch_logits", node="Head"),
    ops.Apply(lambda letters: letters > 0, inputs="batch_next", outputs="batch_is_letter", node="Mask"),
    ops.SoftmaxCrossEntropy("batch_logits", "batch_next", mask="batch_is_letter"),
    ops.Accuracy("batch_logits", "batch_next", mask="batch_is_letter"),
]
outputs = ["batch_logits"]
optimizer = keras.optimizers.Adam(learning_rate, clipnorm=1.0)


class Writes(Callback):
    """After the training: what the model writes, each letter drawn as it expects it."""

    def on_train_end(self, **_):
        random, text = np.random.default_rng(seed), beginning
        given = np.zeros((1, 128), np.uint8)
        while len(text) < given.shape[1] and "\x7f" not in text:
            given[0, : len(text)] = numbered(text)[:-1]
            logits = self.exp.predict({"batch_letters": given})["batch_logits"][0, len(text) - 1]
            chances = np.exp(1.25 * (logits - logits.max()))
            text += chr(random.choice(97, p=chances / chances.sum()) + 31)
        print(text.rstrip("\x7f"))


callbacks = [Writes()]
