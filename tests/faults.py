"""Faults of the file system, put by strace into single calls of real processes, which save or write a history.

`python -m tests.faults PLACE FAULT ACT` forks a process for every call that the act makes, strikes that call, looks at
what is on disk, and prints a line of JSON: how many calls an unharmed act makes, how many were struck, and what came of
it. FAULT is `signal=KILL` or `error=ENOSPC` and the like; `error=EIO+` fails all later calls of that name, too. A fault
that does not fire is a failure of the test.
"""

import collections
import ctypes
import gc
import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from experimentator import build_experiment
from experimentator.checkpoint import CheckpointError, write_atomically
from experimentator.records.history import append, as_line
from experimentator.saving import manifest

CONFIG = str(Path(__file__).parent / "configs" / "momentum.py")
CALLS = "%file,%desc"  # every call that names a file or uses an open one
DONE, TOLD, SILENT = 10, 11, 12  # how a struck process ends: it says all is well, it names the path, or anything else
TRACER = 0x59616D61  # PR_SET_PTRACER of prctl: where only ancestors may trace, a process says who else may
MUST_TELL = ("write", "fsync")  # failing, they cannot leave what lasts: silence would be a lie
ROWS = [{"epoch": number, "loss": 1 / number} for number in (1, 2, 3)]


class Strace:
    """A process forked to act, traced by strace from before the act on."""

    def __init__(self, act, path):
        drawn = random.getstate()
        self.pid = os.fork()
        if not self.pid:
            random.setstate(drawn)  # Python gives a forked process numbers of its own
            os._exit(struck(act, path))

    def traced(self, *options):
        """Let it act; how it ended, and the lines that strace wrote."""
        command = ["strace", "-f", "-e", "signal=none", "-e", f"trace={CALLS}", *options, "-p", str(self.pid)]
        tracer = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        first = tracer.stderr.readline()
        if "attached" not in first:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            raise SystemExit(f"strace cannot trace: {first}")
        os.kill(self.pid, signal.SIGUSR1)
        _, status = os.waitpid(self.pid, 0)
        return status, [name for line in tracer.communicate()[1].splitlines() for name in called(line)]


def called(line):
    """The name of the call that a line of strace shows, and whether it was struck."""
    found = re.match(r"(?:\[pid +\d+\] )?(\w+)\(", line)
    return [(found[1], "(INJECTED)" in line)] if found and "MAP_ANONYMOUS" not in line else []  # memory is no file


def struck(act, path):
    """In the forked process: wait for strace, act, and tell how it went."""
    ctypes.CDLL(None).prctl(TRACER, ctypes.c_ulong(-1), 0, 0, 0)
    signal.sigwait({signal.SIGUSR1})
    try:
        act()
    except CheckpointError as error:
        return TOLD if str(path) in str(error) else SILENT
    except BaseException as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return SILENT
    return DONE


class Checkpoints:
    """A save of an experiment, into a folder that has so many checkpoints already."""

    def __init__(self, before):
        self.before = before
        self.exp = build_experiment(CONFIG, hide_progress=True)
        self.files = []
        for epochs, name in ((1, "old"), (2, "new")):
            self.exp.train(epochs)
            self.files.append(manifest.read(self.exp.save_checkpoint(PLACE / name)).files)
        self.old, self.new = self.files

    def prepare(self, path):
        for step in range(self.before):
            manifest.write(path, self.old, step=step)

    def act(self, path):
        self.exp.save_checkpoint(path)

    def is_new(self, path):
        return manifest.newest(path).files == self.new

    def is_whole(self, path):
        """The newest is the old or the new one, in every byte; the one before the save is as it was."""
        read = manifest.newest(path)
        if self.before == 0:
            return read is None or read.files == self.new
        before = manifest.read(path / f"{self.before:08d}")
        return read.files in self.files and before.files == self.old

    def goes_on(self, path):
        """The next save, as a training begins it, leaves nothing but whole checkpoints."""
        manifest.remove_unfinished(path)
        self.exp.save_checkpoint(path)
        names = [one.name for one in path.iterdir()]
        return self.is_new(path) and len(names) <= manifest.KEPT and all(name.isdigit() for name in names)


