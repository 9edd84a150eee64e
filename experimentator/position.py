"""Where an epoch of a training stands between two calls of its step."""

from __future__ import annotations

from dataclasses import dataclass, field

from experimentator.averages import Total
from experimentator.config import ConfigError


@dataclass
class Position:
    """Where an epoch stands between two calls: its subset, the next batch of that, and the results so far."""

    subset: str = ""
    batch: int = 0
    batch_size: int = 0  # of this pass
    left_out: bool = True  # whether items may have been left out so far, which shifts the batches
    row: dict[str, float] = field(default_factory=dict)
    totals: dict[str, Total] = field(default_factory=dict)
    seconds: float = 0.0
    seeds: dict[str, list[int]] = field(default_factory=dict)  # states of seeds to put back after an evaluation
    order: int = 0  # a mark of the order of the pass; 0 where the library alone makes it
    predictions: int = 0  # calls of `predict` since the last pause, as by begin events

    def check_batch_size(self, now: int) -> None:
        """Refuse to continue a pass with another batch size: items would be visited twice, or never."""
        if self.batch and self.batch_size != now:
            raise ConfigError(
                f"batch_size was changed within a pass: {self.batch} batches over {self.subset!r} are done.\n"
                f"Seen: {now}, where the checkpoint has {self.batch_size}.\n"
                "Set it back, train to the end of this epoch, then change it."
            )
