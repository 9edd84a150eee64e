"""Steps per second of whole training loops: this library and its rivals, each in a process of its own, in turn.

Command:  python benchmarks/training.py [--quick] [--only CASE] [--beside GROUP ...] [--contender NAME ...] [--rounds N]
          [--minutes N] [--all]

Each contender (benchmarks/rivals/) starts, compiles and settles alone; then all train one epoch each in turn, each
round in another order, so that they share the machine's moods. Figures are medians over the rounds; the ratio is the
median over the rounds of ours to theirs. A contender whose package is missing is shown as such: `make bench` installs
them all. Unless it is quick, or contenders are named, which is no whole table, it writes to benchmarks/results/ and
history.jsonl.

Cases: mlp, cnn, and on a GPU cnn-1024 and resnet. Groups: tensorflow, torch, lightning, jax, and on demand `streamed`
(ours, from host memory), `compilers` (ours) and `buffers` (ours, on a GPU: what XLA may put into command buffers). With
groups named, what is measured is a part of its own. With --minutes, contenders that come too late are shown as such.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from _cases import CASES, MLP, Case, turned
from _report import gpu, gpu_memory, publish, table

RIVALS = Path(__file__).with_name("rivals")
OURS = "experimentator"
NOT_INSTALLED, NO_TIME = "not installed", "no time left"
TO_GET_READY = 0.7  # of the minutes that there are; the rest is for the rounds
BUFFERS = "--xla_gpu_enable_command_buffer="
MORE_BUFFERS = f"{BUFFERS}FUSION,CUBLAS,CUBLASLT,CUDNN,CUSTOM_CALL,WHILE,CONDITIONAL --xla_gpu_graph_min_graph_size=2"


class Rival(NamedTuple):
    """A script of benchmarks/rivals/, what it is told, and the package it needs; `runs` are trained at once."""

    file: str
    variant: str
    package: str
    is_for_gpu: bool = False
    runs: int = 1
    xla_flags: str = ""
    keras: str = "tensorflow"  # what Keras runs on


GROUPS = {
    "tensorflow": {
        "TF by hand, XLA": Rival("tf_by_hand.py", "XLA", "tensorflow"),
        "TF by hand": Rival("tf_by_hand.py", "plain", "tensorflow"),
        "Keras fit": Rival("keras_fit.py", "default", "tensorflow"),
        "Keras fit, 50 steps": Rival("keras_fit.py", "50 steps", "tensorflow"),
        "Keras fit, XLA": Rival("keras_fit.py", "XLA", "tensorflow"),
        "Keras fit, XLA, 50 steps": Rival("keras_fit.py", "XLA, 50 steps", "tensorflow"),
        "TF by hand, call by call, XLA": Rival("tf_by_hand.py", "step, XLA", "tensorflow", is_for_gpu=True),
        "TF by hand, call by call": Rival("tf_by_hand.py", "step", "tensorflow", is_for_gpu=True),
    },
    "torch": {
        f"{OURS} on PyTorch": Rival("ours.py", "XLA", "torch", keras="torch"),
        "torch eager": Rival("torch_loop.py", "eager", "torch"),
        "torch, fused Adam": Rival("torch_loop.py", "fused Adam", "torch"),
        "torch compiled": Rival("torch_loop.py", "compiled", "torch"),
        "torch compiled, reduce-overhead": Rival("torch_loop.py", "reduce-overhead", "torch", is_for_gpu=True),
        "torch, CUDA graph of a step": Rival("torch_loop.py", "graph", "torch", is_for_gpu=True),
        "torch compiled, CUDA graph of a step": Rival("torch_loop.py", "compiled graph", "torch", is_for_gpu=True),
    },
    "lightning": {
        "Lightning": Rival("lightning_fit.py", "default", "lightning"),
        "Lightning, quiet": Rival("lightning_fit.py", "quiet", "lightning"),
    },
    "jax": {
        f"{OURS} on JAX": Rival("ours.py", "default", "jax", keras="jax"),
        "JAX, jitted step": Rival("jax_loop.py", "step", "optax"),
        "JAX, scan": Rival("jax_loop.py", "scan", "optax"),
        "JAX, scan, 16 runs at once": Rival("jax_loop.py", "runs", "optax", is_for_gpu=True, runs=16),
    },
    "streamed": {
        f"{OURS}, host memory": Rival("ours.py", "host", "tensorflow"),
        **{f"{OURS}, host, {k} a call": Rival("ours.py", f"host, {k}", "tensorflow") for k in (1, 8, 32, 128)},
    },
    "compilers": {
        f"{OURS}, XLA for each step": Rival("ours.py", "XLA for each step", "tensorflow"),
        f"{OURS}, no XLA": Rival("ours.py", "no XLA", "tensorflow"),
        f"{OURS}, XLA": Rival("ours.py", "XLA", "tensorflow"),
    },
    "buffers": {
        f"{OURS}, more in command buffers": Rival("ours.py", "XLA", "tensorflow", True, xla_flags=MORE_BUFFERS),
        f"{OURS}, no command buffers": Rival("ours.py", "XLA", "tensorflow", True, xla_flags=BUFFERS),
    },
}
USUAL = ("tensorflow", "torch", "lightning", "jax")
WITHOUT = {"resnet": ("lightning", "jax")}  # networks that these rivals do not have
CONTENDERS = {
    OURS: Rival("ours.py", "default", "tensorflow"),
    **{k: v for group in GROUPS.values() for k, v in group.items()},
}


class Contender:
    """A process that trains one epoch whenever it is told to; it is killed where an answer takes too long."""

    def __init__(self, rival: Rival, case: Case, steps: int):
        command = [sys.executable, str(RIVALS / rival.file), case.name, rival.variant, str(steps), str(case.batch)]
        flags = f"{os.environ.get('XLA_FLAGS', '')} {rival.xla_flags}".strip()
        environment = {**os.environ, "KERAS_BACKEND": rival.keras, **({"XLA_FLAGS": flags} if flags else {})}
        self.runs, self.said = rival.runs, tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115
        pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self.said}
        self.process = subprocess.Popen(command, text=True, env=environment, **pipes)

    def get_ready(self, until: float) -> bool:
        """Build, and train the first epoch, which compiles; False if it is dead."""
        return self._answer("build", until) == "ready\n" and self.epoch(until) > 0

    def epoch(self, until: float) -> float:
        """Seconds that one more epoch took, for each of its runs; NaN once the process has died."""
        return float(self._answer("epoch", until) or "nan") / self.runs

    def _answer(self, word: str, until: float) -> str:
        seconds = min(max(until - time.monotonic(), 1), threading.TIMEOUT_MAX)
        limit = threading.Timer(seconds, self.process.kill)
        limit.daemon = True
        limit.start()
        try:
            self.process.stdin.write(f"{word}\n")
            self.process.stdin.flush()
            return self.process.stdout.readline()
        except BrokenPipeError:
            return ""
        finally:
            limit.cancel()

    def last_words(self) -> str:
        """What it said before it died."""
        self.said.seek(0)
        return "".join(self.said.readlines()[-12:])

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for file in (self.process.stdin, self.process.stdout, self.said):
            with suppress(BrokenPipeError):  # by what it could not be asked any more
                file.close()


def measure(
    case: Case, chosen: dict[str, Rival], rounds: int, together: int, minutes: float, *, at_once: bool = False
) -> dict[str, Any]:
    """Interleaved epochs of every contender that is installed; `together` of them are started at a time.

    They get ready one after the other; `at_once`, where no figure is kept, so many get ready at a time, too.
    """
    start = time.monotonic()
    latest, until = start + TO_GET_READY * 60 * minutes, start + 60 * minutes
    results: dict[str, Any] = {who: {"failed": NOT_INSTALLED} for who in chosen}
    running: dict[str, Contender] = {}
    there = {who: rival for who, rival in chosen.items() if find_spec(rival.package)}

    def get_ready(some: Sequence[str]) -> None:
        running.update({who: Contender(chosen[who], case, case.steps) for who in some if time.monotonic() < latest})
        for who in some:
            results[who] = _made_ready(who, running, latest, until)
            print(f"{case.name}: {who}: {results[who].get('failed', 'ready')}", file=sys.stderr, flush=True)

    try:
        if at_once:
            with ThreadPoolExecutor(together) as threads:
                list(threads.map(get_ready, [[who] for who in there]))
        else:
            list(map(get_ready, _groups(there, together)))
        times = _rounds(running, rounds, until)
        memory = gpu_memory()
        for who, seconds in times.items():
            results[who] = _result(seconds, times.get(OURS, []), case) | memory.get(running[who].process.pid, {})
    finally:
        for contender in running.values():
            contender.close()
    return results


def _made_ready(who: str, running: dict[str, Contender], latest: float, until: float) -> dict[str, str]:
    """Nothing where the contender is ready; else it is taken out, and what failed is said."""
    late = time.monotonic() > latest
    if not late and running[who].get_ready(until):
        return {}
    contender = running.pop(who, None)
    if contender:
        if not late:
            print(contender.last_words(), file=sys.stderr)
        contender.close()
    return {"failed": NO_TIME if late else "it does not start"}


def _rounds(running: dict[str, Contender], rounds: int, until: float) -> dict[str, list[float]]:
    """Seconds of the epochs of each; no round is begun for which too little time is left."""
    times: dict[str, list[float]] = {who: [] for who in running}
    seconds = 0.0
    for number in range(rounds):
        start = time.monotonic()
        if number and start + seconds > until:
            break
        for who in turned(times, number):
            times[who].append(running[who].epoch(max(until, start + 60)))
        seconds = time.monotonic() - start
    return times


def _groups(chosen: Mapping[str, Rival], size: int) -> list[list[str]]:
    """Ours each alone: it times what it chooses."""
    own = [[who] for who, rival in chosen.items() if rival.file == "ours.py"]
    others = [who for who in chosen if [who] not in own]
    return [*own, *(others[start : start + size] for start in range(0, len(others), size))]


def _result(theirs: list[float], ours: list[float], case: Case) -> dict[str, Any]:
    if any(seconds != seconds for seconds in theirs):
        return {"failed": "it died"}
    rate = case.steps / statistics.median(theirs)
    ratios = [b / a for a, b in zip(ours, theirs, strict=bool(ours))]
    ratio = {"ours_to_theirs": round(statistics.median(ratios), 4)} if ratios else {}
    return {
        "steps_per_second": round(rate, 1),
        **ratio,
        "batch": case.batch,
        "steps": case.steps,
        "rounds": len(theirs),
    }


def report(case: Case, results: dict[str, Any], beside: Iterable[str] = ()) -> str:
    """A table in Markdown."""
    memory = any("gpu_mib" in result for result in results.values())
    rows = [_row(who, result, case.batch, memory) for who, result in results.items()]
    rounds = max((result.get("rounds", 0) for result in results.values()), default=0)
    title = f"## Training, {case.name}{', ' if beside else ''}{' and '.join(beside)}: batch {case.batch}"
    precision = f", {case.precision}" if case.precision else ""
    return f"{title}{precision}, {case.steps} steps an epoch, medians of {rounds} rounds in turn\n\n{table(rows)}\n"


def _row(who: str, result: dict[str, Any], batch: int, memory: bool) -> dict[str, Any]:
    rate, ratio = result.get("steps_per_second"), result.get("ours_to_theirs")
    row = {
        "contender": who,
        "steps/s": result["failed"] if rate is None else f"{rate:,.0f}" if rate >= 10 else f"{rate:.1f}",
        "images/s": "" if rate is None else f"{rate * batch:,.0f}",
        "ours to theirs": "" if ratio is None else f"{ratio:.2f}",
    }
    return row | ({"GPU memory held, MiB": result.get("gpu_mib", "")} if memory else {})


def chosen(case: Case, beside: Iterable[str], named: Iterable[str], everything: bool) -> dict[str, Rival]:
    """Ours, and those that are named, or all of the groups that run here."""
    groups = [name for name in beside or USUAL if name not in WITHOUT.get(case.network, ())]
    usual = {who for name in groups for who, rival in GROUPS[name].items() if everything or not rival.is_for_gpu}
    wanted = {OURS, *(named or usual)}
    return {who: rival for who, rival in CONTENDERS.items() if who in wanted}


def _one_of_each(rivals: dict[str, Rival]) -> dict[str, Rival]:
    """The first contender of each script."""
    first: dict[str, tuple[str, Rival]] = {}
    for who, rival in rivals.items():
        first.setdefault(rival.file, (who, rival))
    return dict(first.values())


def run(case: Case, options: Any) -> list[str]:
    """Measure a case and publish it; what failed."""
    on_gpu = gpu() is not None
    case = replace(case, steps=case.steps_on_gpu or case.steps) if on_gpu else case
    case = case.small() if options.quick else case
    cores = os.cpu_count() or 1
    together = min(cores, 6) if options.quick or on_gpu else 1
    rivals = chosen(case, options.beside, options.contender, options.all or on_gpu)
    if options.quick and case.name != MLP.name and not options.contender:
        rivals = _one_of_each(rivals)
    rounds = options.rounds or case.rounds
    results = measure(case, rivals, rounds, together, options.minutes, at_once=options.quick)
    part = "-".join([f"training-{case.name}", *options.beside])
    speeds = {who: result["steps_per_second"] for who, result in results.items() if "failed" not in result}
    bars = {f"{part.replace('-', ' ').capitalize()}: steps per second": speeds}
    is_part = options.quick or bool(options.contender)
    publish(part, results, report(case, results, options.beside), bars=bars, quick=is_part)
    broken = {who: result["failed"] for who, result in results.items() if "failed" in result}
    return [f"{who} ({case.name}): {why}" for who, why in broken.items() if why not in (NOT_INSTALLED, NO_TIME)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    quick = "20 steps, one round: a check that all contenders run, which writes nothing; of the cnn one for each rival"
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument("--only", choices=CASES)
    parser.add_argument("--beside", nargs="+", default=[], choices=GROUPS)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--contender", action="append", default=[], choices=CONTENDERS)
    parser.add_argument("--minutes", type=float, default=60 * 24)
    parser.add_argument("--all", action="store_true", help="run what is meant for a GPU without one, too")
    options = parser.parse_args()
    names = [options.only] if options.only else [name for name, case in CASES.items() if gpu() or not case.is_for_gpu]
    failed = [what for name in names for what in run(CASES[name], options)]
    if failed:
        sys.exit("These contenders failed: " + ", ".join(failed))


if __name__ == "__main__":
    main()
