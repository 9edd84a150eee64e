"""The TensorFlow backend: one `tf.function` runs K batches, forward, backward and update."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.client import device_lib  # the one place that tells how much memory TensorFlow may take

from experimentator.backends import Shape, Watch
from experimentator.backends.tensorflow.by_hand import Timed, detached, forward, looped, trained
from experimentator.backends.tensorflow.fit import Items, fitted
from experimentator.backends.tensorflow.freezing import frozen
from experimentator.backends.tensorflow.lasting import build_outside, without_traces
from experimentator.backends.tensorflow.loop import TensorflowStep, has_gpu
from experimentator.backends.tensorflow.made import Made
from experimentator.backends.tensorflow.precision import loss_scaled, set_precision
from experimentator.backends.tensorflow.profile import profiled
from experimentator.backends.tensorflow.rates import Rates
from experimentator.backends.tensorflow.scopes import scope_of
from experimentator.backends.tensorflow.state import assign, keyed
from experimentator.backends.tensorflow.variables import Variables, Witness, copied
from experimentator.graph import Chunk, Graph, GraphError, Mode, Node, Ref, record
from experimentator.loading.memory import free_host_memory

if keras.backend.backend() != "tensorflow":
    raise ImportError(f"Keras runs on {keras.backend.backend()}. Set KERAS_BACKEND=tensorflow before importing it.")


class InContext(keras.Layer):
    """A layer around a function of tensors: layers called inside see the right `training`."""

    def __init__(self, function: Callable[[Any], Any]):
        super().__init__(autocast=False)
        self.function = function
        self.built = True
        self.error: Exception | None = None

    def call(self, tensors: Any, training: bool = False) -> Any:
        try:
            return self.function(tensors)
        except Exception as error:
            self.error = error
            raise

    def run(self, tensors: Any, *, training: bool) -> Any:
        """Call the function; its errors come out as they were raised, without the text Keras wraps around them."""
        self.error = None
        try:
            return self(tensors, training=training)
        except Exception:
            if self.error is None:
                raise
            raise self.error from self.error.__cause__


class TensorflowBackend:
    """Records and builds processors on abstract tensors, compiles graphs, owns their variables."""

    name = "tensorflow"
    compiles = True

    def __init__(self) -> None:
        self.variables = Variables()
        self.made = Made()
        self.precision: str | None = None
        self._layers: dict[int, Any] = {}
        self._scaled: dict[int, Any] = {}
        gpus = tf.config.list_physical_devices("GPU")
        details = tf.config.experimental.get_device_details(gpus[0]) if gpus else {}
        self.device = str(details.get("device_name", "GPU" if gpus else "CPU"))

    def record(
        self, processors: Sequence[Any], specs: Mapping[str, Any], mode: Mode, known: Mapping[int, Any]
    ) -> tuple[Any, ...]:
        """Run the list once on abstract batches of any size: builds layers, declares undeclared callables.

        A second pass, which changes nothing, notes the variables that each processor reads.
        """
        recorded = self._pass(processors, specs, mode, known, witness=False)
        self._pass(recorded, specs, mode, known, witness=True)
        return recorded

    def compile(self, graph: Graph, specs: Mapping[str, Any], optimizer: Any = None, **options: Any) -> TensorflowStep:
        """One step for a selected graph; with an optimizer, a training step on `loss`.

        Options: `jit_compile` ("auto", True, False or "step"), `like` (the compiler of another step, with which "auto"
        begins), `eager`, `capacity` (the most batches a call may run).
        """
        specs = {name: _tensor_spec(specs[name]) for name in graph.inputs}
        if not list(self.variables):
            self.record(graph.processors, specs, graph.mode, {})
        forward = _running(graph, self._call)
        training = graph.mode == Mode.TRAIN
        run = partial(forward.run, training=training)
        outputs = _abstract(run, specs)
        if optimizer is not None:
            _check_loss(outputs)
            optimizer = self._used(optimizer)
        return TensorflowStep(graph, run, outputs, list(self.variables), optimizer, **options)

    def shapes(self, graph: Graph, specs: Mapping[str, Any]) -> dict[Ref, Shape]:
        """Shape and dtype of every version in a graph, from one abstract run."""
        given = {name: _tensor_spec(specs[name]) for name in graph.inputs}
        seen = {Ref(name, 0): _shape(spec) for name, spec in given.items()}

        def call(node: Node, chunk: Chunk) -> None:
            self._call(node, chunk)
            seen.update((ref, _shape(tf.convert_to_tensor(dict.__getitem__(chunk, ref.name)))) for ref in node.writes)

        layer = _running(graph, call)
        _abstract(partial(layer.run, training=graph.mode == Mode.TRAIN), given)
        return seen

    def sizes(self) -> dict[str, tuple[int, int]]:
        """For each node that owns weights: how many numbers are trained, and how many are not."""
        return self.variables.sizes()

    def shared(self) -> dict[str, tuple[str, ...]]:
        """For each node that reads weights of others: which nodes own them."""
        return self.variables.shared()

    def profiled(self, folder: Path, graph: Graph) -> AbstractContextManager[None]:
        """Record what runs within; see `experimentator.backends.tensorflow.profile`."""
        return profiled(folder, {scope_of(node): node.name for node in graph.nodes})

    def room(self) -> int:
        """Bytes that are free on the first GPU, or on the host."""
        if not tf.config.list_physical_devices("GPU"):
            return free_host_memory()
        limits = [d.memory_limit for d in device_lib.list_local_devices() if d.device_type == "GPU"]
        return int(limits[0] - tf.config.experimental.get_memory_info("GPU:0")["current"])

    def forget(self) -> None:
        """Find the weights anew at the next recording: the processors changed."""
        self.variables = Variables()
        self._layers.clear()

    def put(self, columns: Mapping[str, Any]) -> Mapping[str, Any]:
        """Copy columns to the device, once."""
        return {name: tf.convert_to_tensor(values) for name, values in columns.items()}

    def weights(self) -> dict[str, np.ndarray]:
        """Every variable of every processor, as numpy, under a stable key."""
        return {key: np.asarray(variable) for key, variable in self.variables.keyed().items()}

    def set_weights(self, weights: Mapping[str, np.ndarray]) -> None:
        """Assign weights by key; all of them, or an error and none."""
        self.variables.assign(weights)

    def optimizer_state(self, optimizer: Any) -> dict[str, np.ndarray]:
        """Every variable of an optimizer, and the rates it follows, under their places."""
        own = keyed(self._used(optimizer), list(self.variables))
        return {key: np.asarray(variable) for key, variable in own.items()}

    def set_optimizer_state(self, optimizer: Any, state: Mapping[str, np.ndarray]) -> None:
        """Assign them; all of them, or an error and none."""
        assign(keyed(self._used(optimizer), list(self.variables)), state)

    def snapshot(self, optimizer: Any = None) -> Callable[[], None]:
        """Copy every variable, those of the optimizer too, on the device; calling the result puts them back."""
        return copied([*self.variables, *(() if optimizer is None else self._used(optimizer).variables)])

    def freeze(self, keys: Collection[str]) -> Callable[[], None]:
        """Let training leave the weights of these keys as they are; calling the result thaws them."""
        return frozen(
            [variable for key, variable in self.variables.keyed().items() if key in keys], self._layers.values()
        )

    def rates(self, optimizer: Any) -> Callable[[np.ndarray], None]:
        """What sets the factors of the learning rate for the batches that follow; the compiled loop reads them."""
        return Rates.of(optimizer).hold

    def spoilt(self, graph: Graph, columns: Mapping[str, Any], rows: np.ndarray) -> tuple[Node, str] | None:
        """The first node that makes a value that is not finite of finite ones, on one batch, and its name."""
        watch = Watch(self._call)
        forward = _running(graph, watch)
        batch = {name: tf.gather(columns[name], rows) for name in graph.inputs}
        forward.run(batch, training=graph.mode == Mode.TRAIN)
        return watch.found

    def by_hand(self, graph: Graph, optimizer: Any = None, *, compiler: str = "graph", detach: int = 0) -> Timed:
        """A loop around a graph as one would write it by hand; see `experimentator.backends.tensorflow.by_hand`."""
        return looped(self._batch(graph, optimizer, detach), compiler, graph.nodes)

    def fitted(self, graph: Graph, optimizer: Any, data: Any, batch_size: int, **options: Any) -> Callable[[int], None]:
        """`keras.Model.fit` around a graph: `epoch(steps)`; `data` are columns, or (keys, read, workers)."""
        items = data if isinstance(data, Mapping) else Items(data[0], batch_size, *data[1:])
        return fitted(self._batch(graph, optimizer, 0), optimizer, items, batch_size, **options)

    def peak_memory(self) -> int | None:
        """The most bytes that were taken on the first GPU at once; None without one."""
        return int(tf.config.experimental.get_memory_info("GPU:0")["peak"]) if has_gpu() else None

    def _batch(self, graph: Graph, optimizer: Any, detach: int) -> Callable[[Any], Any]:
        """One batch of a graph, trained where there is an optimizer."""
        call = detached(graph, detach, self._call) if detach else self._call
        layer = _running(graph, call)
        run = partial(layer.run, training=graph.mode == Mode.TRAIN)
        if optimizer is None:
            return forward(run)
        optimizer = self._scaled.get(id(optimizer), optimizer)
        if not optimizer.built:
            optimizer.build([v for v in self.variables if "float" in str(v.dtype)])
        return trained(run, list(self.variables), optimizer)

    def _call(self, node: Node, chunk: Chunk) -> None:
        """Run a processor under its name, so that compilers and profilers can say which it is."""
        with tf.name_scope(scope_of(node)), self.made.within(node, self._note):
            node.processor(chunk)

    def _note(self, layer: Any) -> None:
        """A layer is called, wherever the call stands: attribute scans would miss those among a lambda's globals."""
        self._layers.setdefault(id(layer), layer)
        build_outside(layer)
        set_precision(layer, self.precision)

    def _used(self, optimizer: Any) -> Any:
        """The optimizer that updates: the one given, or the one that scales the loss around it."""
        if self.precision == "float16":
            return self._scaled.setdefault(id(optimizer), loss_scaled(optimizer))
        return self._scaled.get(id(optimizer), optimizer)

    def _pass(
        self,
        processors: Sequence[Any],
        specs: Mapping[str, Any],
        mode: Mode,
        known: Mapping[int, Any],
        *,
        witness: bool,
    ) -> tuple[Any, ...]:
        recorded: list[tuple[Any, ...]] = []

        def call(node: Node, chunk: Chunk) -> None:
            watching = Witness(partial(self.variables.note, node.name)) if witness else nullcontext()
            with watching, tf.GradientTape() as tape:
                self._call(node, chunk)
            if witness:
                for variable in tape.watched_variables():  # those that Keras does not know
                    self.variables.note(node.name, variable)

        def run(tensors: Any) -> dict[str, Any]:
            with without_traces(processors):
                recorded.append(record(processors, tensors, mode=mode, known=known, call=call))
            return {}

        layer = InContext(run)
        _abstract(
            partial(layer.run, training=mode == Mode.TRAIN),
            {name: _tensor_spec(spec) for name, spec in specs.items()},
        )
        return recorded[-1]


