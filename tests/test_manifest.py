"""Checkpoints on disk: whole or not taken, whatever stops the writer and whatever became of the bytes."""

import errno
import json
import logging
import os
import shutil
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest

from experimentator.checkpoint import CheckpointError
from experimentator.saving import manifest

ROOT = Path(__file__).resolve().parent.parent
FILES = {
    "weights.safetensors": bytes(range(40)),
    "state.safetensors": b"arrays of callbacks",
    "state.json": b'{"epoch": 3}\n',
}
OTHERS = {name: data[::-1] for name, data in FILES.items()}
NAMES = (*FILES, manifest.MANIFEST)


@pytest.fixture
def place(tmp_path):
    """Two checkpoints, the older of other bytes."""
    manifest.write(tmp_path, OTHERS, step=1)
    manifest.write(tmp_path, FILES, step=2)
    return tmp_path


def names_in(place):
    return sorted(path.name for path in place.iterdir())


def test_the_newest_is_read_and_says_what_it_follows(place):
    read = manifest.newest(place)

    assert (read.files, read.about["step"], read.about["parent"]) == (FILES, 2, "00000001")


def test_older_ones_go_but_two_stay(place):
    for step in (3, 4):
        manifest.write(place, FILES, step=step)

    assert names_in(place) == ["00000003", "00000004"]


def test_what_was_written_is_verified_without_room_for_it_twice(tmp_path):
    data = bytes(16 << 20)

    tracemalloc.start()
    try:
        manifest.write(tmp_path, {"weights.safetensors": data})
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < len(data) / 4


def test_the_older_one_goes_only_after_the_newer_was_read_back(place, monkeypatch):
    monkeypatch.setattr(manifest, "put", lambda path, data, put=manifest.put: put(path, data[:-1]))

    with pytest.raises(CheckpointError, match="00000003"):
        manifest.write(place, FILES, step=3)
    assert {"00000001", "00000002"} < set(names_in(place))
    assert manifest.newest(place).about["step"] == 2


def test_nothing_in_a_folder_is_no_checkpoint(tmp_path):
    assert manifest.newest(tmp_path) is manifest.newest(tmp_path / "absent") is None


# R6: corruption


def refuses(place, caplog):
    """Whether the damaged checkpoint is left out, with one line that says so, and the one before is read."""
    caplog.clear()
    read = manifest.newest(place)
    told = [record.message for record in caplog.records]
    return read.files == OTHERS and len(told) == 1 and told[0].startswith("Checkpoint 00000002 is left out. ")


def test_no_changed_byte_goes_unseen(place, caplog):
    """Every byte of every file, three ways."""
    caplog.set_level(logging.ERROR)
    unseen, tried = [], 0
    for name in NAMES:
        path = place / "00000002" / name
        whole = path.read_bytes()
        for spot, byte in enumerate(whole):
            for other in {byte ^ (1 << spot % 8), 0x00, 0xFF} - {byte}:
                path.write_bytes(whole[:spot] + bytes([other]) + whole[spot + 1 :])
                tried += 1
                if manifest.newest(place).files != OTHERS:
                    unseen.append((name, spot, other))
        path.write_bytes(whole)
    size = sum(len((place / "00000002" / name).read_bytes()) for name in NAMES)

    assert tried >= 2 * size > 1000
    assert unseen == []
    assert manifest.newest(place).files == FILES


@pytest.mark.parametrize("name", NAMES)
def test_no_cut_goes_unseen(place, name, caplog):
    path = place / "00000002" / name
    whole = path.read_bytes()

    for size in (*range(len(whole)), len(whole) + 1):
        path.write_bytes((whole + b"\n")[:size])
        assert refuses(place, caplog)


def to_link(path):
    path.rename(path.parent.parent / path.name)
    path.symlink_to(path.parent.parent / path.name)


def to_folder(path):
    path.unlink()
    path.mkdir()


def to_pipe(path):
    path.unlink()
    os.mkfifo(path)


HARM = {
    "removed": Path.unlink,
    "replaced by that of another step": lambda path: shutil.copy(path.parent.parent / "00000001" / path.name, path),
    "doubled": lambda path: shutil.copy(path, path.with_name(f"{path.name}.bak")),
    "a link to its own bytes": to_link,
    "a folder": to_folder,
    "a pipe, which would wait for ever": to_pipe,
}


@pytest.mark.parametrize("harm", HARM)
@pytest.mark.parametrize("name", NAMES)
def test_a_file_that_is_not_what_was_written_is_refused(place, name, harm, caplog):
    HARM[harm](place / "00000002" / name)

    assert refuses(place, caplog)
    assert name in caplog.text or harm == "replaced by that of another step"  # a manifest, against which files fail


def test_a_folder_that_is_a_link_is_refused(place, caplog):
    (place / "00000002").rename(place / "elsewhere")
    (place / "00000002").symlink_to(place / "elsewhere")

    assert refuses(place, caplog)


def resealed(place, **changes):
    path = place / "00000002" / manifest.MANIFEST
    values = {**json.loads(path.read_bytes()), **changes}
    del values["manifest_sha256"]
    path.write_bytes(manifest._sealed(values))


@pytest.mark.parametrize(
    "changes",
    [
        {"files": {"../00000001/state.json": {"size": 1, "sha256": ""}}},
        {"files": {"/etc/passwd": {"size": 1, "sha256": ""}}},
        {"files": {name: {"size": 2**62, "sha256": "0" * 64} for name in FILES}},
        {"files": {name: {"size": -1, "sha256": ""} for name in FILES}},
        {"files": {name: {"size": True, "sha256": ""} for name in FILES}},
        {"files": {name: {"size": 1, "sha256": None} for name in FILES}},
        {"files": {name: [] for name in FILES}},
        {"files": []},
        {"files": None},
        {"format": 2},
        {"format": "1"},
    ],
    ids=str,
)
def test_a_manifest_that_was_made_up_is_refused_though_its_hash_is_right(place, changes, caplog):
    resealed(place, **changes)

    assert refuses(place, caplog)


