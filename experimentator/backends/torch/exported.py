"""Models as files of PyTorch and ONNX, for batches of any size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import torch

from experimentator.backends.keras.model import write

ROWS = 2  # of the batch that is traced: PyTorch takes an axis of one for one that is always one


def export(model: Any, path: Path, form: str, samples: Mapping[str, Any]) -> None:
    """Write a model; for a `.pt2`, axes of any size are traced at that of `samples`."""
    if form == "onnx":
        write(model, path, form)
        _name_outputs(path, sorted(model._outputs_struct))
        return
    axes, signature = {}, {}
    batch = torch.export.Dim("batch")
    for name, tensor in model._inputs_struct.items():
        free = [axis for axis, size in enumerate(tensor.shape) if axis and size is None]
        axes[name] = {0: batch} | dict.fromkeys(free, torch.export.Dim.DYNAMIC)
        signature[name] = keras.InputSpec(shape=(ROWS, *samples[name].shape[1:]), dtype=tensor.dtype, name=name)
    write(model, path, form, input_signature=[signature], dynamic_shapes=[(axes,)])


def _name_outputs(path: Path, names: Sequence[str]) -> None:
    """Give outputs of ONNX their names, which a trace of PyTorch has lost; dictionaries are flattened in this order."""
    import onnx

    written = onnx.load(path)
    new = {output.name: name for output, name in zip(written.graph.output, names, strict=True)}
    for node in written.graph.node:
        node.input[:] = [new.get(name, name) for name in node.input]
        node.output[:] = [new.get(name, name) for name in node.output]
    for output in written.graph.output:
        output.name = new[output.name]
    onnx.save(written, path)
