"""One measure that a callback watches from epoch to epoch, and the names that there are to watch."""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from experimentator.callbacks.order import CallbackError, names_in
from experimentator.flags import flags_in
from experimentator.graph import Mode
from experimentator.scalars import is_number, is_whole

log = logging.getLogger(__name__)
SMALLER = ("loss", "error")  # endings of names of which less is better
LARGER = ("accuracy", "precision", "recall", "f1", "f1_score", "iou", "dice", "auc", "psnr", "ssim")


class Monitored:
    """The best value of a measure so far: `mode` is "min" or "max", and only needed where the name does not tell.

    A value must be better by more than `min_delta`; NaN never is.

    >>> watched = Monitored("validation_loss", None)
    >>> [watched.improves(value, epoch) for epoch, value in enumerate([0.5, float("nan"), 0.4, 0.6], start=1)]
    [True, False, True, False]
    >>> watched.best, watched.epoch
    (0.4, 3)
    """

    def __init__(self, metric: str | None, mode: str | None, *, min_delta: float = 0.0):
        given: Any = metric  # whatever its annotation says
        if not isinstance(given, str | None):
            write = 'Write its name, such as "validation_loss", or leave it out; other parameters by name'
            raise CallbackError(f"metric must be the name of what is measured.\nSeen: {metric!r}.\n{write}.")
        if mode not in (None, "min", "max"):
            raise CallbackError(f"mode={mode!r} does not say what is better.\nSeen: {mode!r}.\nWrite 'min' or 'max'.")
        if not is_number(min_delta) or min_delta < 0:
            raise CallbackError(
                f"min_delta must be a number from 0 on.\nSeen: {min_delta!r}.\nWrite how much counts, or 0."
            )
        self.name, self.min_delta = metric, min_delta
        self.told = False  # whether a warning said that it is not measured
        self.begun = 0  # epochs that were done as the training began
        self.best: float | None = None
        self.epoch: int | None = None
        self.mode = mode or _better(metric or "_loss")

    def start(self, exp: Any, *, asker: Any) -> None:
        """Before training: settle the name, and refuse one that nothing produces."""
        self.begun = exp.epoch
        if self.name is None:
            self.name = _first_loss(exp)
        check_known(self.name, measured(exp), asker=asker)
        if self.mode is None:
            raise CallbackError(
                f"Whether more or less of {self.name!r} is better cannot be told from its name.\n"
                "Seen: mode=None.\nWrite mode='min' or mode='max'."
            )

    def read(self, exp: Any, state: Mapping[str, Any]) -> float | None:
        """Its value in the epoch that just ended; None where it was not measured."""
        row = exp.history[-1] if exp.history else {}
        written = self.name in row or self.name in _written(exp)
        value = row.get(self.name, state.get(str(self.name))) if written else None
        missed = any(_has_passed(subset, self.name, row) for subset in exp.subsets) or self._was_never(exp, state)
        if value is None and not self.told and missed:
            self.told = True
            measured = ", ".join(name for name in row if name != "epoch")
            log.warning(
                "%r was not measured in epoch %s; epochs without it are ignored. Measured: %s.",
                self.name,
                row["epoch"],
                measured,
            )
        return None if value is None else float(value)

    def _was_never(self, exp: Any, state: Mapping[str, Any]) -> bool:
        """Whether several epochs were trained, the last one, too, and the callback that says it writes it never did."""
        ends = exp.epoch - self.begun > 1 and state.get("epoch") == state.get("epochs")
        return ends and self.name in _written(exp) and not any(self.name in row for row in exp.history)

    def improves(self, value: float, epoch: int) -> bool:
        """Whether `value` is the best so far, which is then kept."""
        sign = -1.0 if self.mode == "max" else 1.0
        better = self.best is None or sign * value < sign * self.best - self.min_delta
        if math.isnan(value) or not better:
            return False
        self.best, self.epoch = value, epoch
        return True

    def state_dict(self) -> dict[str, Any]:
        """The best so far, its epoch, and what it is of."""
        return {"best": self.best, "epoch": self.epoch, "metric": self.name}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the best value and its epoch; those of another measure are refused."""
        of = state["metric"]
        if None not in (of, self.name) and of != self.name:
            raise ValueError(f"its best is of {of!r}, and it watches {self.name!r}")
        self.best, self.epoch = state["best"], state["epoch"]


def check_patience(patience: Any) -> None:
    """Refuse anything but a number of epochs to wait for a better value."""
    if not is_whole(patience, least=1):
        raise CallbackError(
            f"patience must be a number of epochs.\nSeen: {patience!r}.\nWrite a whole number of at least 1."
        )


def measured(exp: Any) -> list[str]:
    """What each epoch of a training measures: `<subset>_<name>` of every subset that runs, and what callbacks write."""
    names = []
    for subset in running(exp):
        names += [f"{subset.name}_{name}" for name in scalars(exp, subset.mode)]
        names += [f"{subset.name}_{name}" for c in exp.callbacks for name in names_in(c, "measures")]
        names += [f"{subset.name}_{name}" for name in _written(exp)]
    return list(dict.fromkeys([*names, *_written(exp), "epoch_time"]))


def of_subset(name: str, subsets: Iterable[str]) -> tuple[str, str]:
    """The subset that a name `<subset>_<name>` begins with, and the rest of it; "" and the name if there is none.

    >>> of_subset("validation_loss", ["training", "validation"]), of_subset("patience", ["training"])
    (('validation', 'loss'), ('', 'patience'))
    """
    subset = max((one for one in subsets if name.startswith(f"{one}_")), key=len, default="")
    return subset, name.removeprefix(f"{subset}_") if subset else name


def running(exp: Any) -> Iterator[Any]:
    """The subsets that a training runs."""
    wanted = exp.eval_epochs
    evaluates = wanted is None or bool(len(wanted) if hasattr(wanted, "__len__") else wanted)
    return (s for s in exp.subsets if s.mode == Mode.TRAIN or (s.mode == Mode.EVAL and evaluates))


def scalars(exp: Any, mode: Mode) -> list[str]:
    """The names of a mode's results that are one number a batch, which are averaged."""
    graph = exp.graph(mode)
    shapes = exp.backend.shapes(graph, exp.program.specs(mode))
    flags = flags_in(graph)
    return [name for name, ref in graph.results.items() if name not in flags and shapes.get(ref, ((),))[0] == ()]


