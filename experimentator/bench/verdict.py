"""The verdict on a training: what its time goes to, and the one change that would help most."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from experimentator.backends import COMPILERS
from experimentator.data.columns import is_columnar
from experimentator.loading.blocks import batch_bytes
from experimentator.loading.memory import SHARE, free_host_memory
from experimentator.loading.workers import Workers

WORTH = 1.15  # times as fast; what promises less is not named
LEFT = 0.1  # of the waiting that remains when data lie ready
CALL_SECONDS = 2e-3  # a call of a compiled step costs at most: 0.1 to 0.7 ms, more with more tensors
ROOM = 1.6  # times as long, which twice the batch takes at most where there is room on the device
BETTER = 0.8  # of the time, for the other compiler to be named


@dataclass(frozen=True)
class Seen:
    """What was measured, as far as a verdict needs it.

    `whole` holds seconds by kind of the training as configured, `hands` seconds a step of loops by hand (one
    for each of `COMPILERS`, and `twice the batch`), `compiling` the seconds these took to compile, `callbacks` seconds
    by callback and event.
    """

    exp: Any
    whole: Mapping[str, float]
    steps: int
    compiler: str
    hands: Mapping[str, float]
    compiling: Mapping[str, float]
    callbacks: Mapping[str, float]
    dearest: tuple[str, float]
    block: Any
    calls_are_epochs: bool = False

    @property
    def seconds(self) -> float:
        """The whole training."""
        return sum(self.whole.values())

    def share(self, *kinds: str) -> float:
        """The share of these kinds in the whole."""
        return sum(self.whole.get(kind, 0.0) for kind in kinds) / self.seconds

    def gain(self, saved: float) -> float:
        """How many times as fast it would be, with so many seconds saved."""
        return self.seconds / max(self.seconds - saved, 1e-9)


@dataclass(frozen=True)
class Finding:
    """Something that takes time, a change that would save some of it, and how many times as fast that would be."""

    kind: str
    share: float
    gain: float
    words: str


def verdict(seen: Seen) -> list[Finding]:
    """What may be changed, the best first; where nothing helps, what the time is needed for."""
    found = [finding for part in (_data, _callbacks, _compile, _calls, _compiler, _batch) for finding in part(seen)]
    worth = sorted((one for one in found if one.gain >= WORTH), key=lambda one: -one.gain)
    return worth or list(_nothing(seen))


def _data(seen: Seen) -> Iterator[Finding]:
    """Waiting for data, and moving them."""
    kinds = ("data", "transfer")
    share, spent = seen.share(*kinds), sum(seen.whole.get(kind, 0.0) for kind in kinds)
    doing = "waiting for data" if seen.whole.get("data", 0.0) >= seen.whole.get("transfer", 0.0) else "moving data"
    begin = f"{_percent(share)} of the time is spent {doing}"
    subset, feed = _training(seen.exp)
    if not feed.resident and (wasteful := _wasteful(seen.block, feed)):
        name, dtype, ratio = wasteful
        words = f"{begin}: let the dataset give {name!r} as {dtype}, {_part(ratio)} of the bytes"
        if dtype == "uint8":
            words += f', and cast it on the device: ops.Cast("batch_{name}", "float32") first'
        if feed.place != "streamed" or seen.share("transfer") > seen.share("data"):
            yield Finding("bytes", share, seen.gain(spent * (1 - ratio)), f"{words}.")
            return
    if not feed.resident:
        yield Finding("data", share, seen.gain(spent * (1 - LEFT)), f"{begin}: {_residence(seen.exp, subset, feed)}.")


def _residence(exp: Any, subset: Any, feed: Any) -> str:
    """Where the data should lie, or how they should be read."""
    size = len(subset.keys) * batch_bytes(feed.specs)
    if not any(kind.__name__ == "AsyncExperiment" for kind in type(exp).__mro__) and not is_columnar(subset):
        if size > SHARE * free_host_memory():
            return "add AsyncExperiment to experiment_type, so that the next batches are read meanwhile"
    if feed.place == "in host memory":
        fits = size <= SHARE * exp.backend.room()
        return "set residency='device'" if fits else "the device has no room for these columns; give smaller dtypes"
    if size <= SHARE * free_host_memory():
        more = f"workers='{_cores()} processes'"
        return f"set residency='host', if an item is the same every time it is read (if not: {more})"
    workers = Workers.of(exp.workers or min(4, _cores()))
    if workers is not None and not workers.are_processes:
        return f"set workers='{_cores()} processes', if reading an item spends its time in Python"
    return "make the items cheaper to read, or store them as they are read"


def _callbacks(seen: Seen) -> Iterator[Finding]:
    """Callbacks, and what they keep calls from doing."""
    name = max(seen.callbacks, key=lambda one: seen.callbacks[one], default="")
    spent = seen.whole.get("callbacks", 0.0)
    if name and spent:
        share = seen.share("callbacks")
        words = f"{_percent(share)} of the time is spent in callbacks, most of it in {name}"
        is_frequent = name.endswith(("batch_end", "batch_begin"))
        change = "give it `every = 50`, or let it act at the end of epochs" if is_frequent else "let it do less"
        yield Finding("callbacks", share, seen.gain(spent), f"{words}: {change}.")


def _compile(seen: Seen) -> Iterator[Finding]:
    """Compilation, where the training is too short for it."""
    spent, share = seen.whole.get("compile", 0.0), seen.share("compile")
    if seen.compiler in ("xla", "xla-step") and {"graph", seen.compiler} <= seen.hands.keys():
        slower = seen.steps * (seen.hands["graph"] - seen.hands[seen.compiler])
        saved = spent - min(spent, seen.compiling["graph"]) - slower
        words = f"{_percent(share)} of a training of this length is compilation"
        yield Finding("compile", share, seen.gain(saved), f"{words}: set jit_compile=False, or train longer.")


def _calls(seen: Seen) -> Iterator[Finding]:
    """Calls of few batches, which cost what they cost whatever they run."""
    best = seen.hands.get(seen.compiler)
    most = CALL_SECONDS * seen.steps / len(seen.block.index)  # what is more than that is noise
    excess = min(most, seen.whole.get("device", 0.0) - seen.steps * best) if best else 0.0
    share = excess / seen.seconds
    limit, fixed = seen.exp.call_limit(), seen.exp.steps_per_call
    begin = f"{_percent(share)} of the time is the cost of calls that run few batches each"
    if seen.exp.eager:
        yield Finding("eager", seen.share("device"), seen.gain(excess), "eager=True runs uncompiled: take it off.")
    elif limit is not None and limit < 16:
        who = "a callback acts before every batch" if limit == 1 else f"callbacks act every {limit} batches"
        change = "let it act at on_batch_end, or give it a larger `every`"
        yield Finding("calls", share, seen.gain(excess), f"{begin}, since {who}: {change}.")
    elif seen.calls_are_epochs and excess > 0:
        words = (
            f"{_percent(share)} of the time is the cost of calls, since each of your short epochs is one: give Subset"
        )
        yield Finding(
            "epochs", share, seen.gain(excess * 0.9), f"{words} repetitions=10 and train a tenth of the epochs."
        )
    elif fixed not in (None, "auto"):
        words = f"{begin}: set steps_per_call='auto' instead of {fixed}."
        yield Finding("calls", share, seen.gain(excess), words)


def _compiler(seen: Seen) -> Iterator[Finding]:
    """Another compiler."""
    known = {name: seen.hands[name] for name in COMPILERS if name in seen.hands}
    if seen.compiler in known:
        other = min(known, key=known.__getitem__)
        mine, theirs = known[seen.compiler], known[other]
        saved = seen.steps * (mine - theirs) - (0.0 if other == "graph" else seen.compiling[other])
        how = {"graph": "without XLA", "xla": "with XLA", "xla-step": "with XLA for each step"}[other]
        words = f"The step runs {mine / theirs:.1f} times as fast {how}"
        if theirs < BETTER * mine:
            change = f"set jit_compile={COMPILERS[other]!r}"
            yield Finding("compiler", seen.share("device"), seen.gain(saved), f"{words}: {change}.")


def _batch(seen: Seen) -> Iterator[Finding]:
    """Steps so small that they do not fill the device."""
    one, two = seen.hands.get(seen.compiler), seen.hands.get("twice the batch")
    if one and two and two < ROOM * one:
        size, share = seen.block.index.shape[1], seen.share("device")
        saved = seen.whole.get("device", 0.0) * (1 - two / (2 * one))
        words = (
            f"{_percent(share)} of the time is the step, which does not fill the device: twice the batch takes "
            f"{two / one:.2f} times as long. Set batch_size={2 * size} or more (see --sweep batch_size={2 * size},"
            f"{4 * size},{8 * size}), and the learning rate to go with it."
        )
        yield Finding("batch", share, seen.gain(saved), words)


def _nothing(seen: Seen) -> Iterator[Finding]:
    """The time is spent on what was asked for."""
    name, share = seen.dearest
    if max(seen.whole, key=lambda kind: seen.whole[kind]) == "compile":
        words = f"{_percent(seen.share('compile'))} of a training of this length is compilation, which is done once"
        yield Finding("start", seen.share("compile"), 1.0, f"{words}: longer trainings do not feel it.")
    words = f"{_percent(seen.share('device'))} of the time is the step itself, and {_other_compiler(seen)}"
    on_gpu = seen.exp.backend.peak_memory() is not None
    change = "try precision='bfloat16'" if on_gpu and seen.exp.precision is None else "use a faster device"
    dear = f": {name} is {_percent(share)} of it, so make that smaller, or {change}" if name else ""
    yield Finding("device", seen.share("device"), 1.0, f"{words}{dear}.")


def _other_compiler(seen: Seen) -> str:
    """Whether the step would be quicker in a training that is long enough for the compilation."""
    known = {name: seen.hands[name] for name in COMPILERS if name in seen.hands}
    other = min(known, key=known.__getitem__, default=seen.compiler)
    if seen.compiler not in known or known[other] >= BETTER * known[seen.compiler]:
        return "no setting would make it quicker"
    return f"jit_compile={COMPILERS[other]!r} makes it quicker, which only a longer training would feel"


def _training(exp: Any) -> tuple[Any, Any]:
    subset = next(one for one in exp.subsets if one.is_training)
    return subset, exp.program.feeds[id(subset)][1]


def _wasteful(block: Any, feed: Any) -> tuple[str, str, float] | None:
    """The column with most bytes that a smaller dtype would hold as well; and which part of all bytes would remain."""
    sizes = {name: spec.dtype.itemsize * int(np.prod(spec.shape[1:])) for name, spec in feed.specs.items()}
    name = max((name for name in sizes if name in block.columns), key=sizes.__getitem__)
    values, dtype = np.asarray(block.columns[name][:64]), feed.specs[name].dtype
    if dtype.kind not in "fiu" or dtype.itemsize == 1:
        return None
    if values.min() >= 0 and values.max() <= 255 and np.all(values == np.round(values)):
        smaller = "uint8"
    elif dtype.itemsize == 8:
        smaller = "float32" if dtype.kind == "f" else "int32"
    else:
        return None
    saved = sizes[name] * (1 - np.dtype(smaller).itemsize / dtype.itemsize)
    return name.removeprefix("batch_"), smaller, 1 - saved / sum(sizes.values())


def _cores() -> int:
    return os.cpu_count() or 1


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _part(ratio: float) -> str:
    return {8: "an eighth", 4: "a quarter", 2: "half"}.get(round(1 / ratio), _percent(ratio))
