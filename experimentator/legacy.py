"""The interface that task files of earlier versions use: properties that read the chunk, and single batches."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from experimentator.accumulating import marked_in
from experimentator.callbacks.callback import run_folder
from experimentator.checkpoint import WEIGHTS, weights_in
from experimentator.config import ConfigError
from experimentator.configured import Configured
from experimentator.data.items import DatasetError
from experimentator.embedded import named
from experimentator.graph import Chunk, ChunkProcessor, Graph, Mode
from experimentator.runs import STATUS
from experimentator.settings import listed

log = logging.getLogger(__name__)
PROPERTIES = {"metrics": Mode.TRAIN | Mode.EVAL, "outputs": Mode.INFER}  # with the modes they are evaluated in


class Legacy(Configured):
    """Names and methods of earlier versions.

    A task class may list names in `batch_inputs_names` (those that undeclared processors see of a batch; by default
    all), `batch_metrics_names` (those that training and evaluation compute in addition) and `batch_outputs_names`
    (those that inference returns). Its properties `metrics` and `outputs` may be dictionaries of tensors of
    `self.chunk`.
    """

    _giving_way = frozenset({"folder", "inputs"})
    batch_inputs_names: Sequence[str] = ()
    batch_metrics_names: Sequence[str] = ()
    batch_outputs_names: Sequence[str] = ()
    begun_from: Any = None  # the file that weights were loaded from, or will be at first use

    @cached_property
    def metrics(self) -> list[str]:
        """Names averaged over each cycle, besides `loss`: what metric processors write, and the setting `metrics`."""
        names = (*marked_in(self.chunk_processors), *listed(self.cfg.get("metrics")), *self.batch_metrics_names)
        metrics: list[str] = self.names_of(name for name in names if name != "loss")
        return metrics

    @cached_property
    def outputs(self) -> list[str] | None:
        """Names that `predict` returns; None for all that can be computed."""
        names = listed(self.cfg.get("outputs")) or self.batch_outputs_names
        outputs: list[str] | None = self.names_of(names, else_none=True)
        return outputs

    @property
    def chunk(self) -> Any:
        """The tensors at the end of the list; there only while `metrics` and `outputs` are evaluated for a graph."""
        if "_chunk" not in vars(self):
            raise UntracedError
        return vars(self)["_chunk"]

    @property
    def inputs(self) -> Any:
        """The names that the graph of the first subset's mode reads of a batch, with shapes and dtypes."""
        if "inputs" in self.cfg:
            return self.cfg["inputs"]  # a setting of that name
        mode = self.subsets[0].mode if self.subsets else Mode.TRAIN
        specs = self.program.specs(mode)
        return {name: specs[name] for name in (self.batch_inputs_names or sorted(self.program.graph(mode).inputs))}

    @property
    def project_name(self) -> str:
        """The setting, else the name of the configuration file; of a run's copy, the name of its project."""
        filename = self.source.filename
        own = named(filename) if filename and not filename.startswith("<") else "experiment"
        return self.cfg.get("project_name") or own

    @property
    def folder(self) -> Any:
        """The run folder once training began, else the configuration file's (`own_folder`); or a setting `folder`."""
        return self.cfg["folder"] if "folder" in self.cfg else self.own_folder()  # a setting of that name

    def own_folder(self) -> Path | None:
        """The run folder once training began; else the configuration file's folder; None without either."""
        return run_folder(self) or (Path(self.source.filename).parent if self.source.filename else None)

    def batch_train(self, data: Mapping[str, Any], mode: Any = Mode.TRAIN) -> dict[str, Any]:
        """Train on one batch, `{"batch_input": [B, ...], ...}`, or evaluate it in another `mode`; returns the results.

        >>> import keras, numpy as np
        >>> from experimentator import build_experiment, ops
        >>> guess = ops.Model(keras.layers.Dense(1), inputs="batch_x", outputs="batch_guess")
        >>> error = ops.MeanSquaredError("batch_guess", "batch_y")
        >>> exp = build_experiment({"chunk_processors": [guess, error], "optimizer": keras.optimizers.SGD(0.1)})
        >>> batch = {"batch_x": np.array([[0.0], [1.0]]), "batch_y": np.array([[0.0], [2.0]])}
        >>> first, *_, last = [exp.batch_train(batch)["loss"] for _ in range(20)]
        >>> bool(last < first)
        True
        """
        return self._batch(data, Mode.of(mode))

    def batch_eval(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Evaluate one batch.

        >>> import numpy as np
        >>> from experimentator import BaseExperiment, chunk_processor
        >>> error = chunk_processor(outputs=["loss"])(lambda batch_x, batch_y: abs(batch_x - batch_y).mean())
        >>> exp = BaseExperiment({"chunk_processors": [error]})
        >>> float(exp.batch_eval({"batch_x": np.array([1.0, 2.0]), "batch_y": np.array([1.0, 4.0])})["loss"])
        1.0
        """
        return self._batch(data, Mode.EVAL)

    def batch_infer(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Infer one batch, which may hold names that inference does not need.

        >>> import numpy as np
        >>> from experimentator import BaseExperiment, chunk_processor
        >>> double = chunk_processor(outputs=["batch_double"])(lambda batch_x: 2 * batch_x)
        >>> exp = BaseExperiment({"chunk_processors": [double]})
        >>> exp.batch_infer({"batch_x": np.array([1, 2]), "batch_y": np.array([1, 4])})
        {'batch_double': array([2, 4])}
        """
        return self._batch(data, Mode.INFER)

    def names_of(self, names: Iterable[str], *, else_none: bool = False) -> Any:
        """Names as a list; while a graph is made, they map to their tensors, for a task class to compute with."""
        names = list(dict.fromkeys(names))
        chunk = vars(self).get("_chunk")
        if chunk is None:
            return Names(names, _PROBE) if names or not else_none else None
        return Names([name for name in names if chunk is _PROBE or name in chunk], chunk)

    def expect_weights(self) -> None:
        """Where the configuration lies in a run folder, load the weights of that run at first use.

        Until then processors may be changed.
        """
        beside = Path(self.source.filename).parent
        if self.source.filename and (beside / STATUS).is_file() and (beside / WEIGHTS).is_file():
            self.begun_from = vars(self)["_stored"] = weights_in(beside)

    def _notice(self) -> None:
        for key in PROPERTIES:
            self._take_in(key)
        super()._notice()
        if (weights := vars(self).pop("_stored", None)) is not None:
            self.load_weights(weights)

    def _take_in(self, key: str) -> None:
        """Set what was added to the names that `metrics` or `outputs` gave, or taken from them."""
        names = vars(self).get(key)
        if _is_of_task(self, key) or not isinstance(names, Names) or Counter(names) == names.made:
            return
        # what metrics write is no setting
        set_before = listed(self.cfg.get(key)) if key == "metrics" else [*names.made]
        wanted = list(dict.fromkeys([*(name for name in set_before if name in names), *Counter(names) - names.made]))
        if wanted != set_before:
            setattr(self, key, wanted)
        else:
            del vars(self)[key]
            log.warning("Nothing was taken from exp.%s: processors write it. To measure less, leave those out.", key)

    def _batch(self, data: Mapping[str, Any], mode: Mode) -> dict[str, Any]:
        self.program.prepare()
        if mode == Mode.TRAIN and self.walk.restore is not None:
            self.program.tell("This batch will be lost: train() continues from the resumed checkpoint.")
        results: dict[str, Any] = self.program.predictor.once(data, mode)
        return results


class UntracedError(RuntimeError):
    """`exp.chunk`, or a property that needs it, was read while no graph is made."""

    def __init__(self) -> None:
        super().__init__(
            "There is no chunk outside of a graph.\nSeen: self.chunk was read while no graph is built.\n"
            "Index self.chunk in the properties `metrics` and `outputs` of a task class only."
        )


class Names(list[str]):
    """Names that also map to their tensors: a task class may extend them like a list or like a dictionary.

    >>> names = Names(["loss"], {"loss": 0.5})
    >>> [*names, "error"], {**names, "error": 0.25}, names | {"error": 0.25}
    (['loss', 'error'], {'loss': 0.5, 'error': 0.25}, {'loss': 0.5, 'error': 0.25})
    """

    def __init__(self, names: Iterable[str], tensors: Any):
        super().__init__(names)
        self.made = Counter(self)  # to notice names that are added or removed later
        self._tensors, self._added = tensors, dict[str, Any]()

    def keys(self) -> tuple[str, ...]:
        """The names."""
        return tuple(self)

    def items(self) -> list[tuple[str, Any]]:
        """Names with their tensors."""
        return [(name, self[name]) for name in self]

    def update(self, tensors: Mapping[str, Any] = {}, **named: Any) -> None:
        """Add tensors under their names."""
        for name, tensor in {**tensors, **named}.items():
            self[name] = tensor

    def __getitem__(self, name: Any) -> Any:
        if not isinstance(name, str):
            return super().__getitem__(name)
        return self._added[name] if name in self._added else self._tensors[name]

    def __setitem__(self, name: Any, tensor: Any) -> None:
        if name not in self:
            self.append(name)
        self._added[name] = tensor

    def __or__(self, tensors: Mapping[str, Any]) -> dict[str, Any]:
        return {**dict(self.items()), **tensors}

    def __ior__(self, tensors: Mapping[str, Any]) -> Names:
        self.update(tensors)
        return self


class TaskProperty(ChunkProcessor):
    """A task class's property that reads the chunk, as a processor at the end of the list: it writes its tensors."""

    def __init__(self, exp: Any, what: str):
        self.exp, self.what, self.mode, self.node = exp, what, PROPERTIES[what], what
        self.names: tuple[str, ...] = ()
        self._source = None  # or the line above would be shown as its source

    def __call__(self, chunk: Chunk) -> None:
        named = _evaluated(self.exp, self.what, chunk)
        if not isinstance(named, Mapping | Names) and _are_names(named):
            named = Names(named, chunk)
        if not isinstance(named, Mapping | Names):
            raise _unusable(self.exp, self.what, named)
        tensors = dict(named.items())
        for name, tensor in tensors.items():
            if name not in chunk or chunk[name] is not tensor:
                chunk[name] = tensor
        self.names = tuple(name for name in tensors if name != "loss")

    def __repr__(self) -> str:
        return f"{type(self.exp).__name__}.{self.what}"


class _Probe(dict[str, Any]):
    """Stands for the chunk: raises UntracedError when it is read."""

    def _tell(self, *_: Any) -> Any:
        raise UntracedError

    __getitem__ = __contains__ = __iter__ = get = items = keys = values = _tell


_PROBE = _Probe()


def task_properties(exp: Any) -> dict[str, TaskProperty]:
    """The properties `metrics` and `outputs`, where a task class computes them from the chunk, as processors."""
    return {what: TaskProperty(exp, what) for what in PROPERTIES if _looks_into_the_chunk(exp, what)}


def _is_of_task(exp: Any, what: str) -> bool:
    """Whether a property is the task class's own, and not the library's."""
    return getattr(type(exp), what) is not vars(Legacy)[what]


def _looks_into_the_chunk(exp: Any, what: str) -> bool:
    if not _is_of_task(exp, what):
        return False
    try:
        value = _evaluated(exp, what, _PROBE)
    except UntracedError:
        return True
    if value is not None and not isinstance(value, str | list | tuple | Mapping):
        raise _unusable(exp, what, value)
    return isinstance(value, Mapping)


def _are_names(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(name, str) for name in value)


def _unusable(exp: Any, what: str, value: Any) -> ConfigError:
    owner = next(cls.__name__ for cls in type(exp).__mro__ if what in vars(cls))
    return ConfigError(
        f"{owner}.{what} gives neither names nor tensors by name.\nSeen: {value!r:.80}.\n"
        f'Return a list of names, or a dictionary such as {{**super().{what}, "name": self.chunk["name"]}}.'
    )


def _evaluated(exp: Any, what: str, chunk: Any) -> Any:
    """The property, evaluated anew with `exp.chunk` being `chunk`; its value is not cached."""
    kept = vars(exp)
    kept.pop(what, None)
    kept["_chunk"] = chunk
    try:
        return getattr(exp, what)
    finally:
        kept.pop("_chunk")
        kept.pop(what, None)


def shown_of(specs: Mapping[str, Any], names: Iterable[str], processors: Iterable[Any]) -> dict[str, Any]:
    """The specs that undeclared processors see: of `names` and of what declared ones read; of all if no names."""
    shown = set(names)
    if not shown:
        return dict(specs)
    shown |= {name for processor in processors for name in (getattr(processor, "inputs", None) or ())}
    hidden = specs.keys() - shown
    if hidden:
        log.info("batch_inputs_names leaves out %s, which undeclared processors do not see.", ", ".join(sorted(hidden)))
    return {name: spec for name, spec in specs.items() if name in shown}


def check_given(columns: Mapping[str, Any], graph: Graph) -> None:
    """Refuse a batch that lacks a name that the graph reads."""
    missing = sorted(graph.inputs - columns.keys())
    if missing:
        raise DatasetError(
            f"The batch lacks {', '.join(map(repr, missing))}, which the graph of {graph.mode} reads.",
            f"{', '.join(columns) or 'no numbers'} in it",
            "Give a batch as exp.batch_generator(subset) yields it.",
        )
