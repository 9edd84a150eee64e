"""The dataflow graph of chunk processors: declared names in, an order and pictures out.

Works on any tensors, plain Python values included; imports networkx and the standard library only.

>>> scale = chunk_processor(inputs=["x"], outputs=["x"])(lambda x: x / 10)
>>> print(Graph([scale], provided={"x"}))
ALL: 1 processor, x -> x
#  processor         reads  writes  mode
0  lambda x: x / 10  x@0    x@1     ALL
"""

from experimentator.graph.chunk import Chunk
from experimentator.graph.dag import Graph
from experimentator.graph.describing import describe_graph, with_costs, with_statuses
from experimentator.graph.description import Box, Description, DescriptionError, Edge, Port, Tensor
from experimentator.graph.difference import difference
from experimentator.graph.dot import to_dot
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
from experimentator.graph.explorer import to_model_explorer
from experimentator.graph.folding import fold
from experimentator.graph.mermaid import to_mermaid
from experimentator.graph.mode import ExperimentMode, Mode, Stage
from experimentator.graph.node import Node
from experimentator.graph.palette import style_sheet
from experimentator.graph.processor import ChunkProcessor, chunk_processor
from experimentator.graph.record import record
from experimentator.graph.recorded import RecordedProcessor
from experimentator.graph.stored import from_json, to_json
from experimentator.graph.text import changes, table
from experimentator.graph.tree import tree
from experimentator.graph.versions import Ref
from experimentator.graph.views import plan, whole

__all__ = [
    "AmbiguousWriteError",
    "Box",
    "BrokenGraphError",
    "Chunk",
    "ChunkProcessor",
    "CycleError",
    "DeclarationError",
    "Description",
    "DescriptionError",
    "Edge",
    "ExperimentMode",
    "Graph",
    "GraphError",
    "MissingTensorError",
    "Mode",
    "Node",
    "Port",
    "RecordedProcessor",
    "Ref",
    "Stage",
    "Tensor",
    "UndeclaredProcessorError",
    "UndeclaredReadError",
    "UndeclaredWriteError",
    "UnknownModeError",
    "UnknownNameError",
    "UnknownNodeError",
    "UnwrittenOutputError",
    "changes",
    "chunk_processor",
    "describe_graph",
    "difference",
    "fold",
    "from_json",
    "plan",
    "record",
    "style_sheet",
    "table",
    "to_dot",
    "to_json",
    "to_mermaid",
    "to_model_explorer",
    "tree",
    "whole",
    "with_costs",
    "with_statuses",
]
