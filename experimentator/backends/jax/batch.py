"""One batch as a pure function: the variables' values and tensors in, new values and what the graph writes out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import jax
import keras
import numpy as np
from jax import numpy as jnp

from experimentator.backends.jax.devices import Devices
from experimentator.backends.jax.rates import TableRates
from experimentator.backends.keras.context import Forward, check_losses, objective_of, update
from experimentator.backends.keras.optimizers import shares
from experimentator.backends.keras.variables import trainable_some_day
from experimentator.parts import parts_of

CONVOLUTION = "conv_general_dilated"
Values = list[Any]  # one array for each variable
State = tuple[Values, Values, Values]  # of the weights, of what the optimizer keeps, and the tables of rates it follows


class Batch:
    """Forward, or forward, backward and update, of one batch.

    Keras reads and writes variables by their identity; a `keras.StatelessScope` stands values in their place, so that
    JAX sees a function of values. An optimizer leaves alone what no gradient reaches, where JAX gives zeros: the
    program of the gradients tells which ones are.
    """

    def __init__(self, run: Forward, variables: Sequence[Any], optimizer: Any = None, devices: Devices | None = None):
        self.run, self.weights, self.optimizer = run, list(variables), optimizer
        self.devices = devices or Devices()
        kept = {id(one) for one in trainable_some_day(variables) if one.trainable and optimizer is not None}
        self.trained = [place for place, one in enumerate(variables) if id(one) in kept]
        self.convolves = False  # as far as `shapes` has seen it
        self._layouts: list[Any] = []  # of weights and slots, as `state` has seen them
        self._reached: list[int] | None = None
        self._names: list[str] = []
        self._compiled = jax.jit(self._with_gradients)

    @property
    def slots(self) -> list[Any]:
        """What the optimizer keeps; its rates, too, where it follows tables."""
        if self.optimizer is None:
            return []
        return [*self.optimizer.variables, *(one for rates in self._rates() for one in (rates.base, rates.start))]

    def state(self) -> State:
        """The present values of the variables, and of the tables."""
        parts = self.weights, self.slots, [rates.factors for rates in self._rates()]
        weights, slots, tables = ([self.devices.placed(one.value) for one in variables] for variables in parts)
        self._layouts = [one.sharding for one in [*weights, *slots]]
        return weights, slots, tables

    def keep(self, weights: Values, slots: Values) -> None:
        """Let variables hold new values."""
        for variable, value in zip([*self.weights, *self.slots], [*weights, *slots], strict=True):
            variable._direct_assign(value)

    def shapes(self, state: State, tensors: Any) -> dict[str, Any]:
        """Shapes and dtypes of what one batch gives; learns what it is made of, and which weights gradients reach."""
        state, tensors = described((state, tensors))
        if self.optimizer is None:
            traced = jax.jit(self._forward).trace(state, tensors)
            self.convolves = CONVOLUTION in _operations(traced.jaxpr.jaxpr)
            return self._in_order(traced.out_info[0])
        trained = [state[0][place] for place in self.trained]
        traced = self._compiled.trace(trained, state, tensors)
        self.convolves = CONVOLUTION in _operations(traced.jaxpr.jaxpr)
        (outputs, _), gradients = traced.out_info
        own = shares(self.optimizer, [self.weights[place] for place in self.trained])
        check_losses(outputs, own)
        reached = set()
        for loss, variables in own.items():
            if len(own) > 1:  # each for itself: what only others reach has zeros that were computed
                traced = jax.jit(partial(self._with_gradients, only=loss)).trace(trained, state, tensors)
            zeros = _zeros(traced.jaxpr.jaxpr)[len(traced.jaxpr.jaxpr.outvars) - len(gradients) :]
            ids = set(map(id, variables))
            pairs = zip(self.trained, zeros, strict=True)
            reached |= {place for place, is_zero in pairs if not is_zero and id(self.weights[place]) in ids}
        self._reached = sorted(reached)
        return self._in_order(outputs)

    def reached(self, state: State, tensors: Any) -> list[int]:
        """Places of the weights that gradients reach."""
        if self._reached is None:
            self.shapes(state, tensors)
        return self._reached or []

    def __call__(self, state: State, tensors: Any, *, compiled: bool = True) -> tuple[State, dict[str, Any]]:
        """The state after a batch, and what the graph writes."""
        tensors = self.devices.split(tensors, trains=self.optimizer is not None)
        (weights, slots, tables), outputs = self._one(state, tensors, compiled)
        values = self.devices.kept([*weights, *slots], self._layouts)
        return (values[: len(weights)], values[len(weights) :], tables), outputs

    def _one(self, state: State, tensors: Any, compiled: bool) -> tuple[State, dict[str, Any]]:
        weights, slots, tables = state
        if self.optimizer is None:
            outputs, weights = self._forward(state, tensors)
            return (weights, slots, tables), outputs
        take = self._compiled if compiled else self._with_gradients
        (outputs, weights), gradients = take([weights[place] for place in self.trained], state, tensors)
        found = dict(zip(self.trained, gradients, strict=True))
        pairs = [(found[place], self.weights[place]) for place in self.reached(state, tensors)]
        return (self._updated((weights, slots, tables), pairs) if pairs else (weights, slots, tables)), outputs

    def _forward(self, state: State, tensors: Any) -> tuple[dict[str, Any], Values]:
        """What the graph writes, and the weights after it: statistics and seeds go on."""
        with self._holding(state) as scope:
            outputs = {name: keras.ops.convert_to_tensor(value) for name, value in self.run(tensors).items()}
            self._names = list(outputs)
            return outputs, [scope.get_current_value(variable) for variable in self.weights]

    def _in_order(self, outputs: Mapping[str, Any]) -> dict[str, Any]:
        """Outputs as the graph writes them; JAX gives dictionaries back sorted."""
        return {name: outputs[name] for name in self._names}

    def _holding(self, state: State) -> keras.StatelessScope:
        """Within, variables have the values of a state, and what is assigned to them goes to the scope."""
        return keras.StatelessScope(zip([*self.weights, *self.slots], [*state[0], *state[1]], strict=True))

    def _with_gradients(
        self, trained: Values, state: State, tensors: Any, only: str | None = None
    ) -> tuple[tuple[dict[str, Any], Values], Values]:
        """What `_forward` gives, and for each trained weight the gradient of the loss that it minimises.

        The forward pass is one: two, with a gradient of each by its own weights alone, took 1.4 times as long where
        numbers are drawn. Each backward pass has zeros for the other losses. With `only`, that loss alone is looked at.
        """
        variables = [self.weights[place] for place in self.trained]
        own = {loss: of for loss, of in shares(self.optimizer, variables).items() if only in (None, loss)}
        objectives, backward, results = jax.vjp(partial(self._objectives, state, tensors, own), trained, has_aux=True)
        gradients: dict[int, Any] = {}
        for loss, of in own.items():
            seeds = {one: jnp.full_like(value, one == loss) for one, value in objectives.items()}
            ids, (found,) = set(map(id, of)), backward(seeds)
            gradients |= {n: one for n, one in enumerate(found) if id(variables[n]) in ids or only is not None}
        return results, [gradients[n] for n in range(len(trained))]

    def _objectives(
        self, state: State, tensors: Any, own: Mapping[str, Sequence[Any]], trained: Values
    ) -> tuple[dict[str, Any], tuple[dict[str, Any], Values]]:
        """What is minimised, as a function of the trained weights; with it, what `_forward` gives."""
        weights = list(state[0])
        for place, value in zip(self.trained, trained, strict=True):
            weights[place] = value
        state = (weights, *state[1:])
        outputs, after = self._forward(state, tensors)
        check_losses(outputs, own)
        with self._holding(state):
            found = {loss: objective_of(outputs[loss], self.run.added, of, self.optimizer) for loss, of in own.items()}
        return found, (outputs, after)

    def _updated(self, state: State, pairs: list[tuple[Any, Any]]) -> State:
        """The state after the optimizer saw gradients of variables."""
        variables, tables = [*self.weights, *self.slots], state[2]
        gradients, of = [gradient for gradient, _ in pairs], [variable for _, variable in pairs]
        with self._holding(state) as scope, ExitStack() as within:
            for rates, table in zip(self._rates(), tables, strict=True):
                within.enter_context(rates.factors.standing(table))
            if isinstance(self.optimizer, keras.optimizers.LossScaleOptimizer):
                _scaled(self.optimizer, gradients, of, variables)
            else:
                update(self.optimizer, gradients, of)
            values = [scope.get_current_value(variable) for variable in variables]
        return values[: len(self.weights)], values[len(self.weights) :], tables

    def _rates(self) -> list[TableRates]:
        """The tables that the optimizers follow."""
        parts = [] if self.optimizer is None else parts_of(self.optimizer)
        return [part._learning_rate for part in parts if isinstance(part._learning_rate, TableRates)]


def _scaled(optimizer: Any, gradients: Values, of: list[Any], variables: list[Any]) -> None:
    """Update with unscaled gradients, unless one is not finite; then only the scale changes, and halves.

    What `keras.optimizers.LossScaleOptimizer` does, which assigns inside branches that JAX cannot look into.
    """
    scale, counter = optimizer.dynamic_scale.value, optimizer.step_counter.value
    before = [variable.value for variable in variables]
    is_finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(gradient)) for gradient in gradients]))
    update(optimizer.inner_optimizer, [gradient / scale for gradient in gradients], of)
    for variable, value in zip(variables, before, strict=True):
        variable.assign(jnp.where(is_finite, variable.value, value))
    grows = is_finite & (counter == optimizer.dynamic_growth_steps - 1)
    optimizer.step_counter.assign(jnp.where(is_finite & ~grows, counter + 1, 0))
    optimizer.dynamic_scale.assign(jnp.where(is_finite, jnp.where(grows, 2.0 * scale, scale), 0.5 * scale))


def described(values: Any) -> Any:
    """Arrays by shape and dtype, and by how they lie on several devices."""

    def of(one: Any) -> Any:
        layout = getattr(one, "sharding", None)
        layout = layout if isinstance(layout, jax.sharding.NamedSharding) else None
        return jax.ShapeDtypeStruct(one.shape, one.dtype, sharding=layout)

    return jax.tree.map(of, values)


def _operations(program: Any) -> set[str]:
    """Names of the operations of a program, those of programs in it too."""
    found = {one.primitive.name for one in program.eqns}
    for part in jax.tree.leaves([one.params for one in program.eqns], is_leaf=lambda one: hasattr(one, "jaxpr")):
        inner = getattr(part, "jaxpr", part)
        found |= _operations(inner) if hasattr(inner, "eqns") else set()
    return found


def _zeros(program: Any) -> list[bool]:
    """For each result of a program, whether it is the zeros that stand for no gradient."""
    made = {variable: one for one in program.eqns for variable in one.outvars if _fills_with_zero(one)}
    return [_is_zero(one) or (not hasattr(one, "val") and one in made) for one in program.outvars]


def _fills_with_zero(equation: Any) -> bool:
    return equation.primitive.name == "broadcast_in_dim" and _is_zero(equation.invars[0])


def _is_zero(value: Any) -> bool:
    return hasattr(value, "val") and np.ndim(value.val) == 0 and not value.val


def bytes_of(outputs: Mapping[str, Any]) -> int:
    """Bytes of arrays that are described by shape and dtype."""
    return sum(one.dtype.itemsize * int(np.prod(one.shape)) for one in outputs.values())
