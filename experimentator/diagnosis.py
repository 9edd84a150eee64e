"""Looks for usual mistakes: warnings before a training, and notes to errors of non-finite values or of shapes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from experimentator.averages import Averages, NonFiniteLossError
from experimentator.data.items import ArrayDataset, ItemsDataset, is_numeric
from experimentator.graph import Graph, Mode, Node
from experimentator.optimizer_parts import parts_of
from experimentator.saving.matching import node_of

log = logging.getLogger(__name__)
MANY = 8  # kinds of shapes that `predict` compiles for before it warns


def spoilt(weights: Mapping[str, np.ndarray], *, finite: bool = False) -> Iterator[str]:
    """Names of processors with weights that are NaN, or, with `finite`, infinite.

    >>> [*spoilt({"Model/0/kernel": np.array([1.0, np.nan]), "Head/0/kernel": np.array([1.0])})]
    ['Model']
    """
    found = set[str]()
    for key, values in weights.items():
        node = node_of(key)
        if node not in found and values.dtype.kind == "f":
            if (~np.isfinite(values) if finite else np.isnan(values)).any():
                found.add(node)
                yield node


def spoilt_error(exp: Any, node: str, *, where: str) -> NonFiniteLossError:
    """The error for weights that became NaN while the loss stayed finite; it names NaN in the data."""
    wrong = f"The loss is finite, but weights are NaN, after {where}.\nSeen: NaN in weights of {node}."
    write = "Look for NaN in the data (ops.AssertFinite(name) finds it), lower learning_rate, or clip gradients."
    return NonFiniteLossError("\n".join([wrong, *bad_data(exp), write]))


def nan_weights(nodes: Iterable[str]) -> Iterator[str]:
    """A warning for each processor with NaN weights: the loss need not show it."""
    return (f"Weights of {node} are NaN, whatever the loss says." for node in sorted(nodes))


def bad_data(exp: Any) -> Iterator[str]:
    """Sentences about NaN and infinity in training data that are held as columns; streamed data are not searched."""
    graph = exp.program.graph(Mode.TRAIN)
    for feed in (exp.program.feed(subset) for subset in exp.subsets if subset.mode == Mode.TRAIN):
        for columns, keys in feed.tables():
            yield from _not_finite(columns, np.arange(len(keys))[None], [keys], graph)


def first_look(exp: Any) -> Iterator[str]:
    """Warnings before an experiment trains for the first time."""
    yield from leaks(exp.subsets)
    exp.walk.constants = {*spoilt(exp.program.lasting(exp.backend.weights()))}
    yield from nan_weights(exp.walk.constants)


def unheard(exp: Any) -> Iterator[str]:
    """Warnings of settings that nothing acts on."""
    write = "List CallbackedExperiment in experiment_type, or as a base of its class."
    if not hasattr(type(exp), "listeners"):
        for name, acts in (("callbacks", "calls them"), ("output_folder", "writes a run")):
            if exp.cfg.get(name):
                yield f"{name} is ignored: nothing {acts}. {write}"


def tell_many(kinds: Collection[Any], new: Any) -> None:
    """Warn when `predict` compiles for many shapes, each of which takes time."""
    if new not in kinds and len({*kinds, new}) == MANY:
        log.warning("predict has compiled for %d kinds of shapes. Pad what varies to a few lengths.", MANY)


def tell_unused(given: Collection[str], graph: Graph) -> None:
    """Warn of names that are given to `predict` but computed anyway, from other given names."""
    for node in graph.nodes:
        for name in (set(node.outputs) & set(given)) - graph.inputs:
            said = "predict is given %r and does not use it: %s computes it from %s, which is given, too."
            log.warning(said, name, node, ", ".join(sorted(graph.select(name).inputs)))


def unknown(averages: Averages, subset: str, metrics: Collection[str]) -> Iterator[str]:
    """Warnings of metrics that are not a single number for each batch, and of means over nothing."""
    for name in (name for name in metrics if name in averages.left_out):
        shape = averages.left_out[name]
        yield (
            f"metrics lists {name!r}, which is {shape} for each batch: only single numbers are averaged. "
            "Let a processor write a number for each, or keep it with GatherCycleMetrics."
        )
    for name in averages.of_nothing:
        yield (
            f"'{subset}_{name}' is NaN: it is a mean over a part of each batch, and that part was empty in every "
            f"batch. Look at the labels, masks or weights of {subset!r}."
        )


def idle_averages(exp: Any) -> Iterator[str]:
    """A warning where an optimizer averages weights (use_ema) and nothing uses that; Keras' fit does at its end."""
    parts = [part for part in parts_of(exp.optimizer) if getattr(part, "use_ema", False)]
    idle = [part for part in parts if not part.ema_overwrite_frequency]
    if idle and not any(hasattr(callback, "averaged") for callback in exp.callbacks):
        yield (
            "The optimizer averages the weights (use_ema), but nothing uses the average; keras.Model.fit would put it "
            f"in their place at the end. Write callbacks = [ExponentialMovingAverage({idle[0].ema_momentum})]."
        )


