"""Every call to the file system of a save and of a history fails, or is the last one: put there by strace."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ACTS = {"checkpoint-0": 60, "checkpoint-1": 60, "checkpoint-2": 75, "history": 5, "replaced": 8}  # and calls at least
MEMORY = Path("/dev/shm")  # the same calls as on a disk, in a third of the time
ERRORS = ("EIO", "EINTR", "EIO+")  # which Python tries again, and all later ones; no code asks which other it is

pytestmark = pytest.mark.skipif(shutil.which("strace") is None, reason="strace, which puts them, is not installed")


@pytest.fixture
def place(tmp_path):
    if not os.access(MEMORY, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        yield Path(folder)


def strike(place, fault, act):
    """Strike every call of an act; each was struck once, and nothing is wrong. How each ended, with its count."""
    command = [sys.executable, "-m", "tests.faults", str(place), fault, act]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if "strace cannot trace" in done.stderr:
        pytest.skip(done.stderr.strip().splitlines()[-1])
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["wrong"] == []
    assert sum(found["struck"].values()) == found["calls"] >= ACTS[act]
    return found["struck"]


@pytest.mark.parametrize("act", ACTS)
def test_killed_at_any_call_what_is_there_is_the_old_or_the_new(place, act):
    """R2: SIGKILL, proved by the status, at each call; without, with one and with two checkpoints before."""
    assert set(strike(place, "signal=KILL", act)) == {"killed"}


@pytest.mark.parametrize("act", ["checkpoint-0", "checkpoint-2", "history", "replaced"])
@pytest.mark.parametrize("error", ERRORS)
def test_no_failing_call_is_taken_for_success(place, error, act):
    """R3: each call fails, or (+) all of its name from it on: a path is told, or all is there; the old stays."""
    assert set(strike(place, f"error={error}", act)) == {"told", "whole"}
