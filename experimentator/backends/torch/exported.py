"""Models as files of PyTorch and ONNX, written by PyTorch itself."""

from __future__ import annotations

import io
from collections.abc import Collection, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

import keras
import torch
from keras.src.layers.rnn.dropout_rnn_cell import DropoutRNNCell
from torch._dynamo.exc import UserError
from torch.export import _trace as of_export
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from experimentator.backends.keras.model import Infers, check_able, quietly
from experimentator.backends.keras.onnx import ROWS, check_known, check_runs, unknown
from experimentator.backends.places import part_of_keras
from experimentator.patches import patched


class Stored(torch.nn.Module):
    """What a model computes as a function of its weights, which are buffers here: a trace of it has them once.

    `kinds` are the dtypes that Keras computes with, where inputs have others: int32 for uint16.
    """

    def __init__(self, infers: Infers, kinds: Mapping[str, torch.dtype]):
        super().__init__()
        self.infers, self.kinds = infers.call, dict(kinds)
        self.held, self.names = list(infers.held), list(infers.results)
        for number, variable in enumerate(self.held):
            self.register_buffer(f"weight_{number}", variable.value.detach())

    def forward(self, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The outputs for one batch; changes of the weights are dropped."""
        tensors = tensors | {name: tensors[name].to(kind) for name, kind in self.kinds.items()}
        with keras.StatelessScope(zip(self.held, self.buffers(), strict=True)):
            return self.infers(tensors)


def export(model: Any, path: Path) -> None:
    """Write a model as `.pt2` or `.onnx`, for any number of rows; other axes of any size are traced at an item's."""
    check_able(model, path)
    batch, dynamic, infers = torch.export.Dim("batch"), torch.export.Dim.DYNAMIC, model.layers[-1]
    samples, axes, kinds = {}, {}, {}
    for name, tensor in sorted(model._inputs_struct.items()):
        samples[name] = zeros = keras.ops.zeros((ROWS[0], *infers.sizes[name]), tensor.dtype)
        if (own := getattr(torch, tensor.dtype)) != zeros.dtype:
            samples[name], kinds[name] = zeros.to(own), zeros.dtype
        free = [axis for axis, size in enumerate(tensor.shape) if axis and size is None]
        axes[name] = {0: batch} | dict.fromkeys(free, dynamic)
    stored = Stored(infers, kinds)
    with torch.no_grad():
        with quietly():
            program = _traced(stored, samples, axes)
            if path.suffix == ".pt2":
                file = io.BytesIO()  # written here: PyTorch's own writer ends the process where the disk is full
                torch.export.save(program, file)
                path.write_bytes(file.getvalue())
            else:
                _write_onnx(program, list(samples), stored.names, path)
        if path.suffix == ".onnx":
            check_runs(path, stored, model)


def _traced(stored: Stored, samples: Mapping[str, torch.Tensor], axes: Mapping[str, Any]) -> Any:
    """The program of a model, traced for `samples`, with `axes` of any size."""
    try:
        with (
            patched(of_keras, arange=wraps(_USUAL)(_arange), repeat=_repeat),  # which take a size that is left open
            patched(torch, take_along_dim=_take_along),  # as do these, a number of rows
            patched(_LOOPS, rnn=_unrolled),
            torch.backends.opt_einsum.flags(enabled=False),  # it orders products by their sizes, and fixes them
            patched(DropoutRNNCell, _create_dropout_mask=lambda *_: None),  # it draws one that nothing uses
            patched(of_export, print=lambda *_, **__: None),  # it shows a graph that it cannot trace
        ):
            return torch.export.export(stored, (samples,), dynamic_shapes=(axes,), strict=False)
    except GuardOnDataDependentSymNode as error:
        raise ValueError(
            "PyTorch cannot write a graph that looks at values of tensors.\n"
            "Seen: keras.ops.cond, while_loop, `if` or the like, decided by a tensor.\n"
            "Write keras.ops.where in place of keras.ops.cond, and a few turns of a loop as a Python `for`; leave "
            "it out by outputs=[...]; or export on TensorFlow."
        ) from error
    except UserError as error:
        raise ValueError(
            "PyTorch cannot write this graph for batches of any size.\n"
            f"Seen: {str(error).partition(chr(10))[0]:.200}\n"
            "Something in it treats a number of rows, or an axis of any size, as fixed: draws do so, and recurrent "
            "layers do with their length. Leave it out by outputs=[...], or export on TensorFlow."
        ) from error
    except RuntimeError as error:
        if "fake tensor in the exported program constant" not in str(error):
            raise
        raise ValueError(
            "PyTorch cannot write this graph.\n"
            f"Seen: {str(error).partition(chr(10))[0]:.200}\n"
            "A gradient within the graph is not written: leave it out by outputs=[...], or export a SavedModel, on "
            "TensorFlow or JAX."
        ) from error


def _write_onnx(program: Any, inputs: Sequence[str], outputs: Sequence[str], path: Path) -> None:
    _leave_as_they_are(program.graph)
    _name_axes(program.graph)
    named = {"input_names": inputs, "output_names": outputs}
    rows = ({name: {0: "batch"} for name in inputs},)  # PyTorch has names such as s57
    try:
        written = torch.onnx.export(program, (), **named, dynamic_shapes=rows, dynamo=True, verbose=False)
    except torch.onnx.OnnxExporterError as error:
        raise unknown(_first_cause(error)) from error
    _keep_apart(written.model.graph, outputs)
    written.save(path, external_data=False)
    check_known(path)


def _first_cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).partition("\n")[0].rstrip(".")


