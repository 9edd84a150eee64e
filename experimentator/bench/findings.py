"""What was measured of a training, and findings about it: what takes its time, and which change would save some."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

HOW = {"graph": "without XLA", "xla": "with XLA", "xla-step": "with XLA for each step", "eager": "uncompiled"}
HOW |= {"program": "without Inductor", "inductor": "with Inductor"}
BETTER = 0.8  # of the time, for another compiler to be named


def how(compiler: str) -> str:
    """How a step is compiled, in words, by the name of the compiler; of a backend that is not ours, by that alone.

    >>> how("graph"), how("tape")
    ('without XLA', 'with tape')
    """
    return HOW.get(compiler, f"with {compiler}")


@dataclass(frozen=True)
class Seen:
    """What was measured, as far as a verdict needs it.

    `whole` holds seconds by kind of the training as configured, `evaluating` those of them that its `evaluations` took;
    `steps` are batches of an epoch. `hands` are seconds a step of loops by hand (one for each compiler, and `twice the
    batch`), `compiling` the seconds these took to compile, `callbacks` seconds by callback and event.
    `busy` is how many cores worked on average, `varies` whether items differed when they were read again, `recompiles`
    whether the training still compiled once it had its pace.
    """

    exp: Any
    whole: Mapping[str, float]
    steps: int
    epochs: int
    compiler: str
    hands: Mapping[str, float]
    compiling: Mapping[str, float]
    callbacks: Mapping[str, float]
    dearest: tuple[str, float]
    block: Any
    evaluating: Mapping[str, float]
    evaluations: int = 0
    busy: float = 1.0
    varies: bool = False
    recompiles: bool = False

    @property
    def seconds(self) -> float:
        """The whole training, evaluation included."""
        return sum(self.whole.values())

    @property
    def batches(self) -> int:
        """Batches of the whole training."""
        return self.steps * self.epochs

    def trained(self, *kinds: str) -> float:
        """Seconds of these kinds, without evaluation."""
        return sum(self.whole.get(kind, 0.0) - self.evaluating.get(kind, 0.0) for kind in kinds)

    def evaluated(self, *kinds: str) -> float:
        """Seconds of these kinds that evaluation took; of all of them, where none is named."""
        return sum(self.evaluating.get(kind, 0.0) for kind in kinds or self.evaluating)

    def share(self, *kinds: str) -> float:
        """The share of these kinds in the whole, without evaluation."""
        return self.trained(*kinds) / self.seconds

    def gain(self, saved: float) -> float:
        """How many times as fast the training would be, with so many seconds saved."""
        return self.seconds / max(self.seconds - saved, 1e-9)


@dataclass(frozen=True)
class Finding:
    """Something that takes time, a change that would save some of it, and how many times as fast that would be."""

    kind: str
    share: float
    gain: float
    words: str


def percent(share: float) -> str:
    """A share in words.

    >>> percent(0.734)
    '73 %'
    """
    return f"{100 * share:.0f} %"
