"""Save weights at the end of epochs, and load those that a training starts from."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from experimentator.callbacks.callback import Callback, run_folder
from experimentator.callbacks.monitored import Monitored
from experimentator.callbacks.order import CallbackError
from experimentator.checkpoint import AVERAGED
from experimentator.records.plainfile import write_json
from experimentator.scalars import is_whole

log = logging.getLogger(__name__)
STRATEGIES = ("last", "best", "all")
BEST = "best.json"


class SaveWeights(Callback):
    """Save weights at the end of epochs, through `exp.save_weights`: each file is whole at any moment.

    `strategy` says which: "best" (`best.safetensors`, by `metric`), "last" (`last.safetensors`), "all"
    (`epoch-0001.safetensors`, ...), or a number N for every N-th epoch. Files go to `folder`, else to the run folder,
    else to `weights/`; `best.json` beside them tells epoch and value of the best. `metric` is
    `<subset>_<name>`, without one the loss of the first EVAL subset; `mode` is that of EarlyStopping. NaN never wins.
    Where an ExponentialMovingAverage runs, what it evaluates is saved too, as `*.average.safetensors`.

    Reads the metric from the history; writes `best_epoch` into the state.

    >>> SaveWeights("best", "validation_accuracy").watched.mode
    'max'
    >>> SaveWeights("bset")
    Traceback (most recent call last):
    experimentator.callbacks.order.CallbackError: SaveWeights knows no strategy 'bset'.
    Seen: strategy='bset'.
    Write 'last', 'best' or 'all', or a number N for every N-th epoch.
    """

    leaves_files = True

    after = ("AverageMetrics", "GatherCycleMetrics", "ExponentialMovingAverage")

    def __init__(
        self,
        strategy: str | int = "best",
        metric: str | None = None,
        *,
        mode: str | None = None,
        folder: str | os.PathLike[str] | None = None,
    ):
        if strategy not in STRATEGIES and not is_whole(strategy, least=1):
            raise CallbackError(
                f"SaveWeights knows no strategy {strategy!r}.\nSeen: strategy={strategy!r}.\n"
                "Write 'last', 'best' or 'all', or a number N for every N-th epoch."
            )
        self.strategy, self.folder = strategy, folder
        self.watched = Monitored(metric, mode)
        self.inputs = (metric,) if metric else ()

    def on_train_begin(self, **_: Any) -> None:
        """Refuse a metric that nothing produces."""
        if self.strategy == "best":
            self.watched.start(self.exp, asker=self)
            self._refuse_another()

    def _refuse_another(self) -> None:
        """Refuse another that keeps its best in the same folder: they would overwrite each other's."""
        for one in self.exp.callbacks:
            same = isinstance(one, SaveWeights) and one.strategy == "best" and one.folder == self.folder
            if same and one is not self:
                raise CallbackError(
                    "Two SaveWeights write 'best.safetensors' into one folder.\n"
                    f"Seen: the best by {self.watched.name!r} and by {one.watched.name!r}.\nGive one of them a folder=."
                )

    def on_epoch_end(self, epoch: int, state: dict[str, Any], **_: Any) -> None:
        """Save what the strategy asks for."""
        folder = Path(self.folder) if self.folder is not None else run_folder(self.exp) or Path("weights")
        if self.strategy == "best":
            self._save_best(folder, epoch, state)
        elif self.strategy == "last":
            save(self.exp, folder / "last.safetensors")
        elif self.strategy == "all" or epoch % int(self.strategy) == 0:
            save(self.exp, folder / f"epoch-{epoch:04d}.safetensors")

    def _save_best(self, folder: Path, epoch: int, state: dict[str, Any]) -> None:
        value = self.watched.read(self.exp, state)
        if value is None or not self.watched.improves(value, epoch):
            return
        path = folder / "best.safetensors"
        save(self.exp, path)
        told = {"epoch": epoch, "metric": self.watched.name, "value": value, "weights": path.name}
        write_json(folder / BEST, told)
        if (run := run_folder(self.exp)) is not None and run != folder:
            write_json(run / BEST, told | {"weights": str(path)})
        log.info("%s is best in epoch %d: %.4g. Saved %s.", self.watched.name, epoch, value, path)
        state["best_epoch"] = epoch

    def state_dict(self) -> dict[str, Any]:
        """The best value so far."""
        return self.watched.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the best value."""
        self.watched.load_state_dict(state)


class LoadWeights(Callback):
    """Start from the weights in `filename`, once, before the first epoch; a training that goes on keeps its own.

    All weights must fit, or none is loaded and the error says what matched and what did not. `only` and `rename` are
    those of `exp.load_weights`: patterns for a part, such as `"Trunk/*"`, and other names for nodes of the file.

    >>> LoadWeights("runs/digits/latest/weights.safetensors", only="Trunk/*").loaded
    False
    """

    phase = "prepare"
    before = ("FindLearningRate",)

    def __init__(
        self,
        filename: str | os.PathLike[str],
        *,
        only: str | Iterable[str] | None = None,
        rename: Mapping[str, str] | None = None,
    ):
        self.filename, self.only, self.rename = filename, only, rename
        self.loaded = False

    def on_train_begin(self, **_: Any) -> None:
        """Load, if nothing was trained yet."""
        if self.loaded or self.exp.epoch:
            return
        matching = self.exp.load_weights(self.filename, only=self.only, rename=self.rename)
        level = logging.WARNING if matching.kept else logging.INFO
        said = "Loaded %d weights from %s; %d were not asked for and keep their values."
        log.log(level, said, len(matching.matched), self.filename, len(matching.kept))
        self.loaded = True

    def state_dict(self) -> dict[str, Any]:
        """Whether it was done."""
        return {"loaded": self.loaded}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """A training that goes on does not load again."""
        self.loaded = state["loaded"]


def save(exp: Any, path: Path) -> None:
    """Save the weights, and beside them their average if evaluation uses one."""
    exp.save_weights(path)
    for callback in exp.walk.acting:
        if hasattr(callback, "averaged"):
            with callback.averaged():
                exp.save_weights(path.with_suffix(AVERAGED))
