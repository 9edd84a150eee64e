"""Errors of TensorFlow and XLA, in terms of processors."""

from __future__ import annotations

import re
from collections.abc import Sequence

from experimentator.backends.keras.scopes import owner
from experimentator.backends.keras.trace_leaks import KEPT, LOSS_WITHIN, OWN_GRADIENT
from experimentator.graph import Graph, GraphError, Node
from experimentator.graph.text import failed_in

# Parts of TensorFlow's messages where two dtypes meet: in graphs, lists of tensors, conversions, eagerly, in quotients.
OF_DTYPES = (
    r"that does not match type|that don't all match|conversion requested dtype|must have the same dtype|"
    r"expected to be an? \w+ tensor but is an?"
)
# What TensorFlow, Keras, numpy and Python say where a size is None.
OF_SIZES = (
    r"'NoneType' and|and 'NoneType'|'NoneType' object cannot be interpreted|not 'NoneType'|of type '?NoneType|"
    r"Invalid dtype: NoneType|elements of [\[(][^)\]]*\bNone\b|num_rows=None|None values not supported|"
    r"partially known TensorShape|len is not well defined"
)
CURES = {
    OF_SIZES: "If a size is meant: TensorFlow compiles for batches of any size, so tensor.shape[0] is None; so are "
    "other sizes that an export leaves open. Write keras.ops.shape(tensor)[0], or -1 in a reshape.",
    "(?i)symbolic": "Tensors have no values while a graph is traced. Write keras.ops or tf, not numpy, and "
    "keras.ops.where or keras.ops.cond, not `if`.",
    OF_DTYPES: "TensorFlow casts nothing by itself. Write keras.ops.cast(one, other.dtype), or the function of "
    "keras.ops instead, which casts: keras.ops.multiply(one, other). Where the code is not yours, list ops.Cast above.",
    "unknown rank": "TensorFlow lost how many axes a tensor has, as after keras.ops.associative_scan. "
    "Write keras.ops.reshape(tensor, keras.ops.shape(like)) where it is made, with one `like` it in shape.",
    "must accept keyword argument 'variables'": OWN_GRADIENT,
    "'str' object has no attribute 'base_dtype'":  # keras.ops.convert_to_tensor leaves it a variable
    "A keras.Variable stands in a list where TensorFlow wants tensors: write variable.value.",
    r"(?s)\A(?=.*stateful=True).*must be static": "Fix it where the network begins: "
    "keras.Input((None,), batch_size=32), which every batch must then have.",
}


def add_cures(error: Exception) -> None:
    """Note what to write, where the message is known."""
    for message, cure in CURES.items():
        if re.search(message, str(error)):
            error.add_note(cure)


def failed_running(error: Exception, graph: Graph) -> Exception:
    """The error of an operation of a compiled graph, with a note of its processor; short where an id has no row."""
    text = str(error)
    if odd := re.search(r"indices\S* = \S+ is not in \[.*\)", text):
        error = IndexError(odd[0])
    found = re.search(r"\{\{node ([^}]+)\}\}", text)
    if found and (node := owner(found[1], graph.nodes)):
        error.add_note(failed_in(node, graph.mode))
    return error


def why_not_compiled(error: Exception, nodes: Sequence[Node]) -> str:
    """Which operation of which processor XLA refuses; empty where `error` is about something else."""
    text = str(error)
    if lacking := re.search(r"libdevice not found[^\n\[]*", text):
        return f"{lacking[0].strip()}, a part of CUDA; XLA_FLAGS=--xla_gpu_cuda_data_dir=FOLDER says where CUDA lies."
    if broken := re.search(r"RET_CHECK failure \(external/xla/[^\n\[]*", text):
        return f"the compiler itself fails, as with sizes that depend on values: {broken[0].strip()}"
    if "tf2xla" not in text and "XLA_" not in text:
        return ""
    found = re.search(r"\{\{node ([^}]+)\}\}", text)
    path = found.group(1) if found else ""
    if (node := owner(path, nodes)) is None:
        return text.split("\n")[0]
    if "fixed tensor list size" in text:
        return (
            f"chunk processor {node} has gradients through a loop that may run any number of times.\n"
            "Write keras.ops.while_loop(..., maximum_iterations=n) in place of scan and fori_loop, or a loop of Python."
        )
    return f"operation {path.rpartition('/')[2]} of chunk processor {node} has no XLA form on this device."


def kept_from_a_trace(error: Exception, nodes: Sequence[Node]) -> GraphError | None:
    """Which processor kept a tensor of an earlier trace, or of a branch; None where `error` is about something else."""
    found = re.search(r"<tf\.Tensor '([^']+)' shape=(.+?) dtype=(\w+)> is out of scope", str(error))
    if not found:
        return None
    path = found.group(1)
    node = owner(path, nodes) or "A chunk processor"
    return GraphError(
        f"{node} keeps a tensor of an earlier trace, or of a branch or a loop, which is out of reach.\n"
        f"Seen: {path.rpartition('/')[2].partition(':')[0]}, {found.group(3)} {found.group(2)}.\n{KEPT} {LOSS_WITHIN}"
    )
