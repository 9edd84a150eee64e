"""Outputs of a cycle with their keys, and what callbacks measured in it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from experimentator.callbacks.appearing import Appearing
from experimentator.callbacks.callback import Callback
from experimentator.callbacks.monitored import check_tensors
from experimentator.data.padding import together
from experimentator.graph import Mode
from experimentator.saving.packing import is_plain

log = logging.getLogger(__name__)


class Gathered(dict[str, dict[str, Any]]):
    """What was gathered, by subset; a class of its own, so that the state does not save it a second time."""


class GatherCycleMetrics(Callback):
    """Gather named outputs of each cycle with their keys, and bring into the history what callbacks measured.

    `names` are tensors to keep: `cycles["validation"]` then holds `keys` [N], per-sample outputs [B, ...] as [N, ...],
    and numbers of a batch [] as [batches]; host-side objects of the items come as lists. Outputs of several lengths, as
    of a subset with buckets, are padded with zeros to the longest. Numbers that other callbacks
    wrote into the state during the cycle become `<subset>_<name>` in the history. Everything is kept in host memory
    until the subset's next cycle; `when=Mode.EVAL` leaves out those of training. Checkpoints hold what was gathered,
    but for subsets with keys or objects of classes of your own: their next cycle gathers them anew.

    Reads `names` from the graph, once a call; writes `gathered` into the state, and numbers into the history.

    >>> gather = GatherCycleMetrics(["batch_logits"])
    >>> gather.inputs, gather.cycles
    (('batch_logits',), {})
    """

    after = ("AverageMetrics", "ConfusionMatrix")
    of_pass = ("parts", "written", "is_whole")

    def __init__(self, names: str | Iterable[str] = (), *, when: Mode = Mode.ALL):
        self.when = Mode.of(when)
        self.inputs = (names,) if isinstance(names, str) else tuple(names)
        self.cycles = Gathered()
        self.parts: dict[str, list[Any]] = {}
        self.is_whole = True  # False where a checkpoint lacks what was gathered before it
        self.written = Appearing()

    def on_train_begin(self, **_: Any) -> None:
        """Refuse a name that neither the graph nor the items hold."""
        check_tensors(self.inputs, self.exp, asker=self)

    def state_dict(self) -> dict[str, Any]:
        """What was gathered so far, apart from subsets whose keys or objects cannot be saved."""
        cycles = {name: cycle for name, cycle in self.cycles.items() if is_plain(cycle)}
        parts = _whole(self.parts)
        return {
            "cycles": cycles,
            "parts": parts if is_plain(parts) else None,
            "written": self.written.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what was gathered."""
        self.cycles = self.exp.state["gathered"] = Gathered(state["cycles"])
        parts, self.is_whole = state["parts"] or {}, state["parts"] is not None
        self.parts = {n: whole if isinstance(whole, list) else [whole] for n, whole in parts.items()}
        self.written.load_state_dict(state["written"])

    def on_cycle_begin(self, cycle_name: str, state: dict[str, Any], **_: Any) -> None:
        """Begin with nothing gathered."""
        self.written = self.written.begin(state)
        self.parts = {name: [] for name in ("keys", *self.inputs)}
        self.is_whole = True

    def on_block_end(self, block: Any, results: Mapping[str, np.ndarray], **_: Any) -> None:
        """Keep the results of a call."""
        if not self.inputs or not self.is_whole:
            return
        self.parts["keys"] += [key for keys in block.keys for key in keys]
        for name in self.inputs:
            if name in results:
                values = results[name]
                self.parts[name].append(values.reshape(-1, *values.shape[2:]) if values.ndim > 1 else values)
            elif name in block.objects:
                self.parts[name] += [one for batch in block.objects[name] for one in batch]

    def on_cycle_end(
        self, cycle_name: str, mode: Any, metrics: dict[str, float], state: dict[str, Any], **_: Any
    ) -> None:
        """Put the parts together, and write the numbers of callbacks into the history."""
        if not self.is_whole:
            self.cycles.pop(cycle_name, None)
            log.warning("What was gathered of %r before the training was resumed could not be saved.", cycle_name)
        elif self.inputs:
            self.cycles[cycle_name] = {name: whole for name, whole in _whole(self.parts).items() if len(whole)}
            self.parts = {}
        state["gathered"] = self.cycles
        for name, value in self.written.find(state, self.exp, mode).items():
            metrics[f"{cycle_name}_{name}"] = state[f"{cycle_name}_{name}"] = float(value)


def _whole(parts: Mapping[str, list[Any]]) -> dict[str, Any]:
    """Arrays put together; lists as they are."""
    return {n: together(one) if one and isinstance(one[0], np.ndarray) else one for n, one in parts.items()}
