"""An experiment as one processor of another's graph: a teacher, an encoder, a perceptual loss."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experimentator.graph import Chunk, ChunkProcessor, Graph, GraphError, Mode

if TYPE_CHECKING:
    from experimentator.experiment import BaseExperiment


class Embedded(ChunkProcessor):
    """The inference of one experiment within the graph of another; `exp.as_processor(...)` makes it.

    Its processors run as in INFER, whatever the outer mode. Its weights are never trained: gradients flow through to
    its inputs, but not into the weights. They are shared with the inner experiment, and are saved with the outer one's
    weights, too, under this node (`node=`, else the name of its configuration file).

    `outputs` are names that it infers: one, several, or a dictionary to their names in the outer graph. `inputs` is
    such a dictionary, for names that differ, or to begin in the middle of its list (at an autoencoder's decoder).

    >>> import numpy as np
    >>> from experimentator import build_experiment, chunk_processor
    >>> double = chunk_processor(inputs=["batch_x"], outputs=["batch_double"])(lambda batch_x: 2 * batch_x)
    >>> inner = build_experiment({"chunk_processors": [double], "subsets": []})
    >>> outer = build_experiment({"chunk_processors": [inner.as_processor({"batch_double": "batch_y"})]})
    >>> outer.predict({"batch_x": np.array([1, 2])})["batch_y"].tolist()
    [2, 4]

    Raises:
        GraphError: for an output that the experiment does not infer, or an input that it does not read for it.
    """

    def __init__(self, exp: BaseExperiment, outputs: Any, inputs: Mapping[str, str] | None, mode: Any, node: str):
        self._gives, given = _renamed(outputs), _renamed(inputs or {})
        self._graph = _selected(exp.program.whole(Mode.INFER), list(self._gives), given)
        if not self._gives:
            raise GraphError("as_processor needs at least one output.\nSeen: no outputs.\nName what it is to infer.")
        if slips := sorted(set(given) - self._graph.inputs):
            raise GraphError(
                f"Nothing reads {slips[0]!r} to make {', '.join(self._gives)}.\n"
                f"Known here: {', '.join(sorted(self._graph.inputs))}.\n"
                f'Map them to names of the outer list: inputs={{"{min(self._graph.inputs, default="name")}": "..."}}.'
            )
        self._takes = {name: given.get(name, name) for name in sorted(self._graph.inputs)}
        self._run = exp.backend.held(self._graph)
        self.inputs, self.outputs = tuple(self._takes.values()), tuple(self._gives.values())
        self.mode = Mode.of(mode)
        self.within = self._graph.processors
        self.node = node or named(exp.source.filename)

    def __call__(self, chunk: Chunk) -> None:
        results = self._run({own: chunk[name] for own, name in self._takes.items()})
        chunk.update({name: results[own] for own, name in self._gives.items()})

    def __repr__(self) -> str:
        return f"{self.node}.as_processor({', '.join(self._gives)})"


def _renamed(names: Any) -> dict[str, str]:
    if isinstance(names, Mapping):
        return dict(names)
    return {name: name for name in ([names] if isinstance(names, str) else names)}


def _selected(whole: Graph, outputs: list[str], given: Mapping[str, str]) -> Graph:
    """The graph that makes the outputs: from the given names alone if possible, so that it may begin in mid-list."""
    if given:
        with suppress(GraphError):
            return Graph(whole.processors, provided=given, mode=Mode.INFER).select(*outputs)
    return whole.select(*outputs)


def named(filename: str) -> str:
    """The name of a configuration file; of a run's copy, the name of its project."""
    file = Path(filename or "Experiment")
    is_copy = file.name == "config.py" and (file.parent / "status.json").is_file()
    return file.absolute().parent.parent.name if is_copy else file.stem
