"""Steps per second of whole training loops: this library and its rivals, each in a process of its own, in turn.

Command:  python benchmarks/training.py [--quick] [--only mlp|cnn] [--rounds N] [--contender NAME ...]

Each contender (benchmarks/rivals/) starts, compiles and settles alone; then all train one epoch each in turn, so that
they share the machine's moods. Figures are medians over the rounds; the ratio is the median over the rounds of ours to
theirs. A contender whose package is missing is shown as such: `make bench` installs them all. Writes a table and a
chart to benchmarks/results/ and appends to history.jsonl.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from _cases import CASES
from _report import append, chart, device, table, write

RIVALS = Path(__file__).with_name("rivals")
OURS = "experimentator"
NOT_INSTALLED = "not installed"
CONTENDERS = {
    OURS: ("ours.py", "default", "tensorflow"),
    "TF by hand, XLA": ("tf_by_hand.py", "XLA", "tensorflow"),
    "TF by hand": ("tf_by_hand.py", "plain", "tensorflow"),
    "Keras fit": ("keras_fit.py", "default", "tensorflow"),
    "Keras fit, 50 steps": ("keras_fit.py", "50 steps", "tensorflow"),
    "Keras fit, XLA, 50 steps": ("keras_fit.py", "XLA, 50 steps", "tensorflow"),
    "torch eager": ("torch_loop.py", "eager", "torch"),
    "torch, fused Adam": ("torch_loop.py", "fused Adam", "torch"),
    "torch compiled": ("torch_loop.py", "compiled", "torch"),
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
        self.works = self.process.stdout.readline() == "ready\n"

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


def measure(name: str, wanted: list[str], rounds: int, steps: int) -> dict[str, Any]:
    """Interleaved epochs of every contender that is installed."""
    chosen = {who: CONTENDERS[who] for who in CONTENDERS if not wanted or who in wanted or who == OURS}
    running: dict[str, Contender] = {}
    times: dict[str, list[float]] = {}
    try:
        for who, (file, variant, package) in chosen.items():
            if find_spec(package):
                print(f"{name}: {who} gets ready", file=sys.stderr, flush=True)
                running[who] = Contender(file, variant, name, steps)
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
    case = CASES[name]
    head = f"### {name}: batch {case.batch}, {steps} steps an epoch, medians of {rounds} rounds, {device()}"
    return f"{head}\n\n{table(rows)}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="20 steps, one round: a check that all contenders run")
    parser.add_argument("--only", choices=CASES)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--contender", action="append", default=[], choices=CONTENDERS)
    options = parser.parse_args()
    failed = []
    for name in [options.only] if options.only else CASES:
        steps = 20 if options.quick else CASES[name].steps
        rounds = options.rounds or (1 if options.quick else {"mlp": 7, "cnn": 3}[name])
        results = measure(name, options.contender, rounds, steps)
        text = report(name, results, steps, rounds)
        print(text)
        append("training, quick" if options.quick else "training", {name: results})
        if not options.quick:
            speeds = {who: r["steps_per_second"] for who, r in results.items() if "failed" not in r}
            write(f"training-{name}.md", text)
            chart(f"training-{name}.svg", speeds, title=f"{name}: steps per second", highlight=OURS)
        broken = {who: r["failed"] for who, r in results.items() if r.get("failed", NOT_INSTALLED) != NOT_INSTALLED}
        failed += [f"{who} ({name}): {why}" for who, why in broken.items()]
    if failed:
        sys.exit("These contenders failed: " + ", ".join(failed))


if __name__ == "__main__":
    main()
