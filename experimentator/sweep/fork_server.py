"""Starts points without importing the framework again: by forking a process that has imported what the first one did.

The framework's import takes most of the time of a short training. A fork begins where the imports ended, with nothing
computed yet; it is a child of the sweep with its own process group and exit status, as if started anew.
"""

from __future__ import annotations

import gc
import json
import os
import random
import re
import runpy
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from experimentator.commands import deferral
from experimentator.sweep.heartbeat import tell_loaded

START_SECONDS = 60.0  # to wait for the imports; after that, points are started without a fork server
ADOPTION_SECONDS = 10.0
POLL = 0.01
INSTALLED = re.compile(r"[/\\](site|dist)-packages[/\\]")  # modules that do not change while a sweep runs
OWN = "experimentator."
SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER: orphaned descendants become children of this process
READY, ADOPTED, FORKED = b"ready", "adopted", "--forked"
OF_OPENBLAS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")  # in the order in which OpenBLAS reads them
MOST_OF_OPENBLAS = 64  # threads of OpenBLAS at most, in numpy's wheels
DRIVER = "/dev/nvidia"


class Loaded:
    """The modules that a process has imported, and the environment and `sys.path` that imports may depend on.

    A point reports them into `place` once its experiment is built, for the fork server. A point that `is_forked` began
    with the imports of another; if its configuration changes the environment or `sys.path`, these came too early.
    """

    def __init__(self, place: str = "", *, is_forked: bool = False):
        self.place, self.may_begin_anew = place, is_forked
        self.before, self.path = dict(os.environ), list(sys.path)

    def is_built(self) -> None:
        """Report the modules; a fork instead starts anew if its imports came too early."""
        if self.may_begin_anew:
            self.check()
            self.may_begin_anew = False
        else:
            tell_loaded(self.place, self.told())

    def check(self) -> None:
        """Start Python anew in this process (exec) if the imports came too early; before training, or at an error."""
        if self.may_begin_anew and (self.changed() or sys.path != self.path):
            sys.stdout.flush()
            sys.stderr.flush()
            words = [word for word in sys.argv[1:] if word != FORKED]
            os.execve(sys.executable, [sys.executable, "-m", "experimentator", *words], self.before)

    def changed(self) -> dict[str, str | None]:
        """Environment variables that are new, changed, or gone (None)."""
        now = dict(os.environ)
        return {name: now.get(name) for name in now.keys() | self.before if now.get(name) != self.before.get(name)}

    def told(self) -> str:
        """The report, as JSON: modules in the order of import, and environment; empty if `sys.path` changed."""
        if sys.path != self.path:
            return ""
        return json.dumps({"modules": installed(), "own": _own(), "changed": self.changed()})


def installed() -> dict[str, str]:
    """Imported modules that do not change while a sweep runs, with their files."""
    files = {name: getattr(getattr(one, "__spec__", None), "origin", None) for name, one in sys.modules.copy().items()}
    return {
        name: file
        for name, file in files.items()
        if name != "__main__" and not name.startswith(OWN) and isinstance(file, str) and INSTALLED.search(file)
    }


def _own() -> list[str]:
    return [name for name in list(sys.modules) if name.startswith(OWN)]


class Forked:
    """A child process that was forked for a point, with the part of `subprocess.Popen` that a supervisor needs."""

    def __init__(self, pid: int):
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit status, once there is one; minus the signal if one ended it."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the exit status."""
        until = None if timeout is None else time.monotonic() + timeout
        while (status := self.poll()) is None:
            if until is not None and time.monotonic() > until:
                raise subprocess.TimeoutExpired("a point", timeout or 0.0)
            time.sleep(POLL)
        return status

    def send_signal(self, number: int) -> None:
        """Send a signal, if the process still runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)


class ForkServer:
    """Starts points by forks, on Linux, once it knows what they import; `start` returns None if it cannot."""

    def __init__(self) -> None:
        self.told = ""
        self.process: subprocess.Popen[bytes] | None = None
        self.is_ready = False
        self.is_usable = sys.platform == "linux" and signal.getsignal(signal.SIGCHLD) != signal.SIG_IGN

    def learn(self, told: str) -> None:
        """Take the report of a point that was started anew; the first one counts."""
        with suppress(ValueError):  # the disk was full
            self.told = self.told or (told and json.dumps(json.loads(told)))

    def start(
        self,
        words: Sequence[str],
        aside: Path,
        printed: Path | None,
        environment: Mapping[str, str],
        *,
        is_patient: bool = True,
    ) -> Forked | None:
        """Fork a point with these words as command line, which prints into the file `printed`, if given.

        While the server is still importing, it is waited for only if `is_patient`.
        """
        if not self.is_usable or not self.told:
            return None
        try:
            if self.process is None:
                self._open(environment)
            if not self.is_ready and not is_patient and not self._has_answered(0.0):
                return None
            if not self.is_ready and self._answer() != READY:
                raise ValueError
            self.is_ready = True
            order = {"words": list(words), "adopted": str(aside / ADOPTED), "printed": printed and str(printed)}
            _set_subreaper(True)
            try:
                self.orders.write(f"{json.dumps({**order, 'environment': dict(environment)})}\n".encode())
                point = Forked(int(self._answer()))
            finally:
                _set_subreaper(False)
            (aside / ADOPTED).touch()
            return point
        except (OSError, ValueError):  # the server cannot fork, has ended, or took too long
            self.close()
            self.is_usable = False
            return None

    def close(self) -> None:
        """End the server process; forked points continue."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.orders.close()
            self.answers.close()
            self.process = None

    def _open(self, environment: Mapping[str, str]) -> None:
        receives, gives = os.pipe()
        hears, says = os.pipe()
        self.orders, self.answers = open(gives, "wb", 0), open(hears, "rb", 0)  # noqa: SIM115  # closed by `close`
        with open(receives, "rb"), open(says, "wb"), tempfile.TemporaryFile() as told:
            told.write(self.told.encode())
            told.seek(0)
            self.process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(receives), str(says)],
                stdin=told,
                stdout=sys.__stderr__,
                env=environment,
                pass_fds=[receives, says],
                process_group=0,
            )

    def _has_answered(self, seconds: float) -> bool:
        return bool(select.select([self.answers], [], [], seconds)[0])

    def _answer(self) -> bytes:
        if not self._has_answered(START_SECONDS):
            raise TimeoutError
        return self.answers.read(64)


