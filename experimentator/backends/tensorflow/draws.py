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
    "FixedUnigramCandidateSampler", "LearnedUnigramCandidateSampler", "LogUniformCandidateSampler", "Multinomial",
    "ParameterizedTruncatedNormal", "RandomGamma", "RandomPoisson", "RandomPoissonV2", "RandomShuffle",
    "RandomStandardNormal", "RandomUniform", "RandomUniformInt", "SampleDistortedBoundingBox",
    "SampleDistortedBoundingBoxV2", "TruncatedNormal", "UniformCandidateSampler",
}  # fmt: skip


def draws_with_state(nodes: Sequence[Node]) -> dict[str, str]:
    """Processors in TensorFlow's present graph whose draws have a hidden state: their text, and the operation."""
    graph = tf.compat.v1.get_default_graph()
    kinds = {one.name: kind for one in graph.get_operations() if (kind := _drawing(one, graph)) is not None}
    return {str(owner(name, nodes) or name): kind for name, kind in kinds.items()}


def _drawing(operation: Any, graph: Any) -> str | None:
    """The operation with a hidden state that this one is, or that a function holds which it calls, as a branch does."""
    if not any(attribute.type in ("func", "list(func)") for attribute in operation.op_def.attr):
        return operation.type if operation.type in WITH_STATE else None
    waiting, known = [operation.node_def], set[str]()
    while waiting:
        node = waiting.pop()
        if node.op in WITH_STATE:
            return str(node.op)
        called = {one.name for value in node.attr.values() for one in (value.func, *value.list.func)} - known
        known |= called
        functions = [one for name in called if (one := graph._get_function(name)) is not None]
        waiting += [inner for function in functions for inner in function.cached_definition.node_def]
    return None


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