def _leave_as_they_are(graph: Any) -> None:
    """Take out `squeeze` of an axis that is not of size one, which PyTorch ignores, and ONNX fails at.

    Keras' `take` makes such operations.
    """
    for node in graph.find_nodes(op="call_function", target=torch.ops.aten.squeeze.dim):
        if node.meta["val"].ndim == node.args[0].meta["val"].ndim:
            node.target, node.args = torch.ops.aten.clone.default, node.args[:1]


def _keep_apart(graph: Any, names: Collection[str]) -> None:
    """Let no value within have the name of an output: PyTorch calls a mean "mean"."""
    outputs = set(map(id, graph.outputs))
    for value in (value for node in graph for value in node.outputs):
        if value.name in names and id(value) not in outputs:
            value.name = f"{value.name}/within"


def _name_axes(graph: Any) -> None:
    """Give means over all axes these axes: PyTorch's writer fails without any."""
    for node in graph.find_nodes(op="call_function", target=torch.ops.aten.mean.dim):
        values, axes, *rest = node.args
        node.args = (values, axes or list(range(values.meta["val"].ndim)), *rest)


def _arange(start: Any, stop: Any = None, step: Any = None, dtype: Any = None) -> Any:
    """Keras' own, which also counts up to an axis of any size."""
    if dtype is None and any(isinstance(one, torch.SymInt) for one in (start, stop, step)):
        dtype = keras.backend.result_type(*(_kind(one) for one in (start, stop, step) if one is not None))
    return _USUAL(start, stop, step, dtype=dtype)


def _repeat(values: Any, repeats: Any, axis: int | None = None) -> Any:
    """Keras' own, which takes an axis of any size only where it is named."""
    return _REPEAT(*((values, repeats, axis) if axis is not None else (keras.ops.ravel(values), repeats, 0)))


def _kind(number: Any) -> Any:
    return int if isinstance(number, torch.SymInt) else getattr(number, "dtype", type(number))


def _take_along(values: Any, indices: Any, dim: int | None = None) -> Any:
    """PyTorch's own, which in a trace takes an axis of any size for the one that it sees."""
    if dim is None:
        return torch.gather(values.flatten(), 0, indices.flatten())
    sizes = [other if own == 1 else own for own, other in zip(values.shape, indices.shape, strict=True)]
    sizes[dim] = -1  # each has its own
    return torch.gather(values.expand(sizes), dim, indices.expand(sizes))


def _unrolled(step: Any, inputs: Any, states: Any, go_backwards: bool = False, mask: Any = None, **options: Any) -> Any:
    """The loop of Keras' recurrent layers, unrolled: else it lists the rows of a batch."""
    if go_backwards:  # turned here, since Keras cannot turn a mask where it unrolls
        inputs = keras.tree.map_structure(lambda one: torch.flip(one, [1]), inputs)
        mask = None if mask is None else torch.flip(mask, [1])
    return _LOOP(step, inputs, states, mask=mask, **options | {"unroll": True})


of_keras = part_of_keras("numpy")  # where Keras looks `arange` up
_LOOPS = keras.src.backend if callable(keras.src.backend.rnn) else keras.src.backend.rnn  # a module from Keras 3.16 on
_USUAL, _REPEAT, _LOOP = of_keras.arange, of_keras.repeat, _LOOPS.rnn