@contextmanager
def suspicions(exp: Any, graph: Graph, block: Any) -> Iterator[None]:
    """Within, errors for non-finite values or odd ids say what in the block's data may have caused them."""
    try:
        yield
    except (NonFiniteLossError, FloatingPointError, IndexError) as error:
        odd = (*_odd_ids(exp, graph, block), *_odd_rows(exp, graph, block))
        found = (*_not_finite(block.columns, block.index, block.keys, graph), *odd)
        if isinstance(error, NonFiniteLossError):  # what was seen, before what to write
            wrong, _, write = str(error).rpartition("\n")
            error.args = ("\n".join([wrong, *found, write]),)
        else:
            for suspicion in found:
                error.add_note(suspicion)
        raise


def _not_finite(columns: Mapping[str, Any], index: np.ndarray, keys: Sequence[Any], graph: Graph) -> Iterator[str]:
    """A sentence for each name with NaN or infinity in batches `index` [K, B], except labels that may be missing."""
    compared = {name for node in graph.nodes if _leaves_out(node) for name in node.inputs}
    for name in sorted(graph.inputs & columns.keys() - compared):
        rows = _on_host(columns[name])
        if rows.dtype.kind != "f":
            continue
        finite = np.isfinite(rows.reshape(len(rows), -1)).all(axis=1)[index]
        if not finite.all():
            batch, place = np.argwhere(~finite)[0]
            yield f"{name!r} holds NaN or infinity in the data, as in the item of key {keys[batch][place]!r}."


def _on_host(values: Any) -> np.ndarray:
    """Columns as numpy arrays, also from PyTorch tensors on a GPU."""
    rows = np.asarray(values.cpu() if type(values).__module__.startswith("torch") else values)
    return rows.astype(np.float32) if rows.dtype.name == "bfloat16" else rows


def _leaves_out(node: Node) -> bool:
    """Whether a processor masks, weights, or leaves out items without a label."""
    named = (getattr(node.processor, name, None) for name in ("mask", "weight"))
    return any(isinstance(name, str) for name in named) or getattr(node.processor, "nan_is_no_label", None) is True


def _odd_ids(exp: Any, graph: Graph, block: Any) -> Iterator[str]:
    """A sentence for each loss or metric whose class ids in a block are outside the classes of its logits."""
    for node in graph.nodes:
        compared: tuple[str, ...] = getattr(node.processor, "pair", ())
        if _leaves_out(node) or len(compared) != 2 or compared[1] not in block.columns:
            continue
        logits, target = (next((ref for ref in node.reads if ref.name == name), None) for name in compared)
        rows = _on_host(block.columns[compared[1]])
        if logits is None or target is None or rows.dtype.kind not in "iu":
            continue
        sizes = exp.backend.shapes(graph, exp.program.specs(graph.mode))[logits][0]
        if sizes is None or len(sizes) != rows.ndim + 1 or not isinstance(sizes[-1], int) or sizes[-1] < 2:
            continue
        seen, classes = rows[np.ravel(block.index)], sizes[-1]
        if (odd := seen[(seen < 0) | (seen >= classes)]).size:
            changed = f", unless {graph.writers[target]} makes it one" if target.version else ""
            yield (
                f"{compared[1]!r} holds {odd.flat[0]}, which is no class{changed}: {compared[0]!r} has {classes}, "
                f"0 to {classes - 1} ({node}). Count classes from 0, with an output for each; where it means "
                "`no label`, leave it out by mask=."
            )


