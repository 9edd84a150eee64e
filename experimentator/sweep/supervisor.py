"""Runs the processes of points, several at once, watches their progress, and finds out how each ended."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from experimentator.checkpoint import CheckpointError
from experimentator.commands.failures import INTERRUPTED, TERMINATED, Terminated
from experimentator.records.history import read_history
from experimentator.sweep.fork_server import Forked, ForkServer
from experimentator.sweep.heartbeat import BEAT, DONE, ERROR, FOLDER, LOADED, QUIET
from experimentator.sweep.outcome import HUNG, OUT_OF_MEMORY, UNFINISHED, Outcome

POLL = 0.05  # seconds
START_SECONDS = 60.0  # for a point to import, read its data and compile before its first step, on a busy machine
GRACE = 10.0  # seconds in which a training must end once it is told to stop
ANSWERS = (INTERRUPTED, TERMINATED, -9, -15)  # exit statuses of a process that was told to stop
QUICK = 120.0  # seconds; imports matter for the time of shorter points
ROOM = 1 << 30  # bytes of free disk space from which points share JAX's compilation cache
TOLD = 20  # last lines of a point's output that are shown
EARLY = (
    "its process ended with exit status 0 before its training was done. "
    "Look for sys.exit and os._exit in the configuration and its callbacks."
)
# Processes that share a GPU must not reserve all of its memory.
SHARING = {"TF_FORCE_GPU_ALLOW_GROWTH": "true", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}


@dataclass(frozen=True)
class Point:
    """One training to start: its number, its values, and its command line."""

    number: int
    values: Mapping[str, Any]
    command: Sequence[str]


@dataclass
class Child:
    """A point under way; `aside` is the folder into which its process reports."""

    point: Point
    process: subprocess.Popen[bytes] | Forked
    aside: Path
    slot: int
    kills: int  # of processes by the kernel for lack of memory, since boot, as the point began
    begun: float = field(default_factory=time.monotonic)
    beat: str = ""
    touched: int = 0  # the time of the folder, which changes with every report, even one that no file has room for
    heard: float = field(default_factory=time.monotonic)
    why: str = ""

    @property
    def epoch(self) -> int:
        """Epochs done, by the last report."""
        done = self.beat.partition(" ")[0]
        return int(done) if done.isdecimal() else 0


class Audience(Protocol):
    """Hears of each point, in this order."""

    def begins(self, point: Point) -> None:
        """A point is about to start."""

    def waits(self, children: Sequence[Child]) -> None:
        """Called regularly while nothing ends, with the points under way."""

    def ended(self, outcome: Outcome, printed: str) -> None:
        """A point ended; `printed` is the end of its output, if that went to a file."""


class Supervisor:
    """Trains points, `jobs` at once; ends one that is silent for `hang_seconds`, at first for START_SECONDS or more.

    If `is_quiet`, each prints into a file; `devices`, numbers or names of GPUs, are given to them in turn. `compiled`
    is the folder of a JAX compilation cache that points share, removed after the sweep.
    """

    def __init__(self, *, jobs: int, hang_seconds: float, compiled: Path, devices: Sequence[str] = (), is_quiet: bool):
        self.jobs, self.hang_seconds, self.devices, self.is_quiet = jobs, hang_seconds, devices, is_quiet
        self.compiled = compiled.absolute()
        self.children: list[Child] = []
        self.fork_server = ForkServer()

    def train(self, points: Iterator[Point] | None, audience: Audience) -> None:
        """Train all points; an exception such as Ctrl-C or SIGTERM stops them, and the audience hears their ends."""
        try:
            while self.children or points is not None:
                if points is None or len(self.children) == self.jobs:
                    self._wait(audience)
                elif (point := next(points, None)) is None:
                    points = None
                else:
                    audience.begins(point)
                    self.children.append(self._start(point))
        except BaseException as stop:
            try:
                self._stop_all(stop)
            finally:
                for child in list(self.children):
                    with suppress(CheckpointError):  # on a full disk, the others must be reaped all the same
                        self._reap(child, audience)
            raise
        finally:
            self.fork_server.close()
            shutil.rmtree(self.compiled, ignore_errors=True)

    def _start(self, point: Point) -> Child:
        slot = min(set(range(self.jobs)) - {child.slot for child in self.children})
        aside = Path(tempfile.mkdtemp(prefix="experimentator-"))
        command = [*point.command, "--report", str(aside), "--parent", str(os.getpid())]
        printed, environment = aside / "printed" if self.is_quiet else None, self._environment(slot)
        words = command[command.index("run") :]
        forked = self.fork_server.start(words, aside, printed, environment, is_patient=not self.children)
        process = forked or _started(command, printed, environment)
        return Child(point, process, aside, slot, _memory_kills())

    def _environment(self, slot: int) -> dict[str, str]:
        kept = {"JAX_COMPILATION_CACHE_DIR": str(self.compiled), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        is_full = shutil.disk_usage(self.compiled.parent).free < ROOM
        kept = {} if is_full or "JAX_COMPILATION_CACHE_DIR" in os.environ else kept
        own = {**(SHARING if self.jobs > 1 else {}), **kept, **os.environ}
        if self.devices and self.jobs > 1:
            own["CUDA_VISIBLE_DEVICES"] = self.devices[slot % len(self.devices)]
        return own

    def _wait(self, audience: Audience) -> None:
        """Reap points that ended, else sleep a moment."""
        ended = [child for child in self.children if child.process.poll() is not None]
        for child in ended:
            self._reap(child, audience)
        if not ended:
            for child in self.children:
                self._listen(child)
            audience.waits(self.children)
            time.sleep(POLL)

    def _listen(self, child: Child) -> None:
        beat, touched, now = _text(child.aside / BEAT), _touched(child.aside), time.monotonic()
        if (beat, touched) != (child.beat, child.touched) or beat == QUIET:
            child.beat, child.touched, child.heard = beat, touched, now
        most = self.hang_seconds if child.beat else max(self.hang_seconds, START_SECONDS)
        if now - child.heard > most + min(GRACE, self.hang_seconds):
            _end_group(child)
        elif now - child.heard > most and not child.why:
            child.why = HUNG
            child.process.terminate()

    def _reap(self, child: Child, audience: Audience) -> None:
        status = child.process.wait()
        self.children.remove(child)
        if not child.why and _memory_kills() > child.kills and status == -signal.SIGKILL:  # which Windows lacks
            child.why = OUT_OF_MEMORY
        printed = _text(child.aside / "printed")
        outcome = _outcome(child, status)
        if outcome.seconds < QUICK:
            self.fork_server.learn(_text(child.aside / LOADED))
        shutil.rmtree(child.aside, ignore_errors=True)
        audience.ended(outcome, "\n".join(printed.splitlines()[-TOLD:]))

    def _stop_all(self, stop: BaseException) -> None:
        """Pass the signal on to all points; after GRACE seconds, or at a second signal, kill those that still run."""
        gently = isinstance(stop, KeyboardInterrupt) and not isinstance(stop, Terminated) and sys.platform != "win32"
        for child in self.children:
            with suppress(ProcessLookupError):
                child.process.send_signal(signal.SIGINT if gently else signal.SIGTERM)
        until = time.monotonic() + GRACE
        try:
            for child in self.children:
                with suppress(subprocess.TimeoutExpired):
                    child.process.wait(timeout=max(0.0, until - time.monotonic()))
        finally:
            for child in self.children:
                if child.process.poll() is None:
                    _end_group(child)


def _started(command: Sequence[str], printed: Path | None, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start a process in its own group: so Ctrl-C reaches the sweep only, which passes it on once."""
    with printed.open("wb") if printed else nullcontext() as file:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file or sys.__stderr__,  # stdout is for the sweep's table
            stderr=file,
            env=environment,
            process_group=0,
        )


