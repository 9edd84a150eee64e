"""One batch as a pure function: the variables' values and tensors in, new values and what the graph writes out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from functools import wraps
from threading import local
from typing import Any

import keras
import torch
from torch.autograd.graph import _engine_run_backward  # `torch.autograd.grad`, which leaves `standing`, calls it
from torch.overrides import TorchFunctionMode

from experimentator.backends.keras.context import Forward
from experimentator.backends.keras.optimizers import shares
from experimentator.backends.keras.stateless import State, StatelessBatch, Values, replaced
from experimentator.backends.places import part_of_keras, replace
from experimentator.backends.torch.scopes import backward, remembering
from experimentator.graph import GraphError
from experimentator.patches import patched

UPDATE = "(update)"  # scope of the update in profiles; no processor has this name


class Batch(StatelessBatch):
    """Forward, or forward, backward and update, of one batch, on the device `place`.

    Within `standing()`, parameters of PyTorch's own are read as variables.
    """

    def __init__(
        self,
        forward: Forward,
        optimizer: Any,
        *,
        place: torch.device,
        standing: Callable[[], AbstractContextManager[Any]],
    ):
        super().__init__(forward, optimizer)
        self.place, self.standing = place, standing

    def state(self) -> State:
        weights, slots, tables = ([value.detach() for value in values] for values in super().state())
        return weights, slots, tables

    def flat_state(self) -> Values:
        """The state as one list: weights, slots, tables."""
        return [value for values in self.state() for value in values]

    def parted(self, flat: Values) -> State:
        """The state of a flat list."""
        weights, slots = len(self.weights), len(self.slots)
        return flat[:weights], flat[weights : weights + slots], flat[weights + slots :]

    def keep_flat(self, flat: Values) -> None:
        """Let variables hold the values of a flat list; one in the memory of another variable is copied."""
        held = [variable.value for variable in (*self.weights, *self.slots)]
        memory = {_memory(one) for one in held}
        apart = [
            new.clone() if _memory(new) in memory and not _is_same(new, one) else new
            for new, one in zip(flat, held, strict=False)
        ]
        self.keep(*self.parted(apart)[:2])

    def __call__(self, state: State, tensors: Any) -> tuple[State, dict[str, Any]]:
        """The state after a batch, and what the graph writes; no value that is given is changed."""
        if self.optimizer is None:
            with torch.no_grad():
                outputs, weights = self._from_state(state, tensors)
            return (weights, *state[1:]), outputs
        gradients, (outputs, weights) = self.gradients(state, tensors)
        pairs = [(one, self.weights[place]) for place, one in gradients.items()]
        with torch.no_grad(), _choosing([*self.weights, *self.slots]), torch.profiler.record_function(UPDATE):
            with self._holding(state):
                outputs = self.forward.norms.put(outputs, pairs, self.optimizer)
            state = (_copies(weights), _copies(state[1]), state[2])
            state = self._updated(state, pairs) if pairs else state
            return state, {name: value.detach() for name, value in outputs.items()}

    def gradients(self, state: State, tensors: Any) -> tuple[dict[int, Any], tuple[dict[str, Any], Values]]:
        """Gradients by place of each trained weight, of the loss it minimises; weights that none reaches are left out.

        With them, what the graph writes, and the weights after it.
        """
        variables = [self.weights[place] for place in self.trained]
        own = shares(self.optimizer, variables)
        with torch.enable_grad(), remembering():
            trained = [state[0][place].detach().requires_grad_() for place in self.trained]
            for place, value in zip(self.trained, trained, strict=True):
                parameter = self.weights[place]._value
                if parameter._post_accumulate_grad_hooks:
                    raise GraphError(
                        "A parameter has a hook that waits for its `grad`, in which training puts no gradient.\n"
                        f"Seen: register_post_accumulate_grad_hook of {self.weights[place].name!r}.\n"
                        "Write parameter.register_hook(function): it is given the gradient, and may return another."
                    )
                for hook in (parameter._backward_hooks or {}).values():
                    value.register_hook(hook)
            objectives, (outputs, weights) = self._objectives(state, tensors, own, trained)
            known = replaced(state[0], self.trained, trained)
            with self._holding((known, *state[1:])), self.standing():  # recomputation reads them
                found: dict[int, Any] = {}
                for loss, of in own.items():
                    found |= self._share(objectives[loss], of, trained, last=loss == [*own][-1])
        return dict(sorted(found.items())), (outputs, [value.detach() for value in weights])

    def _share(self, objective: Any, of: Sequence[Any], trained: Values, *, last: bool) -> dict[int, Any]:
        """The gradients of one loss by the values of its variables, by their places."""
        if not objective.requires_grad:
            return {}
        ids = set(map(id, of))
        values = {n: one for n, one in zip(self.trained, trained, strict=True) if id(self.weights[n]) in ids}
        seed, wanted = torch.ones_like(objective), tuple(values.values())
        with torch.autograd.set_multithreading_enabled(False), backward(objective):
            # in this thread, whose Keras' context recomputation needs, and whose trace
            found = _engine_run_backward((objective,), (seed,), not last, False, wanted, True, accumulate_grad=False)
        return {place: one for place, one in zip(values, found, strict=True) if one is not None}


def _memory(value: torch.Tensor) -> int:
    """The address of its memory, or of that which it is a view of."""
    return value.untyped_storage().data_ptr()


def _is_same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.data_ptr() == other.data_ptr() and one.stride() == other.stride()


def _copies(values: Values) -> Values:
    """Copies, as optimizers change values in place; a recorded program leaves needless ones out."""
    return [value.clone() for value in values]


def _choosing(variables: list[Any]) -> AbstractContextManager[None]:
    """Within, in this thread, `keras.ops.cond` computes both branches, and takes results and variables by condition.

    Optimizers use it to gather or to apply gradients; Keras on PyTorch would look at the condition, whose value a trace
    does not know.
    """
    return patched(_HERE, variables=variables)


def _cond(condition: Any, true_fn: Callable[[], Any], false_fn: Callable[[], Any]) -> Any:
    if (own := getattr(_HERE, "variables", None)) is None:
        return _USUAL(condition, true_fn, false_fn)
    before, ways = [variable.value for variable in own], []
    for branch in (true_fn, false_fn):
        for variable, value in zip(own, before, strict=True):
            variable.assign(value.clone())
        with _Apart(variable.value for variable in own):
            ways.append((branch(), [variable.value for variable in own]))

    def choose(first: Any, second: Any) -> Any:
        return None if first is None else torch.where(condition, first, second)

    (result, first), (other, second) = ways
    for variable, *values in zip(own, first, second, strict=True):
        variable.assign(choose(*values))
    return keras.tree.map_structure(choose, result, other)


class _Apart(TorchFunctionMode):
    """Within one branch, `a -= b` changes no earlier tensor but values of variables: the other branch reads it, too.

    Keras writes so, as in `CosineDecayRestarts`, since tensors of other frameworks cannot be changed.
    """

    def __init__(self, own: Iterable[Any]):
        super().__init__()
        self.own = {id(value): value for value in own}  # values of variables, and what was made within

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(function, "__name__", "")
        if name in _IN_PLACE and id(args[0]) not in self.own:
            function = getattr(torch, name[:-1])
        made = function(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor) and not made._is_view() and all(made is not one for one in args):
            self.own[id(made)] = made
        return made


_IN_PLACE = frozenset({"add_", "sub_", "mul_", "div_", "floor_divide_", "remainder_", "pow_"})
_HERE, _USUAL = local(), part_of_keras("core").cond
replace("cond", wraps(_USUAL)(_cond))
