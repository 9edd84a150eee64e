"""PyTorch's own `torch.nn.Module`s and parameters in processors, as variables of the graph."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from threading import get_ident, local
from typing import Any

import keras
import torch
from keras.src.backend.common import global_state
from torch._C._functorch import is_functorch_wrapped_tensor, maybe_current_level
from torch._dynamo.eval_frame import OptimizedModule
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.nn.parameter import UninitializedParameter
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree
from torch.utils._python_dispatch import _disable_current_modes

from experimentator.backends.keras.trace_leaks import TraceLeaks
from experimentator.backends.torch.stand_ins import handed
from experimentator.backends.torch.symbolic import is_symbolic, stub
from experimentator.graph import GraphError
from experimentator.patches import patched

TOLD = 4  # most changes of parameters that are reported by name
Reading = Callable[[Callable[[], Any]], Any]  # is called with what reads a variable
_PLAIN = frozenset({torch.Tensor, torch.dtype, torch.device, torch.Size, int, float, bool, str, type(None)})
_INIT = keras.Variable.__init__  # the original, which is patched while a processor runs


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
    values. Buffers, such as the statistics of a BatchNorm2d, are copies in a call, and what became of them is assigned
    to their variables. Outside of training modules are in eval mode; in training they are in the mode that the user
    left them in, so that a part may be kept in `eval()`.
    """

    def __init__(self, place: torch.device, leaks: TraceLeaks):
        self.place, self.leaks = place, leaks
        self.met: dict[int, tuple[Any, str]] = {}  # modules that were called, and those within, with their names there
        self._variables: dict[int, Any] = {}
        self._parameters: list[tuple[Any, Any]] = []  # with their variables; kept, so that no id is given twice
        self._names: dict[int, str] = {}
        self._of_keras: dict[int, Any] = {}
        self._news: list[Any] = []  # of these, those whose parameters are to be looked up
        self._copied: Callable[[Any], Any] | None = None  # while recording, what makes a stand-in
        self._copies: dict[int, Any] = {}

    def know(self, variable: Any) -> None:
        """Note a variable of Keras itself, to look up its parameter; one made in a trace gets that afterwards."""
        if id(variable) not in self._of_keras:
            self._of_keras[id(variable)] = variable
            self._news.append(variable)

    def recording(self, copied: Callable[[Any], Any]) -> AbstractContextManager[None]:
        """Within, stand-ins are read for variables, so that changes in place by a processor change no weight."""
        return patched(self, _copied=copied, _copies={})

    @contextmanager
    def within(
        self, *, training: bool, precision: str | None = None, reading: Reading = lambda read: read()
    ) -> Iterator[None]:
        """Within, in this thread, parameters and modules act as variables; `reading` is given the reads of modules."""
        call = _Call(self, training, precision, reading)
        hooks = [
            register_module_forward_pre_hook(call.begin),
            register_module_forward_hook(call.end, always_call=True),
        ]
        try:
            with patched(_INNERMOST, call=call):
                with _Standing(call.value), handed(call.value):
                    yield
                call.keep()
        finally:
            for hook in hooks:
                hook.remove()
            call.undo()

    def value(self, variable: Any) -> Any:
        """The value of a variable: that of a state, or while recording a stand-in."""
        value = variable.value
        if self._copied is None or value is not variable._value:
            return value
        if id(variable) not in self._copies:
            self._copies[id(variable)] = self.copied(value)
        return self._copies[id(variable)]

    def copied(self, value: Any) -> Any:
        """While recording, a stand-in for a value."""
        with temporarily_clear_interpreter_stack():  # of `torch.func`, whose wrappers must not get out of it
            with _disable_current_modes():
                value = value.detach()
            return value if self._copied is None else self._copied(value)

    def variable(self, tensor: Any, name: str | None = None) -> Any:
        """The variable around a parameter or buffer; made when it is first met."""
        if id(tensor) not in self._variables:
            self._look_up_news()
        if id(tensor) not in self._variables:
            _check(tensor)
            variable = object.__new__(keras.Variable)
            no_scope = patched(global_state.GLOBAL_STATE_TRACKER, stateless_scope=None)  # within one, none can be made
            with no_scope, _disable_current_modes(), temporarily_clear_interpreter_stack():
                if tensor.device != self.place:
                    tensor.data = tensor.data.to(self.place)
                name = name or self._names.get(id(tensor), "parameter")
                _INIT(variable, tensor, trainable=tensor.requires_grad, name=name)
            variable._path = f"module_{len(self._parameters)}/{variable.name.replace('.', '/')}"  # unique
            self._parameters.append((tensor, variable))
            self._variables[id(tensor)] = self._variables[id(variable._value)] = variable
        return self._variables[id(tensor)]

    def of_keras(self) -> dict[int, Any]:
        """Variables of Keras, by the ids of those made around their parameters, which a `print` of them met first."""
        self._look_up_news()
        made = [(parameter, variable, self._variables[id(parameter)]) for parameter, variable in self._parameters]
        self._parameters = [(parameter, variable) for parameter, variable, own in made if own is variable]
        return {id(variable): own for _, variable, own in made if own is not variable}

    def meets(self, module: Any) -> None:
        """Note a module that a processor calls, and all within it."""
        self._names |= {id(one): name for name, one in module.named_parameters() if id(one) not in self._names}
        self.met |= {id(one): (one, name) for name, one in module.named_modules() if id(one) not in self.met}

    def changes(self) -> list[str]:
        """What was changed of parameters since they were met, in words."""
        told = []
        for parameter, variable in self._parameters:
            if isinstance(parameter, torch.nn.Parameter) and parameter.requires_grad != variable.trainable:
                told.append(f"{variable.name}: requires_grad is {parameter.requires_grad}")
                variable._trainable = parameter.requires_grad
        return told if len(told) <= TOLD else [*told[: TOLD - 1], f"and so of {len(told) - TOLD + 1} more"]

    def flags(self) -> dict[int, bool]:
        """Whether each parameter requires a gradient, by the `id` of its variable."""
        return {id(variable): bool(parameter.requires_grad) for parameter, variable in self._parameters}

    def held(self, variables: Iterable[Any]) -> list[Any]:
        """Modules that would train, all of whose own parameters and buffers are among these variables."""
        ids = {id(variable) for variable in variables}
        own = [(module, [*module._parameters.values(), *module._buffers.values()]) for module, _ in self.met.values()]
        return [
            module
            for module, tensors in own
            if module.training
            and any(tensor is not None for tensor in tensors)
            and all(id(self._variables.get(id(tensor))) in ids for tensor in tensors if tensor is not None)
        ]

    def _look_up_news(self) -> None:
        """Note the parameters of Keras' variables; those that are made in a trace have none before it ends."""
        self._variables |= {id(one._value): one for one in self._news if one._value is not None}
        self._news = [one for one in self._news if one._value is None]


