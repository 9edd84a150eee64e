"""The dataflow graph of chunk processors: declared names in, an order and pictures out.

Works on any tensors, plain Python values included; imports networkx and the standard library only.

>>> scale = chunk_processor(inputs=["x"], outputs=["x"])(lambda x: x / 10)
>>> print(Graph([scale], provided={"x"}))
ALL: 1 processor, x -> x
#  processor    reads  writes  mode
0  <lambda>(x)  x@0    x@1     ALL
"""

from experimentator.graph.chunk import Chunk
from experimentator.graph.dag import Graph
from experimentator.graph.errors import (
    AmbiguousWriteError,
    BrokenGraphError,
    CycleError,
    DeclarationError,
    GraphError,
    MissingTensorError,
    UndeclaredProcessorError,
    UndeclaredReadError,
    UndeclaredWriteError,
    UnknownModeError,
    UnknownNameError,
    UnknownNodeError,
    UnwrittenOutputError,
)
from experimentator.graph.mode import ExperimentMode, Mode, Stage
from experimentator.graph.node import Node
from experimentator.graph.processor import ChunkProcessor, chunk_processor
from experimentator.graph.record import RecordedProcessor, record
from experimentator.graph.versions import Ref

__all__ = [
    "AmbiguousWriteError",
    "BrokenGraphError",
    "Chunk",
    "ChunkProcessor",
    "CycleError",
    "DeclarationError",
    "ExperimentMode",
    "Graph",
    "GraphError",
    "MissingTensorError",
    "Mode",
    "Node",
    "RecordedProcessor",
    "Ref",
    "Stage",
    "UndeclaredProcessorError",
    "UndeclaredReadError",
    "UndeclaredWriteError",
    "UnknownModeError",
    "UnknownNameError",
    "UnknownNodeError",
    "UnwrittenOutputError",
    "chunk_processor",
    "record",
]
