"""Steps per second of whole training loops: this library and its rivals, each in a process of its own, in turn.

Command:  python benchmarks/training.py [--quick] [--only mlp|cnn] [--rounds N] [--contender NAME ...]

Each contender (benchmarks/rivals/) starts, compiles and settles alone; then all train one epoch each in turn, so that
they share the machine's moods. Figures are medians over the rounds; the ratio is the median over the rounds of ours to
theirs. A contender whose package is missing is shown as such: `make bench` installs them all. Unless it is quick, it
writes to benchmarks/results/ and history.jsonl.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from _cases import CASES
from _report import gpu, publish, table

RIVALS = Path(__file__).with_name("rivals")
OURS = "experimentator"
NOT_INSTALLED = "not installed"
CONTENDERS = {
    OURS: ("ours.py", "default", "tensorflow"),
    "TF by hand, XLA": ("tf_by_hand.py", "XLA", "tensorflow"),
    "TF by hand": ("tf_by_hand.py", "plain", "tensorflow"),
    "Keras fit": ("keras_fit.py", "default", "tensorflow"),
    "Keras fit, 50 steps": ("keras_fit.py", "50 steps", "tensorflow"),
    "Keras fit, XLA": ("keras_fit.py", "XLA", "tensorflow"),
    "Keras fit, XLA, 50 steps": ("keras_fit.py", "XLA, 50 steps", "tensorflow"),
    "torch eager": ("torch_loop.py", "eager", "torch"),
    "torch, fused Adam": ("torch_loop.py", "fused Adam", "torch"),
    "torch compiled": ("torch_loop.py", "compiled", "torch"),
    "torch compiled, CUDA graphs": ("torch_loop.py", "CUDA graphs", "torch"),
    "Lightning": ("lightning_fit.py", "default", "lightning"),
    "Lightning, quiet": ("lightning_fit.py", "quiet", "lightning"),
    "JAX, jitted step": ("jax_loop.py", "step", "optax"),
    "JAX, scan": ("jax_loop.py", "scan", "optax"),
}


class Contender:
    """A process that trains one epoch whenever it is told to."""

    def __init__(self, file: str, variant: str, case: str, steps: int):
        command = [sys.executable, str(RIVALS / file), case, variant, str(steps)]
        pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(command, text=True, **pipes)

    def wait(self) -> Contender:
        """Wait until it is ready, or dead."""
        self.works = self.process.stdout.readline() == "ready\n"
        return self

    def epoch(self) -> float:
        """Seconds that one more epoch took; NaN once the process has died."""
        try:
            self.process.stdin.write("epoch\n")
            self.process.stdin.flush()
            return float(self.process.stdout.readline() or "nan")
        except BrokenPipeError:
            return float("nan")

    def close(self) -> None:
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.kill()
        self.process.wait()


def measure(name: str, wanted: list[str], rounds: int, steps: int, together: int) -> dict[str, Any]:
    """Interleaved epochs of every contender that is installed; `together` of them get ready at a time."""
    chosen = {who: CONTENDERS[who] for who in CONTENDERS if not wanted or who in wanted or who == OURS}
    if not gpu():
        chosen.pop("torch compiled, CUDA graphs", None)
    running: dict[str, Contender] = {}
    times: dict[str, list[float]] = {}
    try:
        installed = {who: one for who, one in chosen.items() if find_spec(one[2])}
        for some in _groups(installed, together):
            print(f"{name}: {', '.join(some)} gets ready", file=sys.stderr, flush=True)
            running |= {who: Contender(*installed[who][:2], name, steps) for who in some}
            for who in some:
                running[who].wait()
        times = {who: [] for who, contender in running.items() if contender.works}
        for number in range(rounds + 1):
            for who in times:
                seconds = running[who].epoch()
                if number:  # the first round compiles
                    times[who].append(seconds)
    finally:
        for contender in running.values():
            contender.close()
    return {who: _result(who, times, running, steps) for who in chosen}


def _groups(names: Iterable[str], size: int) -> list[list[str]]:
    listed = list(names)
    return [listed[start : start + size] for start in range(0, len(listed), size)]


def _result(who: str, times: dict[str, list[float]], running: dict[str, Contender], steps: int) -> dict[str, Any]:
    if who not in times:
        return {"failed": "it does not start" if who in running else NOT_INSTALLED}
    if any(seconds != seconds for seconds in times[who]):
        return {"failed": "it died"}
    ratios = [theirs / ours for ours, theirs in zip(times[OURS], times[who], strict=True)]
    return {
        "steps_per_second": round(steps / statistics.median(times[who]), 1),
        "ours_to_theirs": round(statistics.median(ratios), 2),
    }


def report(name: str, results: dict[str, Any], steps: int, rounds: int) -> str:
    """A table in Markdown."""
    rows = [
        {
            "contender": who,
            "steps/s": f"{result['steps_per_second']:,.0f}" if "failed" not in result else result["failed"],
            "ours to theirs": result.get("ours_to_theirs", ""),
        }
        for who, result in results.items()
    ]
    head = f"## Training, {name}: batch {CASES[name].batch}, {steps} steps an epoch, medians of {rounds} rounds in turn"
    return f"{head}\n\n{table(rows)}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick",
        action="store_true",
        help="20 steps, one round: a check that all contenders run, which writes nothing",
    )
    parser.add_argument("--only", choices=CASES)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--contender", action="append", default=[], choices=CONTENDERS)
    options = parser.parse_args()
    failed = []
    for name in [options.only] if options.only else CASES:
        steps = 20 if options.quick else CASES[name].steps
        rounds = options.rounds or (1 if options.quick else {"mlp": 7, "cnn": 3}[name])
        together = os.cpu_count() or 1 if options.quick else 1
        results = measure(name, options.contender, rounds, steps, together)
        speeds = {who: result["steps_per_second"] for who, result in results.items() if "failed" not in result}
        bars = {f"Training, {name}: steps per second": speeds}
        publish(f"training-{name}", results, report(name, results, steps, rounds), bars=bars, quick=options.quick)
        broken = {who: r["failed"] for who, r in results.items() if r.get("failed", NOT_INSTALLED) != NOT_INSTALLED}
        failed += [f"{who} ({name}): {why}" for who, why in broken.items()]
    if failed:
        sys.exit("These contenders failed: " + ", ".join(failed))


if __name__ == "__main__":
    main()
