"""The order in which callbacks are called, and what each of them reads."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from experimentator.graph import Mode
from experimentator.graph.signatures import signature_of
from experimentator.other_libraries import callback_of_others
from experimentator.scalars import is_whole

EVENTS = tuple(f"{what}_{when}" for what in ("epoch", "cycle", "batch") for when in ("begin", "end"))
FETCHING = ("batch_end", "cycle_end")  # events whose parameters may name tensors
WITHIN = ("cycle_", "batch_", "block_")  # events of a pass, which `when` may narrow to some modes
PHASES = ("prepare", "act", "record")  # callbacks that others build on; the usual ones; those that tell of all others
WISHED = "rather_after"  # an attribute of the library's callbacks
LIFE = ("train_begin", "train_end", "block_end", "cycle_left", "pause")  # more events, for the library's callbacks


class CallbackError(ValueError):
    """Callbacks that cannot be ordered or called.

    >>> from experimentator import EarlyStopping
    >>> EarlyStopping("validation_loss", patience="two epochs")
    Traceback (most recent call last):
    experimentator.callbacks.order.CallbackError: patience must be a number of epochs.
    Seen: 'two epochs'.
    Write a whole number of at least 1.
    """


class Listener:
    """A callback with its event methods, and the names they ask for."""

    def __init__(self, callback: Any, place: int):
        if inspect.isclass(callback):
            name = callback.__name__
            raise CallbackError(f"The callback {name} is a class.\nSeen: {name}.\nWrite {name}(), with its parameters.")
        self.callback, self.place = callback, place
        self.name = type(callback).__name__
        _refuse_slips(callback)
        found = {event: getattr(callback, f"on_{event}", None) for event in (*EVENTS, *LIFE)}
        self.methods = {event: method for event, method in found.items() if callable(method)}
        self.parameters = {event: signature_of(method).parameters for event, method in self.methods.items()}
        self.takes_all = {
            event: any(p.kind is p.VAR_KEYWORD for p in asked.values()) for event, asked in self.parameters.items()
        }
        self.needs = {
            event: [name for name, p in asked.items() if p.default is p.empty and _named(p)]
            for event, asked in self.parameters.items()
        }
        self.every = _every(callback)
        self.when = _when(callback)
        self.phase = _phase(callback)
        self.outputs = names_in(callback, "outputs")
        self.reads = {*self.inputs, *self._asked(EVENTS)}
        self.tensors: Callable[[], Iterable[str]] = tuple  # names that `on_batch_end` may ask for, for messages

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names it reads at batch and cycle ends; asked for anew each time, as they may follow the graph."""
        return tuple(dict.fromkeys((*names_in(self.callback, "inputs"), *self._asked(FETCHING))))

    @property
    def limit(self) -> int:
        """The most batches of a call, so that it acts in time: 1 if it acts before each batch; 0 for any number."""
        if self.hears("batch_begin"):
            return 1
        return self.every if any(map(self.hears, ("batch_end", "block_end", "pause"))) else 0

    def hears(self, event: str) -> bool:
        """Whether the callback acts on `event`."""
        return event in self.methods

    def call(self, event: str, state: dict[str, Any]) -> None:
        """Call the method of `event`, if there is one, with what it asks of the state."""
        method = self.methods.get(event)
        if method is None or (event == "batch_end" and self.every and (state["batch"] + 1) % self.every):
            return
        if event.startswith(WITHIN) and "mode" in state and not self.when & state["mode"]:
            return
        given: Mapping[str, Any] = {**state, "state": state}
        if not self.takes_all[event]:
            given = {name: given[name] for name in self.parameters[event] if name in given}
        for name in self.needs[event]:
            if name not in given:
                raise CallbackError(self._lacking(name, event, state))
        try:
            method(**given)
        except Exception as error:
            missing = {*self.tensors()} - state.keys() if event == "batch_end" and isinstance(error, KeyError) else ()
            if lacks := [name for name in missing if str(error) == repr(name)]:
                error.add_note(f"The state holds the tensors that are asked for: inputs = {lacks} in the class.")
            if not type(error).__module__.startswith("experimentator."):  # whose messages say it
                error.add_note(f"In callback {self.name}.on_{event}{_place(event, state)}.")
            raise

    def _lacking(self, name: str, event: str, state: Mapping[str, Any]) -> str:
        """The message where nothing provides a name that the method of `event` asks for."""
        tensors = set(self.tensors()) if event in FETCHING else set[str]()
        if event == "cycle_end" and name in tensors:
            average = f"{state['cycle_name']}_{name}"
            take = f"metrics, which holds its average as {average!r}" if average in state else f"{name} in on_batch_end"
            return (
                f"{self.name}.on_{event} asks for {name!r}, of which each batch has its own.\n"
                f"Seen: on_{event}{signature_of(self.methods[event])}, called after all batches.\nTake {take}."
            )
        known = sorted({*map(str, state), *tensors})
        asks = f"{self.name}.on_{event} asks for {name!r}, which nothing provides.\nKnown here: {', '.join(known)}.\n"
        is_exp, attributes = name in ("exp", "experiment"), dir(getattr(self.callback, "exp", None))
        if is_exp or name in attributes:
            in_force = f"get_{name}" in attributes  # the setting may be None
            write = "self.exp" if is_exp else f"self.exp.get_{name}()" if in_force else f"self.exp.{name}"
            return f"{asks}Leave it out, and write {write}: experimentator.Callback, as a base, keeps self.exp."
        return (
            f"{asks}{_near(name, known)}Give the parameter a default, or let a processor or an earlier callback "
            "write the name."
        )

    def _asked(self, events: Iterable[str]) -> Iterable[str]:
        for event in events:
            yield from (name for name, p in self.parameters.get(event, {}).items() if _named(p) and name != "state")