class _Call:
    """One call of a processor: modules that it meets, with all that is in them, as some read what is in others."""

    def __init__(self, modules: Modules, training: bool, precision: str | None, reading: Reading):
        self.modules, self.training, self.precision, self.reading = modules, training, precision, reading
        self.thread = get_ident()
        self.met: dict[int, tuple[Any, dict[str, Any]]] = {}  # modules, and their attributes as they were
        self.buffers: list[tuple[Any, str, Any]] = []  # module, name, what lay there
        self.standing: dict[int, tuple[Any, Any]] = {}  # by buffer, its variable and the copy
        self.leaves: dict[int, Any] = {}
        self.under: list[tuple[Any, AbstractContextManager[Any]]] = []  # modules that are being called

    def value(self, parameter: Any) -> Any:
        """The value in place of a parameter; it requires gradients where a processor may take some itself."""
        with torch._C.DisableTorchFunction():  # else what is done here would ask for values, too
            if is_symbolic():
                return stub(parameter)
            read = partial(self.modules.value, self.modules.variable(parameter))
            value = self.reading(read) if self.under else read()
            asked = torch.is_grad_enabled() and parameter.requires_grad
            if asked and not value.requires_grad and maybe_current_level() is None:  # not in `vectorized_map`
                value = self.leaves.setdefault(id(parameter), value.detach().requires_grad_())
        return value

    def begin(self, module: Any, _: Any) -> None:
        """Called before a module: at first, it gets copies of its buffers, and eval mode outside of training."""
        if get_ident() != self.thread or _INNERMOST.call is not self or isinstance(module, keras.Layer):
            return
        if isinstance(module, (torch.jit.ScriptModule, OptimizedModule)):
            raise GraphError(
                "A module that was compiled cannot be recorded.\n"
                f"Seen: {type(module).__name__}.\n"
                "Give the module itself: the whole step is compiled, where jit_compile says so."
            )
        if id(module) not in self.met:
            self.modules.meets(module)
            for prefix, part in module.named_modules():
                if id(part) not in self.met and not isinstance(part, keras.Layer):
                    self.met[id(part)] = part, dict(vars(part))
                    device = keras.device(str(self.modules.place))
                    with torch._C.DisableTorchFunction(), device, temporarily_clear_interpreter_stack():
                        self._prepare(part, prefix)
        casts = self.precision in ("bfloat16", "float16") and not self.under
        dtype = torch.float16 if self.precision == "float16" else torch.bfloat16
        kind = self.modules.place.type
        context = torch.autocast(kind, dtype, cache_enabled=False) if casts else nullcontext()
        context.__enter__()
        self.under.append((module, context))

    def end(self, module: Any, _: Any, __: Any) -> None:
        """After a module was called."""
        if get_ident() == self.thread and self.under and self.under[-1][0] is module:
            self.under.pop()[1].__exit__(None, None, None)

    def keep(self) -> None:
        """Assign the buffers' copies to their variables."""
        for module, name, buffer in self.buffers:
            self.standing[id(buffer)][0].assign(module._buffers[name])

    def undo(self) -> None:
        """Restore the modules, but for what they themselves changed."""
        for _, context in reversed(self.under):
            context.__exit__(None, None, None)
        for module, name, buffer in self.buffers:
            module._buffers[name] = buffer
        for module, before in self.met.values():
            module.training = before["training"]
            self.modules.leaks.put_back(module, before)

    def _prepare(self, module: Any, prefix: str) -> None:
        module.training = module.training and self.training
        for name, buffer in module._buffers.items():
            if buffer is None or is_functorch_wrapped_tensor(buffer):  # `functional_call` put it there
                continue
            if id(buffer) not in self.standing:
                variable = self.modules.variable(buffer, f"{prefix}.{name}".lstrip("."))
                self.standing[id(buffer)] = variable, self.reading(partial(self.modules.value, variable)).clone()
            module._buffers[name] = self.standing[id(buffer)][1]
            self.buffers.append((module, name, buffer))


