"""Tests run on what Keras runs on; those of one framework alone are left out under the other."""

from __future__ import annotations

import gc
import os
import random
import sys

import numpy as np
import pytest

from tests.pictures import needs_pictures

NAME = os.environ.get("KERAS_BACKEND", "tensorflow")  # Keras would say so, too, but takes seconds to load
gc.set_threshold(20_000, 20, 20)  # at Python's own, looking at all of a framework's objects takes a tenth of the time
collect_ignore = [f"backends/test_{one}.py" for one in ("tensorflow", "jax", "torch") if one != NAME]


def pytest_collection_modifyitems(config, items):
    """Leave out tests marked `tensorflow` where Keras runs on another; examples of pictures need what pictures need."""
    left = [item for item in items if NAME != "tensorflow" and item.get_closest_marker("tensorflow")]
    config.hook.pytest_deselected(items=left)
    items[:] = [item for item in items if item not in left]
    for item in items:
        if item.path.name == "diagram.py":  # its examples
            item.add_marker(needs_pictures)


def pytest_collection_finish():
    """What frameworks made while they were imported stays: no collection looks at it again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def seeded():
    """A test draws the same numbers in every run, first weights too, whatever ran before it."""
    random.seed(0)
    np.random.seed(0)
    if "keras" in sys.modules:
        sys.modules["keras"].utils.set_random_seed(0)


@pytest.fixture(autouse=True, scope="module")  # that of the widest fixture that compiles, so that it comes before it
def compiled_in_haste(request):
    """JAX compiles with little optimization, in two thirds of the time; as users have it where bits are compared."""
    if NAME == "jax" and "jax" in sys.modules:
        compares_bits = request.path.stem in ("test_buckets", "test_resume", "test_steps")
        sys.modules["jax"].config.update("jax_disable_most_optimizations", not compares_bits)
