"""Worker processes: the batches that threads give; a death is survived, or named by its key."""

from __future__ import annotations

import ast
import errno
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from experimentator import (
    BalancedSubset,
    CheckpointError,
    CombinedSubset,
    DatasetError,
    Mode,
    Subset,
    build_experiment,
)
from experimentator.loading import processes
from experimentator.loading.processes import Processes
from experimentator.loading.shared import Lent
from experimentator.loading.workers import Workers
from tests.stand_ins import Rows, feed_for

ROOT = Path(__file__).resolve().parent.parent
TWO = Workers(2, are_processes=True)


class Deadly(Rows):
    """Reading key `row 5` ends the process; where `once` is a path, only the first time."""

    def __init__(self, end, once=None):
        super().__init__(12)
        self.end, self.once = end, once

    def query_item(self, key):
        if key == "row 5" and not (self.once and Path(self.once).exists()):
            if self.once:
                Path(self.once).touch()
            self.end()
        return super().query_item(key)


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def leave():
    os._exit(0)


def numbers(dataset, workers):
    """The first column of every item of one pass, in batches of 3, two a block."""
    feed = feed_for(Subset("s", Mode.EVAL, dataset), workers=workers)
    cycle = feed.cycle(3)
    blocks = iter(lambda: cycle.take(lambda _: 2), None)
    return [(*block.columns["batch_input"][:, 0].tolist(), *block.objects["batch_path"]) for block in blocks]


def test_processes_give_the_batches_that_threads_give():
    assert numbers(Rows(11), TWO) == numbers(Rows(11), Workers(2))


class Large:
    """Images so large that they reach the training in memory that both processes see; some are of another dtype."""

    def __init__(self, shape=(80, 90, 3), absent=(), other=()):
        self.keys, self.shape, self.absent, self.other = range(11), shape, absent, other

    def query_item(self, key):
        values = np.arange(np.prod(self.shape)).reshape(self.shape) * (key + 1) % 251
        image = values.astype(np.uint8 if key in self.other else np.int16)
        return None if key in self.absent else {"image": image, "number": np.int32(key), "text": str(key)}


class OwnBatches(Subset):
    def batch(self, keys, **_):
        batch = super().batch(keys)
        return {**batch, "batch_image": batch["batch_image"] + 1}


class OfTwo(Exception):
    """An error that cannot be made anew from its message."""

    def __init__(self, one, other):
        super().__init__(one)


class Failing(Subset):
    def query_item(self, key):
        raise OfTwo("unlucky", 13)


class Unwritable(Rows):
    def query_item(self, key):
        raise CheckpointError("The cache is full.")


@pytest.mark.parametrize(
    "subset, error, said",
    [
        (Failing("s", Mode.EVAL, Rows(4)), DatasetError, r"fails to read a batch (.|\n)*Seen: OfTwo: unlucky\."),
        (Subset("s", Mode.EVAL, Unwritable(4)), CheckpointError, "^The cache is full"),
    ],
)
def test_what_fails_in_a_process_is_not_blamed_on_the_way_back(subset, error, said):
    with pytest.raises(error, match=said):
        Processes(subset, 1).read(["row 0"], [0])


OTHER, ABSENT = {"other": (4, 9)}, {"absent": (3, 4, 5, 7)}


@pytest.mark.parametrize(
    "kind, options", [(Subset, {}), (Subset, ABSENT), (Subset, OTHER), (OwnBatches, {}), (OwnBatches, OTHER)]
)
def test_large_arrays_are_the_same_by_processes(kind, options):
    feed = feed_for(kind("s", Mode.EVAL, Large(**options)))

    def blocks(workers):
        feed.workers = workers
        cycle = feed.cycle(3)
        return [
            (block.keys[0], block.columns["batch_image"].tobytes(), block.columns["batch_number"].tolist())
            for block in iter(lambda: cycle.take(lambda _: 2), None)
        ]

    assert blocks(TWO) == blocks(TWO) == blocks(None)


def forbidden(_):
    raise PermissionError(errno.EPERM, "as by a filter of system calls")


@pytest.mark.parametrize("place, name, then", [(Lent, "is_possible", lambda: False), (os, "memfd_create", forbidden)])
def test_large_arrays_go_through_the_pipe_where_memory_cannot_be_shared(place, name, then, monkeypatch):
    subset = Subset("s", Mode.EVAL, Large())
    into = {"batch_image": np.empty((3, 80, 90, 3), np.int16)}
    shared, piped = Processes(subset, 1), Processes(subset, 1)
    _, first = shared.read([1, 2, 3], [0, 0, 0], into=into)
    monkeypatch.setattr(place, name, then)
    _, second = piped.read([1, 2, 3], [0, 0, 0], into=into)

    assert first["batch_image"] is into["batch_image"] is not second["batch_image"]
    assert np.array_equal(first["batch_image"], second["batch_image"])


