"""An experiment's inference for use elsewhere: as a processor, a Keras model, or a file that runs without us."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experimentator.checkpoint import CheckpointError, as_path, make_folder, sync_files, sync_folder
from experimentator.embedded import Embedded, named
from experimentator.graph import Graph, MissingTensorError, Mode
from experimentator.isolation import inferring
from experimentator.loading.blocks import Spec
from experimentator.overrides import ConfigError
from experimentator.scalars import is_whole
from experimentator.settings import listed

if TYPE_CHECKING:
    from experimentator.experiment import BaseExperiment

OF_FILES = ("OutOfRangeError", "ResourceExhaustedError", "NotFoundError", "PermissionDeniedError")  # TensorFlow's
Sizes = Mapping[str, Sequence[int | None]]


class Exported:
    """The methods of an experiment that export its inference."""

    def as_processor(self: Any, outputs: Any, *, inputs: Any = None, mode: Any = Mode.ALL, node: str = "") -> Embedded:
        """This experiment's inference as a processor for another one's list, where it is not trained: see `Embedded`.

        >>> import numpy as np
        >>> from experimentator import BaseExperiment, chunk_processor
        >>> double = chunk_processor(outputs=["batch_double"])(lambda batch_x: 2 * batch_x)
        >>> shift = chunk_processor(outputs=["batch_y"])(lambda batch_double: batch_double + 1)
        >>> teacher = BaseExperiment({"chunk_processors": [double]})
        >>> student = BaseExperiment({"chunk_processors": [teacher.as_processor("batch_double"), shift]})
        >>> student.predict({"batch_x": np.array([1, 2])})["batch_y"].tolist()
        [3, 5]
        """
        self.program.prepare_to_infer()
        return Embedded(self, outputs, inputs, mode, node)

    def as_model(self: Any, outputs: Any = None, *, sizes: Sizes | None = None) -> Any:
        """This experiment's inference as a `keras.Model` from tensors by name to tensors by name.

        It computes `outputs`, or else the setting, or else all names that the graph of INFER computes and items lack;
        its inputs are the names that these depend on. An input has the shape of an item, and any number of rows;
        `sizes={"batch_input": [None, None, 3]}` gives it another, None for any size. A name that no item has, such as
        the noise of a sampler, is an input of float32 if `sizes` has it. The weights are shared: training one trains
        the other. So they are not the average of an `ExponentialMovingAverage`, which `predict` and `export` use.

        >>> import numpy as np
        >>> from experimentator import Mode, Subset, build_experiment, chunk_processor
        >>> double = chunk_processor(inputs=["batch_x"], outputs=["batch_y"])(lambda batch_x: 2 * batch_x)
        >>> subsets = [Subset("all", Mode.INFER, {"x": np.arange(4)})]
        >>> exp = build_experiment({"chunk_processors": [double], "subsets": subsets})
        >>> int(exp.as_model()({"batch_x": np.array([3])})["batch_y"][0])
        6

        Raises:
            ConfigError: for sizes of a name that is no input, or where no subset shows what items are like.
            ValueError: for a backend that is not one of Keras.
        """
        self.program.prepare_to_infer()
        return _model(self, listed(outputs), sizes or {})

    def export(self: Any, path: str | os.PathLike[str], outputs: Any = None, *, sizes: Sizes | None = None) -> Path:
        """Write the model of `as_model` to a file, with the weights that evaluation uses; it runs without this library.

        The suffix chooses the format: none for a SavedModel folder (from TensorFlow and JAX), `.onnx` (from TensorFlow
        and PyTorch), `.tflite` (TensorFlow), `.pt2` (PyTorch). Inputs and outputs keep their names, and take any number
        of rows. The file is written whole or not at all; an existing one is never replaced.

        >>> from experimentator import Mode, Subset, build_experiment, chunk_processor
        >>> double = chunk_processor(inputs=["batch_x"], outputs=["batch_y"])(lambda batch_x: 2 * batch_x)
        >>> subsets = [Subset("all", Mode.INFER, {"x": [1, 2]})]
        >>> exp = build_experiment({"chunk_processors": [double], "subsets": subsets})
        >>> exp.export("double.h5")
        Traceback (most recent call last):
        experimentator.overrides.ConfigError: double.h5 is no file that can be exported with ...
        Seen: .h5.
        Suffixes: ...

        Raises:
            CheckpointError: if the path exists already, or cannot be written.
            ConfigError: for another suffix, and as `as_model` does.
            MissingFrameworkError: with the command that installs what is missing.
            ValueError: for operations that the format lacks, such as random draws in ONNX.
        """
        self.program.prepare_to_infer()
        with inferring(self.walk):
            return _export(self, as_path(path, write='exp.export("digits.onnx")'), listed(outputs), sizes or {})


def _model(exp: BaseExperiment, outputs: Sequence[str], sizes: Any) -> Any:
    specs, selection = exp.program.specs(Mode.INFER), exp.program.selection
    if not isinstance(sizes, Mapping):
        write = f"Name the input: sizes={{{min(specs, default='batch_input')!r}: {sizes!r}}}."
        raise ConfigError("sizes go by name.", f"Seen: {sizes!r}.", write)
    whole, specs = _whole(exp, specs, sizes)
    computed = [name for name in selection.wanted(whole) if name not in specs]
    graph = _chosen(whole, outputs or selection.outputs(whole) or computed)
    if unknown := sorted(graph.inputs - specs.keys()):
        raise ConfigError(
            f"The sizes of {unknown[0]!r} are not known.",
            f"Seen: {', '.join(sorted(specs)) or 'nothing'} in the items of a subset.",
            "Give the experiment a subset whose items have it; or give its sizes without the batch axis (it becomes "
            f"float32): sizes={{{unknown[0]!r}: [64]}}.",
        )
    if not graph.inputs:
        raise ConfigError(
            f"{', '.join(graph.results)} is computed from weights alone, and a model needs an input.",
            "Seen: no input.",
            "Ask for outputs=[...] that read one; exp.predict(SUBSET) gives this one as an array.",
        )
    if slips := sorted(sizes.keys() - graph.inputs):
        raise ConfigError(
            f"Nothing reads {slips[0]!r} to make {', '.join(graph.results)}.",
            f"Seen: sizes={dict(sizes)}.",
            f"Name an input: {', '.join(sorted(graph.inputs))}.",
        )
    items = {name: specs[name].shape[1:] for name in graph.inputs}
    asked = {name: _checked(name, sizes.get(name, own), own) for name, own in items.items()}
    return exp.backend.model(graph, {name: specs[name] for name in graph.inputs}, asked, named(exp.source.filename))


def _whole(exp: BaseExperiment, specs: Mapping[str, Spec], sizes: Sizes) -> tuple[Graph, dict[str, Spec]]:
    """The graph of INFER and its specs: those of items, and float32 of `sizes` for names that nothing writes."""
    whole = exp.program.whole(Mode.INFER)
    free = {ref.name for node in whole.nodes for ref in node.reads if not whole.written_in(ref.name)} - specs.keys()
    given = {name: _checked(name, sizes[name]) for name in free if name in sizes}
    if not given:
        return whole, dict(specs)
    all_specs = {**specs, **{name: Spec((None, *own), np.dtype(np.float32)) for name, own in given.items()}}
    processors = exp.program.record(Mode.INFER, given=all_specs)
    return Graph(processors, provided=all_specs.keys(), mode=Mode.INFER), all_specs


def _export(exp: BaseExperiment, path: Path, outputs: Sequence[str], sizes: Sizes) -> Path:
    """Write to a temporary path, then rename."""
    check_new(path)
    if path.suffix not in (formats := exp.backend.formats):
        kinds = ", ".join(suffix or "none (a folder)" for suffix in formats)
        raise ConfigError(
            f"{path.name} is no file that can be exported with {exp.backend.name}.",
            f"Seen: {path.suffix or 'no suffix'}.",
            f"Suffixes: {kinds}." if kinds else "Train with TensorFlow, JAX or PyTorch.",
        )
    model = _model(exp, outputs, sizes)
    if path.suffix == ".onnx":  # the backend tries the file on an item
        model.layers[-1].item = _item(exp)
    try:
        make_folder(path.parent)
        aside = path.with_name(f".{path.stem}-{secrets.token_hex(4)}{path.suffix}")
        try:
            exp.backend.export(model, aside)
            sync_files(aside)
            os.rename(aside, path)
            sync_folder(path.parent)
        except BaseException as error:
            shutil.rmtree(aside) if aside.is_dir() else aside.unlink(missing_ok=True)
            error.add_note(f"Nothing was written to {path}.")
            raise
    except Exception as error:
        is_of_files = isinstance(error, OSError) or type(error).__name__ in OF_FILES
        if isinstance(error, CheckpointError | ImportError) or not is_of_files:
            raise
        seen = getattr(error, "strerror", None) or str(error).partition("\n")[0]
        write = "Name another place, or make room there."
        raise CheckpointError(f"{path} cannot be written.\nSeen: {seen:.200}.\n{write}") from error
    return path


def _item(exp: BaseExperiment) -> dict[str, Any]:
    """A batch of one item, to try an exported file on."""
    subsets = sorted(exp.subsets, key=lambda subset: subset.mode != Mode.INFER)
    return dict(subsets[0].sample()[1]) if subsets else {}


def check_new(path: Path) -> None:
    """Refuse a path that exists."""
    if os.path.lexists(path):
        seen = "a folder" if path.is_dir() else "a file"
        raise CheckpointError(f"{path} exists already.\nSeen: {seen}.\nName another, or remove it.")


def _chosen(whole: Graph, names: Sequence[str]) -> Graph:
    if not names:
        raise ConfigError(
            "From what items have, INFER computes nothing that could be exported.",
            f"Seen: {', '.join(sorted(whole.provided)) or 'nothing'} in items.",
            "Name what to compute, outputs=['batch_logits'], and sizes of other inputs: sizes={'batch_noise': [64]}.",
        )
    try:
        return whole.select(*names)
    except MissingTensorError as error:
        if error.reader is not None:
            given = f"sizes={{{error.name!r}: [64]}}"
            error.add_note(f"If the user of the file is to provide it, give its sizes (it becomes float32): {given}.")
        raise


def _checked(name: str, asked: Any, own: Sequence[int | None] | None = None) -> tuple[int | None, ...]:
    """The sizes that are asked for an input, as many as an item's `own` if these are known; others are refused."""
    are_sizes = isinstance(asked, list | tuple) and all(size is None or is_whole(size, least=1) for size in asked)
    if not are_sizes or (own is not None and len(asked) != len(own)):
        raise ConfigError(
            f"sizes of {name!r} are whole numbers, or None for any, without the batch axis.",
            f"Seen: {asked!r}{'' if own is None else f'; an item has {list(own)}'}.",
            f"Write sizes={{{name!r}: {[64] if own is None else [*[None] * (len(own) - 1), *own[-1:]]}}}.",
        )
    return tuple(None if size is None else int(size) for size in asked)
