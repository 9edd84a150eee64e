"""The experiment: one object that holds subsets, callbacks and the graph; all is read and changed through it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property, partial
from typing import Any

import numpy as np

from experimentator.backends import Backend, get_backend
from experimentator.config import ConfigError
from experimentator.data.foreign import as_subset
from experimentator.data.items import plain_array
from experimentator.diagnosis import shapes_compared
from experimentator.exported import Exported
from experimentator.graph import Graph, Mode
from experimentator.isolation import inferring
from experimentator.legacy import Legacy
from experimentator.loading.blocks import Pass
from experimentator.loading.feeds import Feed
from experimentator.optimizer_parts import configured_in, required_in
from experimentator.predictor import check_lengths
from experimentator.program import Program
from experimentator.records.history import History
from experimentator.records.predictions import Predictions
from experimentator.saved import Saved
from experimentator.saving.identity import begin, identity
from experimentator.settings import LIBRARY_KEYS, Key, check_values, listed, settle_rate, write_rate
from experimentator.subset import Subset, find, refuse_twins
from experimentator.summary import Summarised, facts, see_changes
from experimentator.walk import Walk

log = logging.getLogger(__name__)
PARTS = {"feeds": Program.drop_feeds, "steps": Program.drop_steps, "graphs": Program.drop_graphs}


class BaseExperiment(Legacy, Summarised, Saved, Exported):
    """An experiment from a configuration: a mapping, a Python file, its text, or an object with a `.dict`.

    Keyword arguments override the configuration before anything is derived from it. A subclass may override `subsets`,
    `callbacks`, `metrics` and `outputs`, and call `super()` there; the library's own features override one concern
    each: how events are fired, how a pass is read, which backend computes.

    >>> from experimentator.graph import chunk_processor
    >>> total = chunk_processor(inputs=["batch_x"], outputs=["total"])(lambda batch_x: batch_x.sum())
    >>> exp = BaseExperiment({"chunk_processors": [total], "batch_size": 2})
    >>> exp.predict({"batch_x": np.array([1, 2, 3])})["total"].tolist()
    [3, 3]
    """

    state: dict[str, Any]
    history: History
    walk: Walk
    epoch = 0

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if own := [name for name in ("state", "history", "walk", "program") if name in vars(cls)]:
            wrong = f"{cls.__name__} defines {own[0]!r}, which the experiment needs for itself."
            raise ConfigError(wrong, f"Seen: {vars(cls)[own[0]]!r:.60}.", "Give it another name.")

    def __init__(self, config: Any = None, **overrides: Any):
        super().__init__(config, **overrides)
        self.state = {}
        self.history = History()
        self.walk = Walk(self)

    # What it holds

    @cached_property
    def subsets(self) -> list[Subset]:
        """The subsets, in the order they are run."""
        subsets = [as_subset(subset) for subset in self.cfg.get("subsets") or () if subset is not None]
        refuse_twins(subsets)
        return subsets

    @cached_property
    def chunk_processors(self) -> list[Any]:
        """The processors as listed."""
        processors = self.cfg.get("chunk_processors") or []
        return processors if isinstance(processors, list) else list(processors)

    @cached_property
    def callbacks(self) -> list[Any]:
        """The callbacks as listed; CallbackedExperiment runs them. A training takes changes at its next epoch."""
        return [callback for callback in self.cfg.get("callbacks") or () if callback is not None]

    @cached_property
    def optimizer(self) -> Any:
        """The Keras optimizer, None without one."""
        vars(self)["optimizer"] = optimizer = self.cfg.get("optimizer")  # which a rate of a task class may read
        try:
            if optimizer is not None and (rate := self.learning_rate) is not None:
                settle_rate(optimizer, rate, self.source)
        finally:
            del vars(self)["optimizer"]
        return optimizer

    @cached_property
    def backend(self) -> Backend:
        """What compiles the graph: the framework of Keras if the optimizer is of Keras, else the numpy reference."""
        kinds = type(self.cfg.get("optimizer") or configured_in(self)).__mro__  # the latter may ask for the backend
        return get_backend("keras" if any(kind.__module__.startswith("keras") for kind in kinds) else "numpy")

    @cached_property
    def program(self) -> Program:
        """The graphs and compiled steps of this experiment."""
        return Program(self)

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """For every subset: batches run, calls of its compiled step (a host sync each), and traces."""
        return self.program.counts()

    @property
    def compilers(self) -> dict[str, str]:
        """The compiler of each subset that ran: one of `exp.backend.compilers`, or `eager`; status.json has it."""
        return self.program.compilers()

    def subset(self, name: str) -> Subset:
        """The subset of that name.

        >>> from experimentator import Subset
        >>> exp = BaseExperiment({"subsets": [Subset("validation", Mode.EVAL, {"x": [5, 6]})]})
        >>> exp.subset("validation").keys
        (0, 1)
        """
        return find(self.subsets, name)

    def batch(self, name: str, batch_size: int | None = None) -> dict[str, Any]:
        """One batch of a subset, to look at.

        >>> from experimentator import Subset
        >>> exp = BaseExperiment({"subsets": [Subset("validation", Mode.EVAL, {"x": [5, 6, 7]})]})
        >>> exp.batch("validation", 2)
        {'batch_x': array([5, 6])}
        """
        return next(self.batch_generator(name, batch_size))[1]

    def batch_generator(self, subset: Any, batch_size: int | None = None) -> Iterator[tuple[Any, dict[str, Any]]]:
        """Pairs of keys and batch of a subset (given by name or itself), in this epoch's order.

        With buckets, batches that are trained are others, of one bucket each: `on_batch_end` of a callback has them.
        """
        subset = self.subset(subset) if isinstance(subset, str) else as_subset(subset, asker="batch_generator")
        self.walk.address(subset)
        if not len(subset):
            raise subset.empty_error(())
        yield from subset.batches(self.batch_size if batch_size is None else batch_size)

    def graph(self, mode: Any = Mode.TRAIN) -> Graph:
        """The graph of a mode, pruned to what that mode computes; it draws itself in notebooks.

        >>> from experimentator import Subset, chunk_processor
        >>> half = chunk_processor(outputs=["batch_half"])(lambda batch_x: batch_x / 2)
        >>> error = chunk_processor(outputs=["loss"])(lambda batch_half, batch_y: ((batch_half - batch_y) ** 2).mean())
        >>> subset = Subset("validation", Mode.EVAL, {"x": [1.0, 2.0], "y": [1.0, 3.0]})
        >>> exp = BaseExperiment({"subsets": [subset], "chunk_processors": [half, error]})
        >>> exp.graph("eval"), exp.graph("infer").select("batch_half").inputs
        (<Graph EVAL: 2 processors, batch_x, batch_y -> loss>, frozenset({'batch_x'}))
        """
        see_changes(self)
        graph = self.program.graph(Mode.of(mode))
        graph.known = partial(facts, self)
        return graph

    # What it does

    def train(self, epochs: int | None = None) -> History:
        """Train up to a total of `epochs` (default: the setting), evaluate as `eval_epochs` says; returns the history.

        The history has a row for each epoch: its number, averages, what callbacks wrote, and `epoch_time`, the seconds
        of its passes, without what callbacks do at the end of the epoch.

        A callback ends the training after the epoch under way by writing the reason into `state["stop"]`, which stays
        there until the next `train`.

        >>> import keras
        >>> from experimentator import Subset, build_experiment, ops
        >>> x = np.linspace(-1, 1, 64)[:, None]
        >>> guess = ops.Model(keras.layers.Dense(1), inputs="batch_x", outputs="batch_guess")
        >>> error = ops.MeanSquaredError("batch_guess", "batch_y")
        >>> config = {"subsets": [Subset("training", Mode.TRAIN, {"x": x, "y": 3 * x})], "hide_progress": True}
        >>> config |= {"chunk_processors": [guess, error], "optimizer": keras.optimizers.SGD(0.5)}
        >>> exp = build_experiment(config, batch_size=8)
        >>> [row["epoch"] for row in exp.train(2)]
        [1, 2]
        >>> history = exp.train(3)  # which is one epoch more
        >>> history["epoch"], history[-1]["training_loss"] < 1e-3
        ([1, 2, 3], True)

        Raises:
            GraphError: when the graph is unsound, before anything is trained.
            DatasetError: for items that cannot be used, naming the key.
            NonFiniteLossError: when the loss becomes NaN or infinite.
        """
        if epochs is None and (epochs := self.cfg.get("epochs")) is None:
            wrong = "The number of epochs is missing."
            raise ConfigError(wrong, "Seen: no number, and no `epochs` in the configuration.", "Write exp.train(10).")
        check_values({"epochs": epochs})
        epochs = int(epochs)  # numpy's, too
        with self.walk.alone(epochs):
            if not any(subset.mode == Mode.TRAIN for subset in self.subsets):
                raise ConfigError(
                    "There is nothing to train on.\nSeen: no TRAIN subset.\nList Subset(name, Mode.TRAIN, ...)."
                )
            self.program.prepare()
            required_in(self)
            begin(self)
            if self.listens("pause"):
                identity(self)
            self.walk.train(epochs)
        return self.history

    def evaluate(self, subset: Any = None) -> dict[str, float]:
        """Averages over a subset (given by name or itself), or over every EVAL subset, as `<subset>_<name>`.

        >>> from experimentator import Subset, chunk_processor
        >>> error = chunk_processor(outputs=["loss"])(lambda batch_x, batch_y: ((batch_x - batch_y) ** 2).mean())
        >>> subset = Subset("validation", Mode.EVAL, {"x": [1.0, 2.0, 3.0], "y": [1.0, 2.0, 6.0]})
        >>> exp = BaseExperiment({"subsets": [subset], "chunk_processors": [error]})
        >>> exp.evaluate()
        {'validation_loss': 3.0}
        >>> exp.evaluate(Subset("tiny", Mode.EVAL, {"x": [0.0], "y": [0.5]}))  # which need not be listed
        {'tiny_loss': 0.25}
        """
        self.program.prepare()
        if subset is not None:
            subset = self.subset(subset) if isinstance(subset, str) else as_subset(subset, asker="evaluate")
        chosen = [s for s in self.subsets if s.mode == Mode.EVAL] if subset is None else [subset]
        if not chosen:
            raise ConfigError(
                "There is nothing to evaluate on.\nSeen: no EVAL subset.\nList Subset(name, Mode.EVAL, ...)."
            )
        for name in ("epoch", "epochs"):
            self.state.setdefault(name, self.epoch)  # callbacks read them, even if nothing was trained yet
        results: dict[str, float] = {}
        for one in chosen:
            results |= self.walk.cycle(one, Mode.EVAL)
        self.program.keep(self.subsets)
        return results

    def predict(self, data: Any, outputs: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Run INFER on `{"batch_input": [N, ...], ...}`, `batch_size` rows at a time; no targets are needed.

        Returns `outputs`, or else the setting, or else every name that can be computed from what is given. An array
        without a value for each row is returned if one batch holds all rows; else it is left out, or refused if it was
        asked for. Where batches give several lengths, they are padded with zeros. Random draws continue from call to
        call; a prediction within a training, as by a callback, does not change what the training draws.

        For a subset, or the name of one, it predicts the items that an evaluation visits, in the order of its keys, and
        returns the outputs of INFER that have a value for each item.

        >>> from experimentator import Subset, chunk_processor
        >>> double = chunk_processor(outputs=["batch_y"])(lambda batch_x: 2 * batch_x)
        >>> subset = Subset("validation", Mode.EVAL, {"x": [4, 5]})
        >>> exp = BaseExperiment({"subsets": [subset], "chunk_processors": [double]})
        >>> exp.predict({"batch_x": np.array([1, 2, 3])})
        {'batch_y': array([2, 4, 6])}
        >>> exp.predict("validation", outputs=["batch_y"])
        {'batch_y': array([ 8, 10])}
        """
        if isinstance(data, str) or not hasattr(data, "items"):
            return self._predict_subset(data, outputs)
        columns = {name: plain_array(name, values) for name, values in data.items()}
        if not columns:
            raise ValueError("predict needs at least one array.\nSeen: {}.\nName a subset: predict('validation').")
        check_lengths(columns, "predict")
        self._notice()
        usual = partial(self.program.specs, Mode.INFER)
        with inferring(self.walk), shapes_compared(columns, usual):
            return self.program.predictor.predict(columns, None if outputs is None else listed(outputs))

    def _predict_subset(self, given: Any, outputs: Sequence[str] | None) -> dict[str, np.ndarray]:
        if not isinstance(given, str) and not hasattr(given, "query_item"):
            wrong, write = "predict takes tensors by name, or a subset", "Write predict({'batch_input': ...})."
            raise TypeError(f"{wrong}.\nSeen: {type(given).__name__}.\n{write}")
        self.program.prepare_to_infer()
        subset = self.subset(given) if isinstance(given, str) else as_subset(given)
        with inferring(self.walk):
            found = Predictions.of(self, subset, listed(outputs))
        if subset.length is None and len(found.keys) < len(subset.keys):
            said = "%d of the %d items of %r are None and have no row: what predict returns is in the others' order. "
            write = "To know whose a row is, give items a number, and name it: outputs=[..., 'batch_number']."
            self.program.tell(said + write, len(subset.keys) - len(found.keys), len(subset.keys), subset.name)
        return dict(found.outputs)

    def fire(self, event: str, **state: Any) -> None:
        """Update `state` with the values of an event; CallbackedExperiment calls the callbacks, too."""
        self.state.update(state)

    def listens(self, event: str) -> bool:
        """Whether a callback acts on `event`."""
        return False

    def requests(self, mode: Mode = Mode.ALL) -> Iterable[str]:
        """Names that callbacks read in `mode`, besides the averages."""
        return ()

    def call_limit(self, mode: Mode) -> int | None:
        """The most batches that a call of a step may run in `mode`, so that callbacks act in time; None for any."""
        return None

    def cycle(self, feed: Feed, batch_size: int) -> Pass:
        """The batches of one pass; AsyncExperiment prepares them ahead."""
        is_alone = type(self).cycle is BaseExperiment.cycle
        if self.workers not in (None, "auto") and is_alone and not feed.resident:
            said = "workers=%r is ignored: nothing reads ahead. "
            write = "List AsyncExperiment in experiment_type, or as a base of its class."
            self.program.tell(said + write, self.workers)
        return feed.cycle(batch_size)

    def get_learning_rate(self) -> float:
        """The learning rate in force."""
        return float(np.asarray(self.optimizer.learning_rate))

    def set_learning_rate(self, rate: float) -> None:
        """Change the learning rate, here and in the optimizer."""
        self.learning_rate = rate

    # How

    def _changed(self, key: str, old: Any, new: Any) -> None:
        """A setting changed: write it through, drop what was derived from it, and say so."""
        dropped = [name for name in LIBRARY_KEYS.get(key, Key()).drops if self._drop(name)]
        if key == "experiment_type":
            log.warning("experiment_type is read when an experiment is built: build_experiment(..., %s=[...]).", key)
        if key == "chunk_processors" and self.program.has_recorded:  # another change may have dropped the graphs
            self.backend.forget()
        told = configured_in(self) if key == "learning_rate" and new is not None else None
        if told is not None and (write_rate(told, new) or old is not new):
            level = logging.INFO if self.walk.trains else logging.WARNING  # a callback may change it in every epoch
            log.log(level, "learning_rate is now %s, in the optimizer too.", new)
        if {"steps", "graphs"} & set(dropped):
            log.warning("%s changed: compiled again at the next call; the weights are kept.", key)
        told_above = "optimizer" if key == "learning_rate" else ""
        if derived := [name for name in self.source.derived.get(key, ()) if name != told_above]:
            log.warning(
                "%s changed, but the configuration derived %s from it, which keep their values. To change them too, "
                "override at build: build_experiment(..., %s=%.120r).", key, ", ".join(derived), key, new,
            )  # fmt: skip

    def _drop(self, name: str) -> bool:
        """Drop what depends on a setting: a property, or a part of the program; returns whether it was there."""
        if name in PARTS:
            return "program" in vars(self) and PARTS[name](self.program)
        return vars(self).pop(name, None) is not None
