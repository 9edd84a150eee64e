"""The verdict on a training: what its time goes to, and the one change that would help most."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import ceil
from typing import Any

from experimentator.bench.findings import BETTER, Finding, Seen, how, percent
from experimentator.bench.supply import supply
from experimentator.graph import Mode

WORTH = 1.15  # times as fast; changes that promise less are not named
CALL_SECONDS = 2e-3  # a call of a compiled step costs at most: 0.1 to 0.7 ms, more with more tensors
ROOM = 1.6  # times as long: what twice the batch takes at most, if the device has room
MOST = 0.5  # of the time; a part that takes more of it is named
RARER = 5  # times as many epochs from one evaluation to the next


def verdict(seen: Seen) -> list[Finding]:
    """What may be changed, the best first; where nothing helps, what the time is needed for."""
    parts = (supply, _evaluation, _callbacks, _compile, _calls, _compiler, _batch)
    found = [finding for part in parts for finding in part(seen)]
    worth = sorted((one for one in found if one.gain >= WORTH), key=lambda one: -one.gain)
    return [*worth, *_dearest(seen, worth)] if worth else list(_nothing(seen))


def _evaluation(seen: Seen) -> Iterator[Finding]:
    """Evaluation, where it takes place more than once."""
    spent, often = seen.evaluated(), seen.evaluations
    if often > 1:
        share, every = spent / seen.seconds, min(seen.epochs, RARER * round(seen.epochs / often))
        words = f"{percent(share)} of the time is evaluation: set eval_epochs={every}, or give it fewer keys."
        yield Finding("evaluation", share, seen.gain(spent * (1 - ceil(often / RARER) / often)), words)


def _callbacks(seen: Seen) -> Iterator[Finding]:
    """Callbacks, and the one that takes most."""
    name = max(seen.callbacks, key=lambda one: seen.callbacks[one], default="")
    spent = seen.whole.get("callbacks", 0.0)
    if name and spent:
        share = seen.share("callbacks")
        words = f"{percent(share)} of the time is spent in callbacks, most of it in {name}"
        is_frequent = name.endswith(("batch_end", "batch_begin"))
        change = "give it `every = 50`, or let it act at the end of epochs" if is_frequent else "let it do less"
        yield Finding("callbacks", share, seen.gain(spent), f"{words}: {change}.")


def _compile(seen: Seen) -> Iterator[Finding]:
    """Compilation, where the training is too short for it, or where it does not end."""
    spent, share = seen.whole.get("compile", 0.0), seen.share("compile")
    if seen.recompiles:
        words = (
            f"{percent(share)} of the time is compilation, again and again: look at what changes between epochs, which "
            "the log may name. A number may live in a keras.Variable(..., trainable=False): that compiles once."
        )
        yield Finding("recompile", share, seen.gain(spent * (1 - 1 / seen.epochs)), words)
        return
    plain = next((name for name, setting in seen.exp.backend.compilers.items() if setting is False), "")
    if seen.compiler != plain and {plain, seen.compiler} <= seen.hands.keys():
        slower = seen.batches * (seen.hands[plain] - seen.hands[seen.compiler])
        saved = spent - min(spent, seen.compiling[plain]) - slower
        words = f"{percent(share)} of a training of this length is compilation"
        yield Finding("compile", share, seen.gain(saved), f"{words}: set jit_compile=False, or train longer.")


def _calls(seen: Seen) -> Iterator[Finding]:
    """Calls of few batches each: a call has a cost of its own, whatever it runs."""
    name = next(iter(seen.exp.backend.compilers), "")
    if seen.exp.eager and name in seen.hands:
        rest = seen.batches * seen.hands[name] / seen.trained("device")  # evaluation becomes as much quicker
        saved = (seen.trained("device") + seen.evaluated("device")) * (1 - rest) - seen.compiling[name]
        yield Finding("eager", seen.share("device"), seen.gain(saved), "eager=True runs uncompiled: leave it out.")
    elif seen.compiler in seen.hands:
        yield from _costly(seen, _in_calls(seen))


def _in_calls(seen: Seen) -> float:
    """Seconds that calls take beside the batches that they run, in the library and, for resident data, in the feed."""
    count = seen.batches / len(seen.block.index)
    excess = seen.trained("device") - seen.batches * seen.hands[seen.compiler]
    aside = seen.trained("library", "data") if _is_resident(seen.exp) else 0.0
    return max(0.0, min(CALL_SECONDS * count, excess)) + aside * (len(seen.block.index) < seen.steps)


def _is_resident(exp: Any) -> bool:
    return all(exp.program.feeds[id(one)].own.resident for one in exp.subsets if one.is_training)


def _costly(seen: Seen, excess: float) -> Iterator[Finding]:
    share, gain = excess / seen.seconds, seen.gain(excess)
    limit, fixed = seen.exp.call_limit(Mode.TRAIN), seen.exp.steps_per_call
    begin = f"{percent(share)} of the time is the cost of calls that run few batches each"
    if limit is not None and limit < 16:
        who = "a callback acts before every batch" if limit == 1 else f"callbacks act every {limit} batches"
        change = "let it act at on_batch_end, or give it a larger `every`"
        yield Finding("calls", share, gain, f"{begin}, since {who}: {change}.")
    elif len(seen.block.index) == seen.steps and excess > 0:
        # What begins with each epoch is saved, too.
        excess += seen.trained("library", "data") if _is_resident(seen.exp) else 0.0
        share = excess / seen.seconds
        words = f"{percent(share)} of the time is the cost of calls, since each of your short epochs is one"
        change = "give Subset repetitions=10 and train a tenth of the epochs"
        yield Finding("epochs", share, seen.gain(excess * 0.9), f"{words}: {change}.")
    elif fixed not in (None, "auto"):
        yield Finding("calls", share, gain, f"{begin}: set steps_per_call='auto' instead of {fixed}.")


def _compiler(seen: Seen) -> Iterator[Finding]:
    """Another compiler."""
    known = {name: seen.hands[name] for name in seen.exp.backend.compilers if name in seen.hands}
    if seen.compiler in known:
        other = min(known, key=known.__getitem__)
        mine, theirs = known[seen.compiler], known[other]
        setting = seen.exp.backend.compilers[other]
        saved = seen.batches * (mine - theirs) - (0.0 if setting is False else seen.compiling[other])
        words = f"The step runs {mine / theirs:.1f} times as fast {how(other)}"
        if theirs < BETTER * mine:
            words += f": set jit_compile={setting!r}."
            yield Finding("compiler", seen.share("device"), seen.gain(saved), words)


def _batch(seen: Seen) -> Iterator[Finding]:
    """Steps so small that they do not fill the device."""
    one, two = seen.hands.get(seen.compiler), seen.hands.get("twice the batch")
    if one and two and two < ROOM * one and seen.steps > 1:
        size, share = seen.block.index.shape[1], seen.share("device")
        saved = seen.trained("device") * (1 - two / (2 * one))
        words = (
            f"{percent(share)} of the time is the step, which does not fill the device: twice the batch takes "
            f"{two / one:.2f} times as long. Set batch_size={2 * size} or more (see --sweep batch_size={2 * size},"
            f"{4 * size},{8 * size}), and the learning rate to go with it."
        )
        yield Finding("batch", share, seen.gain(saved), words)


def _dearest(seen: Seen, found: Sequence[Finding]) -> Iterator[Finding]:
    """The processor that takes most, where the time goes to processors and not to calling them."""
    name, share = seen.dearest
    is_step = seen.share("device") > MOST and not any(one.kind in ("calls", "epochs", "eager") for one in found)
    if name and share > MOST and is_step:
        words = f"{percent(seen.share('device'))} of the time is the step, and {name} is {percent(share)} of it."
        yield Finding("device", seen.share("device"), 1.0, words)


def _nothing(seen: Seen) -> Iterator[Finding]:
    """The time is spent on what was asked for."""
    is_short = max(seen.whole, key=lambda kind: seen.whole[kind]) == "compile" and not seen.recompiles
    if is_short:
        words = f"{percent(seen.share('compile'))} of a training of this length is compilation, which is done once"
        yield Finding("start", seen.share("compile"), 1.0, f"{words}: in longer trainings it hardly counts.")
    share = seen.evaluated() / seen.seconds
    if share > MOST:
        words = f"{percent(share)} of the time is evaluation, which takes place {seen.evaluations} times"
        yield Finding("evaluation", share, 1.0, f"{words.replace(' 1 times', ' once')}: give it fewer keys.")
        return
    name, share = seen.dearest
    words = f"{percent(seen.share('device'))} of the time is the step itself, and {_other_compiler(seen)}"
    on_gpu = seen.exp.backend.peak_memory() is not None
    change = "try precision='bfloat16'" if on_gpu and seen.exp.precision is None else "use a faster device"
    dear = f": {name} is {percent(share)} of it, so make that smaller, or {change}" if name and not is_short else ""
    yield Finding("device", seen.share("device"), 1.0, f"{words}{dear}.")


def _other_compiler(seen: Seen) -> str:
    """Whether the step would be quicker in a training that is long enough for the compilation."""
    known = {name: seen.hands[name] for name in seen.exp.backend.compilers if name in seen.hands}
    other = min(known, key=known.__getitem__, default=seen.compiler)
    if "graph" in known and not {"xla", "xla-step"} & known.keys():
        return "XLA, which might be quicker, cannot compile it"
    if seen.compiler not in known or known[other] >= BETTER * known[seen.compiler]:
        return "no setting would make it much quicker"
    setting = seen.exp.backend.compilers[other]
    return f"jit_compile={setting!r} makes it quicker, which pays only in a longer training"
