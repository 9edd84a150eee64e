"""The JAX backend: one jitted loop runs K batches, forward, backward and update."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, redirect_stderr
from importlib import import_module
from pathlib import Path
from typing import Any

import jax
import keras
import numpy as np
from jax import numpy as jnp
from jaxlib.mlir import passmanager
from jaxlib.mlir.dialects import stablehlo

from experimentator.backends import Timed
from experimentator.backends.jax.batch import Batch
from experimentator.backends.jax.by_hand import FAILURES, JaxModel, looped
from experimentator.backends.jax.devices import Devices
from experimentator.backends.jax.inner_gradients import recomputed
from experimentator.backends.jax.loop import COMPILERS, JaxStep, kept
from experimentator.backends.jax.profile import profiled
from experimentator.backends.keras import KerasBackend
from experimentator.backends.keras.fit import fitted
from experimentator.backends.keras.model import write
from experimentator.backends.keras.scopes import scope_of
from experimentator.backends.keras.shapes import real_batch, run_on_items
from experimentator.backends.keras.trace_leaks import KEPT, OWN_GRADIENT
from experimentator.graph import Chunk, Graph, GraphError, Node
from experimentator.loading.memory import free_host_memory
from experimentator.patches import patched

PLAIN = "builtin.module(func.func(chlo-legalize-to-stablehlo,shape-legalize-to-stablehlo))"
STABLEHLO = "1.9.0"  # what JAX asks for by itself may be newer than what an installed TensorFlow can read
ASKED = (
    jax.errors.ConcretizationTypeError,
    jax.errors.NonConcreteBooleanIndexError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
)


class JaxBackend(KerasBackend):
    """Records and builds processors on abstract tensors, compiles graphs, owns their variables."""

    name = "jax"
    compilers = COMPILERS
    formats = {"": "tf_saved_model"}
    recomputed, scope = staticmethod(recomputed), staticmethod(jax.named_scope)

    def __init__(self) -> None:
        super().__init__()
        self.devices = Devices()
        self.device = self.devices.name

    def step(self, graph: Graph, specs: Mapping[str, Any], optimizer: Any, **options: Any) -> JaxStep:
        batch = self._batch(graph, optimizer)
        state, tensors = batch.state(), self._specs(specs)
        with self.settling():
            try:
                outputs = batch.shapes(state, tensors)
            except (TypeError, IndexError) as error:  # as those of `ASKED`, and what JAX raises for tensors in a slice
                if isinstance(error, jax.errors.UnexpectedTracerError) and not self.eager:
                    raise kept(error) from None
                if not self.eager:
                    raise
                outputs = batch.run_once(state, real_batch(self, specs))
            if optimizer is not None:
                batch.check_reached(batch.reached(state, tensors), eager=self.eager)
        return JaxStep(batch, outputs, self.put, **options)

    def abstract(self, function: Callable[[Any], Any], specs: Mapping[str, Any]) -> Any:
        """What a function returns, by shape and dtype, on batches of `batch_size`; variables stay as they are.

        For `eager`, it is run on items.
        """
        if self.eager:
            return run_on_items(self, function, specs)
        with keras.StatelessScope():  # variables that the function makes get their values when it ends
            return jax.eval_shape(function, self._specs(specs))

    def outside_of_traces(self) -> AbstractContextManager[Any]:
        return jax.ensure_compile_time_eval()

    def is_traced(self, value: Any) -> bool:
        return isinstance(value, jax.core.Tracer)

    def export(self, model: Any, path: Path) -> None:
        of_export = import_module("jax._src.export._export")  # it has no public place
        usual = of_export._module_to_bytecode
        with (
            patched(stablehlo, get_version_from_compatibility_requirement=lambda _: STABLEHLO),
            patched(of_export, _module_to_bytecode=lambda module: usual(_in_plain_operations(module))),
        ):
            try:
                with redirect_stderr(io.StringIO()):  # where TensorFlow shows a gradient that it could not take
                    super().export(model, path)
            except ValueError as error:
                if "tracing gradients" not in str(error):
                    raise
                write(model, path, self.formats[path.suffix], jax2tf_kwargs={"with_gradient": False})

    def call(self, node: Node, chunk: Chunk) -> Any:
        """Run a processor under its name; where it asks a tensor for its value, say what to write."""
        try:
            return super().call(node, chunk)
        except (*ASKED, IndexError) as error:
            if isinstance(error, ASKED) or "Tracer" in str(error):
                error.add_note(
                    "While JAX takes gradients, what depends on weights has no value: look at "
                    "keras.ops.stop_gradient(tensor)."
                    if self.eager
                    else "Tensors of JAX have no values while a graph is traced. Write keras.ops or jax.numpy, not "
                    "numpy or tf, keras.ops.where or keras.ops.cond, not `if`, and keras.ops.slice, not `[a:b]`, for "
                    "places that are tensors; or let it run uncompiled, with eager=True, and look at "
                    "keras.ops.stop_gradient(tensor)."
                )
            raise
        except (TypeError, ValueError) as error:
            if isinstance(error, jax.errors.UnexpectedTracerError):
                error.add_note(f"{KEPT} {OWN_GRADIENT}")
            elif re.search(r"Tracer(?!\()", str(error)) and not isinstance(error, GraphError):  # a type, not a value
                error.add_note(
                    "A tensor of JAX was handed to another framework. Write keras.ops or jax.numpy, and for a gradient "
                    "within the graph experimentator.gradient(function, tensor)."
                )
            if "__jax_array__" in str(error):
                error.add_note(
                    "A variable stands where JAX wants a tensor: write keras.ops.convert_to_tensor(variable)."
                )
            raise

    def profiled(self, folder: Path, graph: Graph) -> AbstractContextManager[None]:
        scopes = {scope_of(node): node.name for node in graph.nodes}
        return profiled(folder, scopes, lambda: [text for step in self._steps for text in step.programs()])

    def room(self) -> int:
        if self.devices.is_host:
            return free_host_memory()
        told = jax.devices()[0].memory_stats() or {}
        return int(told.get("bytes_limit", 0) - told.get("bytes_in_use", 0))

    def put(self, columns: Mapping[str, Any]) -> Mapping[str, Any]:
        return {name: self.devices.placed(_placed(name, values)) for name, values in columns.items()}

    def by_hand(self, graph: Graph, optimizer: Any = None, *, compiler: str, detach: int = 0) -> Timed:
        return looped(self._batch(graph, optimizer, detach), compiler)

    def fitted(self, graph: Graph, optimizer: Any, data: Any, batch_size: int, **options: Any) -> Callable[[int], None]:
        model = JaxModel(self._batch(graph, optimizer))
        model.compile(self.used(optimizer), **options)
        return fitted(model, data, batch_size, FAILURES)

    def peak_memory(self) -> int | None:
        told = None if self.devices.is_host else jax.devices()[0].memory_stats()
        return None if told is None else int(told["peak_bytes_in_use"])

    def _batch(self, graph: Graph, optimizer: Any, detach: int = 0) -> Batch:
        used = None if optimizer is None else self.used(optimizer)
        return Batch(self.forward_of(graph, detach), used, self.devices)

    def _specs(self, specs: Mapping[str, Any]) -> dict[str, Any]:
        """Abstract batches of so many rows, of dtypes that JAX has."""
        return {
            name: jax.ShapeDtypeStruct((self.batch_size, *spec.shape[1:]), jax.dtypes.canonicalize_dtype(spec.dtype))
            for name, spec in specs.items()
        }


def _placed(name: str, values: Any) -> Any:
    """A copy of a column on the device, of a dtype that JAX has; waited for, since `values` may change afterwards."""
    if isinstance(values, jax.Array):
        return values
    values = np.asarray(values)
    dtype = jax.dtypes.canonicalize_dtype(values.dtype)
    if values.size and values.dtype.kind in "iu" and dtype.itemsize < values.dtype.itemsize:
        limits = np.iinfo(dtype)
        for seen in (values.min(), values.max()):
            if not limits.min <= seen <= limits.max:
                raise ValueError(
                    f"{name!r} holds numbers that JAX does not have.\nSeen: {seen} in {values.dtype}; JAX takes "
                    f"{dtype}, up to {limits.max}.\nSet JAX_ENABLE_X64=1, or let the dataset give smaller numbers."
                )
    return jnp.array(values, dtype).block_until_ready()


def _in_plain_operations(module: Any) -> Any:
    """A program in operations that any TensorFlow runs for any number of rows; JAX has some of its own."""
    stablehlo.register_stablehlo_passes()
    with module.context:
        passmanager.PassManager.parse(PLAIN).run(module.operation)
    return module


BACKEND = JaxBackend
