"""Ops run eagerly on numpy arrays, compiled (by TensorFlow for any batch size), and where it may differ under XLA."""

import keras
import numpy as np
import pytest

from experimentator.accumulating import measured_by
from experimentator.graph import Graph, Mode
from tests.frameworks import NAME, ON_JAX, ON_TENSORFLOW


def eager(processors, tensors, outputs, mode):
    graph = Graph(processors, provided=set(tensors), mode=mode).select(*outputs)
    return graph.run(tensors)


def compiled(processors, tensors, outputs, mode, *, xla=False):
    graph = Graph(processors, provided=set(tensors), mode=mode).select(*outputs)
    arrays = {name: np.asarray(tensor) for name, tensor in tensors.items()}
    if not ON_TENSORFLOW:
        return {"jax": in_jax, "torch": in_torch}[NAME](graph, arrays)
    import tensorflow as tf

    specs = {name: tf.TensorSpec([None, *array.shape[1:]][: array.ndim], array.dtype) for name, array in arrays.items()}
    step = tf.function(graph.run, input_signature=[specs], autograph=False, jit_compile=xla)
    return step({name: tf.constant(array) for name, array in arrays.items()})


def in_jax(graph, arrays):
    import jax

    def step(tensors, values):
        with keras.StatelessScope(zip(variables, values, strict=True)) as scope:
            return graph.run(tensors), [scope.get_current_value(variable) for variable in variables]

    variables = []
    with Reads(variables):
        jax.eval_shape(graph.run, arrays)
    results, values = jax.jit(step)(arrays, [variable.value for variable in variables])
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
    return results


def in_torch(graph, arrays):
    from torch._subclasses.fake_tensor import FakeTensorMode

    from experimentator.backends.torch.draws import computed
    from experimentator.backends.torch.program import Program

    def step(values, given):
        with keras.StatelessScope(zip(variables, values, strict=True)) as scope, computed():
            results = graph.run(dict(zip(tensors, given, strict=True)))
            after = [scope.get_current_value(variable) for variable in variables]
        names[:] = results
        return after, [keras.ops.convert_to_tensor(value) for value in results.values()]

    variables, names = [], []
    tensors = {name: keras.ops.convert_to_tensor(array) for name, array in arrays.items()}
    with Reads(variables), computed(), FakeTensorMode(allow_non_fake_inputs=True) as mode:
        graph.run({name: mode.from_tensor(tensor) for name, tensor in tensors.items()})
    state = [variable.value.detach() for variable in variables]
    state, results = Program(step, state, list(tensors.values()))(state, list(tensors.values()))
    for variable, value in zip(variables, state, strict=True):
        variable.assign(value)
    return dict(zip(names, results, strict=True))


class Reads(keras.StatelessScope):
    """Lists the variables that are read."""

    def __init__(self, variables):
        super().__init__()
        self.variables = variables

    def get_current_value(self, variable):
        if not any(variable is one for one in self.variables):
            self.variables.append(variable)
        return super().get_current_value(variable)


def xla(processors, tensors, outputs, mode):
    return compiled(processors, tensors, outputs, mode, xla=True)


def runner(way):
    """`run(processors, tensors, "loss")` -> that output as a numpy array; several outputs: a dictionary."""

    def run(processors, tensors, *outputs, mode=Mode.TRAIN):
        processors = processors if isinstance(processors, list) else [processors]
        outputs = outputs or tuple(name for p in processors for name in measured_by(p))
        results = {
            name: keras.ops.convert_to_numpy(value) for name, value in way(processors, tensors, outputs, mode).items()
        }
        return results[outputs[0]] if len(outputs) == 1 else results

    run.way = way.__name__
    return run


@pytest.fixture(autouse=True)
def wide():
    """On JAX, numbers of 64 bits, as elsewhere."""
    if not ON_JAX:
        yield
        return
    import jax

    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


@pytest.fixture(params=[eager, compiled], ids=lambda way: way.__name__)
def run(request):
    """Runs processors in two ways."""
    return runner(request.param)


@pytest.fixture(params=[eager, compiled, *([xla] if ON_TENSORFLOW else [])], ids=lambda way: way.__name__)
def run_xla(request):
    """Runs processors in three ways; XLA takes half a second to compile one. On JAX, what is compiled is XLA's."""
    return runner(request.param)


@pytest.fixture
def rng():
    return np.random.default_rng(7)


@pytest.fixture
def call():
    """Runs processors eagerly."""
    return runner(eager)