def in_order(callbacks: Sequence[Any]) -> list[Listener]:
    """Readers after writers, by `before` and `after`, then by phase; list order settles the rest.

    A phase, and `rather_after` of a callback, which names others, count where nothing speaks against them.

    >>> from experimentator import Callback
    >>> class First(Callback): pass
    >>> class Second(Callback): after = ["First"]
    >>> [listener.name for listener in in_order([Second(), First()])]
    ['First', 'Second']
    """
    listeners = [Listener(callback, place) for place, callback in enumerate(callbacks)]
    pairs = [(one, other) for one in listeners for other in listeners if one is not other]
    waits = [(one, other) for one, other in pairs if _precedes(one, other)]
    phases = [(one, other) for one, other in pairs if one.phase < other.phase]
    moved = {_asking(one, other) for one, other in waits if one.phase > other.phase}
    phases.sort(key=lambda pair: not moved.isdisjoint(pair))  # the others keep theirs
    wishes = phases + [(one, other) for one, other in pairs if one.name in names_in(other.callback, WISHED)]
    if all(one.place < other.place for one, other in (*waits, *wishes)):
        return listeners
    import networkx as nx

    dag: nx.DiGraph[Listener] = nx.DiGraph()
    dag.add_nodes_from(listeners)
    dag.add_edges_from(waits)
    for one, other in wishes:
        if not nx.has_path(dag, other, one):
            dag.add_edge(one, other)
    try:
        return list(nx.lexicographical_topological_sort(dag, key=lambda listener: listener.place))
    except nx.NetworkXUnfeasible:
        path = [tail.name for tail, _ in nx.find_cycle(dag)]
        raise CallbackError(
            f"Callbacks wait on each other: {' -> '.join([*path, path[0]])}.\n"
            "Take one off `before`, `after` or `inputs`."
        ) from None


