"""Random draws that are quick under XLA on a CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tensorflow.python.ops import random_ops_util  # where every stateless draw, Keras' too, picks its algorithm


@contextmanager
def quick_draws() -> Iterator[None]:
    """Within, stateless draws that leave the algorithm open are traced with Threefry (Salmon et al., 2011).

    XLA makes Philox, which TensorFlow would pick, so slow on a CPU that a layer of Dropout cost 0.5 ms a batch where
    Threefry costs 2 us; without XLA, TensorFlow has Philox only. Draws depend on their seed and nothing else in both.
    """
    original = random_ops_util.get_key_counter_alg
    algorithms = random_ops_util.Algorithm
    open_choice = (None, "auto_select", algorithms.AUTO_SELECT, algorithms.AUTO_SELECT.value)

    def pick(seed: Any, alg: Any) -> Any:
        is_open = not hasattr(alg, "graph") and alg in open_choice
        return original(seed, algorithms.THREEFRY if is_open else alg)

    random_ops_util.get_key_counter_alg = pick
    try:
        yield
    finally:
        random_ops_util.get_key_counter_alg = original
