"""Ops run eagerly on numpy arrays, in a tf.function of unknown batch size, and where it may differ under XLA."""

import numpy as np
import pytest
import tensorflow as tf

from experimentator.graph import Graph, Mode


def eager(processors, tensors, outputs, mode):
    graph = Graph(processors, provided=set(tensors), mode=mode).select(*outputs)
    return graph.run(tensors)


def compiled(processors, tensors, outputs, mode, *, xla=False):
    graph = Graph(processors, provided=set(tensors), mode=mode).select(*outputs)
    arrays = {name: np.asarray(tensor) for name, tensor in tensors.items()}
    specs = {name: tf.TensorSpec([None, *array.shape[1:]][: array.ndim], array.dtype) for name, array in arrays.items()}
    step = tf.function(graph.run, input_signature=[specs], autograph=False, jit_compile=xla)
    return step({name: tf.constant(array) for name, array in arrays.items()})


def xla(processors, tensors, outputs, mode):
    return compiled(processors, tensors, outputs, mode, xla=True)


def runner(way):
    """`run(processors, tensors, "loss")` -> that output as a numpy array; several outputs: a dictionary."""

    def run(processors, tensors, *outputs, mode=Mode.TRAIN):
        processors = processors if isinstance(processors, list) else [processors]
        outputs = outputs or tuple(name for p in processors for name in p.outputs)
        results = {name: np.asarray(value) for name, value in way(processors, tensors, outputs, mode).items()}
        return results[outputs[0]] if len(outputs) == 1 else results

    run.way = way.__name__
    return run


@pytest.fixture(params=[eager, compiled], ids=lambda way: way.__name__)
def run(request):
    """Runs processors in two ways."""
    return runner(request.param)


@pytest.fixture(params=[eager, compiled, xla], ids=lambda way: way.__name__)
def run_xla(request):
    """Runs processors in three ways; XLA takes half a second to compile one."""
    return runner(request.param)


@pytest.fixture
def rng():
    return np.random.default_rng(7)


@pytest.fixture
def call():
    """Runs processors eagerly."""
    return runner(eager)
