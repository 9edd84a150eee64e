"""What an experiment writes and reads back: weights, which others may take, and checkpoints, to go on from exactly."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experimentator.checkpoint import load_weights, save_weights, weights_in
from experimentator.saving import resume
from experimentator.saving.manifest import KEPT
from experimentator.saving.matching import Matching, fitting, named_by
from experimentator.suspects import tell_spoilt


class Saved:
    """What an experiment has learned, on disk and back."""

    def save_weights(self: Any, filename: Any, *, only: Any = None) -> None:
        """Write the weights of every processor to a safetensors file, whole or not at all; `only` those of patterns."""
        self._prepare()
        weights = self.program.lasting(self.backend.weights())
        weights = weights if only is None else {key: weights[key] for key in named_by(only, weights)}
        tell_spoilt(weights, self._spoilt)
        save_weights(filename, weights)

    def load_weights(
        self: Any, filename: Any = "auto", *, only: Any = None, rename: Mapping[str, str] | None = None
    ) -> Matching:
        """Read weights that `save_weights` wrote; all that is asked for fits, or nothing changes. Says what matched.

        `only="Trunk/*"` (a pattern of keys, or several) loads a part; `rename={"Body": "Trunk"}` gives nodes of the
        file the names they have here. `"auto"` is the file beside the configuration, as in a run folder. What metrics
        accumulate, and the states of what draws, are no weights.
        """
        self._prepare()
        if filename == "auto":
            filename = weights_in(self.own_folder() or Path())
        own, lasting = self.backend.weights(), self.program.lasting
        found = lasting(load_weights(filename))
        chosen, matching = fitting(lasting(own), found, only=only, rename=rename, name=filename)
        self.backend.set_weights(own | chosen)
        resume.take_loaded(self, chosen)
        self.walk.looked = False  # at NaN that a training begins with
        return matching

    def save_checkpoint(self: Any, folder: Any, *, keep: int = KEPT) -> Path:
        """Save all that a training needs to go on exactly, as a new numbered folder in `folder`; see `CheckpointEvery`.

        Raises:
            CheckpointError: when it cannot be written, naming the path.
        """
        self._prepare()
        return resume.save(self, folder, keep=keep)

    def resume(self: Any, folder: Any) -> Path:
        """Go on from the newest whole checkpoint in a folder: of a run, of checkpoints, or one itself.

        The next `train` continues at the very batch. This must be the configuration that was saved; where it listed a
        run folder, that one is continued.

        Raises:
            CheckpointError: when there is no checkpoint, or none that is whole.
            ResumeError: when the checkpoint is of another experiment, saying what differs.
        """
        self._prepare()
        return resume.resume(self, folder)
