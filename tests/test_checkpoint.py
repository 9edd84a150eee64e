"""Files that are whole or absent, and weights that come back as they were."""

from __future__ import annotations

import errno
import os
import stat

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import strategies as st

from experimentator import CheckpointError
from experimentator.checkpoint import load_weights, save_weights, shorten, write_atomically
from tests.stand_ins import law

SHAPES = st.lists(st.integers(0, 3), max_size=3).map(tuple)
DTYPES = st.sampled_from(["float32", "float64", "float16", "int64", "int32", "uint8", "bool"])


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


@law(weights=st.dictionaries(st.text(min_size=1, max_size=9), st.tuples(SHAPES, DTYPES), max_size=4))
def test_weights_come_back_with_their_shapes_dtypes_and_values(tmp_path_factory, weights):
    file = tmp_path_factory.mktemp("w") / "w.safetensors"
    random = np.random.default_rng(0)
    given_ = {name: (random.normal(size=shape) * 5).astype(dtype) for name, (shape, dtype) in weights.items()}
    save_weights(file, {name: np.asarray(array) for name, array in given_.items()})

    read = load_weights(str(file))
    assert read.keys() == given_.keys()
    for name, array in given_.items():
        assert (read[name].shape, read[name].dtype) == (np.shape(array), array.dtype)
        np.testing.assert_array_equal(read[name], array)


def test_weights_that_lie_crosswise_in_memory_are_written_as_they_read(tmp_path):
    crosswise = np.arange(6.0).reshape(2, 3).T
    save_weights(tmp_path / "w", {"a": crosswise, "b": crosswise[::2, ::-1]})

    np.testing.assert_array_equal(load_weights(tmp_path / "w")["a"], crosswise)
    np.testing.assert_array_equal(load_weights(tmp_path / "w")["b"], crosswise[::2, ::-1])


def fails(name, when=lambda *given: True, code=errno.ENOSPC):
    real = getattr(os, name)

    def failing(*given):
        if when(*given):
            raise OSError(code, os.strerror(code))
        return real(*given)

    return failing


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file_and_no_other(step, tmp_path, monkeypatch):
    file = tmp_path / "notes.txt"
    write_atomically(file, b"old")
    monkeypatch.setattr(os, step, fails(step))

    with pytest.raises(
        CheckpointError, match=r"notes.txt cannot be written.\nSeen: No space left on device.\nMake room"
    ):
        write_atomically(file, b"new")
    assert file.read_bytes() == b"old"
    assert names_in(tmp_path) == ["notes.txt"]


def test_ctrl_c_while_writing_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    def interrupted(*given):
        raise KeyboardInterrupt

    write_atomically(tmp_path / "a", b"old")
    monkeypatch.setattr(os, "fsync", interrupted)

    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"old"
    assert names_in(tmp_path) == ["a"]


def is_folder(handle):
    return stat.S_ISDIR(os.fstat(handle).st_mode)


def test_a_file_system_that_cannot_sync_folders_still_keeps_files(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", fails("fsync", is_folder, errno.EINVAL))
    write_atomically(tmp_path / "a", b"new")

    assert (tmp_path / "a").read_bytes() == b"new"


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS], ids=errno.errorcode.get)
def test_a_disk_that_fails_to_keep_a_name_is_told(tmp_path, monkeypatch, code):
    monkeypatch.setattr(os, "fsync", fails("fsync", is_folder, code))

    with pytest.raises(CheckpointError, match=r"a cannot be written.\nSeen: "):
        write_atomically(tmp_path / "a", b"new")


def test_file_and_folder_are_on_disk_before_the_write_returns(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(stat.S_ISDIR(os.fstat(handle).st_mode)))
    write_atomically(tmp_path / "a", b"new")

    assert synced == [False, True]


@pytest.mark.parametrize("name", ["x" * 255, "日" * 85])
def test_names_of_all_lengths_have_room(name, tmp_path):
    write_atomically(tmp_path / name, b"new")

    assert names_in(tmp_path) == [name]


def test_folders_on_the_way_are_made(tmp_path):
    write_atomically(tmp_path / "a" / "b" / "c.txt", b"new")

    assert (tmp_path / "a" / "b" / "c.txt").read_bytes() == b"new"


