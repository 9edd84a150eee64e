"""Items kept on disk: as they were, whoever writes at once, dies while writing, or damages a file."""

from __future__ import annotations

import math
import signal
import subprocess
import sys
import threading
from collections import Counter
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_np

from experimentator import CheckpointError, DataAugmentationDataset, DatasetError, DiskCachedDataset, Mode, Subset
from experimentator.data.columns import is_columnar
from tests.stand_ins import Rows, law

NUMBERS = st_np.arrays(
    st.sampled_from([np.dtype(name) for name in ("u1", "i8", "f2", "f4", "f8", "?", ">f4")]),
    st_np.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3),
)
PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | NUMBERS
    | NUMBERS.map(lambda a: a.dtype.type(3)),
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)

READS_ALL = """
import os, sys
import numpy as np
from experimentator import DiskCachedDataset
class Witnessed:
    keys = range(150)
    def query_item(self, key):
        file = os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(file, b"%d\\n" % key)
        os.close(file)
        return {"input": np.full((40, 40), key, np.float32), "path": f"/{key}"}
cached = DiskCachedDataset(Witnessed(), sys.argv[1])
sys.stdin.readline()
keys = list(cached.keys)
for key in keys if sys.argv[3] == "up" else keys[::-1]:
    item = cached.query_item(key)
    assert (item["input"] == key).all() and item["path"] == f"/{key}", key
"""

DIES = """
import os, signal, sys
import numpy as np
from experimentator import DiskCachedDataset
def die(*_): os.kill(os.getpid(), signal.SIGKILL)
def half(handle, data, write=os.write):
    write(handle, data[: len(data) // 2])
    die()
if sys.argv[2] == "writing": os.write = half
else: os.replace = die
DiskCachedDataset({"a": {"input": np.arange(5000)}}, sys.argv[1]).query_item("a")
"""


class Frame(NamedTuple):
    """A key as users have them."""

    video: str
    number: int


class Counting:
    """Items that count how often they are read."""

    def __init__(self, item, keys=("a", "b")):
        self.item, self.keys, self.reads = item, keys, 0

    def query_item(self, key):
        self.reads += 1
        return self.item


def same(one, other):
    """Whether values are alike to the type and the bit."""
    if type(one) is not type(other):
        return False
    if isinstance(one, (np.ndarray, np.generic)):
        return one.dtype.newbyteorder("=") == other.dtype.newbyteorder("=") and np.array_equal(
            one, other, equal_nan=one.dtype.kind == "f"
        )
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[name], other[name]) for name in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other or (isinstance(one, float) and math.isnan(one) and math.isnan(other))


def hidden(folder):
    return [path for path in folder.rglob("*") if path.is_file() and path.name.startswith(".")]


@law(item=st.dictionaries(st.text(), PLAIN, max_size=4))
def test_an_item_comes_back_as_it_was_every_time(item, tmp_path_factory):
    parent = Counting(item)
    folder = tmp_path_factory.mktemp("cache")
    items = [DiskCachedDataset(parent, folder).query_item("a") for _ in range(3)]

    assert all(same(one, item) for one in items)
    assert parent.reads == 1


def test_changing_an_item_changes_nothing_on_disk(tmp_path):
    cached = DiskCachedDataset(Counting({"x": np.ones(3)}), tmp_path)
    for _ in range(3):
        item = cached.query_item("a")
        assert item["x"].tolist() == [1, 1, 1]
        item["x"] *= 10


def test_two_processes_at_once_write_whole_items_and_read_each_others(tmp_path):
    command = [sys.executable, "-c", READS_ALL, str(tmp_path / "cache"), str(tmp_path / "witness")]
    processes = [subprocess.Popen([*command, way], stdin=subprocess.PIPE) for way in ("up", "down", "up")]
    for process in processes:
        process.stdin.write(b"go\n")
        process.stdin.flush()

    assert [process.wait(60) for process in processes] == [0, 0, 0]
    for process in processes:
        process.stdin.close()
    reads = Counter((tmp_path / "witness").read_text().split())
    assert len(reads) == 150
    assert sum(reads.values()) < 3 * 150
    assert hidden(tmp_path) == []
    assert len(list(tmp_path.glob("cache/*/*.item"))) == 150


def test_threads_share_a_cache(tmp_path):
    cached = DiskCachedDataset({n: {"x": np.full(1000, n)} for n in range(40)}, tmp_path)
    wrong, barrier = [], threading.Barrier(4)

    def read():
        barrier.wait()
        wrong.extend(n for n in range(40) if set(cached.query_item(n)["x"]) != {n})

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize("when", ["writing", "renaming"])
def test_a_writer_that_is_killed_leaves_nothing_that_is_read(when, tmp_path):
    died = subprocess.run([sys.executable, "-c", DIES, str(tmp_path), when], check=False)
    assert died.returncode == -signal.SIGKILL
    assert [path.stat().st_size > 1000 for path in hidden(tmp_path)] == [True]
    assert list(tmp_path.glob("*/*.item")) == []

    parent = Counting({"input": np.arange(5000)})
    cached = DiskCachedDataset(parent, tmp_path)
    assert [cached.query_item("a")["input"].sum() for _ in range(2)] == [np.arange(5000).sum()] * 2
    assert parent.reads == 1


