"""A disk that is really full: a training says so, keeps what it has, and goes on exactly once there is room."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from experimentator.commands.outside import lines
from experimentator.saving.manifest import newest, numbered, read

ROOT = Path(__file__).resolve().parent.parent
COMMAND = f"""'{sys.executable}' -m experimentator run '{ROOT}/tests/configs/momentum.py' --quiet --epochs 1500 \
    --experiment-id a --resume auto --checkpoint-seconds 0.1 --output-folder"""
SIZE = 8192  # KiB
SCRIPT = f"""
mkdir disk && mount -t tmpfs -o size={SIZE}k none disk || exit 99
head -c $(( ({SIZE} - $1) * 1024 )) /dev/zero > disk/ballast
{COMMAND} disk 2> told > /dev/null; echo $? > status
cp -R disk/momentum full
rm disk/ballast
{COMMAND} disk 2> told-again > /dev/null || exit 98
cp -R disk/momentum done
"""  # the disk is gone with the process that mounted it
FILLING = """
class Filling:  # from the first epoch on, the folder of temporary files has no room
    def on_epoch_end(self, epoch, **_):
        with suppress(OSError), open(os.path.join(os.environ["TMPDIR"], "ballast"), "ab") as file:
            file.write(bytes(1 << 17))
    def state_dict(self):
        return {}
callbacks.append(Filling())
"""
SWEEP = f"""
mkdir disk && mount -t tmpfs -o size=64k none disk || exit 99
export TMPDIR=$PWD/disk
'{sys.executable}' -m experimentator filling.py --grid "seed=[1]" --epochs 1000 --hang-seconds 0.5
"""


def mounted(place, script, *words):
    """Run a script that may mount a disk of its own, which nobody else sees; None where that is not allowed."""
    command = ["unshare", "--mount", "--map-root-user", "sh", "-c", script, "sh", *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """What a training leaves that always had room."""
    place = tmp_path_factory.mktemp("room")
    subprocess.run(f"{COMMAND} {place}", shell=True, cwd=ROOT, check=True, capture_output=True)
    return lines(place / "momentum" / "a")


@pytest.fixture(scope="module", autouse=True)
def disks(tmp_path_factory):
    if shutil.which("unshare") is None:
        pytest.skip("a disk of its own needs unshare")
    tried = mounted(tmp_path_factory.mktemp("tried"), "mkdir disk && mount -t tmpfs none disk")
    if tried.returncode:
        pytest.skip(f"a disk of its own cannot be mounted: {tried.stderr.strip()}")


@pytest.mark.parametrize(
    "room, saved, told",
    [
        (8, 0, r"error: disk/momentum/a/status.json cannot be written\."),
        (
            50,
            0,
            r"error: (disk/momentum/a/\S+ cannot be|A checkpoint cannot be written to disk/momentum/a/checkpoints)",
        ),
        (
            300,
            1,
            r"error: (disk/momentum/a/\S+ cannot be|A checkpoint cannot be written to disk/momentum/a/checkpoints)",
        ),
    ],
)
def test_a_training_fills_the_disk_says_so_and_goes_on_exactly_with_room(tmp_path, reference, room, saved, told):
    """R4: 8 MiB, of which so many KiB are left for a run that needs a thousand."""
    done = mounted(tmp_path, SCRIPT, str(room))
    assert done.returncode == 0, done.stderr + (tmp_path / "told").read_text()

    message = (tmp_path / "told").read_text()
    assert (tmp_path / "status").read_text() == "5\n", message
    assert re.search(told, message), message
    assert "\nSeen: No space left on device.\n" in message
    assert "Traceback" not in message
    assert "OSError" not in message  # it was said what is wrong
    history = tmp_path / "full" / "a" / "history.jsonl"
    assert not history.exists() or history.read_bytes().endswith(b"\n")  # no part of a line
    kept = numbered(tmp_path / "full" / "a" / "checkpoints")
    assert len(kept) >= saved
    assert all(read(path).files for path in kept)
    assert ("Resuming" in (tmp_path / "told-again").read_text()) == bool(kept)
    assert newest(tmp_path / "done" / "a" / "checkpoints").about["epoch"] == 1500
    assert lines(tmp_path / "done" / "a") == reference


def test_a_point_of_a_sweep_goes_on_where_it_has_no_room_to_report(tmp_path):
    momentum = (ROOT / "tests" / "configs" / "momentum.py").read_text("utf-8")
    (tmp_path / "filling.py").write_text(f"from contextlib import suppress\n{momentum}{FILLING}", "utf-8")

    done = mounted(tmp_path, SWEEP)

    assert done.returncode == 0, done.stdout + done.stderr
    assert len(next((tmp_path / "runs").rglob("history.jsonl")).read_bytes().splitlines()) == 1000
