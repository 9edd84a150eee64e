"""Which names each mode computes: `loss`, and those that settings, callbacks and task classes ask for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from experimentator.accumulating import marked_in, weighing
from experimentator.data.items import DatasetError
from experimentator.graph import Graph, GraphError, Mode
from experimentator.loading.blocks import specs_of
from experimentator.optimizer_parts import losses_of
from experimentator.settings import listed


class Selection:
    """Names to select in an experiment's graphs; `task` has the task class's properties that act as processors."""

    def __init__(self, exp: Any, task: Mapping[str, Any]):
        self.exp, self.task = exp, task

    @property
    def metrics(self) -> list[str]:
        """Names that are averaged, besides `loss`."""
        return list(self.task["metrics"].names) if "metrics" in self.task else listed(self.exp.metrics)

    def measured(self, graph: Graph) -> list[str]:
        """Names that are averaged, besides `loss`, with those of metrics whose names recording found."""
        recorded = [node.processor for node in graph.nodes if node.processor is not node.listed]
        found = [] if "metrics" in self.task else [name for name in marked_in(recorded) if name != "loss"]
        return list(dict.fromkeys([*self.metrics, *found]))

    def outputs(self, graph: Graph) -> list[str]:
        """The names that inference is set to return; empty where no setting says."""
        if "outputs" in self.task:
            return _known(self.task["outputs"].names, graph)
        return listed(self.exp.outputs)

    def inferred(self, graph: Graph) -> list[str]:
        """The names inference returns by default: those it is set to, else all that can be computed."""
        weights = weighing(graph)
        return self.outputs(graph) or [name for name in graph.computable if name not in weights]

    def check_outputs(self, wholes: Iterable[Graph], infer: Graph) -> None:
        """Refuse a name in the setting `outputs` that no mode knows, before anything runs."""
        known = {name for whole in (*wholes, infer) for name in (*whole.outputs, *whole.provided)}
        if known and (unknown := [name for name in listed(self.exp.cfg.get("outputs")) if name not in known]):
            try:
                infer.select(*unknown)
            except GraphError as error:
                error.add_note("The setting `outputs` lists it.")
                raise

    def wanted(self, graph: Graph) -> list[str]:
        """The names a mode computes: `loss` and what is asked for; metrics too in EVAL."""
        exp, written, mode, metrics = self.exp, set(graph.outputs), graph.mode, self.measured(graph)
        if mode == Mode.INFER:
            aside = {"loss", *metrics} - {*exp.batch_metrics_names}
            return self.outputs(graph) or [name for name in self.inferred(graph) if name not in aside]
        asked = [name for name in listed(exp.cfg.get("metrics")) if name in written or self._evaluates(name, graph)]
        marked = Counter({*marked_in(exp.chunk_processors)})
        asked += _known(Counter(self.metrics) - marked, graph)  # names that a task class adds, of metric ops as well
        asked += _known(exp.batch_metrics_names, graph)
        if mode == Mode.EVAL or "metrics" in self.task:
            asked += _known(metrics, graph)
        requested = _known(exp.requests(mode), graph)
        if mode == Mode.EVAL and "loss" not in written and (asked or requested):
            return list(dict.fromkeys([*asked, *requested]))
        parts: list[str] = []
        if mode == Mode.TRAIN:
            norms = [name for node in graph.nodes for name in getattr(node.processor, "norm_of", ())]
            parts = [*losses_of(exp.optimizer), *_parts_of_loss(graph, metrics), *norms]
        return list(dict.fromkeys(["loss", *parts, *asked, *requested]))

    def _evaluates(self, name: str, graph: Graph) -> bool:
        """Whether EVAL must know a metric: nothing writes it at all, or a processor of EVAL does."""
        written = graph.written_in(name)
        return graph.mode == Mode.EVAL and not (written and not written & Mode.EVAL)

    def last_written(self, graph: Graph) -> tuple[str, ...]:
        """The name to select in INFER where nothing can be computed, so that the error tells what is missing."""
        written = [name for node in graph.nodes for name in node.outputs if name not in ("loss", *self.metrics)]
        return tuple(written[-1:])


def check_items(subset: Any, specs: Mapping[str, Any], graph: Graph) -> None:
    """Refuse a subset whose items lack a numeric value that the graph of its mode reads; shapes may differ."""
    for name in sorted(graph.inputs - specs.keys()):
        _refuse_objects(name, subset)
        if not subset.has_own_batch and (odd := _odd(name, subset)) is not None:
            raise odd
        write = "Let every subset of a mode give the names that the first one gives."
        if graph.mode == Mode.INFER:
            own = f"Give its items {name.removeprefix('batch_')!r}, or write" if name.startswith("batch_") else "Write"
            write = f"{own} predict({{{name!r}: ...}}), with all that INFER reads."
        elif subset.mode == Mode.INFER:
            field = name.removeprefix("batch_")
            write = f"It is a subset of INFER: predict({subset.name!r}). To measure on it, give its items {field!r}."
        raise DatasetError(
            f"Subset {subset.name!r} does not fit the graph of {graph.mode}, which reads {name!r}.",
            f"{', '.join(specs) or 'no numbers'} in its items",
            write,
        )


@contextmanager
def explaining_objects(mode: Mode, subsets: Iterable[Any], metrics: Collection[str] = ()) -> Iterator[None]:
    """Within, errors say why a name is missing: nothing writes a loss or a metric, or items hold no numbers there."""
    try:
        yield
    except GraphError as error:
        for problem in getattr(error, "problems", (error,)):
            _explain(problem, error, mode, subsets)
            if getattr(problem, "reader", error) is None and getattr(problem, "name", None) in metrics:
                error.add_note("`metrics` names what processors write: list one, such as ops.Accuracy(logits, target).")
        raise


def _explain(problem: Any, error: GraphError, mode: Mode, subsets: Iterable[Any]) -> None:
    name = getattr(problem, "name", None)
    is_loss = name == "loss" and getattr(problem, "reader", None) is None
    if is_loss and "is produced only in" not in str(problem):
        said = "A loss writes it, such as ops.SoftmaxCrossEntropy(logits, target)"
        error.add_note(f"{said}; ops.CombineLosses([...]) adds up several.")
    elif is_loss and mode == Mode.EVAL:
        error.add_note(
            "Nothing is measured in EVAL: list a metric, such as ops.Accuracy(logits, target); keep what EVAL "
            "computes, with GatherCycleMetrics([...]); or leave out the EVAL subset."
        )
    for subset in subsets:
        if name and mode in (subset.mode, Mode.INFER):  # any subset may be predicted
            _refuse_objects(name, subset)


def _refuse_objects(name: str, subset: Any) -> None:
    batch = subset.sample()[1]
    if name in batch and name not in specs_of(batch):
        raise _objects(name, subset, batch[name][0]) from None


def _objects(name: str, subset: Any, value: Any, where: str = "") -> DatasetError:
    write = "Convert it in the dataset, to np.float32 or np.int32, or let no processor read it."
    if isinstance(value, str):
        write += (
            "\nOf labels, np.unique(labels, return_inverse=True)[1] are ids; of text, what a tokenizer gives, such as "
            "np.asarray(vectorize(texts)) of a TextVectorization."
        )
    return DatasetError(
        f"{name!r} of subset {subset.name!r} holds no numbers{where}, so that it stays on the host.",
        f"{value!r:.60}, a {type(value).__name__}",
        write,
    )


def _odd(name: str, subset: Any) -> DatasetError | None:
    """The error that names the first key whose value is no number, though other keys have numbers."""
    for key in subset.keys:
        value = subset.read([key], [0])[1].get(name)
        if isinstance(value, list):
            return _objects(name, subset, value[0], where=f" in key {key!r}")
    return None


def _known(names: Iterable[str], graph: Graph) -> list[str]:
    """The names that the graph writes or is provided with."""
    written = set(graph.outputs)
    return [name for name in names if name in written or name in graph.provided]


def _parts_of_loss(graph: Graph, metrics: Iterable[str]) -> list[str]:
    """The metrics that the loss is computed from, so that reporting them costs nothing."""
    metrics = list(metrics)
    made = {name for node in graph.select("loss").nodes for name in node.outputs} if metrics else set()
    return [name for name in metrics if name in made]
