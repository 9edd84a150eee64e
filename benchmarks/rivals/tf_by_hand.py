"""The epoch as one `tf.function` over device-resident columns, written by hand. Variants: plain, XLA."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from _serve import Case, Epoch, serve
from keras_fit import network

from experimentator.data.chance import generator


def build(case: Case, variant: str, steps: int) -> Epoch:
    x, y = case.data(steps)
    model, optimizer = network(case), keras.optimizers.Adam(1e-3)
    trainable = model.trainable_variables
    optimizer.build(trainable)
    columns, epoch = (tf.constant(x), tf.constant(y)), [0]

    @tf.function(jit_compile=variant == "XLA" or None, autograph=False)
    def run(x: Any, y: Any, index: Any) -> Any:
        losses = tf.TensorArray(tf.float32, index.shape[0])

        def body(step: Any, losses: Any) -> Any:
            images = tf.cast(tf.gather(x, index[step]), tf.float32) / case.scale
            with tf.GradientTape() as tape:
                logits = model(images, training=True)
                target = tf.gather(y, index[step])
                loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(target, logits))
            optimizer.apply(tape.gradient(loss, trainable), trainable)
            return step + 1, losses.write(step, loss)

        return tf.while_loop(lambda step, _: step < index.shape[0], body, (tf.constant(0), losses))[1].stack()

    def one_epoch() -> float:
        epoch[0] += 1
        order = generator(0, "training", epoch[0]).permutation(np.arange(len(x), dtype=np.int32))
        return float(run(*columns, tf.constant(order.reshape(-1, case.batch))).numpy().mean())

    return one_epoch


if __name__ == "__main__":
    serve(build)
