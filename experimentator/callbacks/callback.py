"""The callback: any object with some of the event methods is one; this class only spells them out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from experimentator.graph import Mode


class Callback:
    """Acts on events: define some of `on_{epoch,cycle,batch}_{begin,end}(self, **state)`, or `on_train_{begin,end}`.

    A cycle is one pass over a subset; a training is one call of `exp.train`, whose end is told whatever ends it. A
    method receives the state by name (ask for what you need, and `**_` for the rest) and as `state`, which may be
    written for those that come later; docs/parts.md lists what each event has. `outputs` names what is written: numbers
    that are there after `on_epoch_end` stand in the history. Names of tensors among the parameters of `on_batch_end`
    are fetched from the graph; `inputs` declares more. `before` and `after` name classes to stand before and after;
    absent ones are ignored. `phase` is "prepare" for what others build on, "act", or "record" for what tells of all
    the others. `when` narrows the events of cycles and batches to passes in some modes. `init(self, exp)` comes before
    all events, and again between two trainings where callbacks, or what is kept and shown of a run, were changed.

    Files belong into `exp.folder`, the run folder once training began.

    At the end of a cycle `state["metrics"]` holds its averages: `<subset>_<name>` written there stands in the history
    and in what `evaluate` returns. A reason written into `state["stop"]` ends the training after the epoch.

    `of_pass` names attributes that `on_cycle_begin` sets anew. Where a callback evaluates in the midst of a pass, the
    state and these are as before when that pass goes on; what was measured stays, as `<subset>_<name>`.

    `on_block_end` is called after every call of the compiled step, which runs many batches. With `every = N`,
    `on_batch_end` is called after every N-th batch of a cycle, and a call ends there, so that the experiment is as that
    batch left it; without, it observes every batch once the call is over.

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
        """Keep the experiment; called before anything runs, and again where callbacks changed between two trainings.

        An `exp` of one's own, an attribute, a property or a method, stays what it is.
        """
        if getattr(self, "exp", None) is getattr(self, "_kept", None):
            vars(self).update(exp=exp, _kept=exp)  # a frozen dataclass refuses to be set attributes
