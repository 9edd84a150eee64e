"""Finds slips in graphs that run, but do not compute what they seem to: warned of once, or refused."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from typing import Any

from experimentator.attributes import adding_up
from experimentator.graph import Graph, GraphError, Mode
from experimentator.settings import listed

log = logging.getLogger(__name__)
CLOSE = 0.9  # similarity from which a name is probably a slip for another: they differ in a letter or two

Slip = tuple[str, str, str]  # the node or setting, the name that is wrong in it, and the warning


def look(exp: Any, whole: Graph, selected: Graph, *, told: set[tuple[str, str]]) -> None:
    """Refuse, or warn of, slips in a mode's graph."""
    check_norms(whole)
    tell(near_names(exp, whole), told=told)
    tell(adding_metrics(exp), told=told)
    tell(squashed(selected), told=told)
    tell(overwritten(exp, whole, selected), told=told)


def tell(slips: Iterable[Slip], *, told: set[tuple[str, str]]) -> None:
    """Warn of slips: of a name once for each node, unless it is in `told`."""
    for node, name, said in slips:
        if (node, name) not in told:
            told.add((node, name))
            log.warning(said)


def check_norms(graph: Graph) -> None:
    """Refuse to read or overwrite the norm of gradients: it is 0 until all processors have run."""
    for node in graph.nodes:
        for name in getattr(node.processor, "norm_of", ()):
            others = [one for one in graph.nodes if one is not node and name in (*one.inputs, *one.outputs)]
            if others:
                raise GraphError(
                    f"The output of {node} is available only after all processors of a batch have run.\n"
                    f"Seen: {name!r} in {others[0]}.\n"
                    "Look at it in the history, or in on_batch_end of a callback; if there are two, give one of "
                    "them another `output`."
                )


def near_names(exp: Any, graph: Graph) -> Iterator[Slip]:
    """Processors left out because they read a name that nothing has and that is close to a known one."""
    known = {*graph.outputs, *graph.provided}
    for node in graph.nodes:
        for name in [ref.name for ref in node.reads if ref.name not in known]:
            if any(name in exp.program.specs(mode) for mode in Mode):
                continue
            near = get_close_matches(name, known, n=1, cutoff=CLOSE)
            if near and not graph.written_in(name):
                said = f"{node} is left out: it reads {name!r}, which nothing writes and no subset gives."
                yield node.name, name, f"{said} Did you mean {near[0]!r}?"


def adding_metrics(exp: Any) -> Iterator[Slip]:
    """Metrics of Keras within a user's function: nothing resets them when a pass begins."""
    for named, name in (found for one in exp.program.processors for found in adding_up(one)):
        said = f"{named} reads {name}, a metric of Keras, which accumulates over batches and is never reset."
        write = f'Write ops.KerasMetric(metric, "batch_logits", "batch_target"), or {name}.reset_state() first.'
        yield named, name, f"{said} {write}"


def shared_names(exp: Any) -> Iterator[Slip]:
    """Results of two subsets under one name: `hard_loss` of `val`, and `loss` of `val_hard`."""
    seen: dict[str, Any] = {}
    for subset in (one for one in exp.subsets if one.mode in (Mode.TRAIN, Mode.EVAL)):
        for name in exp.program.graphs[subset.mode].results:
            other = seen.setdefault(f"{subset.name}_{name}", subset)
            if other is not subset:
                said = f"{subset.name}_{name} is a result of {other.name!r}, too: the history keeps that of"
                yield subset.name, name, f"{said} {subset.name!r}. Give one of them another name."


def squashed(graph: Graph) -> Iterator[Slip]:
    """Losses and metrics on logits that are given the output of a softmax or sigmoid, and the other way round."""
    for node in graph.nodes:
        taking: Any = node.processor
        for ref in [ref for ref in node.reads if hasattr(taking, "minds") and ref.name in taking.predicted]:
            writer = graph.writers.get(ref)
            squash, width = getattr(writer and writer.processor, "ends_in", {}).get(ref.name, ("", None))
            if write := taking.minds(squash, width):
                takes, ends = "logits", f"a {squash}"
                if squash == "linear":
                    takes, ends = "probabilities", "neither a softmax nor a sigmoid"
                yield node.name, squash, f"{node} takes {takes}, but {ref.name!r} of {writer} ends in {ends}. {write}"


def overwritten(exp: Any, graph: Graph, selected: Graph) -> Iterator[Slip]:
    """Losses and metrics that nothing reads before another processor writes the same name."""
    trained = exp.program.graphs.get(Mode.TRAIN)
    used = {node.index for node in (*selected.nodes, *(trained.nodes if trained else ()))}
    averaged = {"loss", *exp.program.selection.metrics} & selected.results.keys()
    for node in (node for node in graph.nodes if node.index not in used and graph.mode != Mode.INFER):
        for name in set(node.outputs) & averaged:
            writer = graph.writers.get(selected.results[name])
            if writer is not None:
                added = ", and add them up with ops.CombineLosses([...])" if name == "loss" else ""
                said = (
                    f"{node} has no effect in {graph.mode}: {writer} writes {name!r}, too, and nothing reads it before."
                )
                yield node.name, name, f"{said} Give each an `output` of its own{added}."


def unknown_metrics(exp: Any, graph: Graph) -> Iterator[Slip]:
    """Names in batch_metrics_names, or that a property `metrics` adds, that evaluation does not know."""
    if graph.mode != Mode.EVAL:
        return
    known, own = {*graph.outputs, *graph.provided}, [*exp.batch_metrics_names]
    told = {*own, *listed(exp.cfg.get("metrics"))}  # an unknown one of the setting is refused
    added = [name for name in exp.program.selection.metrics if name not in told and not graph.written_in(name)]
    for setting, names in (("batch_metrics_names", own), ("metrics", added)):
        if unknown := ", ".join(repr(name) for name in names if name not in known):
            yield setting, unknown, f"{setting} lists {unknown}, which evaluation does not know."
