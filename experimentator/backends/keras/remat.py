"""Rematerialization: `keras.remat`, and layers that were made under `keras.RematScope`.

Values computed again for gradients use the same draws and statistics, in the same context, and assign nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import keras
from keras.src.backend.common import global_state

from experimentator.backends.keras.memoised import losses_to, made_from_here
from experimentator.backends.keras.no_gradient import outward
from experimentator.backends.keras.stateless import Assigned, stopped
from experimentator.backends.remat_hook import present_way, recomputing
from experimentator.patches import patched

_PLACE = ("current_call_ctx", "autocast_scope", "stateless_scope")  # Keras' context of a thread


class Within(keras.StatelessScope):
    """A scope that reads through to the scope around, and notes which variables were assigned.

    No gradient passes an assignment, neither the inner one nor that of training. Values read of untrained variables are
    kept in `known`, by id; with `again` they are taken from there. Where `trained` is given, values of trained ones are
    kept in both, and used: nothing is read twice.
    """

    def __init__(self, known: dict[int, Any], trained: dict[int, Any] | None = None, *, again: bool = False) -> None:
        super().__init__()
        self.known, self.trained, self.again = known, trained, again
        self.assigned: dict[int, Any] = {}

    def add_update(self, update: Any) -> None:
        """Note that the variable was assigned; no gradient passes its new value."""
        around, variable, trained = outward(self.original_scope, Assigned), update[0], {}
        if around is not None:
            trained = around.trained
        elif variable.trainable and variable._value is not None:
            trained = {id(variable): keras.ops.convert_to_tensor(variable._value)}
        super().add_update(stopped(update, trained))
        self.assigned[id(variable)] = variable

    def get_current_value(self, variable: Any) -> Any:
        """The value assigned within, else the known one, else that of the scope around; None for the variable's own."""
        own, around = super().get_current_value(variable), self.original_scope
        if own is not None:
            return own
        if self.again and id(variable) in self.known:
            return keras.ops.copy(self.known[id(variable)])  # modules of PyTorch change it in place
        value = None if around is None else around.get_current_value(variable)
        read = variable._value if value is None else value
        if self.again or read is None:
            return value
        if id(variable) not in self.known and not (self.trained is None and variable.trainable):
            self.known[id(variable)] = keras.ops.copy(read)
            if self.trained is not None and variable.trainable:
                self.trained[id(variable)] = self.known[id(variable)]
        return value if self.trained is None else self.known[id(variable)]


class Apart:
    """Runs a function, and returns as values what its layers assign and add to the loss.

    `run` may be called again, elsewhere; `keep` assigns and adds such values to the variables and layers of the first
    run.
    """

    def __init__(self, trained: dict[int, Any] | None = None) -> None:
        self.known: dict[int, Any] = {}
        self.trained = trained
        self.variables: list[Any] | None = None  # that the first run assigned
        self.layers: list[Any] = []  # that added a loss in it
        self.there = place()

    def run(self, function: Callable[..., Any], *given: Any) -> tuple[Any, list[Any], list[Any]]:
        """What the function gives, what it assigned, and the losses that its layers added."""
        added: list[tuple[Any, Any]] = []
        scope = Within(self.known, self.trained, again=self.variables is not None)
        with self.there(), losses_to(lambda layer, loss: added.append((layer, loss))), scope:
            result = function(*given)
        if self.variables is None:
            self.variables, self.layers = list(scope.assigned.values()), [layer for layer, _ in added]
        return result, [scope.state_mapping[one] for one in scope.assigned], [loss for _, loss in added]

    def keep(self, values: Sequence[Any], losses: Sequence[Any]) -> None:
        """Assign the values, and add the losses."""
        for variable, value in zip(self.variables or (), values, strict=True):
            variable.assign(value)
        for layer, loss in zip(self.layers, losses, strict=True):
            layer.add_loss(loss)


def of_tensors(
    function: Callable[..., Any], arguments: Any, options: Any, wanted: Callable[[Any], bool]
) -> tuple[list[Any], Callable[[Sequence[Any]], Any]]:
    """The tensors that are `wanted` among arguments and options, and the same function of them alone."""
    flat = keras.tree.flatten((arguments, options))
    places = [place for place, one in enumerate(flat) if wanted(one)]

    def call(tensors: Sequence[Any]) -> Any:
        whole = dict(enumerate(flat)) | dict(zip(places, tensors, strict=True))
        given, named = keras.tree.pack_sequence_as((arguments, options), list(whole.values()))
        return function(*given, **named)

    return [flat[place] for place in places], call


def place() -> Callable[[], AbstractContextManager[None]]:
    """A function that makes contexts in which Keras is as it is here: mode, precision, values, and layers made."""
    here, way = {name: global_state.get_global_attribute(name) for name in _PLACE}, present_way()
    making = made_from_here()

    @contextmanager
    def there() -> Iterator[None]:
        with patched(global_state.GLOBAL_STATE_TRACKER, **here), recomputing(way), making():
            yield

    return there
