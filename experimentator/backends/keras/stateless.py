"""One batch as a pure function of values, for backends whose compilers take no variables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import keras

from experimentator.backends.keras.context import Forward, check_losses, objective_of, update
from experimentator.backends.keras.rates import Rates
from experimentator.backends.keras.state import variables_of
from experimentator.backends.keras.variables import trainable_some_day
from experimentator.optimizer_parts import parts_of
from experimentator.patches import patched

Values = list[Any]  # one array for each variable
State = tuple[Values, Values, Values]  # of the weights, of what the optimizer keeps, and the tables of rates it follows


class StatelessBatch:
    """Forward and update of one batch; a framework adds how gradients are taken.

    Keras reads and writes variables by their identity; a `keras.StatelessScope` puts values in their place, so that
    the framework sees a function of values.
    """

    def __init__(self, forward: Forward, optimizer: Any):
        self.forward, self.weights, self.optimizer = forward, list(forward.variables), optimizer
        kept = set() if optimizer is None else set(map(id, trainable_some_day(forward.trained())))
        self.trained = [place for place, one in enumerate(self.weights) if id(one) in kept]

    @property
    def slots(self) -> list[Any]:
        """Variables that the optimizer reads; those that processors read are among the weights."""
        weights = set(map(id, self.weights))
        return [one for one in variables_of(self.optimizer) if id(one) not in weights]

    def check_reached(self, places: Iterable[int], *, eager: bool) -> None:
        """Look at whether gradients reach the trained weights; `places` are those of weights that they reach."""
        trained, reached = ([self.weights[place] for place in some] for some in (self.trained, places))
        self.forward.reach.check(trained, reached, self.optimizer, eager=eager)

    def state(self) -> State:
        """The present values of the variables, and of the tables."""
        parts = self.weights, self.slots, [rates.factors for rates in self._rates()]
        weights, slots, tables = ([one.value for one in variables] for variables in parts)
        return weights, slots, tables

    def keep(self, weights: Values, slots: Values) -> None:
        """Let variables hold new values."""
        for variable, value in zip([*self.weights, *self.slots], [*weights, *slots], strict=True):
            variable._direct_assign(value)

    def _from_state(self, state: State, tensors: Any) -> tuple[dict[str, Any], Values]:
        """What the graph writes, and the weights after it: statistics and seeds go on."""
        values = dict(zip(map(id, self.weights), state[0], strict=True))
        trained = {id(self.weights[place]): values[id(self.weights[place])] for place in self.trained}
        with self._holding(state, trained) as scope:
            outputs = {name: keras.ops.convert_to_tensor(value) for name, value in self.forward(tensors).items()}
            return outputs, [scope.get_current_value(variable) for variable in self.weights]

    def _holding(self, state: State, trained: Mapping[int, Any] | None = None) -> keras.StatelessScope:
        """Within, variables have the values of a state, and what is assigned to them goes to the scope.

        With `trained`, values of the trained variables by id, no gradient passes an assignment.
        """
        pairs = zip([*self.weights, *self.slots], [*state[0], *state[1]], strict=True)
        return keras.StatelessScope(pairs) if trained is None else Assigned(pairs, trained)

    def _objectives(
        self, state: State, tensors: Any, own: Mapping[str, Sequence[Any]], trained: Values
    ) -> tuple[dict[str, Any], tuple[dict[str, Any], Values]]:
        """The objectives as a function of the trained weights; with them, what `_from_state` gives."""
        state = (replaced(state[0], self.trained, trained), *state[1:])
        outputs, after = self._from_state(state, tensors)
        check_losses(outputs, own)
        with self._holding(state):
            found = {
                loss: objective_of(outputs[loss], self.forward.added, of, self.optimizer) for loss, of in own.items()
            }
        return found, (outputs, after)

    def _updated(self, state: State, pairs: list[tuple[Any, Any]]) -> State:
        """The state after the optimizer saw gradients of variables."""
        variables, tables = [*self.weights, *self.slots], state[2]
        gradients, of = [gradient for gradient, _ in pairs], [variable for _, variable in pairs]
        with self._holding(state) as scope, ExitStack() as within:
            for rates, table in zip(self._rates(), tables, strict=True):
                within.enter_context(patched(rates.factors, value=table))
            if isinstance(self.optimizer, keras.optimizers.LossScaleOptimizer):
                _scaled(self.optimizer, gradients, of, variables)
            else:
                update(self.optimizer, gradients, of)
            values = [scope.get_current_value(variable) for variable in variables]
        return values[: len(self.weights)], values[len(self.weights) :], tables

    def _rates(self) -> list[Rates]:
        """The tables that the optimizers follow."""
        parts = [] if self.optimizer is None else parts_of(self.optimizer)
        return [part._learning_rate for part in parts if isinstance(part._learning_rate, Rates)]


class Assigned(keras.StatelessScope):
    """A scope in which the gradient of an assigned value is that of the variable itself, as with real variables."""

    def __init__(self, pairs: Iterable[tuple[Any, Any]], trained: Mapping[int, Any]):
        super().__init__(pairs)
        self.trained = trained

    def add_update(self, update: tuple[Any, Any]) -> None:
        super().add_update(stopped(update, self.trained))


def stopped(update: tuple[Any, Any], trained: Mapping[int, Any]) -> tuple[Any, Any]:
    """A variable and its new value, which passes only the variable's own gradient; `trained` are values by id."""
    variable, value = update
    value = keras.ops.stop_gradient(value)
    if id(variable) in trained:
        own = trained[id(variable)]
        value = value + (own - keras.ops.stop_gradient(own))
    return variable, value


def replaced(values: Values, places: Sequence[int], others: Values) -> Values:
    """The values, with others at some places."""
    found = list(values)
    for place, other in zip(places, others, strict=True):
        found[place] = other
    return found


def _scaled(optimizer: Any, gradients: Values, of: list[Any], variables: list[Any]) -> None:
    """Update with unscaled gradients, unless one is not finite; then only the scale changes, and halves.

    What `keras.optimizers.LossScaleOptimizer` does, which assigns inside branches that a trace cannot look into.
    """
    ops = keras.ops
    scale, counter = optimizer.dynamic_scale.value, optimizer.step_counter.value
    before = [ops.copy(variable.value) for variable in variables]  # some optimizers change values in place
    is_finite = ops.all(ops.stack([ops.all(ops.isfinite(gradient)) for gradient in gradients]))
    update(optimizer.inner_optimizer, [gradient / scale for gradient in gradients], of)
    for variable, value in zip(variables, before, strict=True):
        variable.assign(ops.where(is_finite, variable.value, value))
    grows = ops.logical_and(is_finite, ops.equal(counter, optimizer.dynamic_growth_steps - 1))
    counts = ops.logical_and(is_finite, ops.logical_not(grows))
    optimizer.step_counter.assign(ops.where(counts, counter + 1, 0))
    optimizer.dynamic_scale.assign(ops.where(is_finite, ops.where(grows, 2.0 * scale, scale), 0.5 * scale))
