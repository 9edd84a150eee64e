"""Chooses the framework that Keras runs on, if the user has not; imports none."""

from __future__ import annotations

import json
import os
import sys
from importlib.util import find_spec
from pathlib import Path


def prefer_installed() -> None:
    """If TensorFlow, Keras' default, is not installed, let Keras run on JAX, or else on PyTorch.

    KERAS_BACKEND, and another backend in `keras.json`, which Keras itself reads, take precedence.
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