def _odd_rows(exp: Any, graph: Graph, block: Any) -> Iterator[str]:
    """A sentence for each id beyond the largest Embedding of the processor that reads it: NaN on JAX, else an error."""
    tables: dict[str, int] = {}
    for key, table in exp.backend.weights().items():
        if key.endswith("/embeddings"):
            tables[node_of(key)] = max(len(table), tables.get(node_of(key), 0))
    for node in (node for node in graph.nodes if node.name in tables):
        for name in (ref.name for ref in node.reads if not ref.version and ref.name in block.columns):
            rows, count = _on_host(block.columns[name]), tables[node.name]
            seen = rows[np.ravel(block.index)] if rows.dtype.kind in "iu" else np.zeros(0)
            if (odd := seen[seen >= count]).size:
                yield f"{name!r} holds {odd.flat[0]}, and the Embedding in {node} has {count} rows, 0 to {count - 1}."


def leaks(subsets: Sequence[Any]) -> Iterator[str]:
    """A sentence for each training subset that has some of an evaluation subset's keys; having all may be meant.

    >>> from experimentator import Mode, Subset
    >>> data = {"input": np.arange(10)}
    >>> training = Subset("training", Mode.TRAIN, data, range(8))
    >>> [*leaks([training, Subset("test", Mode.EVAL, data, range(7, 10))])]
    ["Subset 'training' trains on 1 of the 3 items that 'test' is to evaluate on, such as 7."]
    """
    for training in (one for one in subsets if one.mode & Mode.TRAIN):
        for other in (one for one in subsets if one.mode == Mode.EVAL and _source(one) == _source(training)):
            trained = set(training.keys)
            shared = [key for key in dict.fromkeys(other.keys) if key in trained]
            if 0 < len(shared) < len(set(other.keys)):
                yield (
                    f"Subset {training.name!r} trains on {len(shared)} of the {len(set(other.keys))} items that "
                    f"{other.name!r} is to evaluate on, such as {shared[0]!r}."
                )


def passed_over(subsets: Sequence[Any], batch_size: int) -> Iterator[str]:
    """Warnings of keys that are not used: `length` is no multiple of the batch size, or the dataset has grown.

    >>> from experimentator import Mode, Subset
    >>> print(*passed_over([Subset("training", Mode.TRAIN, {"input": np.arange(64)}, length=20)], 8))
    4 of the 20 keys that an epoch of 'training' visits do not fill a batch and are left out; with length=16 none are.
    """
    for one in subsets:
        if getattr(one, "is_outgrown", False):
            yield (
                f"The dataset of subset {one.name!r} has gained or lost keys since they were listed. "
                "To use the present ones, assign it anew: subset.dataset = dataset."
            )
        if one.mode & Mode.TRAIN and getattr(one, "is_part", False) and getattr(one, "buckets", None) is None:
            size, rest = len(one), len(one) % batch_size
            if 0 < rest < size:
                said = f"{rest} of the {size} keys that an epoch of {one.name!r} visits do not fill a batch"
                yield f"{said} and are left out; with length={size - rest} none are."


def _source(subset: Any) -> tuple[int, ...]:
    """The identity of the dataset beneath all wrappers: where it is equal, equal keys are the same items."""
    dataset = subset.dataset
    while getattr(dataset, "parent", None) is not None:
        dataset = dataset.parent
    if isinstance(dataset, ArrayDataset):  # another object for each subset, though the arrays are the same
        return tuple(map(id, dataset.arrays.values()))
    return (id(dataset.items if isinstance(dataset, ItemsDataset) else dataset),)


@contextmanager
def shapes_compared(columns: Mapping[str, np.ndarray], usual: Callable[[], Mapping[str, Any]]) -> Iterator[None]:
    """Within, an error gets notes on `columns` that hold no numbers, or whose shapes differ from those of `usual`."""
    try:
        yield
    except Exception as error:
        missing = {getattr(one, "name", None) for one in getattr(error, "problems", (error,))}
        for name in [name for name in columns if name in missing and not is_numeric(columns[name])]:
            error.add_note(f"{name!r} is given, but holds no numbers: its dtype is {columns[name].dtype}.")
        for name, spec in usual().items():
            given = columns[name].shape if name in columns else None
            sizes = () if given is None else given[1:]
            fits = len(sizes) == len(spec.shape[1:]) and all(
                a in (b, None) for a, b in zip(spec.shape[1:], sizes, strict=True)
            )
            if given is not None and not fits:
                batch = ", ".join(["B", *map(str, spec.shape[1:])])
                error.add_note(f"{name!r} was given as {list(given)}; batches of the subsets have it as [{batch}].")
        raise
