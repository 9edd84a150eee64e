"""Averages over a cycle of numbers whose names match patterns: weighted by batch size, without NaN."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from typing import Any

import numpy as np

from experimentator.accumulating import Running, Weighed
from experimentator.averages import Total
from experimentator.callbacks.appearing import Appearing
from experimentator.callbacks.callback import Callback
from experimentator.callbacks.monitored import check_known, names_written
from experimentator.callbacks.order import CallbackError, names_in
from experimentator.graph import Mode

log = logging.getLogger(__name__)


class AverageMetrics(Callback):
    """Average over each cycle the numbers that `patterns` (regular expressions, for whole names) name, leaving NaN out.

    Takes numbers of a batch [], weighted by batch size, and per-sample values [B], each weighing the same; NaN means
    that there is no value, as for samples without a label. Names are those that processors write, in every mode that
    writes them, and numbers that other callbacks write into the state at `on_batch_end`: those that they declare as
    `outputs`, or write before this callback is called. The engine averages `loss` and metrics by itself, NaN and all:
    this is for everything else.

    Reads the names from the graph, once a call; writes `<subset>_<name>` into the history and the state, and `<name>`
    into the state.

    >>> averages = AverageMetrics([".*_error"])
    >>> averages.matches("batch_error"), averages.matches("error_rate")
    (True, False)
    """

    before = ("GatherCycleMetrics",)
    of_pass = ("totals", "sums", "written", "names")
    on_batch_end: Callable[..., None]

    def __init__(self, patterns: str | Iterable[str] = ".*"):
        self.patterns = [patterns] if isinstance(patterns, str) else list(patterns)
        for pattern in self.patterns:
            _check(pattern)
        self.exp: Any = None
        self.known: dict[Mode, tuple[Any, list[str]]] = {}
        self.written = Appearing()
        self.totals: dict[str, Total] = {}
        self.sums: dict[str, float] = {}  # the engine's figures of sums: their parts may have weights of their own
        self.every_of: dict[str, int] = {}  # how often callbacks write their outputs
        self.others: list[int] = []  # how often callbacks that declare none may write
        self.rather_after: list[str] = []  # callbacks that write names which match
        self.names: Collection[str] | None = None  # those that processors write, looked up once a pass

    def init(self, exp: Any) -> None:
        """Listen to `on_batch_end` only if other callbacks do, which may write numbers into the state."""
        super().init(exp)
        others = [callback for callback in exp.callbacks if callback is not self and hasattr(callback, "on_batch_end")]
        if others:
            self.on_batch_end = self._observe
        written = [(name, callback) for callback in others for name in names_in(callback, "outputs")]
        self.every_of = {name: getattr(callback, "every", None) or 1 for name, callback in written}
        self.others = [getattr(callback, "every", None) or 1 for callback in others]
        self.rather_after = [type(callback).__name__ for name, callback in written if self.matches(name)]

    @property
    def inputs(self) -> tuple[str, ...]:  # type: ignore[override]  # computed, where the base lets one set it
        """The names that processors write, among those that match, and that hold a number for a batch or a sample."""
        modes = dict.fromkeys(subset.mode for subset in self.exp.subsets) if self.exp else ()
        return tuple(dict.fromkeys(name for mode in modes for name in self._found(mode)))

    measures = inputs

    def _found(self, mode: Mode) -> list[str]:
        """The names that match in a mode, looked up once for each recording of the list."""
        graph, program = self.exp.program.whole(mode), self.exp.program
        recorded = program.recorded.get(mode)
        if mode not in self.known or self.known[mode][0] is not recorded:
            names = [name for name in graph.computable if self.matches(name)]
            able = graph.select(*names) if names else None
            shapes = self.exp.backend.shapes(able, program.specs(mode)) if able else {}
            ranks = {name: shapes[able.results[name]][0] for name in names} if able else {}
            self.known[mode] = recorded, [name for name, sizes in ranks.items() if sizes is not None and len(sizes) < 2]
        return self.known[mode][1]

    def matches(self, name: str) -> bool:
        """Whether a pattern stands for a name."""
        return any(re.fullmatch(pattern, name) for pattern in self.patterns)

    def on_train_begin(self, **_: Any) -> None:
        """Refuse a plain name that nothing produces."""
        written = (name for callback in self.exp.callbacks for name in names_in(callback, "outputs"))
        known = sorted({*names_written(self.exp), *written})
        for pattern in self.patterns:
            if not any(re.fullmatch(pattern, name) for name in known):
                if re.fullmatch(r"\w+", pattern) and not hasattr(self, "on_batch_end"):
                    check_known(pattern, known, asker=self)
                log.info("AverageMetrics: no processor writes a name like %r.", pattern)

    def state_dict(self) -> dict[str, Any]:
        """The sums so far."""
        sums = {name: [total.sum, total.weight] for name, total in self.totals.items()}
        return {"totals": sums, "sums": self.sums, "written": self.written.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the sums."""
        self.totals = {name: Total(*one) for name, one in state["totals"].items()}
        self.sums = dict(state["sums"])
        self.written.load_state_dict(state["written"])

    def on_cycle_begin(self, state: dict[str, Any], **_: Any) -> None:
        """Reset the sums."""
        self.totals, self.sums, self.names = {}, {}, None
        self.written = self.written.begin(state)

    def _observe(self, batch: int, keys: Collection[Hashable], mode: Any, state: Mapping[str, Any], **_: Any) -> None:
        """Take what other callbacks wrote at this batch."""
        for name, value in self.written.find(state, self.exp, mode).items():
            often = [self.every_of[name]] if name in self.every_of else self.others
            if self.matches(name) and not all((batch + 1) % every for every in often):
                self._add(name, np.array([value]), len(keys))

    def on_block_end(self, averages: Any, block: Any, results: Mapping[str, np.ndarray], mode: Mode, **_: Any) -> None:
        """Take the results of a call: [K] or [K, B]; names of the data, which others may have asked for, are none."""
        if self.names is None:
            self.names = frozenset(self.exp.program.whole(mode).outputs)
        for name, values in results.items():
            if name not in self.names or isinstance(values, Running):  # the engine has the figure of the whole cycle
                continue
            if self.matches(name) and values.ndim <= 2 and values.dtype.kind in "biuf":
                batch = values.weights if isinstance(values, Weighed) else block.index.shape[1]
                self._add(name, values, batch if values.ndim == 1 else 1)
        if averages.sums:
            means = averages.means()
            self.sums = {name: means[name] for name in averages.sums if name in means and not np.isnan(means[name])}

    def _add(self, name: str, values: np.ndarray, weights: Any) -> None:
        known = ~np.isnan(values.astype(np.float64))
        self.totals.setdefault(name, Total()).add(np.where(known, values, 0.0), np.ravel(known * weights))

    def on_cycle_end(self, cycle_name: str, metrics: dict[str, float], state: dict[str, Any], **_: Any) -> None:
        """Write the averages."""
        for name, total in self.totals.items():
            mean = self.sums.get(name, total.mean)
            metrics[f"{cycle_name}_{name}"] = state[f"{cycle_name}_{name}"] = state[name] = mean


def _check(pattern: str) -> None:
    try:
        re.compile(pattern)
    except (re.error, TypeError) as error:
        raise CallbackError(
            f"AverageMetrics takes regular expressions.\nSeen: {pattern!r}: {error}.\n"
            "Write names, or patterns such as '.*_error'."
        ) from None