def _running(graph: Graph, call: Callable[[Node, Chunk], Any]) -> InContext:
    """A layer that runs a graph."""

    def run(tensors: Any) -> dict[str, Any]:
        with without_traces(graph.processors):
            return graph.run(tensors, call=call)

    return InContext(run)


def _tensor_spec(spec: Any) -> tf.TensorSpec:
    return tf.TensorSpec([None, *spec.shape[1:]], spec.dtype)


def _shape(tensor: Any) -> Shape:
    sizes = None if tensor.shape.rank is None else tuple(tensor.shape.as_list())
    return sizes, tensor.dtype.name


def _abstract(function: Callable[[Any], Any], specs: Mapping[str, tf.TensorSpec]) -> Any:
    """The structure a function returns on abstract tensors; nothing is computed."""
    return tf.function(function, autograph=False).get_concrete_function(dict(specs)).structured_outputs


def _check_loss(outputs: Mapping[str, Any]) -> None:
    loss = outputs["loss"]
    if loss.shape.rank or not loss.dtype.is_floating:
        raise GraphError(
            "'loss' must be one floating number.\n"
            f"Seen: {list(loss.shape)} {loss.dtype.name}.\n"
            "Reduce it, with a mean over the batch, or cast it to float32."
        )


BACKEND = TensorflowBackend
