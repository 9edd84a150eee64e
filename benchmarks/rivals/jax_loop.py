"""JAX with optax, data on the device. Variants: step (jitted), scan (of the epoch), runs (RUNS in one scan)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from _serve import Case, Epoch, serve

LAYOUT = ("NHWC", "HWIO", "NHWC")
CHANNELS = ((1, 4), (4, 8), (8, 16))
RUNS = 16  # with as many learning rates


def weights(case: Case) -> dict[str, Any]:
    """Weights of a case, He-normal."""
    random = np.random.default_rng(0)

    def layer(*shape: int) -> Any:
        return jnp.asarray(random.normal(0, (2 / np.prod(shape[:-1])) ** 0.5, shape), jnp.float32)

    if case.network == "mlp":
        return {"a": layer(64, 32), "b": jnp.zeros(32), "c": layer(32, 10), "d": jnp.zeros(10)}
    blocks = [
        {"kernel": layer(3, 3, before, n), "bias": jnp.zeros(n), "scale": jnp.ones(n), "shift": jnp.zeros(n)}
        for before, n in CHANNELS
    ]
    return {"blocks": blocks, "a": layer(16, 100), "b": jnp.zeros(100), "c": layer(100, 10), "d": jnp.zeros(10)}


def logits(case: Case, weights: dict[str, Any], statistics: Any, x: Any) -> tuple[Any, Any]:
    """The network of a case, and the moving statistics of its normalisation."""
    seen = []
    for block, old in zip(weights.get("blocks", ()), statistics, strict=True):
        x = jax.lax.conv_general_dilated(x, block["kernel"], (1, 1), "VALID", dimension_numbers=LAYOUT)
        x = x + block["bias"]
        mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
        seen.append((0.99 * old[0] + 0.01 * mean, 0.99 * old[1] + 0.01 * variance))
        x = (x - mean) * jax.lax.rsqrt(variance + 1e-3) * block["scale"] + block["shift"]
        x = jax.lax.reduce_window(jax.nn.relu(x), -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    x = jax.nn.relu(x.reshape(len(x), -1) @ weights["a"] + weights["b"])
    return x @ weights["c"] + weights["d"], seen


def training(case: Case, optimizer: Any) -> Any:
    """One step: (data, state, rows, learning rate) -> (state, loss). The data are an argument, never a constant."""

    def objective(weights: Any, statistics: Any, images: Any, target: Any) -> tuple[Any, Any]:
        out, seen = logits(case, weights, statistics, images.astype(jnp.float32) / case.scale)
        return optax.softmax_cross_entropy_with_integer_labels(out, target).mean(), seen

    def step(data: Any, state: Any, rows: Any, rate: Any) -> tuple[Any, Any]:
        weights, moments, statistics = state
        images, target = (column[rows] for column in data)
        (loss, seen), gradients = jax.value_and_grad(objective, has_aux=True)(weights, statistics, images, target)
        updates, moments = optimizer.update(gradients, moments)
        updates = jax.tree.map(lambda update: -rate * update, updates)
        return (optax.apply_updates(weights, updates), moments, seen), loss

    return step


def build(case: Case, variant: str, steps: int) -> Epoch:
    data, optimizer, start = tuple(map(jax.device_put, case.data(steps))), optax.scale_by_adam(), weights(case)
    moving = [(jnp.zeros(n), jnp.ones(n)) for _, n in CHANNELS if case.network == "cnn"]
    state, rate = [(start, optimizer.init(start), moving)], 1e-3
    step = training(case, optimizer)
    if variant == "runs":
        state[0] = jax.tree.map(lambda leaf: jnp.stack([leaf] * RUNS), state[0])
        step, rate = jax.vmap(step, (None, 0, None, 0)), jnp.geomspace(1e-4, 1e-2, RUNS)
    jitted = jax.jit(lambda data, state, rows: step(data, state, rows, rate))
    scanned = jax.jit(lambda data, state, index: jax.lax.scan(lambda s, rows: step(data, s, rows, rate), state, index))
    random = np.random.default_rng(0)

    def one_epoch() -> float:
        index = random.permutation(len(data[0])).reshape(-1, case.batch).astype(np.int32)
        if variant != "step":
            state[0], losses = scanned(data, state[0], index)
            return float(losses.mean())
        losses = []
        for rows in index:
            state[0], loss = jitted(data, state[0], rows)
            losses.append(loss)
        return float(jnp.stack(losses).mean())

    return one_epoch


if __name__ == "__main__":
    serve(build)
