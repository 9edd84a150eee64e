"""Weights that training leaves as they are, for all of it or for its first epochs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from experimentator.callbacks.callback import Callback, nothing_saved
from experimentator.callbacks.order import CallbackError
from experimentator.saving.matching import named_by
from experimentator.scalars import is_whole


class Freeze(Callback):
    """Freeze the weights that `patterns` name, for the first `epochs` epochs or for the whole training.

    Patterns are those of `exp.load_weights`: `"Trunk/*"`, `"Trunk"` for the same, `"*/bias"`; `exp.backend.weights()`
    has the keys, as files of weights do. A layer all of whose weights are named is frozen as Keras does it:
    BatchNormalization keeps its statistics, too. After the training, weights are as trainable as they were before.

    Reads and writes which weights are trainable; nothing in the state.

    >>> Freeze("Trunk/*", epochs=3).patterns
    ('Trunk/*',)
    """

    phase = "prepare"
    before = ("ExponentialMovingAverage", "FindLearningRate")
    after = ("LoadWeights",)
    state_dict = nothing_saved  # what is frozen follows from the epoch

    def __init__(self, patterns: str | Iterable[str], *, epochs: int | None = None):
        given: Any = patterns  # whatever its annotation says
        self.patterns = tuple(given) if hasattr(given, "__iter__") and not isinstance(given, str) else (given,)
        self.epochs = epochs
        are_names = all(isinstance(one, str) for one in self.patterns)
        if not self.patterns or not are_names or (epochs is not None and not is_whole(epochs, least=1)):
            raise CallbackError(
                "Freeze needs patterns of weights, and a number of epochs or none.\n"
                f"Seen: {self.patterns!r}, epochs={epochs!r}.\n"
                'Write Freeze("Trunk/*"), or Freeze("Trunk/*", epochs=3).'
            )
        self._thaw: Callable[[], None] | None = None

    def on_train_begin(self, **_: Any) -> None:
        """Freeze; refuses a pattern that names nothing, before anything is trained."""
        self.on_train_end()
        keys = set(named_by(self.patterns, self.exp.backend.weights()))
        if not self._is_over:
            self._thaw = self.exp.backend.freeze(keys)
            self.exp.program.drop_steps()  # what was compiled before trains them

    def on_epoch_end(self, **_: Any) -> None:
        """Thaw when its epochs are over, but for what another one freezes, too."""
        if self._thaw is not None and self._is_over:
            freezing = [one for one in self.exp.callbacks if isinstance(one, Freeze) and one._thaw is not None]
            for one in freezing:
                one.on_train_end()
            for one in freezing:
                one.on_train_begin()

    @property
    def _is_over(self) -> bool:
        return self.epochs is not None and self.exp.epoch >= self.epochs

    def on_train_end(self, **_: Any) -> None:
        """Thaw, whatever ended the training."""
        if self._thaw is not None:
            self._thaw()
            self._thaw = None
            self.exp.program.drop_steps()
