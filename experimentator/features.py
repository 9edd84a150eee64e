"""Features of an experiment, each a class for one concern (callbacks, reading ahead, a framework): they commute."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from math import gcd
from types import new_class
from typing import Any

from experimentator.backends import get_backend
from experimentator.callbacks.changes import Changes, holds
from experimentator.callbacks.checkpoint_every import CheckpointEvery
from experimentator.callbacks.order import EVENTS, CallbackError, Listener, in_order
from experimentator.callbacks.progress import Progress
from experimentator.config import ConfigError, as_config
from experimentator.data.open_files import SHARED, open_file_in
from experimentator.experiment import BaseExperiment
from experimentator.graph import Mode
from experimentator.loading.blocks import Pass
from experimentator.loading.feeds import Feed
from experimentator.loading.memory import keep_large_buffers
from experimentator.loading.workers import Workers
from experimentator.other_libraries import tell_settings
from experimentator.records.environment import overrides_of
from experimentator.runs import RunFolder
from experimentator.scalars import as_scalar, is_number, is_scalar
from experimentator.settings import LIBRARY_KEYS, check_values, has_rate, has_usual_rate, kept
from experimentator.subset import Subset

log = logging.getLogger(__name__)


def _backend(name: str) -> Any:
    """The property of that backend."""
    return cached_property(lambda exp: get_backend(name))


class KerasExperiment(BaseExperiment):
    """Compiles the graph with the framework that Keras runs on: TensorFlow, or jax or torch by KERAS_BACKEND.

    >>> import keras
    >>> build_experiment({"experiment_type": [KerasExperiment]}).backend.name == keras.backend.backend()
    True
    """

    backend = _backend("keras")


class TensorflowExperiment(BaseExperiment):
    """Compiles the graph with TensorFlow, and refuses to run where Keras runs on something else.

    >>> build_experiment({"experiment_type": [TensorflowExperiment]}).backend.name
    'tensorflow'
    """

    backend = _backend("tensorflow")


class JaxExperiment(BaseExperiment):
    """Compiles the graph with JAX, and refuses to run where Keras runs on something else.

    >>> build_experiment({"experiment_type": [JaxExperiment]}).backend  # where Keras runs on TensorFlow
    Traceback (most recent call last):
    experimentator.backends.MissingFrameworkError: The jax backend needs Keras to run on jax.
    Seen: Keras runs on tensorflow.
    Set KERAS_BACKEND=jax before Keras is imported, or leave experiment_type out.
    """

    backend = _backend("jax")


class TorchExperiment(BaseExperiment):
    """Compiles the graph with PyTorch, and refuses to run where Keras runs on something else.

    >>> isinstance(build_experiment({"experiment_type": [TorchExperiment]}), TorchExperiment)  # which loads nothing yet
    True
    """

    backend = _backend("torch")


class DummyExperiment(BaseExperiment):
    """Walks over the data and calls callbacks, but computes nothing: to try both, and to see how long they take.

    All names that a declared processor writes, and the loss, are 0.0. List it last in `experiment_type`.

    >>> from types import SimpleNamespace
    >>> from experimentator import Subset
    >>> config = {"experiment_type": [DummyExperiment], "optimizer": SimpleNamespace(learning_rate=0.1)}
    >>> config["subsets"] = [Subset("training", Mode.TRAIN, {"input": range(8)})]
    >>> build_experiment(config).train(1)[0]["training_loss"]
    0.0
    """

    backend = _backend("dummy")


LAST = ("cycle_left", "train_end")  # events that are fired while an error passes, too


class CallbackedExperiment(BaseExperiment):
    """Runs the callbacks at the begin and end of epochs, cycles and batches.

    A callback that is added within a training hears `train_begin` before anything else, a removed one `train_end`.

    >>> from types import SimpleNamespace
    >>> from experimentator import Subset, chunk_processor
    >>> tell = SimpleNamespace(on_cycle_end=lambda cycle_name, mode, **_: print(cycle_name, mode))
    >>> mean = chunk_processor(inputs=["batch_x"], outputs=["loss"])(lambda batch_x: batch_x.mean())
    >>> config = {"subsets": [Subset("validation", Mode.EVAL, {"x": [1, 2]})], "chunk_processors": [mean]}
    >>> config |= {"experiment_type": [CallbackedExperiment], "callbacks": [tell], "hide_progress": True}
    >>> build_experiment(config).evaluate()
    validation EVAL
    {'validation_loss': 1.5}
    """

    _heard: Sequence[Any] = ()  # the callbacks that are listed, and what of each says when it is called
    _added: Sequence[Any] = ()  # callbacks that the library added to them
    _sound: Sequence[Listener] = ()  # the last listeners whose order was sound

    @cached_property
    def _changes(self) -> Changes:
        return Changes()

    @cached_property
    def listeners(self) -> list[Listener]:
        """The callbacks in the order they are called, with what they read; the progress display comes last."""
        callbacks, before = list(self.callbacks), self.walk.acting if self.walk.trains else ()
        own = {type(callback): callback for callback in self._added if self.walk.trains}  # kept within a training
        added: list[Any] = []
        if (folder := RunFolder.of(self)) is not None and not any(isinstance(c, RunFolder) for c in callbacks):
            added.append(own.get(RunFolder, folder))
        if folder is not None and not any(isinstance(c, CheckpointEvery) for c in callbacks):
            added.append(own.get(CheckpointEvery) or CheckpointEvery())
        if not self.cfg.get("hide_progress"):
            added.append(own.get(Progress) or Progress())
        callbacks += added
        for listener in in_order(callbacks):
            if hasattr(listener.callback, "init") and not holds(before, listener.callback):
                listener.callback.init(self)
        if self.walk.trains:
            self._changes.note(before, callbacks)
        self._heard = _heard_of(vars(self).get("callbacks", ()))
        self.walk.acting, self._added = callbacks, added
        listeners = in_order(callbacks)  # once more: what a callback reads and hears may depend on the experiment
        for listener in listeners:
            listener.tensors = self._tensors
        self._sound = listeners
        return listeners

    def fire(self, event: str, **state: Any) -> None:
        """Call `on_<event>` of every callback that has it, with the state by name and as `state`."""
        super().fire(event, **state)
        listeners: Sequence[Listener]
        try:
            listeners = self.listeners
        except CallbackError:  # a callback added within a training does not fit; its end must be heard all the same
            if event not in LAST or not self._sound:
                raise
            listeners = self._sound
        self._changes.tell(listeners, self.state)
        self._call(listeners, event)

    def _call(self, listeners: Sequence[Listener], event: str) -> None:
        """Call one after the other; an event of LAST reaches all of them, though one fails."""
        for place, listener in enumerate(listeners, start=1):
            try:
                listener.call(event, self.state)
            except BaseException as error:
                for other in listeners[place:] if event in LAST else ():
                    try:
                        other.call(event, self.state)
                    except BaseException as another:
                        error.add_note(f"After that, {type(another).__name__}: {another}")
                raise
            if event == "epoch_end" and not listener.methods.keys().isdisjoint(EVENTS):
                self._note_numbers(listener.outputs)

    def _tensors(self) -> set[str]:
        return {name for whole in self.program.wholes() for name in (*whole.outputs, *whole.provided)}

    def _notice(self) -> None:
        super()._notice()
        listed = vars(self).get("callbacks")  # of the property, once used; may be changed in place
        if listed is None or "listeners" not in vars(self) or self.walk.is_under_way:
            return
        folders = [one for one in self._added if isinstance(one, RunFolder)]
        if folders and not self.walk.trains and RunFolder.of(self) not in folders:
            self._drop("listeners")  # a name or place that was set within a training is that of the next
        elif _heard_of(listed) != self._heard:
            self._drop("listeners")
            self.program.drop_graphs()
            log.warning("callbacks changed: compiled again at the next call; the weights are kept.")

    def _changed(self, key: str, old: Any, new: Any) -> None:
        if key == "callbacks" and self.walk.is_under_way:  # the callbacks until now hear the epoch to its end
            self._drop(key)
            _ = self.callbacks  # listed anew, which `_notice` sees when the next epoch begins
        else:
            super()._changed(key, old, new)

    def _note_numbers(self, names: Iterable[str]) -> None:
        """Copy numbers that a callback declares as its outputs from the state into the history."""
        for name in names:
            if is_scalar(value := as_scalar(self.state.get(name))):
                self.history[-1][name] = value

    def listens(self, event: str) -> bool:
        return super().listens(event) or any(listener.hears(event) for listener in self.listeners)

    def call_limit(self, mode: Mode) -> int | None:
        """The greatest common divisor of the batches after which callbacks act in passes of `mode`."""
        acting = [] if mode == Mode.INFER else [one for one in self.listeners if one.when & mode]  # none hears of INFER
        return gcd(*(one.limit for one in acting)) or super().call_limit(mode)

    def requests(self, mode: Mode = Mode.ALL) -> Iterable[str]:
        """The names that callbacks acting in `mode` read at the ends of batches and cycles."""
        yield from super().requests(mode)
        for listener in self.listeners:
            if listener.when & mode:
                yield from listener.inputs


def _heard_of(callbacks: Iterable[Any]) -> list[tuple[int, Any, Any]]:
    """Each callback by identity, with its `every` and `when`."""
    return [(id(one), getattr(one, "every", None), getattr(one, "when", None)) for one in callbacks]


class AsyncExperiment(BaseExperiment):
    """Prepares the next blocks in `workers` (a thread for each core, 4 at most) while the device works on this one.

    One thread reads a dataset that holds an open file and no lock, unless `workers` is set.
    `workers = "4 processes"` asks for processes, for transforms that spend their time in Python itself.

    >>> from threading import current_thread, main_thread
    >>> from experimentator import DataAugmentationDataset, Subset, chunk_processor
    >>> told = lambda key, item: {"ahead": current_thread() is not main_thread()}
    >>> items = Subset("validation", Mode.EVAL, DataAugmentationDataset([{"x": 0}, {"x": 1}], [told]))
    >>> mean = chunk_processor(inputs=["batch_ahead"], outputs=["loss"])(lambda batch_ahead: batch_ahead.mean())
    >>> build_experiment({"subsets": [items], "chunk_processors": [mean]}, experiment_type=[AsyncExperiment]).evaluate()
    {'validation_loss': 1.0}
    """

    def cycle(self, feed: Feed, batch_size: int) -> Pass:
        """The batches of a pass, prepared ahead where preparing takes time."""
        if not feed.resident:
            keep_large_buffers()
            feed.workers = Workers.of(self.workers) or self._threads(feed.subset)
        cycle = super().cycle(feed, batch_size)
        if not feed.resident:
            cycle.read_ahead()
        return cycle

    def _threads(self, subset: Subset) -> Workers:
        """As many threads as a dataset allows: one if they would move the position of a file for each other."""
        count = min(4, os.cpu_count() or 1)
        file = open_file_in(subset.dataset) if count > 1 else None
        if file is not None:
            self.program.tell(SHARED, subset.name, file, count)
        return Workers(count if file is None else 1)


DEFAULT_TYPE = (BaseExperiment, CallbackedExperiment, AsyncExperiment, KerasExperiment)


def compose(classes: Any) -> type[BaseExperiment]:
    """The class made of the features in `experiment_type`, listed base first."""
    listed = [classes] if isinstance(classes, type) else [c for c in classes or DEFAULT_TYPE if c is not None]
    if plain := [c for c in listed if any(b.__module__ == "builtins" and b is not object for b in c.__mro__)]:
        raise ConfigError(
            f"experiment_type lists {plain[0].__name__!r}, a kind of Python value, which is no experiment.\n"
            f"Seen: {plain[0]!r}.\nList classes of experiments, base first: [BaseExperiment, TensorflowExperiment]."
        )
    if not any(issubclass(c, BaseExperiment) for c in listed):
        listed.insert(0, BaseExperiment)
    bases = tuple(reversed(list(dict.fromkeys(listed))))
    try:
        return new_class("Experiment", bases)
    except TypeError as error:
        names = ", ".join(c.__name__ for c in listed)
        raise ConfigError(
            f"The classes of experiment_type do not go together: {names}.\nSeen: {error}.\nList bases first."
        ) from None


def build_experiment(config: Any = None, load_weights: bool = True, **overrides: Any) -> BaseExperiment:
    """An experiment composed of the classes in `experiment_type`, base first.

    `config` is a path (of a file or a run folder), text, a mapping, or an object with a `.dict`; overrides take the
    place of what it assigns before anything is derived from it, and without it are the configuration. Without
    `experiment_type`, every feature is on. The configuration of a run folder comes with the overrides of that run, and
    with its weights, loaded at first use, unless `load_weights` is False.

    >>> build_experiment("width = 8; depth = 2 * width", width=16).depth  # a file of that text, as a rule
    32

    Raises:
        ConfigError: for a configuration that cannot be read, or an unknown override.
    """
    config = {} if config is None else config
    stored = overrides_of(config, overrides)
    try:
        source = as_config(config, {**stored, **overrides}, known=LIBRARY_KEYS)
    except ConfigError as error:
        if stored:
            error.add_note(f"{', '.join(stored)}: overridden in that run, says its environment.json.")
        raise
    source |= {key: kept(key, value) for key, value in source.items()}
    check_values(source)
    if isinstance(config, Mapping) and not source.text:
        rate, optimizer = source.get("lr"), source.get("optimizer")  # a rate that another has is the user's own setting
        is_lost = is_number(rate) and optimizer and has_usual_rate(optimizer) and not has_rate(optimizer, rate)
        tell_settings(source if is_lost else {key: value for key, value in source.items() if key != "lr"})
    exp: BaseExperiment = compose(source.get("experiment_type"))(source)
    if load_weights:
        exp.expect_weights()
    return exp
