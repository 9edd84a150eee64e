"""Keeps a training unaffected by a pass within another, by the draws of an evaluation, and by predictions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from experimentator.accumulating import passing
from experimentator.backends import Backend
from experimentator.callbacks.order import CallbackError
from experimentator.data.chance import generator
from experimentator.graph import Mode
from experimentator.position import Position
from experimentator.settings import listed

if TYPE_CHECKING:
    from experimentator.walk import Walk

DEEP = 8  # passes within each other, at most
LASTING = ("stop", "gathered")  # entries of the state that an inner pass may change for good


@contextmanager
def apart(walk: Walk, subset: Any) -> Iterator[None]:
    """Run a pass; if it is within another, restore that one's state and callback attributes (`of_pass`) after it."""
    if walk.depth == DEEP:
        raise CallbackError(
            "A callback evaluates, is called during that evaluation, and evaluates again, without end.\n"
            f"Seen: {DEEP} evaluations, each within the one before.\n"
            "Give it when = Mode.TRAIN, or let it look at `mode`."
        )
    exp, state, before, held = walk.exp, walk.exp.state, dict(walk.exp.state), []
    within = walk.depth and state.get("mode") == Mode.EVAL  # its metrics and draws continue after the inner pass
    kept = passing(exp.backend.weights(), exp.program.wholes()) if within else {}
    for callback in walk.acting if walk.depth else ():
        names = (name for name in listed(getattr(callback, "of_pass", ())) if hasattr(callback, name))
        held += [(callback, name, getattr(callback, name)) for name in names]
    walk.depth += 1
    try:
        yield
    finally:
        walk.depth -= 1
        if kept:
            now = exp.backend.weights()
            exp.backend.set_weights({key: kept.get(key, value) for key, value in now.items()})
        if walk.depth:
            own = (name for name in state if name in LASTING or str(name).startswith(f"{subset.name}_"))
            before |= {name: state[name] for name in own}
            state.clear()
            state.update(before)
            for callback, name, value in held:
                setattr(callback, name, value)


@contextmanager
def training_seeds(backend: Backend, position: Position | None) -> Iterator[None]:
    """Put the backend's seed states back afterwards, so that an evaluation changes no draw of the training."""
    position = position or Position()
    position.seeds = position.seeds or backend.seeds()
    try:
        yield
    finally:
        backend.set_seeds(position.seeds)
        position.seeds = {}


@contextmanager
def inferring(walk: Walk) -> Iterator[None]:
    """Predict within: with averaged weights, where evaluation takes these, and without changing a training's draws."""
    acting = walk.acting if walk.exp.optimizer is not None and walk.exp.listens("cycle_begin") else ()
    averaging = [one for one in acting if hasattr(one, "averaged")]
    with ExitStack() as stack:
        if walk.trains:
            stack.enter_context(_drawing_apart(walk))
        for callback in averaging:
            stack.enter_context(callback.averaged())
        yield


@contextmanager
def _drawing_apart(walk: Walk) -> Iterator[None]:
    """Within, draws depend on the training's position and on the number of predictions since its last pause only."""
    exp, at = walk.exp, walk.position or Position()
    training = exp.backend.seeds()
    address = ("predict", exp.epoch, walk.batches, at.subset, at.batch, walk.predictions)
    walk.predictions += 1
    own = {key: generator(*state, *address).integers(1 << 31, size=len(state)) for key, state in training.items()}
    exp.backend.set_seeds({key: state.tolist() for key, state in own.items()})
    try:
        yield
    finally:
        exp.backend.set_seeds(training)