@law(place=st.integers(0, 10**6), change=st.integers(1, 255), cut=st.booleans())
def test_damage_anywhere_is_noticed_and_the_item_made_anew(place, change, cut, tmp_path_factory):
    parent = Counting({"x": np.arange(30.0), "path": "/a", "deep": [(1, None)]})
    cached = DiskCachedDataset(parent, tmp_path_factory.mktemp("cache"))
    cached.query_item("a")
    path = cached.path("a")
    data = bytearray(path.read_bytes())
    place %= len(data)
    data[place] ^= change
    path.write_bytes(bytes(data[:place] if cut else data))

    first, reads = cached.query_item("a"), parent.reads
    assert same(first, parent.item)
    assert reads == 2
    assert same(cached.query_item("a"), parent.item)
    assert parent.reads == reads


@pytest.mark.parametrize("content", [b"", b"\x80\x04\x95", b"\xff" * 64])
def test_a_file_of_something_else_is_written_over(content, tmp_path, caplog):
    parent = Counting({"x": 1})
    cached = DiskCachedDataset(parent, tmp_path)
    cached.path("a").parent.mkdir()
    cached.path("a").write_bytes(content)

    assert [cached.query_item("a") for _ in range(2)] == [{"x": 1}] * 2
    assert parent.reads == 1
    assert "is damaged" in caplog.text


def test_an_item_left_out_stays_left_out_and_is_not_asked_for_again(tmp_path):
    parent = Counting(None)

    assert [DiskCachedDataset(parent, tmp_path).query_item("a") for _ in range(2)] == [None, None]
    assert parent.reads == 1


def test_another_key_or_version_is_another_file(tmp_path):
    parent = Counting({"x": 1}, keys=[Frame("a", 1)])
    one, other = DiskCachedDataset(parent, tmp_path), DiskCachedDataset(parent, tmp_path, version="2")

    assert one.path(Frame("a", 1)) == one.path(("a", 1))
    assert len({one.path("a"), one.path("b"), one.path(("a", 1)), other.path("a")}) == 4


@pytest.mark.parametrize(
    "value, seen",
    [
        (object(), "item['box'] cannot be saved: it is an object"),
        (Frame("a", 1), "item['box'] cannot be saved: it is a Frame"),
        (np.array(["a"]), "item['box'] cannot be saved: it is an array of <U1"),
        (np.complex64(1), "item['box'] cannot be saved: it is a complex64"),
        ([{"deep": Frame("a", 1)}], "item['box'][0]['deep'] cannot be saved: it is a Frame"),
    ],
)
def test_what_files_cannot_hold_is_named(value, seen, tmp_path):
    with pytest.raises(DatasetError) as caught:
        DiskCachedDataset(Counting({"box": value}), tmp_path).query_item("a")

    assert caught.value.parts[:2] == ("The item of key 'a' cannot be kept on disk.", seen)
    assert list(tmp_path.iterdir()) == []


def test_numbers_that_another_process_may_not_know_are_named(tmp_path):
    items = Counting({"x": np.zeros(2, pytest.importorskip("ml_dtypes").bfloat16)})

    with pytest.raises(DatasetError, match=r"item\['x'\] cannot be saved: it is of bfloat16"):
        DiskCachedDataset(items, tmp_path).query_item("a")


def test_a_folder_where_nobody_may_write_is_named(tmp_path):
    (tmp_path / "file").touch()

    with pytest.raises((CheckpointError, NotADirectoryError)):
        DiskCachedDataset(Counting({"x": 1}), tmp_path / "file").query_item("a")


def test_a_subset_reads_each_item_once_and_may_keep_columns(tmp_path):
    rows = Rows(4)
    cached = DiskCachedDataset(rows, tmp_path)
    batches = [Subset("s", Mode.EVAL, cached).batch(rows.keys) for _ in range(2)]

    assert is_columnar(Subset("s", Mode.EVAL, cached))
    assert rows.queries == list(rows.keys)
    assert batches[0]["batch_path"] == batches[1]["batch_path"] == [f"/row {n}" for n in range(4)]
    np.testing.assert_array_equal(batches[0]["batch_input"], batches[1]["batch_input"])


def test_draws_inside_are_made_once_and_those_around_as_ever(tmp_path):
    def shake(key, item, random):
        return {"x": item["x"] + random.uniform()}

    inner = DataAugmentationDataset([{"x": 0.0}] * 3, [shake])

    def values(folder, epoch=0):
        outer = DataAugmentationDataset(DiskCachedDataset(inner, tmp_path / folder), [shake])
        subset = Subset("s", Mode.TRAIN, outer)
        subset.epoch = epoch
        return [subset.query_item(key)["x"] for key in range(3)]

    first = values("one")
    assert first == values("one") == values("two")
    assert not set(first) & set(values("one", epoch=1))


def test_what_a_generator_of_the_parent_draws_depends_on_the_key_alone(tmp_path):
    class Noise:
        keys = range(3)

        def __init__(self):
            self.random = np.random.default_rng()

        def query_item(self, key):
            return {"x": self.random.uniform()}

    def values(seed, epoch):
        subset = Subset("s", Mode.TRAIN, DiskCachedDataset(Noise(), tmp_path / f"{seed} {epoch}"))
        subset.seed, subset.epoch = seed, epoch
        return [subset.query_item(key)["x"] for key in range(3)]

    assert values(0, 0) == values(1, 0) == values(0, 1)
    assert len(set(values(0, 2))) == 3


def test_masks_are_not_lost_on_the_way_to_the_disk(tmp_path):
    items = [{"x": np.ma.masked_array([1.0, 2.0], [False, True])}]

    with pytest.raises(DatasetError, match="'x' is a masked array"):
        DiskCachedDataset(items, tmp_path).query_item(0)
