"""The TensorFlow backend: one `tf.function` runs K batches, forward, backward and update."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from tensorflow.python.client import device_lib  # the one place that tells how much memory TensorFlow may take
from tensorflow.python.eager import context

from experimentator.backends import Shape, Timed
from experimentator.backends.keras import KerasBackend
from experimentator.backends.keras.context import check_losses
from experimentator.backends.keras.fit import fitted
from experimentator.backends.keras.model import check_able
from experimentator.backends.keras.optimizers import shares
from experimentator.backends.keras.scopes import scope_of
from experimentator.backends.keras.shapes import run_on_items
from experimentator.backends.tensorflow.by_hand import TensorflowModel, inferring, looped, training
from experimentator.backends.tensorflow.failures import add_cures
from experimentator.backends.tensorflow.loop import COMPILERS, FAILURES, TensorflowStep, has_gpu
from experimentator.backends.tensorflow.onnx import in_known_operations, to_litert, to_onnx
from experimentator.backends.tensorflow.placement import placed
from experimentator.backends.tensorflow.profile import profiled
from experimentator.backends.tensorflow.raw_variables import Touch, touched
from experimentator.backends.tensorflow.recomputed import recomputed
from experimentator.graph import Chunk, Graph, Node
from experimentator.loading.memory import free_host_memory
from experimentator.overrides import ConfigError
from experimentator.patches import patched


class TensorflowBackend(KerasBackend):
    """Records and builds processors on abstract tensors, compiles graphs, owns their variables."""

    name = "tensorflow"
    compilers = COMPILERS
    formats = {"": "tf_saved_model", ".onnx": "onnx", ".tflite": "litert"}
    rate_table = staticmethod(partial(tf.Variable, [1.0], dtype=tf.float32, shape=[None], trainable=False))
    recomputed, scope = staticmethod(recomputed), staticmethod(tf.name_scope)
    watching = staticmethod(tf.variable_creator_scope)
    variable_kinds = (keras.Variable, tf.Variable)

    def __init__(self) -> None:
        super().__init__()
        asked = tf.distribute.get_strategy() if tf.distribute.has_strategy() else keras.distribution.distribution()
        if asked is not None:
            raise ConfigError(
                "Only JAX runs on several devices; on TensorFlow the loop runs on one.",
                f"Seen: {type(asked).__name__}.",
                "Set KERAS_BACKEND=jax, with keras.distribution.set_distribution(keras.distribution.DataParallel()); "
                "or leave it out.",
            )
        gpus = tf.config.get_visible_devices("GPU")
        details = tf.config.experimental.get_device_details(gpus[0]) if gpus else {}
        self.device = str(details.get("device_name", "GPU" if gpus else "CPU"))

    def step(self, graph: Graph, specs: Mapping[str, Any], optimizer: Any, **options: Any) -> TensorflowStep:
        forward = self.forward_of(graph, detach=0)
        if (shapes := self.seen(graph, specs)) is not None:
            outputs = {name: tf.TensorSpec(*shapes[ref]) for name, ref in graph.results.items()}
        else:
            with self.settling():
                outputs = self.abstract(forward, specs)
        if optimizer is not None:
            optimizer = self.used(optimizer)
            check_losses(outputs, shares(optimizer, forward.trained()))
        return TensorflowStep(forward, outputs, optimizer, **options)

    def call(self, node: Node, chunk: Chunk) -> Any:
        """Run a processor under its name; where the message of an error is known, note what to write."""
        try:
            return super().call(node, chunk)
        except (TypeError, ValueError, NotImplementedError, AttributeError, tf.errors.InvalidArgumentError) as error:
            add_cures(error)
            raise

    def held(self, graph: Graph) -> Callable[[Mapping[str, Any]], Mapping[str, Any]]:
        """A graph as a function within a trace of another's; variables of TensorFlow's own are not watched, either."""
        run = super().held(graph)

        def unwatched(tensors: Mapping[str, Any]) -> Mapping[str, Any]:
            with ExitStack() as stack:
                for variable in self.variables:
                    if isinstance(variable, tf.Variable) and variable.trainable:
                        stack.enter_context(patched(variable, _trainable=False))
                return run(tensors)

        return unwatched

    def abstract(self, function: Callable[[Any], Any], specs: Mapping[str, Any]) -> Any:
        """What a function returns, as specs, on batches of any size; it is traced, or, for `eager`, run on items.

        Variables stay as they are.
        """
        if self.eager:
            with self.others_touched() as touches:
                try:
                    returned = run_on_items(self, function, specs)
                    return {name: tf.convert_to_tensor(one) for name, one in returned.items()}
                finally:
                    for touch in touches():
                        touch.put_back()
        try:
            return _in_a_graph(function, specs)
        except ValueError as error:
            if "lifted out" not in str(error):
                raise
        # A tf.Variable begins with a value that the graph computes: `tf.function` finds how to compute it.
        batch = {name: tf.TensorSpec([None, *spec.shape[1:]], spec.dtype) for name, spec in specs.items()}
        return tf.function(function, autograph=False).get_concrete_function(batch).structured_outputs

    def outside_of_traces(self) -> AbstractContextManager[Any]:
        return tf.init_scope()

    def is_traced(self, value: Any) -> bool:
        return bool(tf.is_symbolic_tensor(value))

    def given(self, node: Node, options: dict[str, Any]) -> dict[str, Any]:
        """Arguments to make a variable with, as they are: its initial value may be computed in the trace."""
        return options

    def others_touched(self) -> AbstractContextManager[Callable[[], list[Touch]]]:
        """Within, notes which tf.Variables that are not Keras' are read or changed, and where."""
        return touched(self.made.listens)

    def export(self, model: Any, path: Path) -> None:
        check_able(model, path)
        converting = {".onnx": to_onnx, ".tflite": to_litert}.get(path.suffix, nullcontext)
        with in_known_operations() if path.suffix else _sizes_checked(model), converting():
            super().export(model, path)

    def profiled(self, folder: Path, graph: Graph) -> AbstractContextManager[None]:
        return profiled(folder, {scope_of(node): node.name for node in graph.nodes})

    def room(self) -> int:
        if not has_gpu():
            return free_host_memory()
        devices = device_lib.list_local_devices(context.context().config)  # of those that are visible, as set up
        limits = [device.memory_limit for device in devices if device.device_type == "GPU"]
        return int(limits[0] - tf.config.experimental.get_memory_info("GPU:0")["current"])

    def put(self, columns: Mapping[str, Any]) -> Mapping[str, Any]:
        return {name: placed(values) for name, values in columns.items()}

    def by_hand(self, graph: Graph, optimizer: Any = None, *, compiler: str, detach: int = 0) -> Timed:
        return looped(self._batch(graph, optimizer, detach), compiler, graph.nodes)

    def fitted(self, graph: Graph, optimizer: Any, data: Any, batch_size: int, **options: Any) -> Callable[[int], None]:
        model = TensorflowModel(self._batch(graph, optimizer, detach=0))
        model.compile(optimizer, **options)
        return fitted(model, data, batch_size, FAILURES)

    def peak_memory(self) -> int | None:
        return int(tf.config.experimental.get_memory_info("GPU:0")["peak"]) if has_gpu() else None

    def _batch(self, graph: Graph, optimizer: Any, detach: int) -> Callable[[Any], Any]:
        """One batch of a graph, trained where there is an optimizer."""
        forward = self.forward_of(graph, detach)
        return inferring(forward) if optimizer is None else training(forward, self.used(optimizer))

    def shape_of(self, tensor: Any) -> Shape:
        """Sizes, None where their number is unknown, and dtype."""
        return (None, tensor.dtype.name) if tensor.shape.rank is None else super().shape_of(tensor)


def _sizes_checked(model: Any) -> AbstractContextManager[None]:
    """Within, a trace of a model checks the sizes of its inputs: TensorFlow checks none where it runs a SavedModel."""
    graph, inputs = model.layers[-1].graph, model._inputs_struct
    run = graph.run

    def checked(tensors: Mapping[str, Any], **options: Any) -> Any:
        return run({name: tf.ensure_shape(one, inputs[name].shape) for name, one in tensors.items()}, **options)

    return patched(graph, run=checked)


def _in_a_graph(function: Callable[[Any], Any], specs: Mapping[str, Any]) -> dict[str, Any]:
    """What a function returns, as specs, traced into a graph that nobody runs: half the work of a `tf.function`."""
    with tf.__internal__.FuncGraph("abstract").as_default():
        tensors = {name: tf.compat.v1.placeholder(spec.dtype, [None, *spec.shape[1:]]) for name, spec in specs.items()}
        returned = {name: tf.convert_to_tensor(one) for name, one in function(tensors).items()}
    return {name: tf.TensorSpec.from_tensor(one) for name, one in returned.items()}


BACKEND = TensorflowBackend