def devices() -> list[str]:
    """The GPUs to give to points, one each, if there are several; found without a framework."""
    told = os.environ.get("CUDA_VISIBLE_DEVICES")
    if told is None and shutil.which("nvidia-smi"):
        with suppress(subprocess.TimeoutExpired):
            asked = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False, timeout=60)
            found = [line for line in asked.stdout.splitlines() if line.startswith("GPU ")]
            told = ",".join(map(str, range(len(found))))
    names = [name.strip() for name in (told or "").split(",") if name.strip()]
    return names if len(names) > 1 else []


def _outcome(child: Child, status: int) -> Outcome:
    """The outcome of a point; the error that it reported counts only if it ended by itself, before it was done."""
    status = 0 if (child.aside / DONE).exists() else status
    folder, error = _text(child.aside / FOLDER), _text(child.aside / ERROR) if status > 0 else ""
    if (why := _why(child, status)) == UNFINISHED:
        error = EARLY
    rows: list[dict[str, Any]] = []
    with suppress(CheckpointError):
        rows = read_history(folder) if folder else []
    seconds, last = time.monotonic() - child.begun, rows[-1] if rows else {}
    return Outcome(child.point.number, child.point.values, status, folder, seconds, error, why, last)


def _why(child: Child, status: int) -> str:
    """The reason that the status does not tell; dropped for a hung point that ended with a status of its own."""
    if not status:
        return "" if (child.aside / DONE).exists() else child.why or UNFINISHED
    return "" if child.why == HUNG and status not in ANSWERS else child.why


def _end_group(child: Child) -> None:
    """Kill a point and the workers it started."""
    with suppress(ProcessLookupError, PermissionError):
        if sys.platform == "win32":
            child.process.kill()
        else:
            os.killpg(child.process.pid, signal.SIGKILL)


def _memory_kills() -> int:
    """The number of processes that the kernel killed for lack of memory, in any control group; 0 if unknown."""
    with suppress(OSError):
        for line in Path("/proc/vmstat").read_text("ascii").splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


def _touched(folder: Path) -> int:
    try:
        return folder.stat().st_mtime_ns
    except OSError:
        return 0


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""