def _refuse_slips(callback: Any) -> None:
    """Refuse methods that would never be called or could not be, and objects that are no callbacks, before a run."""
    name = type(callback).__name__
    if found := callback_of_others(callback):
        what, write = found
        raise CallbackError(f"{name} is {what}.\nSeen: {callback!r:.80}.\n{write}")
    methods = [name for name in dir(callback) if name.startswith("on_") and callable(getattr(callback, name, None))]
    known = [f"on_{event}" for event in (*EVENTS, *LIFE)]
    for method in methods:
        if method in known and "logs" in signature_of(getattr(callback, method)).parameters:
            one = {"on_epoch_end": "training_loss", "on_cycle_end": "metrics", "on_batch_end": "loss"}.get(
                method, "epoch"
            )
            raise CallbackError(
                f"{name}.{method} asks for `logs`, as callbacks of Keras do: here each value comes by its own name.\n"
                f"Seen: {method}{signature_of(getattr(callback, method))}.\n"
                f"Write {method}(self, state), which holds all of them, or their names: (self, {one}, **_)."
            )
        if method in known:
            _refuse_places(callback, name, method)
        meant = method[3:].replace("start", "begin")
        near = [] if method in known else get_close_matches(meant, (*EVENTS, *LIFE), n=1 if meant in EVENTS else 2)
        if near:
            raise CallbackError(
                f"{name}.{method} would never be called: there is no such event.\n"
                f"Known here: {', '.join(known)}.\n"
                f"Did you mean {' or '.join(f'on_{event}' for event in near)}?"
            )
    if set(methods).isdisjoint(known) and not callable(getattr(callback, "init", None)):
        is_tracker = callable(getattr(callback, "scalars", None))
        give = "Make it a method of a class:" if inspect.isroutine(callback) else "Give it"
        give += f" one of {', '.join(known[: len(EVENTS)])}, or take it off the list."
        raise CallbackError(
            f"{callback!r:.80} is no callback: it has none of the event methods.\n"
            f"Seen: {name}{' with ' * bool(methods)}{', '.join(methods)}.\n"
            f"{f'Write Track({name}(...)).' if is_tracker else give}"
        )


def _refuse_places(callback: Any, name: str, method: str) -> None:
    """Refuse a positional-only parameter: values are passed by name."""
    signature = signature_of(getattr(callback, method))
    if nameless := [one.name for one in signature.parameters.values() if one.kind is one.POSITIONAL_ONLY]:
        raise CallbackError(
            f"{name}.{method} has the positional-only parameter {nameless[0]!r}, but values are passed by name.\n"
            f"Seen: {method}{signature}.\nRemove the /, or write {method}(self, state), which holds all of them."
        )


def _place(event: str, state: Mapping[str, Any]) -> str:
    """Where a training was as it called an event, for a message."""
    told = [f"epoch {state['epoch']}"] if event.startswith(("epoch", *WITHIN)) and "epoch" in state else []
    told += [f"subset {state['cycle_name']!r}"] if event.startswith(WITHIN) and "cycle_name" in state else []
    told += [f"batch {state['batch']}"] if event.startswith(WITHIN[1:]) and "batch" in state else []
    return ", ".join(["", *told])


def _near(name: str, known: Iterable[Any]) -> str:
    names = [*map(str, known)]
    near = [one for one in names if one.endswith(f"_{name}")][:2] or get_close_matches(name, names, n=2)
    return f"Did you mean {' or '.join(map(repr, near))}? Otherwise: " if near else ""


def _precedes(one: Listener, other: Listener) -> bool:
    told = other.name in names_in(one.callback, "before") or one.name in names_in(other.callback, "after")
    return (told and one.name != other.name) or not other.reads.isdisjoint(one.outputs)


def _asking(one: Listener, other: Listener) -> Listener:
    """Of two of which the first precedes the other, the one that asks for it."""
    return one if other.name in names_in(one.callback, "before") else other


def names_in(callback: Any, attribute: str) -> tuple[str, ...]:
    """The names that an attribute of a callback holds: several, one, or none; a class stands for its name."""
    value: Any = getattr(callback, attribute, ()) or ()
    listed = (value,) if isinstance(value, (str, type)) else value
    return tuple(name.__name__ if isinstance(name, type) else name for name in listed)


def _named(parameter: inspect.Parameter) -> bool:
    return parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)


def _every(callback: Any) -> int:
    every = getattr(callback, "every", None)
    if every is None:
        return 0
    if not is_whole(every, least=1):
        name = type(callback).__name__
        raise CallbackError(
            f"{name}.every must be a number of batches, at least 1.\nSeen: {every!r}.\n"
            "Write N to act at every N-th batch, or None to be called for all of them."
        )
    return int(every)


def _phase(callback: Any) -> int:
    """The rank of its phase; "act" unless it says otherwise."""
    phase = getattr(callback, "phase", "act")
    if phase not in PHASES:
        raise CallbackError(
            f"{type(callback).__name__}.phase must say when it acts among the others.\nSeen: {phase!r}.\n"
            f"Write one of {', '.join(map(repr, PHASES))}."
        )
    return PHASES.index(phase)


def _when(callback: Any) -> Mode:
    """The modes in whose passes a callback acts: all of them unless `when` says which."""
    when = getattr(callback, "when", None)
    return Mode.ALL if when is None else Mode.of(when)
