"""Programs of PyTorch's own operations, recorded from one run of Python, and what the compiler makes of them."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from copy import deepcopy
from functools import cached_property, partial
from itertools import count
from pathlib import Path
from threading import RLock
from traceback import extract_tb
from typing import Any

import torch
from torch._decomp import get_decompositions
from torch._decomp.decompositions import native_batch_norm_decomposition
from torch._dynamo.exc import TorchDynamoException
from torch._higher_order_ops import while_loop
from torch._inductor.exc import InductorError
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensor
from torch.func import functionalize
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from experimentator.backends import CannotRunError
from experimentator.backends.keras.stateless import replaced
from experimentator.backends.keras.trace_leaks import KEPT
from experimentator.backends.torch.compilable import MENDED, compilable
from experimentator.backends.torch.reuse import looks, own, reuse
from experimentator.backends.torch.scopes import BACKWARD
from experimentator.backends.torch.unsaved import CURE
from experimentator.graph import GraphError


class LookedAtError(RuntimeError):
    """A tensor without values was to become an array of numpy."""


class SizedError(RuntimeError):
    """A tensor without values was to become a size."""


# What Python code asks that only real tensors answer: the value of one, or a shape that depends on values.
ASKED = (
    DataDependentOutputException,
    DynamicOutputShapeException,
    GuardOnDataDependentSymNode,
    LookedAtError,
    SizedError,
)
# Parts of other errors' messages that mean such a thing, too.
SAID = {".numpy() is not supported": LookedAtError, "but got FakeTensor": SizedError}
# Errors of the compiler where it has no form for a graph, or where something that it needs is missing.
FAILURES = (TorchDynamoException, InductorError, CannotRunError)
# Replaces operations that change arguments without declaring it, and one whose name Python cannot write.
TOLD = get_decompositions([torch.ops.aten.cudnn_batch_norm, torch.ops.aten.cudnn_batch_norm_backward]) | {
    torch.ops.aten.native_batch_norm.default: native_batch_norm_decomposition,
    getattr(torch.ops.aten.random_, "from"): lambda tensor, *limits: tensor.copy_(torch.randint_like(tensor, *limits)),
}
SAME = (torch.ops.aten.clone.default, torch.ops.aten.detach.default, torch.ops.aten.lift_fresh_copy.default)

Tensors = list[torch.Tensor]
_NUMBERS = count()
_OF_LIBRARIES = re.compile(r"[/\\](torch|keras|experimentator[/\\](backends|graph))[/\\]|<")
# C++ around the kernels, without Python between them; compiled apart from them, or a C++ compiler takes minutes for it.
OPTIONS = {"cpp_wrapper": True, "cpp_wrapper_build_separate": True}
_ONE_AT_A_TIME = RLock()  # PyTorch patches functions of its own for the whole process while it records


class Program:
    """A function of tensors to tensors as a list of PyTorch's operations: `program(state, others)`.

    It returns the new state and the other results. No argument is changed in place, unless it is the program's own: so
    operations that only copy are left out, and a state stays what it is where a program is interrupted. `kept` lists
    entries of the state that the function returns unchanged: no loop need carry them.
    """

    def __init__(
        self, function: Callable[[Tensors, Tensors], tuple[Tensors, Tensors]], state: Tensors, others: Tensors
    ):
        own = len(state)

        def flat(*tensors: torch.Tensor) -> Tensors:
            after, results = function(list(tensors[:own]), list(tensors[own:]))
            return [*after, *results]

        with _ONE_AT_A_TIME:
            recorded = _recorded(flat, [*state, *others])
            self.module = _recorded(functionalize(recorded, remove="mutations"), [*state, *others])
        self.count = own
        self.results, self.shapes = _simplified(self.module, own)
        self.kept = [place for place, one in enumerate(self.results[:own]) if one == place]
        self.size = len(self.module.graph.nodes)  # in operations
        self.result_bytes = sum(shape.numel() * dtype.itemsize for shape, dtype in self.shapes[own:])

    def __call__(
        self, state: Tensors, others: Tensors, *, named: bool = False, own: bool = False
    ) -> tuple[Tensors, Tensors]:
        """The state after it, and the other results; `named` tells a profiler what belongs to which processor.

        A state that is its `own`, from a call before, may be written into: nobody else may hold it.
        """
        module = self.writing if own else self.reusing
        return self._run(Named(module).run if named else module, state, others)

    def pure(self) -> Callable[[Tensors, Tensors], tuple[Tensors, Tensors]]:
        """The program for a compiler, which reuses memory by itself."""
        return partial(self._run, compilable(self.module))

    @cached_property
    def reusing(self) -> Any:
        """The module, with intermediate values changed in place."""
        return self._in_place(deepcopy(self.module.graph))

    @cached_property
    def writing(self) -> Any:
        """The same, with the state changed in place, too, where nothing else that comes out shares its memory."""
        graph = deepcopy(self.module.graph)
        (ending,) = graph.find_nodes(op="output")
        return self._in_place(graph, own(graph.find_nodes(op="placeholder"), self.results, ending.args[0], self.count))

    def _in_place(self, graph: Any, own: Collection[Any] = ()) -> Any:
        reuse(graph, own)
        return torch.fx.GraphModule(self.module, graph)

    def _run(self, run: Callable[..., Any], state: Tensors, others: Tensors) -> tuple[Tensors, Tensors]:
        given = [*state, *others]
        made = iter(run(*given))
        values = [given[one] if isinstance(one, int) else next(made) for one in self.results]
        return values[: self.count], values[self.count :]

    def failing(self, state: Tensors, others: Tensors) -> str:
        """The scope of the operation that fails; empty where none does."""
        named = Named(self.module)
        try:
            named.run(*state, *others)
        except (RuntimeError, IndexError):
            return named.scope
        return ""


def _recorded(function: Callable[..., Any], arguments: Tensors) -> Any:
    """Record a function on tensors without values; other tensors that it meets are constants."""
    with torch.no_grad():
        record = make_fx(function, tracing_mode="fake", decomposition_table=TOLD, _allow_non_fake_inputs=True)
        try:
            module = record(*arguments)
        except RuntimeError as error:
            if (asked := asking(error)) is not None:  # outside of processors, as Keras' Nadam does
                raise asked from None
            if "mutating a non-functional tensor" not in str(error):
                raise
            raise GraphError(
                "A chunk processor changes a tensor in place that the graph does not know.\n"
                f"Seen: a tensor that is neither in the chunk nor a parameter or buffer.\n{CURE}"
            ) from None
    refuse_kept(getattr(module, node.target) for node in module.graph.find_nodes(op="get_attr"))
    return module


def asking(error: Exception) -> Exception | None:
    """The error of `ASKED` that another error means; None if it is about something else."""
    kind = next((kind for said, kind in SAID.items() if said in str(error)), None)
    return None if kind is None else kind(str(error)).with_traceback(error.__traceback__)


def refuse_kept(values: Iterable[Any]) -> None:
    """Refuse tensors without values, which belong to a recording that is over."""
    for value in values:
        if isinstance(value, FakeTensor):
            raise GraphError(
                "A chunk processor keeps a tensor of an earlier trace, which has no values.\n"
                f"Seen: {str(value.dtype).removeprefix('torch.')}{list(value.shape)}.\n{KEPT}"
            )


def _simplified(module: Any, own: int) -> tuple[list[int | None], list[tuple[torch.Size, torch.dtype]]]:
    """Remove copies from a module, and let it return only what it computes.

    The first `own` results, a state, get the strides of the first arguments, with which all was recorded. Returns for
    each result the number of the argument that it is, None if it is computed; and shape and dtype of each.
    """
    graph = module.graph
    _take_names(graph)
    for node in list(graph.nodes):
        if node.target is torch.ops.aten.copy_.default:  # to an argument, which nobody reads any more
            node.replace_all_uses_with(node.args[1])
            graph.erase_node(node)
        elif node.target in SAME and len(node.args) == 1 and not node.kwargs and looks(node) == looks(node.args[0]):
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
        elif node.target is torch.ops.aten.copy.default and looks(node) == looks(node.args[1]):  # into new memory
            node.replace_all_uses_with(node.args[1])
            graph.erase_node(node)
    places = {node: place for place, node in enumerate(graph.find_nodes(op="placeholder"))}
    (ending,) = graph.find_nodes(op="output")
    after = [_laid_out(ending, node, like) for node, like in zip(ending.args[0][:own], places, strict=False)]
    ending.args = ([*after, *ending.args[0][own:]],)
    results = [places.get(node) for node in ending.args[0]]
    shapes = [(node.meta["val"].shape, node.meta["val"].dtype) for node in ending.args[0]]
    ending.args = ([node for node in ending.args[0] if node not in places],)
    graph.eliminate_dead_code()
    module.recompile()
    return results, shapes


def _laid_out(ending: Any, node: Any, like: Any) -> Any:
    """A node, or a copy of it with the strides of another node of its shape."""
    value, wanted = node.meta["val"], like.meta["val"]
    if value.shape != wanted.shape or value.stride() == wanted.stride():
        return node
    options = {"dtype": value.dtype, "device": value.device}
    with ending.graph.inserting_before(ending):
        empty = ending.graph.call_function(
            torch.ops.aten.empty_strided.default, (wanted.shape, wanted.stride()), options
        )
        copy = ending.graph.call_function(torch.ops.aten.copy.default, (empty, node))
    empty.meta["val"] = copy.meta["val"] = value.new_empty_strided(wanted.shape, wanted.stride())
    return copy


def _take_names(graph: Any) -> None:
    """Give operations the scope that profiler markers around them name, and remove the markers.

    Those between the markers of the backward pass, which add up gradients, get the scope of what they read.
    """
    within: list[str] = []
    marks = []
    for node in graph.nodes:
        if getattr(node.target, "namespace", "") == "profiler":
            marks.append(node)
            if "enter" in node.target.__name__:
                within.append(node.args[0])
            elif within:
                within.pop()
        elif within:
            node.meta["scope"] = within[-1]
        elif marks and node.op == "call_function":
            known = [one.meta["scope"] for one in node.all_input_nodes if "scope" in one.meta]
            if known:
                node.meta["scope"] = f"{BACKWARD}{known[-1].rpartition('/')[2]}"
    for node in reversed(marks):  # an end goes before its beginning
        graph.erase_node(node)


class Named(torch.fx.Interpreter):
    """Runs a module operation by operation, under the names of its processors, which a profiler records."""

    scope = ""  # of the last operation

    def run_node(self, n: Any) -> Any:
        self.scope = n.meta.get("scope", "")
        with torch.profiler.record_function(n.meta.get("scope", n.op)):
            return super().run_node(n)


def compiled_loop(program: Program, names: Sequence[str]) -> Callable[..., Any]:
    """The loop around a program of one batch, compiled at the first call: `loop(state, columns, index, limit)`.

    It runs the batches of `index` [K, B], the first `limit` of them, and gives the state and results, [K, ...] each.
    """
    carried, pure = [place for place in range(program.count) if place not in set(program.kept)], program.pure()

    def loop(
        state: Tensors, columns: Mapping[str, torch.Tensor], index: torch.Tensor, limit: torch.Tensor
    ) -> tuple[Tensors, Tensors]:
        def body(place: torch.Tensor, buffers: Tensors, values: Tensors) -> tuple[torch.Tensor, Tensors, Tensors]:
            rows = torch.index_select(index, 0, place.reshape(1))[0]
            tensors = [torch.index_select(columns[name], 0, rows) for name in names]
            whole, results = pure(replaced(state, carried, values), tensors)
            here = torch.arange(index.shape[0], device=index.device) == place
            filled = [
                torch.where(here.reshape(-1, *[1] * result.ndim), result.contiguous(), buffer)
                for buffer, result in zip(buffers, results, strict=True)
            ]
            return place + 1, filled, [whole[n].clone() for n in carried]

        start = torch.zeros((), dtype=torch.int64, device=index.device)
        buffers = [
            torch.zeros((index.shape[0], *shape), dtype=dtype, device=index.device)
            for shape, dtype in program.shapes[program.count :]
        ]
        values = [state[n] for n in carried]
        _, buffers, values = while_loop(lambda place, *_: place < limit, body, (start, buffers, values))
        return replaced(state, carried, values), buffers

    loop.__code__ = loop.__code__.replace(co_name=f"loop_{next(_NUMBERS)}")  # the compiler counts compilations by code
    return _told_of_the_first(torch.compile(loop, fullgraph=True, dynamic=False, options=OPTIONS))


def _told_of_the_first(compiled: Callable[..., Any]) -> Callable[..., Any]:
    """A compiled function; a RuntimeError in its first call, by what the compiler made, becomes CannotRunError."""
    has_run: list[bool] = []

    def run(*arguments: Any) -> tuple[Tensors, Tensors]:
        caching = torch.compiler.config.patch(cache_key_tag=torch.compiler.config.cache_key_tag + MENDED)
        with torch.no_grad(), caching, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the compiler
            try:
                results: tuple[Tensors, Tensors] = compiled(*arguments)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                if has_run:
                    raise
                raise CannotRunError(str(error)) from error
            has_run.append(True)
            return results

    return run


def why_asked(error: Exception) -> str:
    """Which processor looks at values, and where."""
    notes = [note.partition(" Its chunk")[0].rstrip(".") for note in getattr(error, "__notes__", ())]
    place = next((note for note in notes if "chunk processor" in note), "something outside of processors")
    frames = extract_tb(error.__traceback__)
    own = [frame for frame in frames if not _OF_LIBRARIES.search(frame.filename) and frame.line]
    where = f", `{own[-1].line}` ({Path(own[-1].filename).name}:{own[-1].lineno})" if own else ""
    numpy = ", through numpy" if isinstance(error, LookedAtError) else ""
    return f"{place} looks at values of tensors{numpy}{where}."


def why_failed(error: Exception) -> str:
    """What the compiler says, in a line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if not line.startswith(("backend=", "Set TORCH", "While executing"))]
    return (told or [type(error).__name__])[0]
