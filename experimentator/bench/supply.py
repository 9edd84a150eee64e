"""Findings about waiting for data and moving them: where they should lie, and how they should be read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from math import ceil
from typing import Any

import numpy as np

from experimentator.bench.findings import Finding, Seen, percent
from experimentator.data.columns import is_columnar
from experimentator.data.open_files import open_file_in
from experimentator.loading.blocks import batch_bytes
from experimentator.loading.feeds import Feed
from experimentator.loading.memory import SHARE, free_host_memory
from experimentator.loading.workers import Workers

KINDS = ("data", "transfer")
LEFT = 0.1  # share of the waiting that remains when data lie on the device
GATHERING = 2e9  # bytes a second that are picked in host memory and travel, about
IDLE = 0.5  # cores; where fewer work while data are waited for, reading them is waiting too
ACROSS = 5e-5  # seconds for each item from another process, about: to address its draws, and send it
PATIENT = 8  # threads at least for reading that waits
Remedy = tuple[str, float]  # what to write, and the seconds that it saves


def supply(seen: Seen) -> Iterator[Finding]:
    """Waiting for data, and moving them, in training and in evaluation."""
    spent = seen.trained(*KINDS) + seen.evaluated(*KINDS)
    to_evaluate = seen.evaluated(*KINDS) > seen.trained(*KINDS)
    feeds = seen.exp.program.feeds
    used = [one for one in seen.exp.subsets if one.is_training != to_evaluate and id(one) in feeds]
    subset = next((one for one in used if not feeds[id(one)].own.resident), None)
    if subset is None:
        return
    feed = feeds[id(subset)].own
    data = seen.trained("data") + seen.evaluated("data")
    doing = "waiting for data" if data >= spent / 2 else "moving data"
    begin = f"{percent(spent / seen.seconds)} of the time is spent {doing}{', most of it to evaluate' * to_evaluate}"
    if not to_evaluate and (wasteful := _wasteful(seen.block, feed)):
        name, dtype, ratio = wasteful
        words = f"{begin}: let the dataset give {name.removeprefix('batch_')!r} as {dtype}, {_part(ratio)} of the bytes"
        words += ", if all values fit, as those seen do"
        if dtype == "uint8":
            own = feed.specs[name].dtype
            cast = own if own.kind in "iu" else "float32"
            words += f', and cast it on the device: ops.Cast("{name}", "{cast}") first'
        if feed.place != "streamed" or seen.share("transfer") > seen.share("data"):
            yield Finding("bytes", spent / seen.seconds, seen.gain(spent * (1 - ratio)), f"{words}.")
            return
    change, saved = _remedy(seen, subset, feed, spent)
    yield Finding("data", spent / seen.seconds, seen.gain(saved), f"{begin}: {change}.")


def _remedy(seen: Seen, subset: Any, feed: Feed, spent: float) -> Remedy:
    """Where the data should lie, or how they should be read, and the seconds that saves."""
    size = len(subset.keys) * batch_bytes(feed.specs)
    fits = size <= SHARE * free_host_memory()
    if feed.place == "in host memory":
        if size <= SHARE * seen.exp.backend.room():
            return "set residency='device'", spent * (1 - LEFT)
        return "the device has no room for these columns; give dtypes of half the size", spent / 2
    if not _reads_ahead(seen.exp) and not is_columnar(subset) and not fits:
        words = "add AsyncExperiment to experiment_type, so that the next batches are read meanwhile"
        return words, min(spent, seen.trained("device") + seen.evaluated("device"))
    batches = seen.steps if subset.is_training else ceil(len(subset) / seen.exp.batch_size)
    otherwise, less = _otherwise(seen, feed, spent, batches)
    kept = spent * (1 - 1 / seen.epochs) - seen.batches * seen.exp.batch_size * batch_bytes(feed.specs) / GATHERING
    if not fits or kept <= less or (seen.varies and subset.is_training):
        return otherwise, less
    more = f"if not: {otherwise}"
    if "workers=" in otherwise:
        more = f"if not, {otherwise}: up to {seen.gain(less):.1f} times as fast"
    return f"set residency='host', if an item is the same every time it is read ({more})", kept


def _reads_ahead(exp: Any) -> bool:
    return any(kind.__name__ == "AsyncExperiment" for kind in type(exp).__mro__)


def _otherwise(seen: Seen, feed: Feed, spent: float, batches: int) -> Remedy:
    """How to read items that have to be read in every epoch: by what the cores do meanwhile.

    A worker reads a batch at a time, so that no more of them help than a pass has `batches`.
    """
    workers, cores, busy = feed.workers or Workers(1), os.cpu_count() or 1, max(1.0, seen.busy)
    begin = "set" if _reads_ahead(seen.exp) else "add AsyncExperiment to experiment_type, and set"
    count = min(max(PATIENT, 4 * workers.count), batches)
    if seen.busy < IDLE and count > workers.count:
        words = f"{begin} workers={count}, since reading an item is waiting, not work"
        if file := open_file_in(feed.subset.dataset):
            words = f"open {file} anew for each item; {words}"
        return words, spent * (1 - ceil(batches / count) / ceil(batches / workers.count))
    saved = spent * (1 - busy / cores) - ACROSS * seen.batches * seen.exp.batch_size / cores
    if seen.busy >= IDLE and not workers.are_processes and busy < 0.8 * cores and saved > 0.1 * spent:
        return f"{begin} workers='{cores} processes', since reading an item spends its time in Python", saved
    return "make the items cheaper to read, or store them as they are read", spent * (1 - LEFT)


def _wasteful(block: Any, feed: Feed) -> tuple[str, str, float] | None:
    """The column with most bytes that a smaller dtype would hold as well; and which part of all bytes would remain."""
    sizes = {name: batch_bytes({name: spec}) for name, spec in feed.specs.items()}
    name = max((name for name in sizes if name in block.columns), key=sizes.__getitem__)
    values, dtype = np.asarray(block.columns[name]), feed.specs[name].dtype
    if dtype.kind not in "fiu" or dtype.itemsize == 1:
        return None
    finite = values[np.isfinite(values)]
    least, most = finite.min(initial=0), finite.max(initial=0)
    room = np.finfo("float32") if dtype.kind == "f" else np.iinfo("int32")
    if least >= 0 and most <= 255 and finite.size == values.size and np.all(values == np.round(values)):
        smaller = "uint8"
    elif dtype.itemsize == 8 and room.min <= least and most <= room.max:
        smaller = "float32" if dtype.kind == "f" else "int32"
    else:
        return None
    saved = sizes[name] * (1 - np.dtype(smaller).itemsize / dtype.itemsize)
    return name, smaller, 1 - saved / sum(sizes.values())


def _part(ratio: float) -> str:
    return {8: "an eighth", 4: "a quarter", 2: "half"}.get(round(1 / ratio), percent(ratio))
