"""The progress display: bars on a terminal, a line that moves in a notebook, plain lines elsewhere.

Outside of notebooks it is on stderr, so that stdout holds results.
"""

from __future__ import annotations

import sys
import textwrap
import time
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Column
from rich.text import Text

from experimentator.callbacks.callback import Callback, nothing_saved
from experimentator.callbacks.monitored import of_subset
from experimentator.graph import Mode

REDRAW_SECONDS = 0.1  # bars are drawn at most this often, however short the calls of the step are
CELL_SECONDS = 0.5  # and a notebook's line this often: each is a message to a browser
LINE_SECONDS = 60.0  # a long pass writes a line this often where lines cannot be redrawn, as in a file
GLUE = "\N{NO-BREAK SPACE}"  # between a name and its number, while a line is folded
ESSENTIALS = 3  # averages beside a bar: the loss and the first metrics


class Progress(Callback):
    """Epochs and batches done, loss and metrics as they become known, batches a second, time to go.

    It draws at most once per call of the compiled step, never per batch, and a display that fails stops no run.
    """

    phase = "record"
    of_pass = ("start", "is_training")
    state_dict = nothing_saved

    def __init__(self, console: Console | None = None):
        stderr: Any = Forgiving(sys.stderr)
        self.console = console or Console(file=stderr)
        self.bars: Bars | None = None
        self.cell: Any = None  # the output of a notebook's cell for the epoch under way
        self.title = ""  # of the epoch
        self.start = self.drawn = 0.0
        self.epoch = 0  # how many are over
        self.is_training = True

    def on_epoch_begin(self, epoch: int, epochs: int, **_: Any) -> None:
        """Open the display at the first epoch."""
        if self.bars is None and self.console.is_terminal:
            self.bars = _bars(self.console)
            self.total = self.bars.add_task("epochs", total=epochs, completed=epoch - 1, seen="")
            self.inner = self.bars.add_task("batches", total=None, seen="reading data")
            self.bars.start()
        self.title = f"{epoch:>{len(str(epochs))}}/{epochs}"
        self.epoch = epoch - 1
        self.drawn = time.perf_counter()

    def on_cycle_begin(self, cycle_name: str, steps: int, mode: Mode, **_: Any) -> None:
        """Begin a bar for the pass."""
        self.start, self.is_training = time.perf_counter(), mode == Mode.TRAIN
        self.drawn = self.drawn if self.title else self.start
        if self.bars is not None:
            ran = self.exp.eager or self.exp.counts.get(cycle_name, {}).get("batches")
            self.bars.reset(self.inner, description=cycle_name, total=steps, seen="" if ran else "compiling")
            self._draw(self.bars)

    def on_block_end(self, batch: int, averages: Any, cycle_name: str, steps: int, **_: Any) -> None:
        """Show what is known so far."""
        now = time.perf_counter()
        least = REDRAW_SECONDS if self.bars else CELL_SECONDS if self.console.is_jupyter else LINE_SECONDS
        if now - self.drawn < least:
            return
        essentials = dict(list(averages.means().items())[:ESSENTIALS])
        seen = f"{(batch + 1) / (now - self.start):,.0f} batches/s  {_shown(essentials).replace(GLUE, ' ')}"
        if self.bars is not None:
            # The bar may still show an evaluation that ran within this pass.
            self.bars.update(self.inner, description=cycle_name, total=steps, completed=batch + 1, seen=seen)
            if self.is_training:
                self.bars.update(self.total, completed=self.epoch + self._share(cycle_name, (batch + 1) / steps))
            self._draw(self.bars)
        else:
            title = f"{self.title}  " if self.title else ""
            self._write(f"{title}{cycle_name} {batch + 1}/{steps}  {seen}", moving=True)
            self.drawn = now

    def on_cycle_end(self, **_: Any) -> None:
        """An evaluation outside of a training keeps a line of its own."""
        if not self.title:
            self.cell = None

    on_cycle_left = on_cycle_end  # of a pass that is cut short

    def on_epoch_end(self, epoch: int, **_: Any) -> None:
        """Write a line that stays, for every epoch."""
        row = dict(self.exp.history[-1])
        row.pop("epoch", None)
        time_taken = f"{row.pop('epoch_time', 0.0):.1f} s"
        groups = grouped(row, [subset.name for subset in self.exp.subsets])
        width = self.console.width if self.console.is_terminal else None
        for line in _lines(self.title, groups, time_taken, width):
            if self.bars is None:
                self._write(line)
            else:
                self.console.print(line, markup=False, emoji=False, highlight=False, soft_wrap=True)
        if self.bars is not None:
            self.bars.update(self.total, completed=epoch)
            self._draw(self.bars)

    def on_train_end(self, **_: Any) -> None:
        """Close the display, whatever ended the training."""
        if self.bars is not None:
            self.bars.stop()
            self.bars = None
        self.cell, self.title = None, ""

    def _share(self, subset: str, share: float) -> float:
        """The share of the epoch that is done at a share of a pass: training passes count equally, others nothing."""
        trained = [one.name for one in self.exp.subsets if one.mode == Mode.TRAIN]
        return (trained.index(subset) + share) / len(trained) if subset in trained else 0.0

    def _write(self, line: str, *, moving: bool = False) -> None:
        """Write a line; in a notebook, a `moving` one is replaced by the next, and at last by that of its epoch."""
        if self.console.is_jupyter and (moving or self.cell is not None):
            from IPython.display import display

            if self.cell is None:
                self.cell = display({"text/plain": line}, raw=True, display_id=True)  # type: ignore[no-untyped-call]
            else:
                self.cell.update({"text/plain": line}, raw=True)
            self.cell = self.cell if moving else None
            return
        self.console.file.write(f"{line}\n")  # half a millisecond less than print, which counts where epochs are short

    def _draw(self, bars: Bars) -> None:
        bars.refresh()
        self.drawn = time.perf_counter()


