"""Which chunk processor first made NaN or infinity, when the loss is not finite."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from experimentator.averages import NonFiniteLossError
from experimentator.callbacks.callback import Callback, nothing_saved
from experimentator.graph import Mode
from experimentator.graph.text import failed_in
from experimentator.saving.matching import node_of


class TerminateOnNaN(Callback):
    """Name the chunk processor that first made NaN or infinity, when the loss is not finite.

    The engine stops on such a loss by itself. With this callback the failing batch is run again, processor by
    processor, with the weights it had: weights are copied at the start of each call, and the batches of the call before
    the failing one are repeated. The experiment is left as it was before the failing batch. That costs a copy of
    weights and optimizer state on the device for each call of many batches, and their memory.

    Weights that become NaN while the loss is finite, as where a ReLU makes 0 of NaN, end the training after any epoch;
    without this callback, weights are checked only after the first and the last epoch of a call of `train`.

    Reads the results of each call; writes nothing. The error is the engine's, with the processor in its message; the
    picture of a run folder marks that processor.

    >>> [event for event in ("batch_end", "block_end") if hasattr(TerminateOnNaN, f"on_{event}")]
    ['block_end']

    Raises:
        NonFiniteLossError: naming the processor, or the names of the batch that hold such values.
    """

    of_pass = ("_restore",)
    state_dict = nothing_saved

    def __init__(self) -> None:
        self._restore: Callable[[], None] | None = None

    def on_cycle_begin(self, mode: Mode, **_: Any) -> None:
        """Keep the state that the first call starts from; evaluation changes none."""
        self._restore = self.exp.backend.snapshot(self.exp.optimizer) if mode == Mode.TRAIN else None

    def on_block_end(self, block: Any, results: Mapping[str, np.ndarray], state: dict[str, Any], **_: Any) -> None:
        """Look at the loss of each batch of the call."""
        losses = np.asarray(results["loss"], np.float64) if "loss" in results else np.zeros(1)
        finite = np.isfinite(losses.reshape(len(losses), -1)).all(axis=1)
        if not finite.all():
            raise self._error(block, int(np.argmin(finite)), state)
        if self._restore is not None:
            self._restore = self.exp.backend.snapshot(self.exp.optimizer)

    def on_cycle_end(self, mode: Mode, cycle_name: str, **_: Any) -> None:
        """Drop the copy; check the weights, since a ReLU hides NaN from the loss."""
        self._restore = None
        if mode == Mode.TRAIN:
            self.exp.walk.look_at_weights(f"epoch {self.exp.epoch + 1} of {cycle_name!r}")

    def _error(self, block: Any, place: int, state: dict[str, Any]) -> NonFiniteLossError:
        mode, name = state["mode"], state["cycle_name"]
        if self._restore is not None:  # bring weights and optimizer to where the failing batch found them
            self._restore()
            if place:
                state["runner"].step(block.columns, block.index[:place], fixed=False)
        graph = self.exp.graph(mode)
        found = self.exp.backend.spoilt(graph, block.columns, block.index[place])
        batch = state["batch"] - len(block.index) + 1 + place
        what = f"The loss is not finite in batch {batch} of {name!r}, epoch {self.exp.epoch + 1}."
        if found is None:
            return NonFiniteLossError(
                f"{what}\nSeen: every processor made finite values of finite ones, when run again.\n"
                "Look for NaN in the data of that batch, or for draws that differ when they are repeated."
            )
        node, tensor = found
        cause = self._cause(node.name)
        error = NonFiniteLossError(
            f"{what}\nSeen: {tensor!r} holds NaN or infinity first, made by {node}{cause[0]}.\n{cause[1]}"
        )
        error.first = tensor
        error.add_note(failed_in(node, mode))
        return error

    def _cause(self, node: str) -> tuple[str, str]:
        """Cause and advice, in words: weights that an update spoilt, or the processor itself."""
        own = [values for key, values in self.exp.backend.weights().items() if node_of(key) == node]
        if all(np.isfinite(values).all() for values in own if values.dtype.kind == "f"):
            return "", "Keep its inputs in the range it is made for, or lower learning_rate."
        return (
            ", whose weights are not finite",
            "The update before spoilt them: lower learning_rate, or clip gradients.",
        )
