"""The progress display: bars on a terminal, plain lines elsewhere; always on stderr, so that stdout holds results."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress as Bars, TextColumn, TimeRemainingColumn


class Progress:
    """Epochs and batches done, loss and metrics as they become known, batches a second, time to go."""

    def __init__(self, console: Console | None = None):
        self.console = console or Console(stderr=True)
        self.bars: Bars | None = None
        self.start = 0.0

    def init(self, exp: Any) -> None:
        """Remember where batch sizes and totals are read."""
        self.exp = exp

    def on_epoch_begin(self, epoch: int, epochs: int, **_: Any) -> None:
        """Open the display at the first epoch."""
        self.started = time.perf_counter()
        if not self.console.is_terminal:
            return
        if self.bars is None:
            self.bars = Bars(
                TextColumn("{task.description:<12}"), BarColumn(24), MofNCompleteColumn(), TimeRemainingColumn(),
                TextColumn("{task.fields[seen]}"), console=self.console, transient=True,
            )  # fmt: skip
            self.total = self.bars.add_task("epochs", total=epochs, completed=epoch - 1, seen="")
            self.inner = self.bars.add_task("batches", total=None, seen="")
            self.bars.start()

    def on_cycle_begin(self, cycle_name: str, steps: int, **_: Any) -> None:
        """A bar for the pass."""
        self.start = time.perf_counter()
        if self.bars is not None:
            self.bars.reset(self.inner, description=cycle_name, total=steps, seen="")

    def on_block_end(self, batch: int, averages: Any, **_: Any) -> None:
        """What is known so far."""
        if self.bars is not None:
            speed = (batch + 1) / (time.perf_counter() - self.start)
            self.bars.update(
                self.inner, completed=batch + 1, seen=f"{speed:,.0f} batches/s  {_shown(averages.means())}"
            )

    def on_epoch_end(self, epoch: int, epochs: int, state: dict[str, Any], **_: Any) -> None:
        """A line that stays, for every epoch."""
        row = {name: state[name] for name in self.exp.history[-1] if name not in ("epoch", "epoch_time")}
        line = f"epoch {epoch:>{len(str(epochs))}}/{epochs}  {_shown(row)}  {time.perf_counter() - self.started:.1f} s"
        self.console.print(line, highlight=False, soft_wrap=True)
        if self.bars is not None:
            self.bars.update(self.total, completed=epoch)

    def on_train_end(self, **_: Any) -> None:
        """Close the display, whatever ended the training."""
        if self.bars is not None:
            self.bars.stop()
            self.bars = None


def _shown(values: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in values.items())