class History:
    """A line more in a history."""

    def prepare(self, path):
        path.mkdir(parents=True)
        append(path / "history.jsonl", *ROWS[:2])

    def act(self, path):
        append(path / "history.jsonl", ROWS[2])

    def text(self, path):
        return (path / "history.jsonl").read_text()

    def is_new(self, path):
        return self.text(path) == "".join(map(as_line, ROWS))

    def is_whole(self, path):
        return self.text(path) in ("".join(map(as_line, ROWS[:count])) for count in (2, 3))

    def goes_on(self, path):
        """As in the folder of a run that is resumed, which cuts the history back to what the checkpoint counts."""
        write_atomically(path / "history.jsonl", "".join(map(as_line, ROWS[:2])).encode())
        self.act(path)
        return self.is_new(path)


class Replaced(History):
    """A history, a status or weights in place of those before."""

    def act(self, path):
        write_atomically(path / "history.jsonl", "".join(map(as_line, ROWS)).encode())


ACTS = {
    **{f"checkpoint-{before}": lambda before=before: Checkpoints(before) for before in (0, 1, 2)},
    "history": History,
    "replaced": Replaced,
}


class Trial:
    """An act, struck at every call it makes."""

    def __init__(self, acting, fault):
        self.acting, self.fault, self.numbers = acting, fault.removesuffix("+"), itertools.count()
        self.last = "+" if fault.endswith("+") else ""
        self.told, self.wrong = collections.Counter(), []

    def prepared(self):
        """A new folder, as it is before the act."""
        path = PLACE / str(next(self.numbers))
        self.acting.prepare(path)
        return path

    def run(self):
        """How many calls there are by name, each struck; one strike more for every name must find nothing."""
        status, calls = Strace(lambda: self.acting.act(path), path := self.prepared()).traced()
        assert os.waitstatus_to_exitcode(status) == DONE, status
        counts = collections.Counter(name for name, _ in calls)
        for name, count in counts.items():
            fired = [self.strike(name, at) for at in range(1, count + 2)]
            if fired != [True] * count + [False]:
                self.wrong.append(f"{name}: {count} calls, struck {fired}")
        return {"calls": sum(counts.values()), "struck": self.told, "wrong": self.wrong}

    def strike(self, name, at):
        """Whether a fault fired at call number `at` of that name; what came of it is noted."""
        path = self.prepared()
        process = Strace(lambda: self.acting.act(path), path)
        status, calls = process.traced("-e", f"inject={name}:{self.fault}:when={at}{self.last}")
        code = os.waitstatus_to_exitcode(status)
        fired = code == -signal.SIGKILL if "KILL" in self.fault else any(was for _, was in calls)
        if fired:
            self.note(f"{name} {at}", name, code, path)
        elif code != DONE:
            self.wrong.append(f"{name} {at}: no fault, and it ended with {code}")
        shutil.rmtree(path)
        return fired

    def note(self, where, name, code, path):
        how = {-signal.SIGKILL: "killed", DONE: "whole", TOLD: "told"}.get(code, "silent")
        self.told[how] += 1
        lies = how == "whole" and not self.acting.is_new(path)
        lies |= how == "whole" and name in MUST_TELL and "EINTR" not in self.fault
        checks = {
            "it is taken for success": how == "silent" or lies,
            "what was there is damaged": not self.acting.is_whole(path),
            "it does not go on": not self.acting.goes_on(path),
        }
        self.wrong += [f"{where}: {what}" for what, is_so in checks.items() if is_so]


if __name__ == "__main__":
    PLACE = Path(sys.argv[1])
    gc.disable()  # it closes what nobody needs any more, whenever it likes
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})  # a forked process waits for it
    sys.stdout.write(json.dumps(Trial(ACTS[sys.argv[3]](), sys.argv[2]).run()) + "\n")