@pytest.mark.parametrize("place", ["folder", "file/below.txt"])
def test_a_place_that_no_file_can_take_is_named(place, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"old")

    with pytest.raises(
        CheckpointError, match=r"cannot be written.\nSeen: (Is a directory|Not a directory|File exists)"
    ):
        write_atomically(tmp_path / place, b"new")
    assert names_in(tmp_path) == ["file", "folder"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such bits")
@pytest.mark.parametrize("mask, mode", [(0o022, 0o644), (0o077, 0o600)])
def test_a_file_may_be_read_by_whom_the_umask_allows(mask, mode, tmp_path):
    before = os.umask(mask)
    try:
        write_atomically(tmp_path / "a", b"new")
    finally:
        os.umask(before)

    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == mode


# Reading


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"There is no weights file '.*absent'.\nTrain and save one first"):
        load_weights(tmp_path / "absent")


@pytest.mark.parametrize("damage", [b"", b"not weights", None, "cut"])
def test_damaged_empty_and_strange_files_are_named(damage, tmp_path):
    file = tmp_path / "w"
    if damage is None:
        file.mkdir()
    elif damage == "cut":
        save_weights(file, {"a": np.zeros(9)})
        file.write_bytes(file.read_bytes()[:-1])
    else:
        file.write_bytes(damage)

    with pytest.raises(
        CheckpointError, match=r"'.*w' cannot be read as weights.\nSeen: .+.\nIt is damaged.*: take a copy"
    ):
        load_weights(file)


def test_no_changed_bit_of_weights_goes_unseen(tmp_path):
    """Each bit of a file: it is refused by name, or the weights are as they were, as where a remark's name changed."""
    weights = {"a": np.arange(6, dtype="float32").reshape(2, 3), "b": np.arange(2, dtype="int64")}
    save_weights(tmp_path / "w", weights)
    whole, told = (tmp_path / "w").read_bytes(), []
    for bit in range(8 * len(whole)):
        spot, byte = bit // 8, whole[bit // 8] ^ 1 << bit % 8
        (tmp_path / "f").write_bytes(whole[:spot] + bytes([byte]) + whole[spot + 1 :])
        try:
            read = load_weights(tmp_path / "f")
        except CheckpointError as error:
            told.append(str(error))
        else:
            assert {name: (one.dtype.name, one.tolist()) for name, one in read.items()} == {
                "a": ("float32", [[0, 1, 2], [3, 4, 5]]),
                "b": ("int64", [0, 1]),
            }

    assert all("f' cannot be read as weights" in one for one in told)
    assert len(told) > 0.8 * 8 * len(whole)


def test_equal_weights_are_equal_bytes_and_a_file_of_another_tool_has_no_digest_and_is_read(tmp_path):
    weights = {"b": np.arange(4, dtype=">f4"), "a": np.float32(1)}
    save_weights(tmp_path / "v", weights)
    save_weights(tmp_path / "w", {"a": np.float32(1), "b": (np.arange(8, dtype="float32") / 2)[::2]})  # with gaps
    safetensors.numpy.save_file({"a": np.ones(2)}, tmp_path / "other", {"format": "np"})

    assert (tmp_path / "v").read_bytes() == (tmp_path / "w").read_bytes()
    assert load_weights(tmp_path / "v")["b"].tolist() == [0, 1, 2, 3]
    assert load_weights(tmp_path / "other")["a"].tolist() == [1, 1]


def test_a_missing_file_of_weights_is_answered_with_those_that_are_there(tmp_path):
    save_weights(tmp_path / "weights" / "best.safetensors", {"w": np.ones(2)})

    with pytest.raises(CheckpointError) as told:
        load_weights(tmp_path / "best")
    there = tmp_path / "weights" / "best.safetensors"
    assert str(told.value).splitlines()[1:] == [f"Seen: {there}.", "Write the path of one."]


def test_a_folder_with_weights_and_a_file_of_pytorch_are_answered_with_what_to_write(tmp_path):
    save_weights(tmp_path / "weights.safetensors", {"a": np.zeros(9)})
    (tmp_path / "net.pt").write_bytes(b"PK")

    with pytest.raises(CheckpointError, match=r"It is a folder: write '.*weights\.safetensors'"):
        load_weights(tmp_path)
    with pytest.raises(CheckpointError, match=r"PyTorch wrote it: .*module\.load_state_dict\(torch\.load\(\.\.\.\)\)"):
        load_weights(tmp_path / "net.pt")


@pytest.mark.parametrize("lines, left", [(0, ""), (1, "1\n"), (2, "1\n2\n"), (3, "1\n2\n3"), (9, "1\n2\n3")])
def test_a_log_is_cut_back_to_so_many_lines(tmp_path, lines, left):
    (tmp_path / "log").write_text("1\n2\n3")

    shorten(tmp_path / "log", lines)
    shorten(tmp_path / "absent", lines)

    assert (tmp_path / "log").read_text() == left
    assert names_in(tmp_path) == ["log"]
