"""An operation that the converter to ONNX does not know, in terms of those that ONNX has."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np


class Erfc:
    """1 - erf(x), of which an exact GELU is made."""

    @classmethod
    def version_9(cls, graph: Any, node: Any, **_: Any) -> None:
        """Replace the node by 1 - Erf(x), as ONNX has Erf."""
        (given,), (name,), shapes, dtypes = node.input, node.output, node.output_shapes, node.output_dtypes
        of_numpy = import_module("tf2onnx.utils").map_onnx_to_numpy_type
        one = graph.make_const(f"{node.name}_one", np.ones((), of_numpy(graph.get_dtype(given))))
        graph.remove_node(node.name)
        erf = graph.make_node("Erf", [given], op_name_scope=node.name, shapes=shapes, dtypes=dtypes)
        graph.make_node(
            "Sub", [one.output[0], erf.output[0]], outputs=[name], name=node.name, shapes=shapes, dtypes=dtypes
        )


def teach() -> None:
    """Let the converter know `Erfc`."""
    import_module("tf2onnx.handler").tf_op("Erfc")(Erfc)