def _set_subreaper(value: bool) -> None:
    import ctypes

    if ctypes.CDLL(None, use_errno=True).prctl(SUBREAPER, int(value), 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


# In the fork server


def wait(orders: int, answers: int) -> None:
    """Import, then fork a point for every order, until the sweep closes the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the sweep
    deferral.defer()  # as a point does
    sweep = os.getppid()
    told = json.load(sys.stdin)
    loaded = Loaded()
    _load([*told["modules"], *told["own"]])
    with open(os.devnull, encoding="ascii") as nothing:
        os.dup2(nothing.fileno(), 0)
    is_same = loaded.changed() == told["changed"] and installed().items() <= told["modules"].items()
    with suppress(BrokenPipeError), open(orders, encoding="utf-8") as lines:
        os.write(answers, READY if is_same and _can_fork() else b"not to be forked")
        order = next((json.loads(line) for line in lines if _is_new(answers)), None)
        if order is not None:
            lines.close()
            os.close(answers)
            _be(order, told["changed"], sweep)


def _is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:  # gone, or somebody else's number by now
        return False
    return True


def _load(names: Sequence[str]) -> None:
    """Import modules without output; by file descriptors, since modules may keep `sys.stdout` and `sys.stderr`."""
    kept = os.dup(1), os.dup(2)
    with open(os.devnull, "w", encoding="ascii") as nothing:
        os.dup2(nothing.fileno(), 1)
        os.dup2(nothing.fileno(), 2)
    gc.disable()
    for name in names:
        with suppress(BaseException):  # a point that needs it imports it again, and shows the error
            __import__(name)
    gc.freeze()
    gc.enable()
    sys.stdout.flush()
    sys.stderr.flush()
    for number, aside in enumerate(kept, start=1):
        os.dup2(aside, number)
        os.close(aside)


def _can_fork() -> bool:
    """Whether a fork is safe: no GPU is open, and no threads run except OpenBLAS', which survives forks."""
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as file:
        libraries = {line.split()[-1] for line in file if "openblas" in line}
    asked = next((os.environ[name] for name in OF_OPENBLAS if os.environ.get(name, "").isdecimal()), "")
    each = min(int(asked or MOST_OF_OPENBLAS), len(os.sched_getaffinity(0)), MOST_OF_OPENBLAS)
    files = []
    for one in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # the descriptor that lists them
            files.append(os.readlink(f"/proc/self/fd/{one}"))
    are_known = len(os.listdir("/proc/self/task")) == 1 + len(libraries) * (each - 1)
    return threading.active_count() == 1 and are_known and not any(file.startswith(DRIVER) for file in files)


def _is_new(answers: int) -> bool:
    """Fork twice; True in the new process. The one in between ends at once, so that the sweep adopts the new one."""
    receives, sends = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about threads, which `_can_fork` checked
        between = os.fork()
        child = os.fork() if not between else 0
    if child:
        os.setpgid(child, child)
        os.write(sends, str(child).encode())
        os._exit(0)
    os.close(sends)
    if between:
        pid = os.read(receives, 32)
        os.waitpid(between, 0)
        os.write(answers, pid)
    os.close(receives)
    return not between


def _be(order: Mapping[str, Any], changed: Mapping[str, str | None], sweep: int) -> None:
    """Run the point, as if this process had been started for it."""
    until = time.monotonic() + ADOPTION_SECONDS
    while os.getppid() != sweep or not os.path.exists(order["adopted"]):  # until the process in between has ended
        if time.monotonic() > until or not _is_there(sweep):
            os._exit(1)  # the sweep does not know this process, and may have started the point anew
        time.sleep(POLL)
    own = {**order["environment"], **changed}
    os.environ.clear()
    os.environ.update({name: value for name, value in own.items() if value is not None})
    if order["printed"]:
        with open(order["printed"], "wb") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    random.seed()
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed()
    if torch := sys.modules.get("torch"):
        torch.seed()
    sys.argv[1:] = [*order["words"], FORKED]
    runpy.run_module("experimentator", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    wait(int(sys.argv[1]), int(sys.argv[2]))
