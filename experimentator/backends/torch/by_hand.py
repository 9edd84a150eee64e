"""The loop as one would write it by hand around a graph, and the graph in `keras.Model.fit`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from experimentator.backends import CannotRunError, Timed
from experimentator.backends.keras.context import Forward, objective_of, update
from experimentator.backends.keras.fit import GraphModel
from experimentator.backends.keras.optimizers import shares
from experimentator.backends.torch.loop import TorchStep

FAILURES = (torch.OutOfMemoryError,)
CALL = 256  # batches that one call of the loop runs


def looped(step: TorchStep) -> Timed:
    """`run(columns, index, count)`: runs `count` batches, of the rows `index` [R, B] in turn, and waits for them."""

    def timed(columns: Mapping[str, Any], index: np.ndarray, count: int) -> None:
        rows = np.asarray(index)[np.arange(max(count, 1)) % len(index)]
        step.capacity = min(CALL, len(rows)) if step.capacity is None else step.capacity
        for start in range(0, count, step.capacity):
            try:
                state, results = step.run(dict(columns), rows[start : min(start + step.capacity, count)])
            except (ValueError, *FAILURES) as error:
                raise CannotRunError(str(error).partition("\n")[0]) from error
            step.batch.keep_flat(state)
        for value in (*state[:1], *results[:1]):
            value.cpu()

    return timed


class TorchModel(GraphModel):
    """A model whose training step takes gradients by autograd."""

    def __init__(self, forward: Forward, optimizer: Any):
        super().__init__()
        self.forward, self.updated = forward, optimizer
        self.trained = [one for one in forward.trained() if "float" in str(one.dtype)]

    def train_step(self, data: Any) -> dict[str, Any]:
        outputs = self.forward(data[0] if isinstance(data, (tuple, list)) else data)
        own, pairs = shares(self.updated, self.trained), []
        for loss, of in own.items():
            objective = objective_of(outputs[loss], self.forward.added, of, self.updated)
            values = [variable.value for variable in of]
            found = torch.autograd.grad(objective, values, retain_graph=len(own) > 1, allow_unused=True)
            pairs += [(one, variable) for one, variable in zip(found, of, strict=True) if one is not None]
        with torch.no_grad():
            update(self.updated, *map(list, zip(*pairs, strict=True)))
            self.mean_loss.update_state(outputs["loss"])
        return {"loss": self.mean_loss.result()}
