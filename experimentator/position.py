"""Where an epoch of a training stands between two calls of its step."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Position:
    """Where an epoch stands between two calls: the subset under way, its next batch, and what was measured so far."""

    subset: str = ""
    batch: int = 0
    row: dict[str, float] = field(default_factory=dict)
    totals: dict[str, float] = field(default_factory=dict)
    weight: int = 0
    seconds: float = 0.0
    seeds: dict[str, list[int]] = field(default_factory=dict)  # which training goes on with after an evaluation
    order: int = 0  # a mark of that of the pass, where the subset has a say in it
    predictions: int = 0  # since the call before: what begin events predicted