def check_known(name: Any, known: Collection[str], *, asker: Any) -> None:
    """Refuse a name that nothing produces.

    >>> check_known("validation_los", ["training_loss", "validation_loss"], asker="EarlyStopping")
    Traceback (most recent call last):
    experimentator.callbacks.order.CallbackError: EarlyStopping asks for 'validation_los', which nothing produces.
    Known here: training_loss, validation_loss.
    Did you mean 'validation_loss'? Else add it to the setting `metrics`, or to `outputs` of the callback that has it.
    """
    if name in known:
        return
    ends = [one for one in known if one.endswith(f"_{name}")]  # `loss` may mean `validation_loss`
    near = [repr(one) for one in ends or get_close_matches(str(name), known, n=2)]
    guess = f"Did you mean {' or '.join(near)}? Else add" if near else "Add"
    raise CallbackError(
        f"{asker if isinstance(asker, str) else type(asker).__name__} asks for {name!r}, which nothing produces.\n"
        f"Known here: {', '.join(known) or 'nothing'}.\n"
        f"{guess} it to the setting `metrics`, or to `outputs` of the callback that has it."
    )


def check_tensors(names: Iterable[str], exp: Any, *, asker: Any) -> None:
    """Refuse names of tensors that no mode of a training knows."""
    batches = [subset.sample()[1] for subset in running(exp)]
    known = sorted({*names_written(exp), *(name for batch in batches for name in batch)})
    for name in names:
        check_known(name, known, asker=asker)


def names_written(exp: Any) -> list[str]:
    """What processors write in the modes that subsets have."""
    modes = dict.fromkeys(subset.mode for subset in exp.subsets)
    return list(dict.fromkeys(name for mode in modes for name in exp.program.whole(mode).outputs))


def _written(exp: Any) -> list[str]:
    return [name for callback in exp.callbacks for name in names_in(callback, "outputs")]


def _has_passed(subset: Any, name: Any, row: Mapping[str, Any]) -> bool:
    """Whether, in this epoch, there was a pass over the subset that a name begins with."""
    of = f"{subset.name}_"
    return str(name).startswith(of) and any(other.startswith(of) for other in row)


def _first_loss(exp: Any) -> str:
    """The loss of the first subset that is evaluated, else trained on."""
    subsets = sorted(running(exp), key=lambda subset: subset.mode != Mode.EVAL)
    return f"{subsets[0].name}_loss"


def _better(metric: str) -> str | None:
    return "min" if metric.endswith(SMALLER) else "max" if metric.endswith(LARGER) else None
