"""JAX with optax, data on the device. Variants: jitted step, scan over the epoch."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from _serve import Case, Epoch, serve

LAYOUT = ("NHWC", "HWIO", "NHWC")
CHANNELS = ((1, 4), (4, 8), (8, 16))


def weights(case: Case) -> dict[str, Any]:
    """Weights of a case, He-normal."""
    random = np.random.default_rng(0)

    def layer(*shape: int) -> Any:
        return jnp.asarray(random.normal(0, (2 / np.prod(shape[:-1])) ** 0.5, shape), jnp.float32)

    if case.name == "mlp":
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


def build(case: Case, variant: str, steps: int) -> Epoch:
    x, y = (jax.device_put(array) for array in case.data(steps))
    optimizer, start = optax.adam(1e-3), weights(case)
    state = [(start, optimizer.init(start), [(jnp.zeros(n), jnp.ones(n)) for _, n in CHANNELS if case.name == "cnn"])]

    def objective(weights: Any, statistics: Any, rows: Any) -> tuple[Any, Any]:
        out, seen = logits(case, weights, statistics, x[rows].astype(jnp.float32) / case.scale)
        return optax.softmax_cross_entropy_with_integer_labels(out, y[rows]).mean(), seen

    def step(state: Any, rows: Any) -> tuple[Any, Any]:
        weights, moments, statistics = state
        (loss, seen), gradients = jax.value_and_grad(objective, has_aux=True)(weights, statistics, rows)
        updates, moments = optimizer.update(gradients, moments)
        return (optax.apply_updates(weights, updates), moments, seen), loss

    scanned, jitted = jax.jit(lambda state, index: jax.lax.scan(step, state, index)), jax.jit(step)
    random = np.random.default_rng(0)

    def one_epoch() -> float:
        index = random.permutation(len(x)).reshape(-1, case.batch).astype(np.int32)
        if variant == "scan":
            state[0], losses = scanned(state[0], index)
            return float(losses.mean())
        losses = []
        for rows in index:
            state[0], loss = jitted(state[0], rows)
            losses.append(loss)
        return float(jnp.stack(losses).mean())

    return one_epoch


if __name__ == "__main__":
    serve(build)
