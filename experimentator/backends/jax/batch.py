"""One batch as a pure function: the variables' values and tensors in, new values and what the graph writes out."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from sys import getrefcount
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp

from experimentator.backends.jax.devices import Devices
from experimentator.backends.keras.context import Forward, check_losses
from experimentator.backends.keras.optimizers import shares
from experimentator.backends.keras.stateless import State, StatelessBatch, Values

CONVOLUTION = "conv_general_dilated"
NO_GRADIENT = (
    "JAX takes no gradient through keras.ops.while_loop, nor through a fori_loop whose bounds are tensors. Write "
    "fori_loop with whole numbers, keras.ops.scan, or a loop of Python; or keras.ops.stop_gradient(...) of what goes "
    "into it."
)
ALONE = 1 + next(getrefcount(one) for one in [object()])  # references to an array that a variable and a list hold


class Batch(StatelessBatch):
    """Forward, or forward, backward and update, of one batch.

    JAX gives zeros as gradients of weights that no loss reaches. The optimizer leaves such weights alone: the program
    of the gradients tells which they are.
    """

    def __init__(self, forward: Forward, optimizer: Any, devices: Devices):
        super().__init__(forward, optimizer)
        for variable in self.weights:  # as `keras.Variable(2.0)` begins: a second call would be compiled anew
            if variable.value.weak_type:
                variable.assign(variable.value.astype(variable.dtype))
        self.devices = devices
        self.convolves = False  # set by `shapes`
        self._layouts: list[Any] = []  # of weights and slots, as `state` has seen them
        self._reached: list[int] | None = None
        self._compiled = jax.jit(self._with_gradients if optimizer is not None else self._from_state)  # traced once

    def state(self) -> State:
        weights, slots, tables = super().state()
        parts = weights, _apart(slots), tables  # before: one array placed twice may share memory
        weights, slots, tables = (list(map(self.devices.placed, values)) for values in parts)
        self._layouts = [one.sharding for one in [*weights, *slots]]
        return weights, slots, tables

    def shapes(self, state: State, tensors: Any) -> dict[str, Any]:
        """Shapes and dtypes of a batch's outputs; notes whether it convolves, and which weights gradients reach."""
        state, tensors = described((state, tensors))
        if self.optimizer is None:
            traced = self._compiled.trace(state, tensors)
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
            if len(own) > 1:  # each alone: what only the others reach has computed zeros
                traced = jax.jit(partial(self._with_gradients, only=loss)).trace(trained, state, tensors)
            zeros = _zeros(traced.jaxpr.jaxpr)[len(traced.jaxpr.jaxpr.outvars) - len(gradients) :]
            ids = set(map(id, variables))
            pairs = zip(self.trained, zeros, strict=True)
            reached |= {place for place, is_zero in pairs if not is_zero and id(self.weights[place]) in ids}
        self._reached = sorted(reached)
        return self._in_order(outputs)

    def run_once(self, state: State, tensors: Any) -> dict[str, Any]:
        """The same from a real batch, for processors that look at values: every trained weight counts as reached."""
        self._reached = list(self.trained)
        return self(state, tensors, compiled=False)[1]

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
            outputs, weights = (self._compiled if compiled else self._from_state)(state, tensors)
            return (weights, slots, tables), outputs
        take = self._compiled if compiled else self._with_gradients
        (outputs, weights), gradients = take([weights[place] for place in self.trained], state, tensors)
        found = dict(zip(self.trained, gradients, strict=True))
        pairs = [(found[place], self.weights[place]) for place in self.reached(state, tensors)]
        with self._holding(state):
            outputs = self.forward.norms.put(outputs, pairs, self.optimizer)
        return (self._updated((weights, slots, tables), pairs) if pairs else (weights, slots, tables)), outputs

    def _in_order(self, outputs: Mapping[str, Any]) -> dict[str, Any]:
        """Outputs as the graph writes them; JAX gives dictionaries back sorted."""
        return {name: outputs[name] for name in self.forward.graph.results}

    def _with_gradients(
        self, trained: Values, state: State, tensors: Any, only: str | None = None
    ) -> tuple[tuple[dict[str, Any], Values], Values]:
        """What `_from_state` gives, and for each trained weight the gradient of the loss that it minimises.

        There is one forward pass: two, with a gradient of each by its own weights alone, took 1.4 times as long where
        numbers are drawn. In a backward pass the other losses have a seed of 0. `only` limits it to one loss.
        """
        variables = [self.weights[place] for place in self.trained]
        own = {loss: of for loss, of in shares(self.optimizer, variables).items() if only in (None, loss)}
        objectives, backward, results = jax.vjp(partial(self._objectives, state, tensors, own), trained, has_aux=True)
        gradients: dict[int, Any] = {}
        for loss, of in own.items():
            seeds = {one: jnp.full_like(value, one == loss) for one, value in objectives.items()}
            try:
                ids, (found,) = set(map(id, of)), backward(seeds)
            except ValueError as error:
                if "lax.while_loop" in str(error):
                    error.add_note(NO_GRADIENT)
                raise
            gradients |= {n: one for n, one in enumerate(found) if id(variables[n]) in ids or only is not None}
        return results, [gradients[n] for n in range(len(trained))]


def _apart(slots: Values) -> Values:
    """Slots, copied where something else holds the array: a weight, as slow weights are at first, or another optimizer.

    A call gets the memory of slots for good (they are donated), and `one.assign(other)` lets both hold one array.
    """
    return [value.copy() if getrefcount(value) > ALONE else value for value in slots]


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
    """For each result of a program, whether it is a constant zero, which stands for no gradient."""
    filling = [one for one in program.eqns if one.primitive.name == "broadcast_in_dim" and _is_zero(one.invars[0])]
    made = {variable for one in filling for variable in one.outvars}
    return [_is_zero(one) or (not hasattr(one, "val") and one in made) for one in program.outvars]


def _is_zero(value: Any) -> bool:
    return hasattr(value, "val") and np.ndim(value.val) == 0 and not value.val