def test_a_manifest_of_any_size_is_not_read(place, caplog):
    with (place / "00000002" / manifest.MANIFEST).open("r+b") as file:
        file.truncate(1 << 40)  # holes: it takes no room on disk, and would take all memory

    assert refuses(place, caplog)


def test_where_none_is_whole_the_first_reason_is_told(place):
    for number in ("00000001", "00000002"):
        (place / number / "state.json").unlink()

    with pytest.raises(CheckpointError, match=r"00000002/state.json is damaged.*\nSeen: it is missing"):
        manifest.newest(place)


# R2 and R3: every file operation of a save fails, or is the last one


CHILD = """
import os, signal, sys
from pathlib import Path
from experimentator.saving import manifest
from experimentator.checkpoint import CheckpointError
from tests.test_manifest import FILES, OTHERS, counted

def child(place, at):
    pid = os.fork()
    if pid:
        return os.waitpid(pid, 0)[1]
    with counted(at, lambda name: os.kill(os.getpid(), signal.SIGKILL)):
        manifest.write(place, FILES, step=2)
    os._exit(7)

killed = whole = 0
for before in (0, 1, 2):
    for at in range(1, 1000):
        place = Path(sys.argv[1], f"{before}-{at}")
        for step in range(before):
            manifest.write(place, OTHERS, step=step)
        status = child(place, at)
        if os.WIFEXITED(status) and os.WEXITSTATUS(status) == 7:
            break
        assert os.WTERMSIG(status) == signal.SIGKILL, status
        killed += 1
        manifest.remove_unfinished(place)
        assert not list(place.glob(".tmp-*")), list(place.glob("*"))
        read = manifest.newest(place)
        whole += (read is None) if before == 0 and read is None else read.files in (FILES, OTHERS)
        manifest.write(place, FILES, step=9)
        assert manifest.newest(place).about["step"] == 9
print(killed, whole)
"""
OPERATIONS = (
    "mkdir",
    "open",
    "write",
    "fsync",
    "close",
    "rename",
    "listdir",
    "scandir",
    "lstat",
    "fstat",
    "unlink",
    "rmdir",
)


class counted:  # noqa: N801  # reads as a verb
    """Within, `act(name)` is called before the file operation number `at` of this process."""

    def __init__(self, at, act):
        self.at, self.act, self.count = at, act, 0

    def __enter__(self):
        self.real = {name: getattr(os, name) for name in OPERATIONS}
        for name, function in self.real.items():
            setattr(os, name, self.watched(name, function))
        return self

    def __exit__(self, *_):
        for name, function in self.real.items():
            setattr(os, name, function)

    def watched(self, name, function):
        def call(*given, **named):
            self.count += 1
            if self.count == self.at:
                self.act(name)
            return function(*given, **named)

        return call


def test_killed_before_any_file_operation_the_old_or_the_new_checkpoint_is_there(tmp_path):
    """R2: SIGKILL, proved by the signal, at each operation of a save; without, with one and with two before it."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(tmp_path)], capture_output=True, text=True, cwd=ROOT, check=False
    )

    assert done.returncode == 0, done.stderr
    killed, whole = map(int, done.stdout.split())
    assert killed == whole > 90


@pytest.mark.parametrize("error", ["ENOSPC", "EIO", "EDQUOT", "EROFS"])
def test_no_failing_file_operation_is_taken_for_success(tmp_path, error, caplog):
    """R3: each operation fails once; the save says so by name, or is whole; the checkpoint before it stays."""

    def fail(name):
        raise OSError(getattr(errno, error), os.strerror(getattr(errno, error)))

    place, told = tmp_path / "checkpoints", []
    for at in range(1, 1000):
        shutil.rmtree(place, ignore_errors=True)
        manifest.write(place, OTHERS, step=1)
        try:
            with counted(at, fail) as counting:
                manifest.write(place, FILES, step=2)
            assert manifest.newest(place).files == FILES
        except CheckpointError as problem:
            told.append(str(problem))
        assert manifest.newest(place).files in (OTHERS, FILES)
        if counting.count < at:
            break
        manifest.remove_unfinished(place)
        assert not list(place.glob(".tmp-*"))
        manifest.write(place, FILES, step=3)

    assert len(told) > 20
    assert all(str(place) in one for one in told)


def test_all_is_forced_to_disk_before_it_has_its_name_and_the_name_after(tmp_path, monkeypatch):
    """What a power cut would lose otherwise: the files, the manifest last, their folder, and its new name."""
    told, fsync, rename = [], os.fsync, os.rename
    monkeypatch.setattr(os, "fsync", lambda handle: told.append(os.fstat(handle).st_ino) or fsync(handle))
    monkeypatch.setattr(os, "rename", lambda *given: told.append("rename") or rename(*given))

    path = manifest.write(tmp_path, FILES, step=1)

    known = {one.stat().st_ino: one.name for one in (*path.iterdir(), path, tmp_path)}
    assert [known.get(one, one) for one in told] == [*NAMES, path.name, "rename", tmp_path.name]


def test_a_short_write_is_gone_on_with(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "write", lambda handle, data, write=os.write: write(handle, data[:3]))

    assert manifest.read(manifest.write(tmp_path, FILES, step=1)).files == FILES