def test_classes_of_a_configuration_reach_the_processes(tmp_path):
    (tmp_path / "config.py").write_text("""
import os
from dataclasses import dataclass
from typing import NamedTuple
import numpy as np
from experimentator import AsyncExperiment, BaseExperiment, Mode, Subset, chunk_processor

class Key(NamedTuple):
    number: int

@dataclass(frozen=True)
class Pair:
    number: int

class Squares:
    keys = (*map(Key, range(3)), *map(Pair, range(3, 5)), frozenset([Key(5)]))
    def query_item(self, key):
        key = min(key) if isinstance(key, frozenset) else key
        assert isinstance(key, (Key, Pair))
        return {"x": np.float32(key.number**2), "pid": np.int64(os.getpid())}

subsets = [Subset("validation", Mode.EVAL, Squares())]
chunk_processors = [
    chunk_processor(inputs=["batch_x"], outputs=["loss"])(lambda x: x.mean()),
    chunk_processor(inputs=["batch_pid"], outputs=["pid"])(lambda pid: pid[0]),
]
metrics = ["pid"]
experiment_type = [BaseExperiment, AsyncExperiment]
batch_size, workers = 1, "1 process"
""")
    results = build_experiment(tmp_path / "config.py").evaluate()

    assert results["validation_loss"] == pytest.approx((1 + 4 + 9 + 16 + 25) / 6)
    assert results["validation_pid"] != os.getpid()


@pytest.mark.parametrize("end", [kill, leave])
def test_a_process_that_dies_once_is_replaced_and_nothing_is_lost(end, tmp_path, caplog):
    assert numbers(Deadly(end, once=str(tmp_path / "died")), TWO) == numbers(Rows(12), None)
    assert "A worker process of subset 's' died; its batch is read again." in caplog.text


def stop():
    os.kill(os.getpid(), signal.SIGSTOP)


ONLY_LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks Linux for a signal")
NEEDS_PROC = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")


