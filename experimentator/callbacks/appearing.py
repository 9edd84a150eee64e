"""Numbers in the state that callbacks wrote during a cycle."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from experimentator.scalars import as_scalar, is_scalar

COUNTERS = ("epoch", "epochs", "batch", "steps")  # numbers that the engine writes into the state


class Appearing:
    """Finds the numbers that callbacks write into the state during a cycle, apart from the engine's and older ones."""

    def __init__(self, before: Iterable[str] = ()) -> None:
        self.names: set[str] = set()
        self.before = set(before)

    def begin(self, state: dict[str, Any]) -> Appearing:
        """A new one for the cycle that begins; the numbers found in the last cycle are removed from the state."""
        for name in self.names:
            state.pop(name, None)
        return Appearing(state)

    def state_dict(self) -> dict[str, Any]:
        """The names so far."""
        return {"names": sorted(self.names), "before": sorted(map(str, self.before))}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the names."""
        self.names, self.before = set(state["names"]), set(state["before"])

    def find(self, state: Mapping[str, Any], exp: Any, mode: Any) -> dict[str, Any]:
        """Names and numbers that appeared since `begin`, but for results of the graph and names of a subset."""
        # A subset that is evaluated need not be listed.
        names = {state["cycle_name"], *(subset.name for subset in exp.subsets)}
        prefixes = tuple(f"{name}_" for name in names)
        skipped = {*self.before, *COUNTERS, *exp.graph(mode).results}
        new = [name for name in state if name not in skipped and not name.startswith(prefixes)]
        found = {name: value for name in new if is_scalar(value := as_scalar(state[name]))}
        self.names |= found.keys()
        return found
