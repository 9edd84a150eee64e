"""Everything the bench finds out about one training, as plain values."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from experimentator.bench.costs import Costs, costs_of
from experimentator.bench.findings import Seen
from experimentator.bench.hands import Hand, compiler_of, evaluating, hands_of
from experimentator.bench.rivals import Rival, rivals_of
from experimentator.bench.spread import rounds, spread_of
from experimentator.bench.trainer import Trainer, of_one_size, varies
from experimentator.bench.verdict import verdict
from experimentator.graph import Mode

Told = Callable[[str], None]
LEAST_ROUNDS = 5
MOST_ROUNDS = 30
MOST_SECONDS = 0.4  # of one round of one training or loop


def measured(exp: Any, epochs: int, *, seconds: float, against: str | None, told: Told) -> dict[str, Any]:
    """Measure the training of an experiment for about so many seconds.

    A third of them is for reaching the pace, a third for rounds of the training and of the loops by hand in turn, a
    third for the costs of processors.
    """
    padded = of_one_size(exp)
    trainer = Trainer(exp, epochs)
    told("training until it has its pace")
    trainer.warm_up(seconds / 3)
    memory = {"host": peak_host_memory(), "device": exp.backend.peak_memory()}  # before anything else takes some
    put_back = exp.backend.snapshot(exp.optimizer)
    block = trainer.ledger.block
    told("compiling the loop by hand")
    refused: dict[str, str] = {}
    hands = list(hands_of(exp, block, refused))
    rivals = rivals_of(exp, trainer) if against == "keras" else []
    told(f"rounds of the training, {len(hands)} loops by hand{' and Keras' * bool(rivals)}, in turn")
    _rounds(trainer, hands, rivals, seconds / 3)
    hands = evaluating(exp, hands, refused) if trainer.evaluations else hands
    told("compiling prefixes of the graph, for the costs of processors")
    graph, names = exp.graph(Mode.TRAIN), exp.graph(Mode.TRAIN).inputs
    sample = {name: block.columns[name] for name in names}, block.index[:8]
    costs = costs_of(exp, graph, sample, compiler=compiler_of(exp), seconds=seconds / 3, told=told)
    put_back()
    return _report(trainer, hands, rivals, costs) | {"peak_memory": memory, "refused": refused, "padded": padded}


def _rounds(trainer: Trainer, hands: list[Hand], rivals: list[Rival], seconds: float) -> None:
    """Rounds of all in turn, so that a busy machine slows all of them."""
    trainer.settle(4 * MOST_SECONDS)  # compiling the others has left caches cold
    each = min(MOST_SECONDS, seconds / LEAST_ROUNDS / 2)
    for _ in rounds(LEAST_ROUNDS, MOST_ROUNDS, seconds=seconds):
        trainer.round(each)
        for hand in hands:
            hand.round(each / len(hands))
        for rival in rivals:
            rival.round()


def _report(trainer: Trainer, hands: list[Hand], rivals: list[Rival], costs: Costs) -> dict[str, Any]:
    seen = _seen(trainer, hands, costs)
    findings = verdict(seen)
    return {
        **described(trainer),
        "time": {"step": trainer.step(), "whole": dict(seen.whole)},
        "evaluation": sum(seen.evaluating.values()) / trainer.epochs / trainer.steps / sum(trainer.step().values()),
        "callbacks": trainer.callbacks(),
        "by_hand": {one.name: _beside(trainer, one.seconds) | {"batch_size": one.index.shape[1]} for one in hands},
        "keras": {one.name: _beside(trainer, one.seconds) for one in rivals},
        "costs": costs.as_dict(),
        "verdict": asdict(findings[0]),
        "also": [asdict(finding) for finding in findings[1:]],
    }


def described(trainer: Trainer) -> dict[str, Any]:
    """What was measured, on what, and how quick it is."""
    exp = trainer.exp
    subset = next(one for one in exp.subsets if one.is_training)
    return {
        "configuration": exp.source.filename or "experiment",
        "device": exp.backend.device,
        "backend": exp.backend.name,
        "compiler": compiler_of(exp),
        "batch_size": trainer.ledger.block.index.shape[1],
        "steps": trainer.steps,
        "epochs": trainer.epochs,
        "place": exp.program.feeds[id(subset)].own.place,
        "left_out": trainer.left_out,
        "is_cut": not all(one.is_whole for one in trainer.rounds),
        "steps_per_second": trainer.steps_per_second._asdict(),
        "samples_per_second": trainer.samples_per_second._asdict(),
    }


def _seen(trainer: Trainer, hands: list[Hand], costs: Costs) -> Seen:
    return Seen(
        exp=trainer.exp,
        whole=trainer.whole(),
        evaluating=trainer.evaluating(),
        steps=trainer.steps,
        epochs=trainer.epochs,
        compiler=compiler_of(trainer.exp),
        hands={hand.name: hand.spread.low for hand in hands},  # a busy machine only ever adds
        compiling={hand.name: hand.compile_seconds for hand in hands},
        callbacks=trainer.callbacks(),
        dearest=costs.dearest,
        block=trainer.ledger.block,
        evaluations=trainer.evaluations,
        busy=trainer.worked / trainer.wall,
        varies=varies(trainer.exp),
        recompiles=trainer.recompiles,
    )


def _beside(trainer: Trainer, seconds: list[float]) -> dict[str, Any]:
    """The rate of another loop, and how many times as fast the training is, by paired rounds."""
    ratios = [theirs / ours for ours, theirs in zip(trainer.step_seconds, seconds, strict=True)]
    rates = [1 / one for one in seconds]
    return {"steps_per_second": spread_of(rates)._asdict(), "ratio": spread_of(ratios)._asdict()}


def peak_host_memory() -> int:
    """The most bytes that this process had in memory at once; 0 on Windows, which does not tell."""
    if sys.platform == "win32":
        return 0
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
