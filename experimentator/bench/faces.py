"""A report as people read it on a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from textwrap import wrap
from typing import Any

from experimentator.bench.findings import how
from experimentator.bench.ledger import KINDS
from experimentator.graph.text import aligned, cut, priced

WORDS = {
    "data": "waiting for data",
    "transfer": "host to device",
    "device": "device",
    "callbacks": "callbacks",
    "compile": "compile",
    "library": "the loop's own Python",
}
WIDTH = 100
LONGEST = 48  # characters of a processor


def as_text(report: Mapping[str, Any]) -> str:
    """The whole report."""
    parts = [_head(report), _speed(report), _time(report), _costs(report), _verdict(report)]
    return "\n\n".join("\n".join(part) for part in parts)


def head(report: Mapping[str, Any]) -> str:
    """What was measured, in one line."""
    return (
        f"{report['configuration']}: {report['steps']:,} steps of {report['batch_size']} an epoch, on "
        f"{report['device']}, {how(report['compiler'])}, data {report['place']}"
    )


def rate(spread: Mapping[str, float]) -> str:
    """A rate with its quartiles.

    >>> rate({"median": 1234.5, "low": 1200.2, "high": 1300.0, "rounds": 9})
    '1,234 (1,200 to 1,300)'
    """
    return f"{_number(spread['median'])} ({_number(spread['low'])} to {_number(spread['high'])})"


def brief(error: Exception) -> str:
    """The class of an error, and the first line of its message.

    >>> brief(ValueError("Shapes differ.\\nSeen: ..."))
    'ValueError: Shapes differ.'
    """
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"


def _head(report: Mapping[str, Any]) -> Iterator[str]:
    yield head(report)
    if report["left_out"]:
        yield f"Left out, as they leave files: {', '.join(report['left_out'])}."
    if padded := ", ".join(dict.fromkeys(report["padded"].values())):
        yield f"All items are padded to one bucket that holds all: {padded}. --compare and --sweep keep the buckets."
    if report["is_cut"]:
        yield "Long epochs were cut short: the rest counts as if it went on at the same pace."


def _speed(report: Mapping[str, Any]) -> Iterator[str]:
    rows = [["", "steps/s", "quartiles", "ours to it"]]
    rows.append(["this training", *_rates(report["steps_per_second"]), ""])
    for name, hand in report["by_hand"].items():
        title = f"batch of {hand['batch_size']}" if name == "twice the batch" else how(name)
        ratio = "" if name == "twice the batch" else f"{hand['ratio']['median']:.3g}"
        rows.append([f"by hand, {title}", *_rates(hand["steps_per_second"]), ratio])
    for name, rival in report["keras"].items():
        rows.append([f"keras fit, {name}", *_rates(rival["steps_per_second"]), f"{rival['ratio']['median']:.3g}"])
    yield from aligned(rows, numbers=True)
    for name, why in report["refused"].items():
        yield f"by hand, {how(name)}, cannot run: {why}"
    samples, count = report["samples_per_second"], report["steps_per_second"]["rounds"]
    yield f"{rate(samples)} samples/s; quartiles of {count} rounds, all in turn"
    memory = report["peak_memory"]
    taken = [f"{_bytes(memory['host'])} of memory"] if memory["host"] else []
    taken += [f"{_bytes(memory['device'])} on the device"] if memory["device"] else []
    if taken:
        yield f"at most {', '.join(taken)}"


def _time(report: Mapping[str, Any]) -> Iterator[str]:
    step, whole = report["time"]["step"], report["time"]["whole"]
    one, all_of_it = sum(step.values()), sum(whole.values())
    rows = [["where the time goes", "a step", "", f"{report['epochs']} epochs", ""]]
    for kind in KINDS:
        a, b = step.get(kind, 0.0), whole.get(kind, 0.0)
        rows.append([WORDS[kind], priced(max(0.0, a)), _share(a / one), priced(max(0.0, b)), _share(b / all_of_it)])
    rows.append(["all", priced(one), "", priced(all_of_it), ""])
    yield from aligned(rows, numbers=True)
    if report["evaluation"] > 0:
        yield f"Evaluation, part of all these, takes {_share(report['evaluation'])} of an epoch."
    for name, seconds in report["callbacks"].items():
        if seconds > 0.01 * all_of_it:
            yield f"callback {name}: {priced(seconds)} of {report['epochs']} epochs"


def _costs(report: Mapping[str, Any]) -> Iterator[str]:
    costs = report["costs"]
    rows = [["processor", "forward", "backward", "share", "quartiles of both"]]
    rows.append(["(rows and loop)", priced(costs["rows"]), "", _share(costs["rows"] / costs["step"]), ""])
    for cost in costs["processors"]:
        both, spread = cost["forward"] + cost["backward"], cost["spread"]
        share = _share(both / costs["step"]) if cost["is_sure"] else "fused" if cost["is_fused"] else "noise"
        quartiles = "" if cost["is_fused"] else f"{_signed(spread['low'])} to {_signed(spread['high'])}"
        cells = [priced(cost["forward"]), priced(cost["backward"]), share, quartiles]
        rows.append([cut(" + ".join(cost["names"]), LONGEST), *cells])
    yield from aligned(rows, numbers=True)
    prefixes = "prefixes of the graph" if costs["compiler"] == "eager" else "compiled prefixes of the graph"
    prefixes += "" if costs["trains"] else ", forward alone"
    yield (
        f"From {prefixes}, {priced(costs['step'])} a step in all, {costs['rounds']} rounds; "
        "`noise`: cost that cannot be told from 0."
        + " `fused`: done together with others."
        * any(cost["is_fused"] for cost in costs["processors"])
    )


def _verdict(report: Mapping[str, Any]) -> Iterator[str]:
    yield from wrap(f"verdict: {_promised(report['verdict'])}", WIDTH)
    for other in report["also"]:
        yield from wrap(f"also: {_promised(other)}", WIDTH)


def _promised(finding: Mapping[str, Any]) -> str:
    return (
        f"{finding['words']} (up to {finding['gain']:.1f} times as fast)" if finding["gain"] > 1 else finding["words"]
    )


def _rates(spread: Mapping[str, float]) -> list[str]:
    return [_number(spread["median"]), f"{_number(spread['low'])} to {_number(spread['high'])}"]


def _signed(seconds: float) -> str:
    return f"-{priced(-seconds)}" if seconds < 0 else priced(seconds)


def _share(share: float) -> str:
    return f"{100 * share:.1f} %"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _bytes(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
