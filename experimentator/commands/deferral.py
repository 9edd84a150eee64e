"""Loads parts of Keras that hardly any training uses only once something asks for them.

`keras.wrappers` imports scikit-learn, and `keras.visualization` Matplotlib, where these are installed: together a
quarter of the time of `import keras`.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

PACKAGES = ("keras", "keras._tf_keras.keras", "keras.src")
PARTS = frozenset(f"{package}.{part}" for package in PACKAGES for part in ("wrappers", "visualization"))
_LOCK = threading.RLock()  # one for all: a part imports others


def defer() -> None:
    """Load these parts later, in all of this process, which must be our own."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target) if name in PARTS else None
        if spec is not None and spec.loader is not None:
            spec.loader = _Later(spec.loader)
        return spec


class _Later(Loader):
    """Leaves a module empty, in place of its own loader."""

    def __init__(self, own: Loader):
        self.own = own

    def exec_module(self, module: ModuleType) -> None:
        module.__class__ = _Empty


class _Empty(ModuleType):
    """A module that is filled when it is asked for an attribute that it does not have yet."""

    def __getattr__(self, name: str) -> Any:
        with _LOCK:
            spec = self.__spec__
            if spec is not None and isinstance(spec.loader, _Later):
                spec.loader = self.__loader__ = spec.loader.own
                spec.loader.exec_module(self)
        try:
            return vars(self)[name]
        except KeyError:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}") from None

    def __dir__(self) -> list[str]:
        hasattr(self, "__all__")  # fills it
        return sorted(vars(self))