def grouped(row: Mapping[str, Any], subsets: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The values of `<subset>_<name>` by subset; those of no subset come last, under `""`.

    >>> grouped({"validation_loss": 0.5, "patience": 3}, ["training", "validation"])
    {'validation': {'loss': 0.5}, '': {'patience': 3}}
    """
    groups: dict[str, dict[str, Any]] = {subset: {} for subset in (*subsets, "")}
    for name, value in row.items():
        subset, measure = of_subset(name, subsets)
        groups[subset][measure] = value
    return {subset: values for subset, values in groups.items() if values}


def _shown(values: Mapping[str, Any], width: int = 0) -> str:
    """Names and numbers; these fill `width`, so that the lines of several epochs stand in columns."""
    return " ".join(f"{name}{GLUE}{_number(value):<{width}}" for name, value in values.items())


def _number(value: Any) -> str:
    """A number with three decimals; if it is small or large, with three or four significant digits."""
    if not isinstance(value, Real):
        return str(value)
    size = abs(float(value))
    return f"{value:.3f}" if size == 0 or 0.1 <= size < 9.9995 else f"{value:#.3g}" if size < 0.1 else f"{value:#.4g}"


def _lines(title: str, groups: Mapping[str, Mapping[str, Any]], time_taken: str, width: int | None) -> list[str]:
    """One line, in columns where there is room for them; more lines only on a terminal too narrow for one."""
    for columns in (6, 0):
        parts = [f"{name} {_shown(values, columns)}".lstrip() for name, values in groups.items()] + [time_taken]
        line = f"{title}  {' | '.join(parts)}"
        if width is None or len(line) <= width:
            return [line.replace(GLUE, " ")]
    return [line.replace(GLUE, " ") for line in _folded(title, parts, width or len(line))]


def _folded(title: str, parts: Sequence[str], width: int) -> list[str]:
    """As many parts in each line as fit, below each other."""
    indent = " " * (len(title) + 2)
    lines = [f"{title}  {parts[0]}"]
    for part in parts[1:]:
        if len(lines[-1]) + len(part) + 3 <= width:
            lines[-1] += f" | {part}"
        else:
            lines.append(indent + part)
    return [piece for line in lines for piece in textwrap.wrap(line, max(20, width), subsequent_indent=indent)]


def _bars(console: Console) -> Bars:
    """Two bars, drawn when told to: no thread runs beside the training."""
    columns = (
        TextColumn("{task.description:<12}", markup=False), BarColumn(24),
        MofNCompleteColumn(table_column=Column(no_wrap=True)), TimeRemainingColumn(table_column=Column(no_wrap=True)),
        _Seen(),
    )  # fmt: skip
    return Bars(
        *columns,
        console=console,
        transient=True,
        auto_refresh=False,
        speed_estimate_period=86400,  # an epoch may last hours
        redirect_stdout=bool(getattr(sys.stdout, "isatty", bool)()),  # results that are piped stay on stdout
    )


class _Seen(ProgressColumn):
    """Speed and averages; on a narrow terminal they give way first, together with the bar."""

    def render(self, task: Task) -> Text:
        return Text(task.fields["seen"], no_wrap=True, overflow="ellipsis")


class Forgiving:
    """A stream that drops what cannot be written, without an error."""

    def __init__(self, stream: TextIO | None):
        self.stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        return self._try("write", text) or 0

    def flush(self) -> None:
        self._try("flush")

    def _try(self, method: str, *given: Any) -> Any:
        try:
            return getattr(self.stream, method)(*given) if self.stream is not None else None
        except (OSError, ValueError):
            return None
