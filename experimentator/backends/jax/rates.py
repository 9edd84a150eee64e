"""The table of learning rates on JAX: an argument of the compiled loop."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from jax import numpy as jnp

from experimentator.backends.keras.rates import Rates


class Table:
    """Float32 [any], as a variable that may change its length; a value that a trace computes may stand in for it.

    It is filled up to a power of two with its last entry, which holds past its end anyway: a function is compiled for
    few lengths.
    """

    shape = (None,)

    def __init__(self) -> None:
        self.value = jnp.ones(1, jnp.float32)
        self._standing: Any = None

    def assign(self, values: Any) -> None:
        """Hold `values` [any]."""
        values = np.asarray(values, np.float32)
        size = 1 << (len(values) - 1).bit_length()
        self.value = jnp.asarray(np.pad(values, (0, size - len(values)), mode="edge"))

    @contextmanager
    def standing(self, value: Any) -> Iterator[None]:
        """Within, a value of a trace stands where this one is read."""
        self._standing = value
        try:
            yield
        finally:
            self._standing = None

    def now(self) -> Any:
        """What is read at this moment."""
        return self.value if self._standing is None else self._standing

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return np.array(self.value, dtype=dtype)


class TableRates(Rates):
    """A table of rates in an array that the compiled loop is handed."""

    @staticmethod
    def table() -> Table:
        """A table that holds a single 1."""
        return Table()

    def entries(self) -> Any:
        """The table as an array."""
        return self.factors.now()
