"""Which variables each processor owns, found by watching a run of the graph, not by scanning attributes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from math import prod
from typing import Any, NamedTuple

import keras
import numpy as np

from experimentator.backends.keras.freezing import is_frozen
from experimentator.graph import Chunk
from experimentator.saving.matching import aligned, match, refusal


def copied(variables: Sequence[Any]) -> Callable[[], None]:
    """Copies of variables where they lie; calling the result puts them back, bit for bit."""
    values = [keras.ops.copy(variable) for variable in variables]

    def put_back() -> None:
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)

    return put_back


def trainable_some_day(variables: Iterable[Any]) -> list[Any]:
    """Variables to build an optimizer for: frozen ones too, as they may thaw; untrained ones of TensorFlow do not."""
    floating = (variable for variable in variables if "float" in str(variable.dtype))
    return [one for one in floating if one.trainable or isinstance(one, keras.Variable) or is_frozen(one)]


class Read(NamedTuple):
    """A node reads a variable: in a call of a layer, or its value alone; where no gradient reaches it, or elsewhere."""

    node: str
    variable: Any
    called: bool = False
    is_held: bool = False


def aside(reads: list[Read], since: int, node: str) -> None:
    """Note what constraints and regularizers of a node's variables read, such as a mask; it is not trained.

    `since` is the number of reads before the node was called.
    """
    before = len(reads)
    for variable in {id(read.variable): read.variable for read in reads[since:] if read.node == node}.values():
        for function in (getattr(variable, "constraint", None), getattr(variable, "regularizer", None)):
            if function is not None:
                function(keras.ops.convert_to_tensor(variable))
    reads[before:] = [read._replace(is_held=True) for read in reads[before:]]


def read_now(chunk: Chunk, kinds: tuple[type, ...]) -> None:
    """Put values in the place of variables of these `kinds` that a processor wrote: every write is a version.

    A variable would show what processors below, or the optimizer, assign to it.
    """
    for name, value in [*dict.items(chunk)]:
        if isinstance(value, kinds):
            dict.__setitem__(chunk, name, keras.ops.copy(value))


class Variables:
    """Variables by node, in order of first use.

    A variable belongs to the first node that reads it in a call of a layer, else to the first that reads it at all: an
    average of a network, which reads its weights, does not own them. What was recorded once stays as it is. The key of
    a variable is `node/ordinal/name`, since the path Keras gives it holds a counter of the whole process.
    """

    def __init__(self) -> None:
        self._owned: dict[str, list[Any]] = {}
        self._owners: dict[int, str] = {}
        self._readers: dict[int, dict[str, None]] = {}
        self._read_only: dict[int, Any] = {}  # so far, in the recording under way
        self.unreached: set[str] = set()  # keys of those that no gradient reaches, which was told

    def note(self, node: str, variable: Any, *, called: bool = False) -> None:
        """Node `node` reads `variable`; `called`: in a layer's call. None gives the node its place in the order."""
        if variable is None:
            self._owned.setdefault(node, [])
            return
        identity = _identity(variable)
        if "float" in str(variable.dtype):
            self._readers.setdefault(identity, {})[node] = None
        if called and (own := self._read_only.pop(identity, None)) is not None and self._owners[identity] != node:
            before = self._owned[self._owners.pop(identity)]
            before[:] = [one for one in before if one is not own]
            variable = own
        if identity not in self._owners:
            self._owners[identity] = node
            self._owned.setdefault(node, []).append(variable)
            if not called:
                self._read_only[identity] = variable

    def settle(self) -> None:
        """A recording is over: keys stay."""
        self._read_only.clear()
        self._owned = {node: variables for node, variables in self._owned.items() if variables}

    def __iter__(self) -> Iterator[Any]:
        return (variable for variables in self._owned.values() for variable in variables)

    def __contains__(self, variable: Any) -> bool:
        return _identity(variable) in self._owners

    def keyed(self) -> dict[str, Any]:
        """Every variable under its key."""
        return {
            f"{node}/{ordinal}/{_name(variable)}": variable
            for node, variables in self._owned.items()
            for ordinal, variable in enumerate(variables)
        }

    def sizes(self, is_held: Callable[[Any], bool]) -> dict[str, tuple[int, int]]:
        """For each node: how many numbers are trained, and how many are not (seeds of random layers left out)."""
        sizes = {}
        for node, variables in self._owned.items():
            weights = [v for v in variables if "float" in str(v.dtype)]
            trained = sum(prod(v.shape) for v in weights if v.trainable and not is_held(v))
            if weights:
                sizes[node] = trained, sum(prod(v.shape) for v in weights) - trained
        return sizes

    def shared(self) -> dict[str, tuple[str, ...]]:
        """For each node that reads weights of others: which nodes own them."""
        found: dict[str, dict[str, None]] = {}
        for identity, readers in self._readers.items():
            for node in readers:
                if node != (owner := self._owners[identity]):
                    found.setdefault(node, {})[owner] = None
        return {node: tuple(owners) for node, owners in found.items()}

    def read_by(self, nodes: AbstractSet[str]) -> list[Any]:
        """Variables that some of these nodes read; integers, such as states of seed generators, if they own them."""
        return [
            variable
            for node, variables in self._owned.items()
            for variable in variables
            if not nodes.isdisjoint((node, *self._readers.get(_identity(variable), ())))
        ]

    def assign(self, weights: Mapping[str, np.ndarray]) -> None:
        """Assign by key; a missing, unexpected or misshapen weight is refused before anything is assigned."""
        own = self.keyed()
        weights = aligned(own, weights)
        if not (matching := match(own, weights)).is_whole:
            raise refusal(matching, own, weights)
        for key, variable in own.items():
            variable.assign(weights[key])


def _identity(variable: Any) -> int:
    inner = getattr(variable, "_value", None)
    return id(inner if hasattr(inner, "assign") else variable)  # a Keras variable may wrap a tf.Variable


def _name(variable: Any) -> str:
    """Its name, less scopes of a trace, and less the counter of a variable that was given no name."""
    name = variable.name.partition(":")[0].rpartition("/")[2]
    return re.sub(r"^([Vv]ariable)_\d+$", r"\1", name)
