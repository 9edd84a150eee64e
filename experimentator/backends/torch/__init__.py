"""The PyTorch backend: a recorded program, or one compiled loop, runs K batches, forward, backward and update."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence, Set
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import _disable_current_modes

from experimentator.backends import CannotRunError, Timed
from experimentator.backends.keras import KerasBackend
from experimentator.backends.keras.fit import fitted
from experimentator.backends.keras.scopes import scope_of
from experimentator.backends.keras.shapes import real_batch
from experimentator.backends.keras.variables import Read
from experimentator.backends.places import part_of_keras
from experimentator.backends.torch.arrays import taken
from experimentator.backends.torch.batch import Batch
from experimentator.backends.torch.by_hand import FAILURES, TorchModel, looped
from experimentator.backends.torch.draws import computed
from experimentator.backends.torch.exported import export
from experimentator.backends.torch.failures import add_cures
from experimentator.backends.torch.loop import COMPILERS, TorchStep
from experimentator.backends.torch.modules import Known, Modules
from experimentator.backends.torch.profile import profiled
from experimentator.backends.torch.program import ASKED, asking
from experimentator.backends.torch.recomputed import recomputed
from experimentator.backends.torch.scopes import scope
from experimentator.backends.torch.unsaved import Unsaved
from experimentator.graph import Chunk, Graph, GraphError, Mode, Node
from experimentator.loading.memory import free_host_memory
from experimentator.patches import patched


class TorchBackend(KerasBackend):
    """Records and builds processors on tensors without values, compiles graphs, owns their variables."""

    name = "torch"
    compilers = COMPILERS
    formats = {".pt2": "torch", ".onnx": "onnx"}
    recomputed, scope = staticmethod(recomputed), staticmethod(scope)

    def __init__(self) -> None:
        super().__init__()
        self.place = torch.device(part_of_keras("core").get_device())
        if self.place.type == "cuda" and self.place.index is None:  # each thread has a current one of its own
            self.place = torch.device("cuda", torch.cuda.current_device())
        self.modules = Modules(self.place, self.leaks)
        self._told: set[tuple[str, str]] = set()
        self._asked: set[str] = set()  # why graphs run in Python, once for all buckets
        self._refused: list[GraphError] = []  # of the recording under way; a graph run in Python may do so
        self.device = torch.cuda.get_device_name(self.place) if self.place.type == "cuda" else self.place.type.upper()

    def step(self, graph: Graph, specs: Mapping[str, Any], optimizer: Any, **options: Any) -> TorchStep:
        batch = self._batch(graph, optimizer)

        def run(tensors: Any) -> Any:
            weights, slots, tables = ([self.modules.copied(value) for value in part] for part in batch.state())
            state = weights, slots, tables
            if optimizer is None:
                return batch(state, tensors)[1]
            gradients, (outputs, _) = batch.gradients(state, tensors)
            batch.check_reached(gradients, eager=not self.is_traced(outputs["loss"]))  # else of one batch alone
            return outputs

        with self.settling():
            outputs = self.abstract(run, specs)
        return TorchStep(batch, outputs, self.put, asked=self._asked, **options)

    def abstract(self, function: Callable[[Any], Any], specs: Mapping[str, Any]) -> Any:
        """The structure that a function returns, without values, on batches of `batch_size`; variables do not change.

        A function that looks at values runs on items, as far as there are any, since it may not take zeros; so does
        all, for `eager`. Its draws change nothing of what is drawn later.
        """
        if self.eager:
            return self._run_on_items(function, specs)
        self._refused.clear()
        try:
            with (
                Known(self.modules),  # variables that the function makes get their values when it ends
                FakeTensorMode(allow_non_fake_inputs=True) as mode,
                patched(logging.getLogger("torch._subclasses.fake_tensor"), disabled=True),  # errors are raised
                self.modules.recording(mode.from_tensor),
            ):
                returned = function(self._samples(specs))
        except ASKED:  # assignments until then, as of seeds, had no values, and were dropped
            return self._run_on_items(function, specs)
        if self._refused:
            raise self._refused[0]
        return returned

    def _run_on_items(self, function: Callable[[Any], Any], specs: Mapping[str, Any]) -> Any:
        cards = [self.place] if self.place.type == "cuda" else []
        with Known(self.modules), self.modules.recording(torch.clone), torch.random.fork_rng(cards):
            return function(real_batch(self, specs))

    @contextmanager
    def outside_of_traces(self) -> Iterator[None]:
        real = self.modules.recording(torch.clone)
        with _disable_current_modes(), computed(wanted=False), keras.device(str(self.place)), real:
            yield

    def is_traced(self, value: Any) -> bool:
        return isinstance(value, FakeTensor)

    def given(self, node: Node, options: dict[str, Any]) -> dict[str, Any]:
        """Arguments to make a variable with; integers are not trained, as PyTorch has no gradients for them."""
        options = super().given(node, options)
        is_float = "float" in keras.backend.standardize_dtype(options.get("dtype") or keras.config.floatx())
        return options if is_float else options | {"trainable": False}

    def record(
        self, processors: Sequence[Any], specs: Mapping[str, Any], mode: Mode, known: Mapping[int, Any]
    ) -> tuple[Any, ...]:
        """Run the list once; modules that it calls are watched from now on."""
        recorded = super().record(processors, specs, mode, known)
        self.staleness.look(module for module, _ in self.modules.met.values())
        self.staleness.count()
        return recorded

    def changes(self, *, compiled: bool) -> list[str]:
        """What was changed of layers, modules and optimizers; other parameters are found anew."""
        told = self.modules.changes()
        return [*super().changes(compiled=compiled), *(told if compiled else ())]

    def settings(self, optimizer: Any) -> dict[str, str]:
        """Of weights, parameters of modules as they are now: `changes` may not know it yet."""
        flags, own = self.modules.flags(), self.variables.keyed().items()
        now = {f"{key}: trainable": str(flags[id(v)]) for key, v in own if id(v) in flags}
        return super().settings(optimizer) | now

    def forget(self) -> None:
        super().forget()
        self.modules = Modules(self.place, self.leaks)

    def freeze(self, keys: Set[str]) -> Callable[[], None]:
        """Let training leave weights as they are; modules that are held whole keep their statistics, too."""
        within = self.modules.held(one for key, one in self.variables.keyed().items() if key in keys)
        thaw = super().freeze(keys)
        for module in within:
            module.training = False
        self.staleness.changes()  # our own changes are not to be reported

        def thawed() -> None:
            thaw()
            for module in within:
                module.training = True
            self.staleness.changes()

        return thawed

    def call(self, node: Node, chunk: Chunk) -> Any:
        """Run a processor under its name; what it draws from `keras.random` is computed."""
        around = self.modules.within(training=chunk.training, precision=self.precision, reading=self._reading)
        is_abstract = self._reads is not None and any(map(self.is_traced, dict.values(chunk)))
        # Made out here: it shows the processor, and within, showing a variable would read its parameter.
        unsaved = Unsaved(node, self._told, self._refused) if is_abstract else nullcontext()
        with computed(), taken(), around, unsaved:
            try:
                return super().call(node, chunk)
            except (RuntimeError, TypeError) as error:
                add_cures(error)
                if (asked := asking(error)) is None:
                    raise
                raise asked from None

    @contextmanager
    def profiled(self, folder: Path, graph: Graph) -> Iterator[None]:
        """Record what runs within, operation by operation."""
        with profiled(folder, {scope_of(node): node.name for node in graph.nodes}), ExitStack() as stack:
            for step in self._steps:
                stack.enter_context(patched(step, is_profiled=True))
            yield

    def by_hand(self, graph: Graph, optimizer: Any = None, *, compiler: str, detach: int = 0) -> Timed:
        batch, wanted = self._batch(graph, optimizer, detach), dict.fromkeys(sorted(graph.outputs))
        return looped(TorchStep(batch, wanted, self.put, jit_compile=COMPILERS.get(compiler, False)))

    def fitted(self, graph: Graph, optimizer: Any, data: Any, batch_size: int, **options: Any) -> Callable[[int], None]:
        if options.get("steps_per_execution", 1) != 1:
            raise CannotRunError("Keras on PyTorch runs one step per execution.")
        model = TorchModel(self.forward_of(graph, 0), self.used(optimizer))
        model.compile(optimizer, **options)
        return fitted(model, data, batch_size, FAILURES)

    def room(self) -> int:
        if self.place.type != "cuda":
            return free_host_memory()
        held = torch.cuda.memory_reserved(self.place) - torch.cuda.memory_allocated(self.place)  # free, but for others
        return int(torch.cuda.mem_get_info(self.place)[0]) + held

    def put(self, columns: Mapping[str, Any]) -> Mapping[str, Any]:
        return {name: self._placed(name, values) for name, values in columns.items()}

    def peak_memory(self) -> int | None:
        return int(torch.cuda.max_memory_allocated(self.place)) if self.place.type == "cuda" else None

    def _reading(self, read: Callable[[], Any]) -> Any:
        """Read a variable of a module as one of a layer that is called: it belongs to the processor."""
        with patched(self.made, calling=self.made.calling + 1):
            return read()

    def export(self, model: Any, path: Path) -> None:
        export(model, path)

    def _own(self, reads: Sequence[Read], kept: Collection[int]) -> None:
        of_keras = self.modules.of_keras()
        reads = [read._replace(variable=of_keras.get(id(read.variable), read.variable)) for read in reads]
        super()._own(reads, {id(of_keras[one]) if one in of_keras else one for one in kept})

    def _batch(self, graph: Graph, optimizer: Any, detach: int = 0) -> Batch:
        used = None if optimizer is None else self.used(optimizer)
        standing = partial(self.modules.within, training=graph.mode == Mode.TRAIN)
        return Batch(self.forward_of(graph, detach), used, place=self.place, standing=standing)

    def _samples(self, specs: Mapping[str, Any]) -> dict[str, Any]:
        sizes = {name: (self.batch_size, *(size or 1 for size in spec.shape[1:])) for name, spec in specs.items()}
        dtypes = {name: _dtype(name, spec.dtype) for name, spec in specs.items()}
        return {name: torch.zeros(sizes[name], dtype=dtypes[name], device=self.place) for name in specs}

    def _placed(self, name: str, values: Any) -> torch.Tensor:
        if isinstance(values, torch.Tensor):
            return values
        values = np.asarray(values, order="C")  # PyTorch takes no negative strides
        if values.dtype.isbuiltin == 2:  # of ml_dtypes, such as bfloat16: PyTorch takes its bits alone
            bits = torch.tensor(values.view(f"int{8 * values.itemsize}"), device=self.place)
            return bits.view(_dtype(name, values.dtype))
        return torch.tensor(values, dtype=_dtype(name, values.dtype), device=self.place)


def _dtype(name: str, dtype: Any) -> torch.dtype:
    if str(dtype) in ("uint64", "complex64", "complex128"):
        raise ValueError(f"{name!r} is {dtype}, which PyTorch does not train on. Give int64, or floats.")
    made: torch.dtype = part_of_keras("core").to_torch_dtype(str(dtype))
    return made


BACKEND = TorchBackend