class _Innermost(local):
    """The call that modules belong to in this thread: a processor may be an experiment, with calls of its own."""

    call: _Call | None = None


_INNERMOST = _Innermost()


def is_stand_in(tensor: Any) -> bool:
    """Whether it stands for a buffer, in the call that this thread is in."""
    return _INNERMOST.call is not None and any(tensor is copy for _, copy in _INNERMOST.call.standing.values())


class _Standing(TorchFunctionMode):
    """Within, functions of PyTorch that are handed a parameter get the value of its variable."""

    def __init__(self, value: Callable[[Any], Any]):
        super().__init__()
        self.value = value

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if _are_plain(args) and (not kwargs or _are_plain(kwargs.values())):
            return func(*args, **(kwargs or {}))
        is_set = func == torch.Tensor.data.__set__ and isinstance(args[0], torch.nn.Parameter)
        args, kwargs = _pytree.tree_map_only(torch.nn.Parameter, self.value, (args, kwargs or {}))
        if is_set:  # `parameter.data = tensor`, which no trace would see
            with torch.no_grad():
                return args[0].copy_(args[1])
        return func(*args, **kwargs)


def _are_plain(arguments: Iterable[Any]) -> bool:
    """Whether there is no parameter among them; quick, since it is asked at every call of a function of PyTorch."""
    for one in arguments:
        kind = type(one)
        if kind not in _PLAIN and not (kind in (tuple, list) and _are_plain(one)):
            return False
    return True


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
    if tensor.layout != torch.strided:
        raise GraphError(
            "A buffer or parameter of PyTorch is not dense, and no checkpoint holds such a tensor.\n"
            f"Seen: {tensor.layout} {list(tensor.shape)}.\n"
            "Let the module keep it as a plain attribute, self.name = tensor, which is a constant; or make it dense."
        )
