"""`verify-resume`: proves that a configuration resumes exactly, by killing, resuming and comparing its training.

Trainings run in processes, as the user would start them; their files are read by `outside.py`, which does not import
the library.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from experimentator.checkpoint import CheckpointError
from experimentator.commands import outside
from experimentator.commands.building import assigned
from experimentator.commands.results import tell
from experimentator.saving.manifest import CHECKPOINTS, MANIFEST, numbered
from experimentator.sweep.points import names_in

POLL = 0.005  # seconds between two looks at a training
EARLY = 0.6  # share of the rest of a training in which it is killed, so that it is hit before its end
SAVES = 15.0  # checkpoints in the time of the epochs, without compilation
COMPILING = 60.0  # seconds taken off a training of one epoch, as the most that compilation takes
ANYWHEN = 0.25  # share of the kills at any moment, also during imports and compilation
SHOWN = 8  # differences that are shown
MORE = 6  # extra kills at most, if none so far came between the first checkpoint and the end


class TrainingFailedError(RuntimeError):
    """A training failed by itself, so that there is nothing to compare."""

    def __init__(self, status: int, text: str):
        super().__init__(f"The training failed with exit status {status}.\n{text.strip()}")
        self.status = status


def verify_resume(arguments: Namespace) -> int:
    """Run `experimentator verify-resume`; returns the exit status."""
    assigned(arguments)  # refuses what is no assignment, before anything is trained
    try:
        return 0 if _is_exact(arguments) else 1
    except TrainingFailedError as error:
        tell(str(error))
        return error.status


def _is_exact(arguments: Namespace) -> bool:
    """Whether every killed and resumed training left the same as the uninterrupted one."""
    place = Path(arguments.output_folder or tempfile.mkdtemp(prefix="experimentator-verify-"))
    seed = int.from_bytes(os.urandom(4), "little") if arguments.seed is None else arguments.seed
    kills = f"{arguments.kills} kill{'s' * (arguments.kills != 1)}"
    _say(f"{arguments.config}: {kills} at moments drawn with --seed {seed}; runs are in {place}")
    trial = Trial(arguments, place, random.Random(seed))
    try:
        seconds = trial.reference()
    finally:
        if arguments.output_folder is None:
            with suppress(OSError):  # removes it only if empty, as after an error in the configuration
                place.rmdir()
    runs = trial.killed(seconds)
    expected = _read(trial.path("reference"))
    different = [run for run in runs if not _compare(run, expected, _read(trial.path(run)))]
    equal = not different
    if not equal:
        trial.blame(expected)
    _tell_limits(trial.path(runs[-1]))
    if equal and arguments.output_folder is None:
        shutil.rmtree(place, ignore_errors=True)
    verdict = "equal, bit for bit" if equal else f"NOT equal; the runs are kept in {place}"
    if equal and not trial.resumed:
        verdict = "nothing is proved; train longer, with --epochs, or kill more often, with --kills"
    kills = f"{trial.kills} kill{'s' * (trial.kills != 1)} (proved by the signal)"
    _say(f"{kills}, {trial.resumed} resumed within the training: {verdict}")
    return equal and trial.resumed > 0


class Trial:
    """The trainings of one configuration."""

    def __init__(self, arguments: Namespace, place: Path, draws: random.Random):
        self.config, self.wanted, self.place, self.draws = arguments.config, arguments.kills, place, draws
        self.options = _options(arguments)
        self.kills = self.resumed = self.total = 0
        self.between_saves = 0.01  # seconds

    def path(self, run: str) -> Path:
        """The folder of a run."""
        return self.place / "verify" / run

    def reference(self, run: str = "reference") -> float:
        """Train without interruption; returns the seconds of training."""
        child = self._start(run)
        begun = self._training(child, run, 0)
        self._finish(child)
        seconds = time.monotonic() - begun
        if not numbered(self.path(run) / CHECKPOINTS):
            raise CheckpointError(
                f"This training leaves no checkpoint in its run folder.\nSeen: none in {self.path(run)}.\n"
                "List CheckpointEvery without folder=, and CallbackedExperiment where experiment_type is set."
            )
        self.total = _saved(self.path(run)) or 0
        self.between_saves = max(0.01, _pace(self.path(run), seconds) / SAVES)
        _say(f"{run}: {_done(self.path(run))}, in {seconds:.1f} s")
        return seconds

    def killed(self, seconds: float) -> list[str]:
        """Train and kill until there were enough kills, then finish all runs; returns their names."""
        runs = ["killed-1"]
        while self.kills < self.wanted or (not self.resumed and self.kills < self.wanted + MORE):
            if not self._kill(runs[-1], seconds) or _saved(self.path(runs[-1])) == self.total:
                runs.append(f"killed-{len(runs) + 1}")  # nothing of it is left to be killed in: begin another
        runs = [run for run in runs if self.path(run).exists()]
        for run in runs:
            if not self._is_over(run):
                self._finish(self._start(run, "--resume", "auto"))
        return runs

    def blame(self, expected: Sequence[str]) -> None:
        """Train once more without interruption, to see whether such trainings differ, too."""
        self.reference("reference-2")
        if _read(self.path("reference-2")) != list(expected):
            _say("Two uninterrupted trainings differ, too: look for unseeded randomness; the resume is not the cause.")
        else:
            _say("Two uninterrupted trainings are equal: it is the resume that differs.")

    def _kill(self, run: str, seconds: float) -> bool:
        """Kill a training after it saved a drawn number of batches, or at any moment; False if it ended before."""
        before, path = _stamp(self.path(run)), self.path(run)
        done, share = _saved(path) or 0, EARLY * self.draws.random()
        goal = done + share * (self.total - done) if self.draws.random() > ANYWHEN else self.total
        child = self._start(run, "--resume", "auto", "--checkpoint-seconds", f"{self.between_saves:.3f}")
        begun = self._training(child, run, before)
        delay = share * seconds if goal == self.total else float("inf")
        while child.poll() is None and time.monotonic() - begun < delay and (_saved(path) or 0) <= goal:
            _wait(child, POLL)
        _wait(child, self.draws.random() * self.between_saves)
        passed = time.monotonic() - begun
        child.kill()
        _, text = child.communicate()
        if child.returncode == 0:
            return False
        if child.returncode != -signal.SIGKILL:
            raise TrainingFailedError(child.returncode, text)
        self.kills += 1
        saved = _saved(self.path(run))
        self.resumed += saved is not None and saved < self.total
        left = "before anything was saved" if saved is None else f"the newest checkpoint has {saved} batches"
        left += ", which are all" * (saved == self.total)
        _say(f"kill {self.kills} of {run}, {passed:.2f} s into the training: {left}")
        return True

    def _start(self, run: str, *options: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "experimentator", "run", self.config, *self.options]
        command += ["--quiet", "--output-folder", str(self.place), "--set", "project_name=verify", *options]
        command += ["--experiment-id", run]
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )

    def _training(self, child: subprocess.Popen[str], run: str, before: int) -> float:
        """Wait until a training begins, when it rewrites its status; returns that moment."""
        while child.poll() is None and _stamp(self.path(run)) <= before:
            _wait(child, POLL)
        return time.monotonic()

    def _finish(self, child: subprocess.Popen[str]) -> None:
        _, text = child.communicate()
        if child.returncode:
            raise TrainingFailedError(child.returncode, text)

    def _is_over(self, run: str) -> bool:
        path = self.path(run) / "status.json"
        return path.exists() and json.loads(path.read_bytes())["status"] == "finished"


def _say(line: str) -> None:
    print(line, flush=True)


def _wait(child: subprocess.Popen[str], seconds: float) -> None:
    """Wait for a process, and read what it writes to stderr meanwhile: it would wait, too, once the pipe is full."""
    with suppress(subprocess.TimeoutExpired):
        child.communicate(timeout=seconds)


def _options(arguments: Namespace) -> list[str]:
    """Those given, and some that make two trainings comparable, for settings that the configuration leaves open."""
    known = {*names_in(arguments.config), *(text.partition("=")[0] for text in arguments.assignments)}
    options = [word for text in arguments.assignments for word in ("--set", text)]
    options += ["--epochs", str(arguments.epochs)] if arguments.epochs is not None else []
    if "jit_compile" not in known and _times_compilers():
        options += ["--set", "jit_compile=False"]
        _say("jit_compile is set to False: it is found by timing, which differs from run to run")
    if "seed" not in known:
        options += ["--set", "seed=0"]
        _say("seed is set to 0: without one, initial weights differ from run to run")
    return options


def _times_compilers() -> bool:
    """Whether jit_compile="auto" is found by timing: always on PyTorch, never on JAX, on a CPU on TensorFlow."""
    framework = os.environ.get("KERAS_BACKEND", "tensorflow")
    if framework != "tensorflow" or shutil.which("nvidia-smi") is None:
        return framework != "jax"
    look = "import sys, tensorflow; sys.exit(bool(tensorflow.config.list_physical_devices('GPU')))"
    return subprocess.run([sys.executable, "-c", look], capture_output=True, check=False).returncode == 0


def _read(run: Path) -> list[str]:
    """The lines of `outside.py` for a run, from a process that does not import the library."""
    command = [sys.executable, "-I", str(Path(outside.__file__)), str(run)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def _compare(run: str, expected: Sequence[str], seen: Sequence[str]) -> bool:
    """Whether a run equals the reference; prints the differences."""
    names = Counter(_kind(line) for line in expected)
    covered = ", ".join(f"{count} {kind}" for kind, count in names.items())
    if list(expected) == list(seen):
        _say(f"{run} is equal in all that was saved: {covered}")
        return True
    wanted, got = (dict(line.rsplit(" = ", 1) for line in lines) for lines in (expected, seen))
    different = [name for name in {**wanted, **got} if wanted.get(name) != got.get(name)] or [
        "the order of what is saved"
    ]
    _say(f"{run} differs in {len(different)} of {len(expected)} saved things:")
    for name in sorted(different, key=_says_little)[:SHOWN]:
        _say(f"  {name}: {str(wanted.get(name))[:60]} without, {str(got.get(name))[:60]} with interruptions")
    return False


def _says_little(name: str) -> int:
    """A sort key: the history first, which shows when the runs diverged, hashes last."""
    return 2 - name.startswith("state.json/") - name.startswith("state.json/history/")


def _kind(line: str) -> str:
    """The kind of a saved value, in words."""
    name = line.rsplit(" = ", 1)[0]
    if name.startswith("weights/"):
        return "weights and seeds"
    if name.startswith("state/"):
        return "variables of the optimizer" if name.startswith("state/optimizer/") else "arrays of callbacks"
    return "lines of logs" if " line " in name else "values of state"


def _tell_limits(run: Path) -> None:
    """Print what the proof does not cover."""
    about = json.loads((numbered(run / CHECKPOINTS)[0] / "state.json").read_bytes())["about"]
    for doubt in about["doubts"]:
        _say(f"not covered: {doubt}")
    _say("not covered: columns that end in _time; other versions, devices or numbers of threads than these")


def _done(run: Path) -> str:
    manifest = json.loads((numbered(run / CHECKPOINTS)[0] / MANIFEST).read_bytes())
    return f"{manifest['epoch']} epochs, {manifest['step']} batches"


def _saved(run: Path) -> int | None:
    """Batches done in the newest checkpoint; None without one."""
    found = numbered(run / CHECKPOINTS)
    return int(json.loads((found[0] / MANIFEST).read_bytes())["step"]) if found else None


def _pace(run: Path, seconds: float) -> float:
    """Seconds of all epochs, at the median of all but the first; of a single epoch, less COMPILING."""
    rows = (run / "history.jsonl").read_text("utf-8").splitlines()
    times = sorted(json.loads(row)["epoch_time"] for row in rows[1:])
    return len(rows) * float(times[len(times) // 2]) if times else max(0.0, seconds - COMPILING)


def _stamp(run: Path) -> int:
    """When status.json of a run was last written, in ns; 0 without one."""
    try:
        return (run / "status.json").stat().st_mtime_ns
    except FileNotFoundError:
        return 0
