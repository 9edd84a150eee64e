"""Layers and variables that processors make inside their calls: made once, handed out again at every later trace."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from threading import RLock, get_ident, local
from traceback import walk_stack
from types import FrameType, SimpleNamespace
from typing import Any

import keras
from keras.src.backend.common.symbolic_scope import in_symbolic_scope
from keras.src.random import seed_generator

from experimentator.backends.keras.no_gradient import check_built
from experimentator.graph import GraphError, Node
from experimentator.patches import patched

Place = tuple[Any, ...]
# Frames of these modules say nothing about the place, and may stand in one trace and not in another.
PASSING = ("keras.", "tensorflow.", "jax.", "torch.", "experimentator.backends.", "experimentator.graph.")
# Keras' classes are patched for the whole process: one thread at a time does so, and its patches act on it alone.
ONE_AT_A_TIME = RLock()
_HERE = local()
LISTED = ("initializer", "shape", "dtype", "trainable", "autocast", "aggregation", "synchronization", "name", "layout")


class Memoised:
    """What each processor made, by the place in its code that made it.

    A layer that the code makes anew in every call gives way to that of the first call: all modes, traces and numbers of
    batches share it, and the optimizer knows its weights. A place is the chain of calls from the processor down to the
    line that makes something, with a count for loops, so that what is made at the first call only does not shift what
    is made at every call. What a layer makes in its `build` belongs to it; what a failed call made is dropped.

    `watching(create)` patches `create` in where the framework makes variables of its own; `given` may change the
    arguments that a node's Keras variable is made with.
    """

    def __init__(
        self,
        watching: Callable[[Callable[..., Any]], AbstractContextManager[Any]],
        given: Callable[[Node, dict[str, Any]], dict[str, Any]],
    ) -> None:
        self.watching, self.given = watching, given
        self.calling = self.building = 0  # how deep a layer is called, or built, within a processor
        self._made: dict[tuple[int, int], tuple[Any, dict[Place, Any]]] = {}

    @contextmanager
    def within(
        self,
        node: Node,
        note: Callable[[Any], None],
        added: Callable[[Any], None],
        read: Callable[[Any], None] | None = None,
    ) -> Iterator[None]:
        """Within, what the processor of `node` makes is made once.

        `note` is called with every layer that is called, `added` with every loss that a layer adds by itself, and
        `read` with every Keras variable that is read or assigned, but for what is to build a layer.
        """
        processor = node.listed
        # not by its name, which follows what else is listed; the processor is kept, so that its id stays unique
        _, made = self._made.setdefault((id(processor), node.earlier), (processor, {}))
        making, before = _Making(self, node, made, note), set(made)
        with (
            making.standing(),
            losses_to(lambda _, loss: added(loss)),
            nullcontext() if read is None else self._reads_to(read),
        ):
            try:
                yield
            except BaseException:  # the next call must not get what this one made
                for place in made.keys() - before:
                    del made[place]
                raise

    def of_a_layer(self) -> AbstractContextManager[None]:
        """Within, a layer is built: what it makes is made only once, and gets no place."""
        return patched(self, building=self.building + 1)

    def listens(self) -> bool:
        """Whether reads and assignments now are those of the batch: not to build a layer, nor to find a shape."""
        return not self.building and not in_symbolic_scope()

    def _reads_to(self, read: Callable[[Any], None]) -> AbstractContextManager[None]:
        get, put, thread = keras.Variable.value.fget, keras.Variable.assign, get_ident()

        def note(variable: Any) -> None:
            if get_ident() == thread and self.listens():
                read(variable)

        def value(variable: Any) -> Any:
            note(variable)
            return get(variable)

        def assign(variable: Any, value: Any) -> Any:
            note(variable)
            return put(variable, value)

        return patched(keras.Variable, value=property(value), assign=assign)


def deferred(backend: Any, node: Node, options: dict[str, Any]) -> dict[str, Any]:
    """Arguments to make a variable inside a trace: its initial value as a function, called once that has ended."""
    initial = options["initializer"]
    if callable(initial) or isinstance(initial, str):
        return options
    with backend.outside_of_traces():
        value = keras.ops.convert_to_tensor(initial, dtype=options.get("dtype"))
    shape, dtype = tuple(value.shape), keras.backend.standardize_dtype(value.dtype)
    if backend.is_traced(value):
        raise GraphError(
            f"{node} makes a variable whose initial value comes from the batch.\n"
            f"Seen: {list(shape)} {dtype}, which is not known while the graph is recorded.\n"
            "Give it a constant, or an initializer and a shape, and assign the value where the variable is used."
        )
    return options | {"initializer": lambda *_, **__: value, "shape": shape, "dtype": dtype}


class _Making:
    """One call of a processor: hands out layers and variables by the place that asks for them."""

    def __init__(self, owner: Memoised, node: Node, made: dict[Place, Any], note: Callable[[Any], None]):
        self.owner, self.node, self.made, self.note, self.given = owner, node, made, note, owner.given
        self.times = Counter[Place]()
        # the frame that calls the processor, above `within` and contextlib; and the chain of calls that leads there
        self.tops: Collection[FrameType] = [sys._getframe(3)]
        self.below: tuple[Any, ...] = ()
        self.new_layers: set[int] = set()
        self.pending: dict[int, Place | None] = {}
        self.inside = False  # while a Keras variable is made, which makes a tf.Variable
        self.stands = False  # whether the patches stand, in some thread
        self.thread = get_ident()

    def place(self, kind: str) -> Place:
        """The chain of calls, below the processor's own, that asks for one of a kind, and how often it has asked."""
        self.times[key := (kind, *self._calls(sys._getframe(2)))] += 1
        return key, self.times[key]

    def _calls(self, frame: FrameType | None) -> tuple[Any, ...]:
        chain: list[Any] = []
        while frame is not None and frame not in self.tops:
            if not frame.f_globals.get("__name__", "").startswith(PASSING):
                chain.append((frame.f_code, frame.f_lasti))
            frame = frame.f_back
        return *chain, *self.below

    @contextmanager
    def standing(self) -> Iterator[None]:
        """Within, Keras and the framework are patched, so that layers and variables are made through this object."""
        before = getattr(_HERE, "making", None)
        if before is self:  # rematerialized code runs here the first time
            yield
            return
        _HERE.making, stood = self, self.stands
        # PyTorch computes again in threads of its own, for which the thread that holds the lock may wait
        lock = nullcontext() if stood else ONE_AT_A_TIME
        try:
            with lock, self.of_layers(), self.of_variables(), self.of_seeds(), self.owner.watching(self.create):
                self.stands = True
                yield
        finally:
            _HERE.making, self.stands = before, stood

    def from_here(self) -> Callable[[], AbstractContextManager[None]]:
        """A function that makes contexts: code that ran from here on and runs again in one gets what it made before."""
        below, times = self._calls(sys._getframe(2)), self.times.copy()

        @contextmanager
        def again() -> Iterator[None]:
            tops, counted = {frame for frame, _ in walk_stack(sys._getframe())}, times.copy()
            try:
                with patched(self, tops=tops, below=below, times=counted, thread=get_ident()), self.standing():
                    yield
            finally:
                self.times |= counted

        return again

    def of_layers(self) -> AbstractContextManager[None]:
        """Within, a layer that this call made gives way to the one that was called first at the same place."""
        init, original = keras.Layer.__init__, keras.Layer.__call__

        def made(layer: Any, *arguments: Any, **options: Any) -> None:
            if get_ident() == self.thread and not self.owner.building:
                self.new_layers.add(id(layer))
            init(layer, *arguments, **options)

        def call(layer: Any, *tensors: Any, **options: Any) -> Any:
            if get_ident() != self.thread:
                return original(layer, *tensors, **options)
            if id(layer) in self.new_layers:
                first = self.made.setdefault(self.place(type(layer).__name__), layer)
                if type(first) is type(layer) and first is not layer:
                    object.__setattr__(layer, "__dict__", vars(first))  # so that its weights can be read, too
                    layer = first
            self.note(layer)
            with patched(self.owner, calling=self.owner.calling + 1):
                return original(layer, *tensors, **options)

        return patched(keras.Layer, __init__=made, __call__=call)

    def of_variables(self) -> AbstractContextManager[None]:
        """Within, `keras.Variable(...)` returns what this place made first: layers and seeds make theirs that way."""
        # a `__new__` that was set on a class cannot be taken off again
        keras.Variable.__new__ = kept = vars(keras.Variable).get("__new__", staticmethod(_plain))
        original = keras.Variable.__init__

        def new(cls: type, *arguments: Any, **options: Any) -> Any:
            if get_ident() != self.thread:
                return kept.__func__(cls, *arguments, **options)
            place = None if self.owner.building else self.place("Variable")
            if place is not None and place in self.made:
                return self.made[place]
            check_built()
            variable: Any = object.__new__(cls)
            self.pending[id(variable)] = place
            return variable

        def init(variable: Any, *arguments: Any, **options: Any) -> None:
            if get_ident() != self.thread:
                original(variable, *arguments, **options)
                return
            options |= zip(LISTED, arguments, strict=False)
            if id(variable) not in self.pending:
                self._check(variable, options.get("shape"))
                return
            place = self.pending.pop(id(variable))
            with patched(self, inside=True):
                original(variable, **self.given(self.node, options))
            if place is not None:
                self.made[place] = variable

        return patched(keras.Variable, __new__=staticmethod(new), __init__=init)

    def of_seeds(self) -> AbstractContextManager[None]:
        """Within, a generator without a seed gets the one drawn first at its place: another trace draws no other."""
        original: Any = seed_generator.python_random

        def draw(low: int, high: int) -> int:
            if get_ident() != self.thread or self.owner.building:
                seed: int = original.randint(low, high)
                return seed
            if (place := self.place("seed")) not in self.made:
                self.made[place] = original.randint(low, high)
            return self.made[place]

        return patched(seed_generator, python_random=SimpleNamespace(randint=draw))

    def create(self, creator: Callable[..., Any], **options: Any) -> Any:
        """The tf.Variable that this place made first."""
        if self.inside or self.owner.building:
            return creator(**options)
        place = self.place("tf.Variable")
        if place not in self.made:
            self.made[place] = creator(**options)
        return self.made[place]

    def _check(self, variable: Any, shape: Any) -> None:
        if shape is not None and tuple(shape) != tuple(variable.shape):
            raise GraphError(
                f"{self.node} makes a variable in each call, and its shape differs from the first call's.\n"
                f"Seen: {variable.name} {list(shape)}, which was {list(variable.shape)}.\n"
                "Let weights not depend on the size of images (pool before a Dense), and list a new processor "
                "where another architecture is wanted."
            )


def made_from_here() -> Callable[[], AbstractContextManager[None]]:
    """`from_here` of the processor that is being called in this thread; a context that does nothing, if none is."""
    making = getattr(_HERE, "making", None)
    return nullcontext if making is None else making.from_here()


def losses_to(added: Callable[[Any, Any], None]) -> AbstractContextManager[None]:
    """Within, a loss that a layer adds goes to `added`; Keras would keep it until a model of its own is called."""
    original, thread = keras.Layer.add_loss, get_ident()

    def add(layer: Any, loss: Any) -> None:
        if get_ident() == thread:
            added(layer, loss)
        else:
            original(layer, loss)

    return patched(keras.Layer, add_loss=add)


def _plain(cls: type, *arguments: Any, **options: Any) -> Any:
    return object.__new__(cls)
