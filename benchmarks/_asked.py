"""What was asked of this library on a GPU, and whether the newest measurements reach it: a table for the page."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from _report import table
from training import GROUPS, OURS

COMPARE = {">=": operator.ge, ">": operator.gt}
NOT_MEASURED = "not measured"


class Asked(NamedTuple):
    """`exp.train` in steps for each step of the quickest of `rivals`, as a benchmark has it."""

    what: str
    at_least: str
    benchmark: str
    rivals: tuple[str, ...]


KERAS = tuple(who for who in GROUPS["tensorflow"] if who.startswith("Keras"))
HAND = ("TF by hand, XLA", "TF by hand")
STREAMED = f"{OURS}, host memory"
ASKED = (
    Asked("cnn to the loop by hand, in one process", ">= 0.97", "throughput-cnn", ()),
    Asked("mlp to the loop by hand, in one process", ">= 0.97", "throughput-mlp", ()),
    Asked("cnn to the loop by hand, each in its process", ">= 0.97", "training-cnn-tensorflow", HAND),
    Asked("ResNet-18 to the loop by hand, each in its process", ">= 0.97", "training-resnet-tensorflow", HAND),
    Asked("cnn to Keras' best fit", ">= 8", "training-cnn-tensorflow", KERAS),
    Asked("cnn to torch, reduce-overhead", ">= 6", "training-cnn-torch-jax", ("torch compiled, reduce-overhead",)),
    Asked("cnn to torch, a CUDA graph of a step", "> 1", "training-cnn-torch-jax", ("torch, CUDA graph of a step",)),
    Asked("ResNet-18 to torch's best", ">= 1", "training-resnet-torch", tuple(GROUPS["torch"])),
    Asked("cnn streamed from host memory to resident", ">= 0.9", "training-cnn-streamed", (STREAMED,)),
)


def asked(history: Mapping[str, Any]) -> str:
    """The table, from the newest line of history of each benchmark."""
    return f"## What was asked\n\n{table([row(one, history) for one in ASKED])}\n"


def row(one: Asked, history: Mapping[str, Any]) -> dict[str, str]:
    """One row; what is missing is named, and a ratio to fewer rivals than asked can fail, but not pass."""
    line = history.get(one.benchmark, {})
    ratio, missing = _measured(one, line.get("results", {}))
    reached = NOT_MEASURED
    if ratio is not None:
        sign, least = one.at_least.split()
        passes = COMPARE[sign](ratio, float(least))
        reached = "no" if not passes else NOT_MEASURED if missing else "yes"
    shown = NOT_MEASURED if ratio is None else f"{ratio:.3f}"
    without = f" (without {', '.join(missing)})" if missing and ratio is not None else ""
    when = line.get("date", "").partition("T")[0]
    return {
        "steps of ours, a step": one.what,
        "asked": one.at_least,
        "measured": shown + without,
        "reached": reached,
        "on": when,
    }


def _measured(one: Asked, results: Mapping[str, Any]) -> tuple[float | None, Iterable[str]]:
    """The ratio to the quickest rival, and the rivals that have no figure."""
    if not one.rivals:
        (found,) = results.values() if results else ({},)
        return found.get("ratio_to_best_hand"), ()
    ratios = {who: results.get(who, {}).get("ours_to_theirs") for who in one.rivals}
    known = [1 / ratio if who == STREAMED else ratio for who, ratio in ratios.items() if ratio]
    return min(known, default=None), [who for who, ratio in ratios.items() if not ratio]
