"""Several optimizers in one: each updates its own weights, and may minimise a loss of its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import keras
import numpy as np

from experimentator.optimizer_parts import schedule_of, unscaled
from experimentator.patches import patched
from experimentator.saving.matching import WeightsError, named_by


class Optimizers(keras.optimizers.MultiOptimizer):
    """Several Keras optimizers, each for the weights that a pattern names; the first pattern that fits a weight counts.

    Patterns are those of `Freeze` and `exp.load_weights`: `"Trunk"` for all that a node owns, `"*/bias"`, `"*"` for
    what is left; `exp.backend.weights()` has the keys. A pattern that names nothing is refused, and so is a trainable
    weight that none names. `losses` gives, by pattern, the name of the tensor (a floating number) that those weights
    minimise, where it is not `loss`: all gradients are taken of one forward pass, before anything is updated.

    `optimizers["Trunk"]` is the one of a pattern. `learning_rate` is that of the last; setting it, as FindLearningRate
    does, keeps the proportions of all, and schedules multiply each. Clipping, decay and the like are those of each: one
    with `gradient_accumulation_steps=5` updates once for five batches of the others, by the mean of their gradients.
    `every={"Generator": 5}` lets one act in every fifth batch alone, by the gradient of that batch, as Wasserstein GANs
    and delayed policies have it; in the others it changes nothing. A schedule of Keras counts its updates then, a
    callback such as LearningRateCosine all batches. Other `losses` or turns ask for new Optimizers.

    >>> rates = Optimizers({"Trunk": keras.optimizers.Adam(1e-4), "*": keras.optimizers.Adam(1e-3)})
    >>> rates.learning_rate = 2e-3
    >>> f"{float(rates['Trunk'].learning_rate):.4f}"
    '0.0002'
    >>> rates
    Optimizers({'Trunk': Adam, '*': Adam})

    Two networks against each other:

    >>> adversaries = Optimizers(
    ...     {"Generator": keras.optimizers.Adam(1e-4), "Discriminator": keras.optimizers.Adam(4e-4)},
    ...     losses={"Generator": "generator_loss", "Discriminator": "discriminator_loss"},
    ...     every={"Generator": 5},
    ... )
    """

    def __init__(
        self,
        parts: Mapping[str, Any],
        *,
        losses: Mapping[str, str] | None = None,
        every: Mapping[str, int] | None = None,
        name: str | None = None,
    ):
        if isinstance(parts, Mapping):
            parts = {pattern: as_optimizer(one) for pattern, one in parts.items()}
        _check(parts, losses, every)
        routes = _Routes(parts)
        super().__init__(routes, name=name)
        self._routes = routes
        self.losses, self.every = dict(losses or {}), dict(every or {})
        for pattern in self.every:
            self[pattern]._batches_seen = self._batches  # by which it finds its place in a table of rates
        self._proportions: list[float] = []  # of the rates to the last, from when they were set one by one
        self._written: list[float] = []  # rates as they were last set together

    def __repr__(self) -> str:
        parts = (f"{pattern!r}: {type(part).__name__}" for pattern, part in self._routes.parts.items())
        return f"Optimizers({{{', '.join(parts)}}})"

    def __getitem__(self, pattern: str) -> Any:
        """The optimizer of a pattern."""
        return self._routes.parts[pattern]

    @property
    def parts(self) -> dict[str, Any]:
        """The optimizers by pattern."""
        return dict(self._routes.parts)

    @property
    def learning_rate(self) -> Any:
        """The rate of the last optimizer."""
        return self.optimizers[-1].learning_rate

    @learning_rate.setter
    def learning_rate(self, rate: Any) -> None:
        if schedule_of(self) is not None:
            raise TypeError("one of the optimizers follows a schedule, whose rate cannot be set")
        bases = [float(getattr(part._learning_rate, "base", part._learning_rate)) for part in self.optimizers]
        if bases != self._written:
            if not bases[-1]:
                raise TypeError("the rate of the last optimizer is 0, so the others cannot be kept in proportion to it")
            self._proportions = [base / bases[-1] for base in bases]
        for part, proportion in zip(self.optimizers, self._proportions, strict=True):
            part.learning_rate = float(rate) * proportion
        self._written = [float(np.float32(float(rate) * proportion)) for proportion in self._proportions]

    def route(self, weights: Mapping[str, Any]) -> None:
        """Settle which optimizer updates which weight, those by key (`node/ordinal/name`); before it is built."""
        self._routes.settle(weights)

    def loss_of(self, variable: Any) -> str:
        """The name of the loss that a weight minimises."""
        return self.losses.get(self._routes.of(variable) or "", "loss")

    def build(self, var_list: Sequence[Any]) -> None:
        """Make the variables of every optimizer."""
        super().build([variable for variable in var_list if self._routes.of(variable)])

    def apply(self, grads: Sequence[Any], trainable_variables: Sequence[Any] | None = None) -> None:
        """Update the variables given; others stay as they are."""
        given = list(self._trainable_variables if trainable_variables is None else trainable_variables)
        pairs: dict[int, list[tuple[Any, Any]]] = {}
        for gradient, variable in zip(grads, given, strict=True):
            place = self._var_to_optimizer_idx.get(self._var_key(variable))
            if place is None:
                raise ValueError(f"Unknown variable: {variable}.")
            pairs.setdefault(place, []).append((gradient, variable))
        for place in sorted(pairs):
            self._update(self.optimizers[place], *map(list, zip(*pairs[place], strict=True)))
        for place, part in enumerate(self.optimizers):
            if part.use_ema and part.built and place not in pairs:  # an average of what stays as it is
                part._update_model_variables_moving_average(part._trainable_variables)
        self._iterations.assign_add(1)

    def _batches(self) -> Any:
        """Batches since it was made."""
        return keras.ops.convert_to_tensor(self._iterations)

    def _update(self, part: Any, gradients: list[Any], variables: list[Any]) -> None:
        """Let one update; if it is not its turn, all is restored but for averages, which go on in every batch."""
        every = next((number for pattern, number in self.every.items() if self[pattern] is part), 1)
        if every == 1:
            part.apply(gradients, variables)
            return
        state, averages, value = [*part.variables, *variables], part.use_ema, keras.ops.convert_to_tensor
        before = [keras.ops.copy(value(one)) for one in state]
        with patched(part, use_ema=False):
            part.apply(gradients, variables)
        acts = keras.ops.equal((self._batches() + 1) % every, 0)
        for one, old in zip(state, before, strict=True):
            one.assign(keras.ops.where(acts, value(one), old))
        if averages:
            self._average(part, acts)

    @staticmethod
    def _average(part: Any, acts: Any) -> None:
        """Update averages, and where `ema_overwrite_frequency` asks for it, put them in place of the weights."""
        weights, often = part._trainable_variables, part.ema_overwrite_frequency
        part._update_model_variables_moving_average(weights)
        if often:
            due = keras.ops.logical_and(acts, keras.ops.equal(keras.ops.convert_to_tensor(part.iterations) % often, 0))
            for one, average in zip(weights, part._model_variables_moving_average, strict=True):
                one.assign(keras.ops.where(due, keras.ops.convert_to_tensor(average), keras.ops.convert_to_tensor(one)))

    def finalize_variable_values(self, var_list: Iterable[Any]) -> None:
        """Give weights their averages, where an optimizer keeps them."""
        super().finalize_variable_values([variable for variable in var_list if self._routes.of(variable)])


class _Routes(keras.optimizers.OptimizerMap):
    """Which optimizer a variable has, by the pattern that names it first."""

    def __init__(self, parts: Mapping[str, Any]):
        super().__init__(next(iter(parts.values())), dict(parts))
        self.parts = dict(parts)
        self._patterns: dict[int, str] = {}

    def __call__(self, variable: Any) -> Any:
        return self.parts[self._patterns[id(variable)]]

    def of(self, variable: Any) -> str | None:
        """The pattern of a variable; None where none names it."""
        return self._patterns.get(id(variable))

    def settle(self, weights: Mapping[str, Any]) -> None:
        """Look up every weight; a pattern that names nothing, and a trainable weight without one, are refused."""
        floating = {key: variable for key, variable in weights.items() if "float" in str(variable.dtype)}
        self._patterns = {}
        for pattern in self.parts:
            named = {id(floating[key]): pattern for key in named_by(pattern, floating)}
            if named.keys() <= self._patterns.keys():
                earlier = self._patterns[next(iter(named))]
                raise WeightsError(
                    f"{pattern!r} names no weight that a pattern before it does not name.\n"
                    f"Seen: {earlier!r} before it.\n"
                    "The first pattern that names a weight counts: list the narrow ones first."
                )
            self._patterns = named | self._patterns
        left = [key for key, one in floating.items() if one.trainable and id(one) not in self._patterns]
        if left:
            raise WeightsError(
                f"No optimizer updates {', '.join(left[:6])}{', ...' if len(left) > 6 else ''}.\n"
                f"Seen: Optimizers for {', '.join(map(repr, self.parts))}.\n"
                'List "*" last, for what is left, or let Freeze hold weights that are not to be trained.'
            )


def as_optimizer(value: Any) -> Any:
    """The optimizer of Keras, with its usual arguments, that a text names; any other value as it is.

    >>> type(as_optimizer("sgd")).__name__, as_optimizer("adamm")
    ('SGD', 'adamm')
    """
    if isinstance(value, str):
        with suppress(ValueError):  # of a name that Keras does not know
            return keras.optimizers.get(value)
    return value


def _check(parts: Any, losses: Any, every: Any) -> None:
    fits = isinstance(parts, Mapping) and parts and all(isinstance(pattern, str) for pattern in parts)
    plain = fits and all(_is_plain(one) for one in parts.values())
    if not plain:
        raise ValueError(
            f"Optimizers({parts!r:.80}) cannot be used.\nSeen: {_seen(parts) if fits else type(parts).__name__}.\n"
            'Write Optimizers({"Trunk": keras.optimizers.Adam(1e-4), "*": keras.optimizers.Adam(1e-3)}).'
        )
    named = losses is None or (isinstance(losses, Mapping) and all(isinstance(one, str) for one in losses.values()))
    if not named or (losses and not losses.keys() <= parts.keys()):
        raise ValueError(
            f"losses={losses!r:.80} cannot be used.\nSeen: optimizers for {', '.join(map(repr, parts))}.\n"
            'Give names of tensors by the same patterns: losses={"Generator": "generator_loss"}.'
        )
    whole = every is None or (
        isinstance(every, Mapping) and all(type(one) is int and one > 0 for one in every.values())
    )
    if not whole or (every and not every.keys() <= parts.keys()):
        raise ValueError(
            f"every={every!r:.80} cannot be used.\nSeen: optimizers for {', '.join(map(repr, parts))}.\n"
            'Give numbers of batches by the same patterns: every={"Generator": 5}.'
        )
    turns: dict[int, tuple[str, int]] = {}
    for pattern, part in parts.items():
        other, turn = turns.setdefault(id(part), (pattern, (every or {}).get(pattern, 1)))
        if turn != (every or {}).get(pattern, 1):
            raise ValueError(
                f"every={every!r:.80} cannot be used.\nSeen: one optimizer for both {other!r} and {pattern!r}.\n"
                "Give each an optimizer of its own, or both the same number."
            )


def _is_plain(one: Any) -> bool:
    composed = (keras.optimizers.MultiOptimizer, keras.optimizers.LossScaleOptimizer)
    is_one = isinstance(one, keras.optimizers.Optimizer) and not isinstance(one, composed)
    return is_one and one.loss_scale_factor is None  # which Keras would take from it


def _seen(parts: Mapping[str, Any]) -> str:
    pattern, one = next((pattern, one) for pattern, one in parts.items() if not _is_plain(one))
    return f"{pattern!r} has {one!r:.60}, which is not a plain Keras optimizer without loss_scale_factor"


def shares(optimizer: Any, variables: Iterable[Any]) -> dict[str, list[Any]]:
    """Variables by the name of the loss that they minimise."""
    plain, found = unscaled(optimizer), dict[str, list[Any]]()
    for variable in variables:
        loss = plain.loss_of(variable) if isinstance(plain, Optimizers) else "loss"
        found.setdefault(loss, []).append(variable)
    return found
