"""The callback: any object with some of the event methods is one; this class only spells them out."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experimentator.graph import Mode


class Callback:
    """Acts on events: define some of `on_{epoch,cycle,batch}_{begin,end}(self, **state)`, or `on_train_{begin,end}`.

    A cycle is one pass over a subset; a training is one call of `exp.train`; `on_train_end` is called however it ends.
    A method receives values of the state as parameters (name those you need, and `**_` for the rest), and all of it as
    `state`, into which it may write for callbacks that are called later; docs/parts.md lists what each event has.
    `outputs` names what is written: numbers in the state when an epoch ends go into the history, also those that an
    epoch before wrote: take out what is not measured in every one, `state.pop(name, None)`. Parameters of
    `on_batch_end` that are names of tensors are fetched from the graph; `inputs` declares more. `before` and `after`
    name classes of callbacks that this one is called before and after; absent ones are ignored. Where these say
    nothing, `phase` counts: "prepare" for callbacks that others build on, "act", or "record" for those that tell of all
    others. `when` limits the events of cycles and batches to passes in some modes. `init(self, exp)` is called before
    all events, and again between two trainings if callbacks, or what is kept and shown of a run, were changed.

    Files belong into `exp.folder`, which is the run folder once training has begun.

    At the end of a cycle `state["metrics"]` holds its averages: `<subset>_<name>` written there stands in the history
    and in what `evaluate` returns. A reason written into `state["stop"]` ends the training after the epoch.

    `of_pass` names attributes that `on_cycle_begin` resets. If a callback evaluates in the middle of a pass, the state
    and these attributes are restored when that pass goes on; what was measured stays, as `<subset>_<name>`.

    `on_block_end` is called after every call of the compiled step, which runs many batches. With `every = N`,
    `on_batch_end` is called after every N-th batch of a cycle, and calls of the step end there, so that the experiment
    is as that batch left it; without, it is called for every batch, once the call is over.

    >>> class Patience(Callback):
    ...     inputs = ["validation_loss"]
    ...     def on_epoch_end(self, epoch, validation_loss, **_):
    ...         print(f"{epoch}: {validation_loss:.2f}")
    >>> Patience().on_epoch_end(epoch=1, validation_loss=0.5)
    1: 0.50
    """

    before: Sequence[str] = ()
    after: Sequence[str] = ()
    phase: str = "act"
    inputs: Sequence[str] = ()
    outputs: Sequence[str] = ()
    of_pass: Sequence[str] = ()
    when: Mode = Mode.ALL
    every: int | None = None
    exp: Any

    def init(self, exp: Any) -> None:
        """Keep the experiment; called before any event, and again if callbacks changed between two trainings.

        A subclass's own `exp`, be it an attribute, a property or a method, is left alone.
        """
        if getattr(self, "exp", None) is getattr(self, "_kept", None):
            vars(self).update(exp=exp, _kept=exp)  # attributes of a frozen dataclass cannot be set


def run_folder(exp: Any) -> Path | None:
    """The folder of this run, for what callbacks write; None without one, and before training makes it."""
    acting = exp.walk.acting if exp.walk.trains else ()  # settings that are changed meanwhile name the next run
    candidates = [*acting, *exp.callbacks, vars(exp).get("_run_folder")]
    paths = [one.path for one in candidates if "RunFolder" in (kind.__name__ for kind in type(one).__mro__)]
    return next((Path(path) for path in paths if path is not None), None)


def ended_by(outer: BaseException | None) -> BaseException | None:
    """The error that ends a training, as `on_train_end` sees it pass; None at its usual end.

    `outer` is `sys.exception()` as the training began: it may have been called within an except block.
    """
    error = sys.exception()
    return None if error is outer else error


def how_ended(error: BaseException | None) -> str:
    """How a training ended, in a word.

    >>> how_ended(None), how_ended(ZeroDivisionError()), how_ended(KeyboardInterrupt())
    ('finished', 'failed', 'interrupted')
    """
    if error is None:
        return "finished"
    return "failed" if isinstance(error, Exception) else "interrupted"


def nothing_saved(self: Any) -> dict[str, Any]:
    """The `state_dict` of a callback of which a resume needs nothing."""
    return {}
