"""Random draws: made quick under XLA on a CPU, and found where no seed rules them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import tensorflow as tf
from tensorflow.python.ops import random_ops_util  # where every stateless draw, Keras' too, picks its algorithm

from experimentator.backends.keras.scopes import owner
from experimentator.graph import Node
from experimentator.patches import patched

WITH_STATE = {  # operations with a hidden state, which nobody can read or set; XLA starts it at random
    "Multinomial", "ParameterizedTruncatedNormal", "RandomGamma", "RandomPoisson", "RandomPoissonV2", "RandomShuffle",
    "RandomStandardNormal", "RandomUniform", "RandomUniformInt", "TruncatedNormal",
}  # fmt: skip


def draws_with_state(nodes: Sequence[Node]) -> dict[str, str]:
    """Processors in TensorFlow's present graph whose draws have a hidden state: their text, and the operation."""
    operations = tf.compat.v1.get_default_graph().get_operations()
    kinds = {one.name: one.type for one in operations if one.type in WITH_STATE}
    return {str(owner(name, nodes) or name): kind for name, kind in kinds.items()}


def quick_draws() -> AbstractContextManager[None]:
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

    return patched(random_ops_util, get_key_counter_alg=pick)
