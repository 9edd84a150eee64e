"""An experiment as people look at it: descriptions of its graphs with shapes and weights, and a summary."""

from __future__ import annotations

import html
import logging
import re
from collections.abc import Iterator, Sequence
from typing import Any

from experimentator.accumulating import weighing
from experimentator.callbacks.order import in_order
from experimentator.diagnosis import spoilt
from experimentator.graph import Description, Graph, Mode, describe_graph, plan, whole
from experimentator.graph.text import aligned

log = logging.getLogger(__name__)
VIEWS = ("graph", "plan", "list")
_PLACE = re.compile(r"In chunk processor #(\d+) .*?\[(TRAIN|EVAL|INFER)\]")


class Summarised:
    """The methods of an experiment that show it: a summary when printed, or last in a notebook cell, and its graphs."""

    def describe(self: Any, mode: Any = "train", *names: str, view: str = "graph") -> Description:
        """The graph of a mode, to look at: prints as a table, draws itself in notebooks, saves by `diagram.save`.

        `names` narrows it to processors that these depend on. `view` is "graph"; "plan", with pruned processors and the
        reasons; or "list", with every processor of the mode. "graph" shows the list, too, where there are undeclared
        callables and no data to record them with, unless `names` are given.

        >>> from experimentator import BaseExperiment, Subset, chunk_processor
        >>> half = chunk_processor(outputs=["batch_half"])(lambda batch_x: batch_x / 2)
        >>> subset = Subset("all", Mode.INFER, {"x": [1.0, 2.0]})
        >>> print(BaseExperiment({"subsets": [subset], "chunk_processors": [half]}).describe("infer"))
        INFER: 1 processor, batch_x -> batch_half
        #  processor                    reads                writes                  mode
        0  lambda batch_x: batch_x / 2  batch_x [B] float64  batch_half [B] float64  ALL
        """
        mode = Mode.of(mode)
        if view not in VIEWS:
            write = f"Write one of {', '.join(map(repr, VIEWS))}."
            raise ValueError(f"There is no view {view!r}.\nSeen: {view!r}.\n{write}")
        see_changes(self)
        graph = self.program.whole(mode)
        unknown = not all(node.declared for node in graph.nodes)  # without data, nothing was recorded and pruned
        if view == "graph" and not names and not unknown:
            graph, weights = self.graph(mode), weighing(self.graph(mode))
            shown = graph.select(*(name for name in graph.results if name not in weights)) if weights else graph
            return describe_graph(shown, **facts(self, graph))
        known = facts(self, graph)
        if view == "list" or (view == "graph" and not names):
            return whole(graph, **known)
        if view == "plan":
            return plan(graph, *(names or self.program.selection.wanted(graph)), **known)
        return describe_graph(graph.select(*names), **known)

    def troubles(self: Any, error: BaseException) -> dict[str, str]:
        """What an error says about single processors, by name: which failed, or has non-finite weights.

        `graph.with_statuses` puts it on a picture.

        >>> from experimentator import BaseExperiment, Subset, chunk_processor
        >>> @chunk_processor(outputs=["loss"])
        ... def error(batch_x):
        ...     return batch_x / None
        >>> subset = Subset("validation", Mode.EVAL, {"x": [1.0, 2.0]})
        >>> exp = BaseExperiment({"subsets": [subset], "chunk_processors": [error]})
        >>> try:
        ...     exp.evaluate()
        ... except TypeError as problem:
        ...     print(exp.troubles(problem))
        {'error': 'failed in EVAL: TypeError'}
        """
        found = _PLACE.search(" ".join(getattr(error, "__notes__", ())))
        graph = self.program.graphs.get(Mode.of(found[2]) if found else Mode.TRAIN)
        if graph is None:
            return {}
        if found:
            return dict(_until(graph, int(found[1]), error))
        if not isinstance(error, ArithmeticError):
            return {}
        return dict.fromkeys(spoilt(self.backend.weights(), finite=True), "weights are not finite")

    def __str__(self) -> str:
        return as_text(self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {_title(self)}>"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return {"text/plain": as_text(self), "text/html": as_html(self)}


def facts(exp: Any, graph: Graph) -> dict[str, Any]:
    """Shapes, groups, metrics, sizes of weights, as options of `describe_graph`; without data, only what is known."""
    see_changes(exp)
    specs = exp.program.specs(graph.mode)
    able = graph.select(*graph.computable) if specs and graph.computable else None
    shapes: dict[Any, Any] = {}
    if able is not None and able.inputs <= specs.keys():
        try:
            shapes = exp.backend.shapes(able, specs)
        except Exception as error:  # in the user's processors: training will raise it, a picture must not
            log.info("The shapes in this picture are not known: %s", error)
    weights = {"weights": exp.backend.sizes(), "shares": exp.backend.shared()} if specs else {}
    return {"shapes": shapes, "groups": groups(exp), "metrics": exp.program.selection.metrics, **weights}


def see_changes(exp: Any) -> None:
    """Look for changed lists and processors, unless a training or a pass runs: these look when they begin."""
    if not exp.walk.trains and not exp.walk.depth:
        exp._notice()
        exp.program.notice()


def groups(exp: Any) -> dict[int, str]:
    """For places in the list of processors, the name of the configuration's list that they come from.

    With `augmentation = [crop, flip]` and `chunk_processors = [*augmentation, model]`, pictures show the first two in
    a box "augmentation".
    """
    places = {id(processor): place for place, processor in enumerate(exp.chunk_processors) if processor is not None}
    found: dict[int, str] = {}
    for name, listed in exp.cfg.items():
        if name != "chunk_processors" and isinstance(listed, (list, tuple)):
            members = [places[id(one)] for one in listed if id(one) in places]
            found |= dict.fromkeys(members if 1 < len(members) < len(places) else (), name)
    return found


def _until(graph: Graph, failed: int, error: BaseException) -> Iterator[tuple[str, str]]:
    """The status of each processor, by name, where one failed; those behind a first NaN have run all the same.

    In modes other than TRAIN only the failed one has a status, since the picture shows the graph that is trained.
    """
    order = [node for node in graph.order if graph.mode == Mode.TRAIN or node.index == failed]
    names, places = [node.name for node in order], [node.index for node in order]
    if failed not in places:  # pruned here; it failed in another graph, as in `predict`
        return
    at = places.index(failed)
    where = "" if graph.mode == Mode.TRAIN else f" in {graph.mode}"
    first = getattr(error, "first", None)  # of values that are not finite
    what = f"first NaN or infinity, in {first!r}" if first else type(error).__name__
    yield from ((name, "ok") for name in names[:at])
    yield names[at], f"failed{where}: {what}"
    if not isinstance(error, ArithmeticError):
        yield from ((name, "not run") for name in names[at + 1 :])


def summary(exp: Any) -> dict[str, list[tuple[str, ...]]]:
    """Rows of cells by title: subsets, the graph of each mode, parameters, callbacks in order, backend and device."""
    sections: dict[str, list[tuple[str, ...]]] = {
        "subsets": [_subset(exp, subset) for subset in exp.subsets],
        "graph": [_graph(exp, mode) for mode in _modes(exp)],
        "parameters": _parameters(exp),
        "callbacks": [(listener.name,) for listener in vars(exp).get("listeners") or in_order(exp.callbacks)],
        "runs on": [_place(exp)],
    }
    return {title: rows for title, rows in sections.items() if rows}


def as_text(exp: Any) -> str:
    """The summary for a terminal."""
    lines = [_title(exp)]
    for title, rows in summary(exp).items():
        lines += [f"{'' if number else title:<10}  {row}".rstrip() for number, row in enumerate(aligned(rows))]
    return "\n".join(lines)


def as_html(exp: Any) -> str:
    """The summary for a notebook; columns are aligned within each section."""
    left = 'style="text-align:left;vertical-align:top;min-width:7em"'
    sections = []
    for title, rows in summary(exp).items():
        cells = ["".join(f"<td {left}>{html.escape(cell)}</td>" for cell in row) for row in rows]
        inner = f"<table>{''.join(f'<tr>{row}</tr>' for row in cells)}</table>"
        sections.append(f"<tr><th {left}>{html.escape(title)}</th><td {left}>{inner}</td></tr>")
    return f"<b>{html.escape(_title(exp))}</b><table>{''.join(sections)}</table>"


def _title(exp: Any) -> str:
    begin = f"begins with weights of {exp.begun_from}, " if exp.begun_from and not exp.epoch else ""
    return f"{exp.project_name}: {begin}{exp.epoch} epoch{'s' * (exp.epoch != 1)} trained"


def _subset(exp: Any, subset: Any) -> tuple[str, ...]:
    feed = exp.program.feeds.get(id(subset))
    where = "not read yet" if feed is None else feed.own.place
    size = subset.amount
    specs, sizes = exp.program.specs_of(subset), {} if subset.buckets is None else subset.buckets.sizes
    items = ", ".join(f"{n} {_shape(spec, sizes.get(n.removeprefix('batch_'), [()]))}" for n, spec in specs.items())
    return subset.name, str(subset.mode), size, where, items


def _shape(spec: Any, sizes: Sequence[Sequence[int]]) -> str:
    """The shape of a batch and its dtype; `sizes` are those of the leading axes in each bucket."""
    varying = ["/".join(map(str, dict.fromkeys(axis))) for axis in zip(*sizes, strict=True)]
    return f"[{', '.join(['B', *varying, *map(str, spec.shape[1 + len(varying) :])])}] {spec.dtype}"


def _graph(exp: Any, mode: Mode) -> tuple[str, ...]:
    graph = exp.graph(mode)
    ends = [", ".join(sorted(names)) for names in (graph.inputs, graph.outputs)]
    return str(mode), f"{len(graph.nodes)} of {len(exp.program.whole(mode).nodes)} processors", " -> ".join(ends)


def _modes(exp: Any) -> list[Mode]:
    """TRAIN and EVAL where a subset has them, INFER where something can be computed."""
    present = {subset.mode for subset in exp.subsets}
    return [m for m in Mode if m in present or (m == Mode.INFER and exp.subsets and exp.program.whole(m).computable)]


def _parameters(exp: Any) -> list[tuple[str, ...]]:
    sizes = exp.backend.sizes() if exp.subsets else {}
    if len(sizes) > 1:
        trained, frozen = zip(*sizes.values(), strict=True)
        sizes = {**sizes, "in all": (sum(trained), sum(frozen))}
    return [(node, f"{trained:,} trained", f"{frozen:,} not") for node, (trained, frozen) in sizes.items()]


def _place(exp: Any) -> tuple[str, ...]:
    found: dict[str, list[str]] = {}  # several, if the subset has buckets
    for runner in exp.program.runners.values():
        found.setdefault(runner.name, []).append(runner.step.compiler)
    compilers = ", ".join(f"{name} with {' and '.join(dict.fromkeys(ways))}" for name, ways in found.items())
    return exp.backend.name, str(exp.backend.device), compilers or "nothing compiled"
