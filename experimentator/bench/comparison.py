"""Two trainings, round by round in turn, and whether one is quicker."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from experimentator.bench.faces import brief, head, rate
from experimentator.bench.report import MOST_SECONDS, Told, described
from experimentator.bench.spread import interval, p_value, rounds
from experimentator.bench.trainer import Trainer
from experimentator.graph.text import aligned

LEAST_ROUNDS, MOST_ROUNDS = 8, 40
SURE = 0.05
# By how much one must be quicker. Two experiments of one configuration differ in pace, by where their memory lies: in
# 8 rounds in turn, half of such pairs were told apart without a margin, 3 % with this one; of pairs 10 % apart, 90 %.
MARGIN = 0.03
WIDE = 0.25  # an interval within which a large difference may hide


def in_turn(
    names: Sequence[str],
    build: Callable[[int], tuple[Any, int]],
    seconds: float,
    told: Told,
    failed: dict[int, str] | None = None,
) -> dict[int, Trainer]:
    """Build a training for each name ("of a.py", "with x=1"), warm up, and train rounds of all in turn.

    Takes about `seconds` without building; returns the trainings by place. One that fails is left out, and its error
    noted in `failed` (if given), as long as another is left; an error that is raised says which training failed.
    """
    trainers: dict[int, Trainer] = {}
    left = dict.fromkeys(range(len(names)))

    @contextmanager
    def leaving_out(place: int) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if failed is None or len(left) == 1:
                error.add_note(f"In the training {names[place]}.")
                raise
            failed[place] = brief(error)
            del left[place]

    for place in list(left):
        with leaving_out(place):
            trainers[place] = Trainer(*build(place))
    for number, place in enumerate(list(left), start=1):
        told(f"{number} of {len(trainers)} reaches its pace")
        with leaving_out(place):
            trainers[place].warm_up(seconds / 2 / len(trainers))
    told(f"rounds of all {len(left)}, in turn")
    each = min(MOST_SECONDS, seconds / 2 / LEAST_ROUNDS / len(left))
    for number in rounds(LEAST_ROUNDS, MOST_ROUNDS, seconds=seconds / 2):
        for place in list(left)[:: 1 if number % 2 else -1]:
            with leaving_out(place):
                trainers[place].round(each)
    return {place: trainers[place] for place in left}


def compared(
    names: tuple[str, str], build: Callable[[str], tuple[Any, int]], *, seconds: float, told: Told
) -> dict[str, Any]:
    """How many times as many samples a second the first trains as the second, and how sure that is."""
    trainers = in_turn([f"of {name}" for name in names], lambda place: build(names[place]), seconds, told)
    ours, theirs = ([one.samples / one.training for one in trainer.rounds] for trainer in trainers.values())
    logs = np.log(np.divide(ours, theirs))
    low, high = (float(np.exp(value)) for value in interval(list(logs)))
    beyond = np.sign(np.median(logs)) * logs - np.log(1 + MARGIN)
    return {
        "first": described(trainers[0]) | {"configuration": names[0]},
        "second": described(trainers[1]) | {"configuration": names[1]},
        "ratio": {"median": float(np.exp(np.median(logs))), "low": low, "high": high},
        "p_value": p_value(list(beyond)) if np.median(beyond) > 0 else 1.0,
        "margin": MARGIN,
        "rounds": len(logs),
        "test": "signed-rank test that the logarithms of the ratios of rounds in turn lie beyond the margin",
    }


def comparison_text(report: Mapping[str, Any]) -> str:
    """Both trainings as a table, and the answer in words."""
    return "\n".join(_lines(report))


def _lines(report: Mapping[str, Any]) -> Iterator[str]:
    for place in ("first", "second"):
        yield head(report[place])
    yield ""
    rows = [["", "steps/s (quartiles)", "samples/s (quartiles)"]]
    for place in ("first", "second"):
        one = report[place]
        rows.append([one["configuration"], rate(one["steps_per_second"]), rate(one["samples_per_second"])])
    yield from aligned(rows, numbers=True)
    yield ""
    yield answer(report)


def answer(report: Mapping[str, Any]) -> str:
    """Whether they differ, in words.

    >>> ratio = {"median": 1.5, "low": 1.4, "high": 1.7}
    >>> first, second = {"configuration": "a.py"}, {"configuration": "b.py"}
    >>> report = {"first": first, "second": second, "ratio": ratio, "p_value": 0.008, "margin": 0.03, "rounds": 8}
    >>> print(answer(report))
    a.py trains 1.50 times the samples of b.py in a second (95 % interval 1.40 to 1.70, p = 0.008, 8 rounds).
    >>> print(answer(report | {"p_value": 1.0, "ratio": {"median": 1.01, "low": 0.99, "high": 1.02}}))
    No difference of more than 3 % was found: a.py trains 1.01 times the samples of b.py (...).
    >>> print(answer(report | {"p_value": 0.3, "ratio": {"median": 0.8, "low": 0.4, "high": 1.4}}))
    Too noisy to tell which is faster; try again when the machine does nothing else: a.py trains 0.80 times the ...
    """
    ratio, count = report["ratio"], report["rounds"]
    first, second = report["first"]["configuration"], report["second"]["configuration"]
    sure = f"95 % interval {ratio['low']:.2f} to {ratio['high']:.2f}, p = {report['p_value']:.2g}, {count} rounds"
    if report["p_value"] > SURE:
        nothing = f"No difference of more than {100 * report['margin']:.0f} % was found"
        if ratio["high"] - ratio["low"] > WIDE:
            nothing = "Too noisy to tell which is faster; try again when the machine does nothing else"
        return f"{nothing}: {first} trains {ratio['median']:.2f} times the samples of {second} ({sure})."
    return f"{first} trains {ratio['median']:.2f} times the samples of {second} in a second ({sure})."
