"""Tests run on what Keras runs on; those of one framework alone are left out under the other."""

from __future__ import annotations

import os

ON_JAX = os.environ.get("KERAS_BACKEND") == "jax"  # Keras would say so, too, but takes seconds to load
collect_ignore = ["backends/test_tensorflow.py"] if ON_JAX else ["backends/test_jax.py"]


def pytest_collection_modifyitems(config, items):
    """Leave out tests marked `tensorflow` where Keras runs on JAX."""
    left = [item for item in items if ON_JAX and item.get_closest_marker("tensorflow")]
    config.hook.pytest_deselected(items=left)
    items[:] = [item for item in items if item not in left]
