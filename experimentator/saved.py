"""Saving and loading of an experiment: weights, for any experiment, and checkpoints, to continue a training exactly."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experimentator.checkpoint import OF_KERAS, OF_PYTORCH, load_weights, save_weights, weights_in
from experimentator.config import ConfigError
from experimentator.diagnosis import nan_weights, spoilt
from experimentator.saving import resume
from experimentator.saving.manifest import KEPT
from experimentator.saving.matching import Matching, fitting, named_by


class Saved:
    """The methods of an experiment that save and load weights and checkpoints."""

    def save_weights(self: Any, filename: Any, *, only: Any = None) -> None:
        """Write the weights of all processors, or `only` those of patterns, to a safetensors file, whole or not at all.

        >>> from tempfile import TemporaryDirectory
        >>> import keras
        >>> from experimentator import Mode, Subset, build_experiment, ops
        >>> head = ops.Model(keras.layers.Dense(2), inputs="batch_x", outputs="batch_y", node="Head")
        >>> subset = Subset("all", Mode.INFER, {"x": [[1.0, 2.0, 3.0]]})
        >>> exp = build_experiment({"subsets": [subset], "chunk_processors": [head]})
        >>> with TemporaryDirectory() as folder:
        ...     exp.save_weights(f"{folder}/head.safetensors")
        ...     exp.load_weights(f"{folder}/head.safetensors")
        matched  Head/0/kernel [3, 2]
        matched  Head/1/bias [2]
        """
        self.program.prepare()
        weights = _known(self)
        weights = weights if only is None else {key: weights[key] for key in named_by(only, weights)}
        for said in nan_weights(spoilt(weights)):
            self.program.tell(said)
        save_weights(filename, weights)
        if (path := Path(filename)).suffix in (*OF_KERAS, *OF_PYTORCH):
            said = "%s is a safetensors file, whatever its name: neither Keras nor torch.load can read it. Name it %s."
            self.program.tell(said, path, path.with_suffix(".safetensors").name)

    def load_weights(
        self: Any, filename: Any = "auto", *, only: Any = None, rename: Mapping[str, str] | None = None
    ) -> Matching:
        """Read weights that `save_weights` wrote: all that are asked for, or none if one does not fit. Returns matches.

        `only="Trunk/*"` (a pattern of keys, or several) loads a part; `rename={"Body": "Trunk"}` gives nodes of the
        file the names they have here. `"auto"` is the file beside the configuration, as in a run folder. States of
        metrics and of seed generators do not count as weights.

        >>> from tempfile import TemporaryDirectory
        >>> import keras
        >>> from experimentator import Mode, Subset, build_experiment, ops
        >>> def network(classes):
        ...     trunk = ops.Model(keras.layers.Dense(8), inputs="batch_x", outputs="batch_h", node="Trunk")
        ...     head = ops.Model(keras.layers.Dense(classes), inputs="batch_h", outputs="batch_y", node="Head")
        ...     subset = Subset("all", Mode.INFER, {"x": [[1.0, 2.0, 3.0]]})
        ...     return build_experiment({"subsets": [subset], "chunk_processors": [trunk, head]})
        >>> with TemporaryDirectory() as folder:
        ...     network(10).save_weights(f"{folder}/ten.safetensors")
        ...     network(2).load_weights(f"{folder}/ten.safetensors", only="Trunk/*")
        matched  Trunk/0/kernel [3, 8]
        matched  Trunk/1/bias [8]
        kept  Head/0/kernel [8, 2]
        kept  Head/1/bias [2]

        Raises:
            CheckpointError: when the file cannot be read, naming it.
            WeightsError: when something does not fit, saying what.
        """
        self.program.prepare()
        if filename == "auto":
            filename = weights_in(self.own_folder() or Path())
        found = self.program.lasting(load_weights(filename))
        chosen, matching = fitting(_known(self), found, only=only, rename=rename, name=filename)
        self.backend.set_weights(self.backend.weights() | chosen)
        resume.take_loaded(self, chosen)
        self.walk.looked = False  # look for NaN again when training begins
        self.begun_from = filename
        return matching

    def save_checkpoint(self: Any, folder: Any, *, keep: int = KEPT) -> Path:
        """Save all that a training needs to continue exactly, in a new numbered folder; see `CheckpointEvery`.

        >>> from tempfile import TemporaryDirectory
        >>> from experimentator import BaseExperiment, Mode, Subset
        >>> exp = BaseExperiment({"subsets": [Subset("all", Mode.INFER, {"x": [1, 2]})]})
        >>> with TemporaryDirectory() as folder:
        ...     [exp.save_checkpoint(folder).name for _ in range(2)]
        ['00000001', '00000002']

        Raises:
            CheckpointError: when it cannot be written, naming the path.
        """
        self.program.prepare()
        return resume.save(self, folder, keep=keep)

    def resume(self: Any, folder: Any) -> Path:
        """Continue from the newest intact checkpoint in a run folder or a folder of checkpoints, or from a given one.

        The next `train` continues at the very batch. The configuration must be the one that was saved; if it had a run
        folder, that one is continued.

        >>> from tempfile import TemporaryDirectory
        >>> import keras
        >>> from experimentator import Mode, Subset, build_experiment, ops
        >>> def build():
        ...     guess = ops.Model(keras.layers.Dense(1), inputs="batch_x", outputs="batch_guess")
        ...     subset = Subset("training", Mode.TRAIN, {"x": [[0.0], [1.0]], "y": [[0.0], [2.0]]})
        ...     config = {"subsets": [subset], "optimizer": keras.optimizers.SGD(0.5), "hide_progress": True}
        ...     config["chunk_processors"] = [guess, ops.MeanSquaredError("batch_guess", "batch_y")]
        ...     return build_experiment(config)
        >>> exp, another = build(), build()
        >>> with TemporaryDirectory() as folder:
        ...     _ = exp.train(2), exp.save_checkpoint(folder)
        ...     another.resume(folder).name
        '00000001'
        >>> another.epoch, another.train(3)[-1]["training_loss"] == exp.train(3)[-1]["training_loss"]
        (2, True)

        Raises:
            CheckpointError: when there is no checkpoint, or none that is whole.
            ResumeError: when the checkpoint is of another experiment, saying what differs.
        """
        self.program.prepare()
        return resume.resume(self, folder)


def _known(exp: Any) -> dict[str, np.ndarray]:
    """The weights of every processor; raises where no subset shows which there are."""
    weights: dict[str, np.ndarray] = exp.program.lasting(exp.backend.weights())
    if not weights and exp.chunk_processors and not exp.subsets:
        raise ConfigError(
            "It is not known yet which weights there are.",
            "Seen: no subset, whose items would show it.",
            "Give the experiment a subset, or call exp.predict({...}) first.",
        )
    return weights
