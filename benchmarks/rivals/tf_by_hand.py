"""TensorFlow by hand over device-resident columns.

Variants: the epoch as one `tf.function` (plain, XLA), or each step as one (step, step with XLA).
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from _serve import Case, Epoch, serve
from keras_fit import set_precision
from networks import network

from experimentator.data.chance import generator

VARIANTS = ("plain", "XLA", "step", "step, XLA")


def build(case: Case, variant: str, steps: int) -> Epoch:
    set_precision(case)
    x, y = case.data(steps)
    model, optimizer = network(case), keras.optimizers.Adam(1e-3)
    trainable = model.trainable_variables
    optimizer.build(trainable)
    columns, epoch = (tf.constant(x), tf.constant(y)), [0]

    def train(x: Any, y: Any, rows: Any) -> Any:
        images = tf.cast(tf.gather(x, rows), tf.float32) / case.scale
        with tf.GradientTape() as tape:
            logits = tf.cast(model(images, training=True), tf.float32)
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(tf.gather(y, rows), logits))
        optimizer.apply(tape.gradient(loss, trainable), trainable)
        return loss

    def train_all(x: Any, y: Any, index: Any) -> Any:
        losses = tf.TensorArray(tf.float32, index.shape[0])

        def body(step: Any, losses: Any) -> Any:
            return step + 1, losses.write(step, train(x, y, index[step]))

        return tf.while_loop(lambda step, _: step < index.shape[0], body, (tf.constant(0), losses))[1].stack()

    by_step = variant.startswith("step")
    run = tf.function(train if by_step else train_all, jit_compile="XLA" in variant or None, autograph=False)

    def one_epoch() -> float:
        epoch[0] += 1
        order = generator(0, "training", epoch[0]).permutation(np.arange(len(x), dtype=np.int32))
        index = order.reshape(-1, case.batch)
        losses = tf.stack([run(*columns, rows) for rows in index]) if by_step else run(*columns, tf.constant(index))
        return float(losses.numpy().mean())

    return one_epoch


if __name__ == "__main__":
    serve(build)