@NEEDS_PROC
def test_a_process_that_is_stopped_for_good_is_killed_and_nothing_is_lost(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(processes, "LOOK_SECONDS", 0.05)
    found = []
    dataset = Deadly(stop, once=str(tmp_path / "stopped"))
    reading = threading.Thread(target=lambda: found.append(numbers(dataset, TWO)), daemon=True)
    reading.start()
    reading.join(60)

    assert found == [numbers(Rows(12), None)]
    assert "has been stopped (SIGSTOP) for 0 s and more; it is killed." in caplog.text
    assert "A worker process of subset 's' died; its batch is read again." in caplog.text


@NEEDS_PROC
def test_a_process_that_is_stopped_and_goes_on_is_let_be(tmp_path, caplog, monkeypatch):
    """As by Ctrl-Z and fg."""
    monkeypatch.setattr(processes, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(processes, "LOOKS", 1000)
    looked = []

    def look(pid):
        looked.append(is_stopped(pid))
        if looked[-1]:
            os.kill(pid, signal.SIGCONT)
        return looked[-1]

    is_stopped = processes._is_stopped
    monkeypatch.setattr(processes, "_is_stopped", look)

    assert numbers(Deadly(stop, once=str(tmp_path / "stopped")), TWO) == numbers(Rows(12), None)
    assert any(looked)
    assert "stopped" not in caplog.text


@pytest.mark.parametrize("end", [kill, leave])
def test_a_key_that_kills_every_process_is_named(end):
    with pytest.raises(DatasetError, match="Key 'row 5' of subset 's' kills the worker process that reads it"):
        numbers(Deadly(end), TWO)


def test_an_item_that_fails_in_a_process_is_named_as_elsewhere():
    with pytest.raises(DatasetError, match=r"fails on key 'row 5'.\nSeen: OSError: disk on fire"):
        numbers(Rows(12, fails="row 5"), TWO)


def test_what_cannot_be_sent_is_refused_before_anything_starts():
    dataset = Rows(4)
    dataset.lock = threading.Lock()

    with pytest.raises(DatasetError, match=r"Subset 's' cannot be sent to worker processes.\nSeen: TypeError: cannot"):
        numbers(dataset, TWO)


class Lazy(Rows):
    """Opens what cannot be pickled as it reads the first item."""

    file = None

    def query_item(self, key):
        self.file = self.file or threading.Lock()
        return super().query_item(key)


class LeftOut(Lazy):
    def __getstate__(self):
        return {**vars(self), "file": None}


def test_a_file_that_the_first_item_opened_is_left_out_of_copies_as_the_message_says():
    with pytest.raises(DatasetError, match=r"__getstate__\(self\): return \{\*\*vars\(self\), 'file': None\}"):
        numbers(Lazy(8), TWO)

    assert numbers(LeftOut(8), TWO) == numbers(Rows(8), TWO)


def test_an_order_of_another_epoch_reaches_the_processes():
    class Told(Subset):
        def query_item(self, key):
            return {"x": np.int64(self.epoch)}

    subset = Told("s", Mode.TRAIN, Rows(4))
    feed = feed_for(subset, workers=TWO)
    subset.epoch = 7

    assert feed.cycle(4).take(lambda _: 1).columns["batch_x"].tolist() == [7] * 4


class Drawing(Rows):
    """Items that are drawn; `level` is added."""

    level = 0

    def __init__(self):
        super().__init__(8)
        self.random = [np.random.default_rng(7)]

    def query_item(self, key):
        return {"drawn": self.level + self.random[0].uniform() + np.random.uniform()}


def drawn(subset):
    feed = feed_for(subset, workers=TWO)
    return lambda: feed.cycle(2).take(lambda _: 4).columns["batch_drawn"].tolist()


def test_processes_draw_different_numbers_that_depend_on_seed_and_epoch_alone():
    subset = Subset("s", Mode.TRAIN, Drawing())
    one_pass = drawn(subset)
    first = one_pass()
    subset.epoch = 1
    second = one_pass()
    subset.epoch = 0

    assert len({*first, *second}) == 16
    assert one_pass() == first == drawn(Subset("s", Mode.TRAIN, Drawing()))()


def test_a_change_of_the_dataset_reaches_the_processes_with_the_next_pass():
    dataset = Drawing()
    one_pass = drawn(Subset("s", Mode.EVAL, dataset))
    before = one_pass()
    dataset.level = 10

    assert one_pass() == pytest.approx([value + 10 for value in before])


def test_a_module_beside_the_configuration_is_found(tmp_path):
    (tmp_path / "items_of_mine.py").write_text(
        "import numpy as np\nclass Items:\n    keys = range(4)\n    def query_item(self, key):\n"
        "        return {'x': np.float32(key)}\n"
    )
    (tmp_path / "config.py").write_text(
        "from experimentator import *\nimport items_of_mine\n"
        "experiment_type = [BaseExperiment, AsyncExperiment]\nworkers = '1 process'\n"
        "subsets = [Subset('validation', Mode.EVAL, items_of_mine.Items())]\n"
        "chunk_processors = [chunk_processor(inputs=['batch_x'], outputs=['loss'])(lambda x: x.mean())]\n"
    )

    assert build_experiment(tmp_path / "config.py").evaluate() == {"validation_loss": 1.5}


SCRIPT = """
from random import gauss
import numpy as np
import helpers_of_mine
from experimentator import DataAugmentationDataset, Mode, Subset
from experimentator.feed import feed_of
from experimentator.loading.processes import Processes
from experimentator.loading.shared import Lent
from experimentator.loading.workers import Workers
from numpy.random import normal

RNG = np.random.default_rng(0)


def noise(key, item):
    import helpers_of_mine
    return {"a": RNG.normal(), "b": np.random.normal(), "c": normal() + gauss(0, 1), "d": helpers_of_mine.RNG.normal()}


if __name__ == "__main__":
    for workers in (Workers(2), Workers(1, are_processes=True), Workers(3, are_processes=True)):
        dataset = DataAugmentationDataset([{"input": 0.0}] * 12, [noise])
        feed = feed_of(Subset("s", Mode.EVAL, dataset), residency="stream", put=dict, room=lambda: 0)
        feed.workers = workers
        columns = feed.cycle(3).take(lambda _: 4).columns
        print({name: values.ravel().tolist() for name, values in sorted(columns.items())})
"""


def test_what_a_script_draws_in_processes_is_what_it_draws_in_threads(tmp_path):
    (tmp_path / "helpers_of_mine.py").write_text("import numpy as np\nRNG = np.random.default_rng(5)\n")
    (tmp_path / "script.py").write_text(SCRIPT)
    path = os.pathsep.join([os.getcwd(), *filter(None, sys.path)])
    command = [sys.executable, str(tmp_path / "script.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": path})

    threads, one, three = done.stdout.splitlines()
    assert threads == one == three
    assert all(len(set(values)) == 12 for values in ast.literal_eval(threads).values())


def test_what_cannot_come_back_is_named():
    class Locked(Rows):
        def query_item(self, key):
            return {"x": np.float32(0), "lock": threading.Lock()}

    with pytest.raises(DatasetError, match="The items of subset 's' cannot be sent back from a worker process"):
        drawn(Subset("s", Mode.EVAL, Locked(4)))()


class Places(Rows):
    """Items that tell which process read them."""

    def query_item(self, key):
        return {"pid": np.int64(os.getpid())}


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@NEEDS_PROC
def test_processes_end_with_the_feed_that_started_them():
    feed = feed_for(Subset("s", Mode.EVAL, Places(4)), workers=TWO)
    pids = set(feed.cycle(2).take(lambda _: 2).columns["batch_pid"].tolist())
    assert pids
    assert os.getpid() not in pids
    del feed

    deadline = time.monotonic() + 20
    while any(map(is_running, pids)) and time.monotonic() < deadline:
        threading.Event().wait(0.05)
    assert not any(map(is_running, pids))


KILLED = """
import os, signal
from experimentator.feed import feed_of
from experimentator.loading.processes import _is_stopped
from tests.test_processes import TWO, Places
from experimentator import Mode, Subset

feed = feed_of(Subset("s", Mode.EVAL, Places(4)), residency="stream", put=dict, room=lambda: 0)
feed.workers = TWO
pids = set(feed.cycle(2).take(lambda _: 2).columns["batch_pid"].tolist())
print(*pids, flush=True)
{first}
os.kill(os.getpid(), signal.SIGKILL)
"""
FREEZE = """
for pid in pids:
    while not _is_stopped(pid):  # which the end of a thread that read undoes
        os.kill(pid, signal.SIGSTOP)
"""


@NEEDS_PROC
@pytest.mark.parametrize("first", ["", pytest.param(FREEZE, marks=ONLY_LINUX)], ids=["running", "stopped"])
def test_processes_end_soon_after_a_training_that_is_killed(first):
    text = KILLED.format(first=first)
    done = subprocess.run([sys.executable, "-c", text], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert done.stdout
    deadline = time.monotonic() + 10
    while any(map(is_running, done.stdout.split())) and time.monotonic() < deadline:
        threading.Event().wait(0.05)
    assert not any(map(is_running, done.stdout.split()))


def test_processes_stay_from_epoch_to_epoch_for_subsets_of_every_kind():
    items = [{"x": np.float32(n), "odd": n % 2} for n in range(8)]
    balanced = BalancedSubset("b", Mode.TRAIN, Rows(8), by=lambda key: key < "row 2")
    both = CombinedSubset("c", Mode.TRAIN, [Subset("p", Mode.TRAIN, items), Subset("q", Mode.TRAIN, items)], [3, 1])
    for subset in (balanced, both):
        feed, seen = feed_for(subset), set()
        feed.workers = Workers(1, are_processes=True)
        for subset.epoch in range(3):
            assert feed.cycle(4).take(lambda _: 2) is not None
            seen.add(id(feed.processes))
        assert len(seen) == 1


HANGING = """
import signal, threading
from concurrent.futures import wait
from experimentator.feed import feed_of
from experimentator.loading.workers import Workers
from tests.test_processes import Rows
from experimentator import Mode, Subset

class Hanging(Rows):
    def query_item(self, key):
        return threading.Event().wait() if key == "row 3" else super().query_item(key)

if __name__ == "__main__":
    feed = feed_of(Subset("s", Mode.EVAL, Hanging(8)), residency="stream", put=dict, room=lambda: 0)
    feed.workers = Workers(2, are_processes={are_processes})
    cycle = feed.cycle(2)
    cycle.ahead = lambda _: 4
    making = cycle.begin()
    pool = cycle.pool
    wait([pool.submit(lambda: None)])
    cycle.close()
    raise SystemExit(143)
"""


@pytest.mark.parametrize("are_processes", [False, True])
def test_python_ends_while_an_item_hangs(are_processes, tmp_path):
    (tmp_path / "script.py").write_text(HANGING.format(are_processes=are_processes))
    child = subprocess.Popen([sys.executable, tmp_path / "script.py"], env={**os.environ, "PYTHONPATH": str(ROOT)})
    try:
        assert child.wait(60) == 143
    finally:
        child.kill()
        child.wait()
