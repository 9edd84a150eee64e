"""Which framework Keras takes, where nobody chose one; loads none."""

from __future__ import annotations

import json
import os
import sys
from importlib.util import find_spec
from pathlib import Path


def prefer_installed() -> None:
    """Let Keras run on JAX, or else on PyTorch, where TensorFlow, which it would take, is not installed.

    KERAS_BACKEND stands above that, and a choice of another backend in `keras.json`, which Keras makes by itself.
    """
    if "KERAS_BACKEND" in os.environ or "keras" in sys.modules or find_spec("tensorflow") is not None:
        return
    try:
        settings = Path(os.environ.get("KERAS_HOME", Path.home() / ".keras")) / "keras.json"
        wanted = json.loads(settings.read_text("utf-8"))["backend"]
    except (OSError, ValueError, KeyError, TypeError, RuntimeError):
        wanted = "tensorflow"
    installed = [name for name in ("jax", "torch") if find_spec(name) is not None]
    if wanted == "tensorflow" and installed:
        os.environ["KERAS_BACKEND"] = installed[0]
