"""What processors use of PyTorch's own: `torch.nn.Module`s and parameters, as variables of the graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from threading import get_ident
from typing import Any

import keras
import torch
from keras.src.backend.common import global_state
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.nn.parameter import UninitializedParameter
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree

from experimentator.graph import GraphError

Reading = Callable[[Callable[[], Any]], Any]  # is called with what reads a variable
_INIT = keras.Variable.__init__  # which stands elsewhere while a processor runs


class Known(keras.StatelessScope):
    """A scope in which every Keras variable that is read becomes known."""

    def __init__(self, modules: Modules):
        super().__init__()
        self.modules = modules

    def get_current_value(self, variable: Any) -> Any:
        self.modules.know(variable)
        return super().get_current_value(variable)


class Modules:
    """Keras variables around parameters and buffers of PyTorch's own, found where processors use them.

    A function of PyTorch that is handed a parameter gets the value of its variable, so that a batch is a function of
    values; buffers, such as the statistics of a BatchNorm2d, become copies of theirs, and what was made of these is
    assigned. Outside of training modules infer; in training they are in the mode that somebody left them in, so that a
    part may be kept in `eval()`.
    """

    def __init__(self, place: torch.device):
        self.place = place
        self._variables: dict[int, Any] = {}
        self._names: dict[int, str] = {}
        self._kept: list[Any] = []  # so that no id is given twice
        self._of_keras: dict[int, Any] = {}
        self._news: list[Any] = []  # of these, whose parameters are to be looked up

    def know(self, variable: Any) -> None:
        """A variable of Keras itself stands around its parameter; one that is made in a trace gets that afterwards."""
        if id(variable) not in self._of_keras:
            self._of_keras[id(variable)] = variable
            self._news.append(variable)

    @contextmanager
    def within(self, *, training: bool, reading: Reading = lambda read: read()) -> Iterator[None]:
        """Within, in this thread, parameters and modules are such; `reading` is called with what reads a variable."""
        thread, call = get_ident(), _Call(self, training, reading)

        def called(module: Any, _: Any) -> None:
            if get_ident() == thread:
                call.meets(module)

        hook = register_module_forward_pre_hook(called)
        try:
            with _Standing(lambda parameter: reading(lambda: self.variable(parameter).value)):
                yield
            call.keep()
        finally:
            hook.remove()
            call.undo()

    def named(self, module: Any) -> None:
        """Learn the names of a module's parameters."""
        self._names |= {id(one): name for name, one in module.named_parameters() if id(one) not in self._names}

    def variable(self, tensor: Any, name: str | None = None) -> Any:
        """The variable around a parameter or buffer; made when it is first met."""
        while self._news and id(tensor) not in self._variables:
            variable = self._news.pop()
            self._variables[id(variable._value)] = variable
        if id(tensor) not in self._variables:
            _check(tensor)
            if tensor.device != self.place:
                tensor.data = tensor.data.to(self.place)
            variable = object.__new__(keras.Variable)
            is_trained = tensor.requires_grad and tensor.is_floating_point()
            with _no_scope():
                _INIT(variable, tensor, trainable=is_trained, name=name or self._names.get(id(tensor), "parameter"))
            self._kept.append((tensor, variable))
            self._variables[id(tensor)] = self._variables[id(variable._value)] = variable
        return self._variables[id(tensor)]


class _Call:
    """Modules that one call of a processor meets, with all that is in them: some read what is in others."""

    def __init__(self, modules: Modules, training: bool, reading: Reading):
        self.modules, self.training, self.reading = modules, training, reading
        self.met: dict[int, Any] = {}
        self.buffers: list[tuple[Any, str, Any, Any]] = []  # module, name, what lay there, its variable
        self.modes: list[Any] = []  # modules that would train

    def meets(self, module: Any) -> None:
        """Before a module is called for the first time, it gets copies of buffers, and is told to infer."""
        if id(module) in self.met or isinstance(module, keras.Layer):
            return
        self.modules.named(module)
        for prefix, part in module.named_modules():
            if id(part) not in self.met and not isinstance(part, keras.Layer):
                self.met[id(part)] = part
                self._prepare(part, prefix)

    def keep(self) -> None:
        """Assign what became of the buffers."""
        for module, name, _, variable in self.buffers:
            variable.assign(module._buffers[name])

    def undo(self) -> None:
        """Modules are as they were."""
        for module, name, before, _ in self.buffers:
            module._buffers[name] = before
        for module in self.modes:
            module.training = True

    def _prepare(self, module: Any, prefix: str) -> None:
        if module.training and not self.training:
            module.training = False
            self.modes.append(module)
        for name, buffer in module._buffers.items():
            if buffer is not None and name not in module._non_persistent_buffers_set:
                variable = self.modules.variable(buffer, f"{prefix}.{name}".lstrip("."))
                module._buffers[name] = self.reading(partial(_value, variable)).clone()
                self.buffers.append((module, name, buffer, variable))


def _value(variable: Any) -> Any:
    return variable.value


class _Standing(TorchFunctionMode):
    """Where a function of PyTorch is handed a parameter, the value of its variable stands."""

    def __init__(self, value: Callable[[Any], Any]):
        super().__init__()
        self.value = value

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = _pytree.tree_map_only(torch.nn.Parameter, self.value, (args, kwargs or {}))
        return func(*args, **kwargs)


def _check(tensor: Any) -> None:
    if isinstance(tensor, UninitializedParameter):
        raise GraphError(
            "A lazy module of PyTorch has no weights yet.\nSeen: a parameter that is not initialized.\n"
            "Call it once, on zeros such as `network(torch.zeros(1, 3, 32, 32))`, before the experiment does."
        )
    if isinstance(tensor, FakeTensor):
        raise GraphError(
            "A chunk processor makes a module or a parameter of PyTorch in its call, and another in the next.\n"
            f"Seen: a parameter {list(tensor.shape)}.\n"
            "Make it outside, once; or take a layer of Keras, which is made once wherever that stands."
        )


@contextmanager
def _no_scope() -> Iterator[None]:
    """Outside of Keras' scopes, in which no variable can be made of a value."""
    scope = global_state.get_global_attribute("stateless_scope")
    global_state.set_global_attribute("stateless_scope", None)
    try:
        yield
    finally:
        global_state.set_global_attribute("stateless_scope", scope)
