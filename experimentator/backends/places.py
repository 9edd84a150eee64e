"""Where Keras has functions of its framework, some of which backends replace: in `core`, from 3.16 on in `ops.core`.

There optimizers take some from `ops` itself, where the same functions are known by the same names.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

import keras

_ROOM = f"keras.src.backend.{keras.backend.backend()}"
_OPS = f"{_ROOM}.ops" if find_spec(f"{_ROOM}.ops") else _ROOM


def part_of_keras(name: str) -> Any:
    """A module of Keras' functions: `core`, `numpy` or `nn`."""
    return import_module(f"{_OPS}.{name}")


def replace(name: str, function: Any) -> Any:
    """Put a function in the place of one of Keras' `core`, wherever it is looked up; gives back the former one."""
    core = part_of_keras("core")
    usual = getattr(core, name)
    for place in (core, import_module(_OPS)):
        if getattr(place, name, None) is usual:
            setattr(place, name, function)
    return usual
