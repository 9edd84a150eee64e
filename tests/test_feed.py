"""The batches of a pass: the same ones in the same order however they are fed and in whatever portions."""

from __future__ import annotations

import threading
import time
from contextlib import closing, nullcontext

import numpy as np
import pytest
from hypothesis import strategies as st

from experimentator import AsyncExperiment, DataAugmentationDataset, DatasetError, Mode, Subset, build_experiment
from experimentator import feed as feeds
from experimentator.data.open_files import open_file_in
from experimentator.feed import HostFeed, ResidentFeed, StreamedFeed
from experimentator.loading.blocks import Block, Placing, Rows, specs_of
from experimentator.loading.workers import Workers
from experimentator.pace import Pace
from tests import stand_ins
from tests.stand_ins import arrays, feed_for, law

MODES = st.sampled_from([Mode.TRAIN, Mode.EVAL])


def numbered(count, mode=Mode.TRAIN, **options):
    """Items that carry their own number, as an array and as an object."""
    return Subset("s", mode, [{"n": n, "path": f"/{n}"} for n in range(count)], **options)


def taken(feed, batch_size, counts=()):
    """The batches of one pass as (keys, numbers, paths), in portions of `counts`, then one by one."""
    cycle, counts, batches = feed.cycle(batch_size), iter(counts), []
    while (block := cycle.take(lambda _: next(counts, 1))) is not None:
        for place, row in enumerate(block.index):
            numbers = tuple(np.asarray(block.columns["batch_n"])[row].tolist())
            batches.append((block.keys[place], numbers, block.objects["batch_path"][place]))
    assert len(batches) == cycle.steps
    return batches


# Laws


@law(st.integers(1, 23), st.integers(1, 9), MODES, st.integers(1, 2), st.lists(st.integers(1, 5)))
def test_resident_and_streamed_give_the_same_batches_in_any_portions(count, batch_size, mode, repetitions, counts):
    subset = numbered(count, mode, repetitions=repetitions)

    whole = taken(feed_for(subset, "device"), batch_size)
    assert taken(feed_for(subset, "device"), batch_size, counts) == whole
    assert taken(feed_for(subset, "stream"), batch_size, counts) == whole
    assert all(keys == numbers and paths == tuple(f"/{n}" for n in keys) for keys, numbers, paths in whole)


@law(st.integers(1, 23), st.integers(1, 9), MODES)
def test_training_drops_a_partial_batch_unless_it_is_the_only_one_and_others_never(count, batch_size, mode):
    sizes = [len(keys) for keys, *_ in taken(feed_for(numbered(count, mode), "stream"), batch_size)]

    whole, rest = divmod(count, batch_size)
    kept = rest and (mode == Mode.EVAL or not whole)
    assert sizes == [batch_size] * whole + [rest] * bool(kept)


@law(st.integers(1, 23), st.integers(1, 9), st.integers(1, 30))
def test_a_block_holds_batches_of_one_size(count, batch_size, portion):
    cycle = feed_for(numbered(count, Mode.EVAL), "device").cycle(batch_size)
    blocks = list(iter(lambda: cycle.take(lambda _: portion), None))

    assert all(block.index.dtype == np.int32 and len(block.index) <= portion for block in blocks)
    assert all(len(set(map(len, block.keys))) == 1 for block in blocks)
    assert cycle.take(lambda _: portion) is None


def test_the_epoch_moves_the_order_on_for_a_feed_that_is_kept():
    subset = numbered(20)
    feed = feed_for(subset, "device")
    first = taken(feed, 5)
    subset.epoch = 1

    assert taken(feed, 5) != first
    assert sorted(key for keys, *_ in taken(feed, 5) for key in keys) == list(range(20))


# Residency


def test_known_items_lie_on_the_device_and_others_are_streamed():
    assert isinstance(feed_for(numbered(3), "auto"), ResidentFeed)
    assert isinstance(feed_for(Subset("s", "train", stand_ins.Rows(3)), "auto"), StreamedFeed)
    assert isinstance(feed_for(Subset("s", "train", stand_ins.Rows(3)), "device"), ResidentFeed)
    assert isinstance(feed_for(numbered(3), "stream"), StreamedFeed)


def test_columns_take_at_most_half_the_free_memory_of_device_then_host(monkeypatch):
    subset, size = Subset("s", "train", arrays()), 64 * 16  # 64 points of 3 float32 and an int32

    assert isinstance(feed_for(subset, "auto", room=2 * size), ResidentFeed)
    assert isinstance(feed_for(subset, "auto", room=2 * size - 1), HostFeed)
    monkeypatch.setattr(feeds, "free_host_memory", lambda: 2 * size - 1)
    assert isinstance(feed_for(subset, "auto", room=2 * size - 1), StreamedFeed)
    assert isinstance(feed_for(subset, "host", room=0), HostFeed)


@law(st.integers(1, 40), st.integers(1, 9), st.lists(st.integers(1, 12), max_size=6), MODES, st.integers(0, 3))
def test_every_residency_and_number_of_workers_gives_the_same_batches(count, batch_size, counts, mode, workers):
    subset = numbered(count, mode)
    streamed = feed_for(subset, "stream")
    streamed.workers = Workers.of(workers)

    expected = taken(feed_for(subset, "device"), batch_size, counts)
    assert taken(feed_for(subset, "host"), batch_size, counts) == expected
    assert taken(streamed, batch_size, counts) == expected


def test_draws_of_training_that_are_kept_with_the_items_are_told(caplog):
    jitter = DataAugmentationDataset({"input": np.zeros(4)}, [lambda key, item, random: {"input": random.normal()}])
    plain = DataAugmentationDataset({"input": np.zeros(4)}, [lambda key, item: {"input": 2 * item["input"]}])
    for dataset, mode, residency in (
        (jitter, Mode.TRAIN, "stream"), (jitter, Mode.EVAL, "host"), (plain, Mode.TRAIN, "device")
    ):  # fmt: skip
        feed_for(Subset("training", mode, dataset), residency)
    assert not caplog.text

    feed_for(Subset("training", Mode.TRAIN, jitter), "device")
    assert "all epochs have the same draws" in caplog.text


class Holding:
    """Items by a generator: `drawn` as each is read, else from a table that was drawn before."""

    keys = range(4)

    def __init__(self, drawn):
        self.drawn, self.random = drawn, np.random.default_rng(0)
        self.table = self.random.normal(size=4)

    def query_item(self, key):
        return {"input": self.random.normal() if self.drawn else self.table[key]}


@pytest.mark.parametrize("drawn", [True, False])
def test_draws_are_told_where_items_change_not_where_a_generator_is_held(caplog, drawn):
    held = Holding(drawn)
    add = DataAugmentationDataset({"input": np.zeros(4)}, [lambda key, item: held.query_item(key)])
    for dataset in (held, add):
        caplog.clear()
        feed_for(Subset("training", Mode.TRAIN, dataset), "device")
        assert ("all epochs have the same draws" in caplog.text) == drawn


def test_a_placed_block_has_one_size_and_only_the_names_asked_for():
    for residency in ("host", "stream"):
        feed = feed_for(Subset("s", "train", arrays(0, 10)), residency)
        feed.placing = Placing(("batch_input",), rows=8, put=dict)
        cycle = feed.cycle(2)
        blocks = [cycle.take(lambda _: 4), cycle.take(lambda _: 4)]
        shapes = [{name: column.shape for name, column in block.columns.items()} for block in blocks]
        assert shapes == [{"batch_input": (8, 3)}] * 2


@pytest.mark.parametrize("residency", ["host", "stream"])
def test_a_block_of_the_usual_size_travels_without_padding(residency):
    feed = feed_for(Subset("s", "train", arrays(0, 10)), residency)
    feed.placing = Placing(("batch_input",), rows=8, put=dict, is_fixed=lambda count: count == 2)
    cycle = feed.cycle(2)
    blocks = [cycle.take(lambda _, count=count: count) for count in (2, 1, 2)]

    assert [(len(block.columns["batch_input"]), block.fixed) for block in blocks] == [(4, True), (8, False), (4, True)]


def test_a_worker_that_fails_names_the_key():
    feed = feed_for(Subset("s", "train", stand_ins.Rows(8, fails="row 5")), "stream")
    feed.workers = Workers(2)

    with pytest.raises(DatasetError, match="fails on key 'row 5'"):
        taken(feed, 2, [4])


def test_calls_end_where_they_must_though_blocks_are_begun_ahead():
    exp = AsyncExperiment({"residency": "stream"})
    pace = Pace(20, fixed=4, stride=6)

    with closing(exp.cycle(feed_for(numbered(20, Mode.EVAL), "stream"), 1)) as cycle:
        ends = np.cumsum([len(block.index) for block in iter(lambda: cycle.take(pace.ahead), None)])
    assert ends.tolist() == [4, 6, 10, 12, 16, 18, 20]


class Table:
    """Rows of a file that is opened once: each is sought and read, one at a time if there is a lock."""

    keys = range(40)

    def __init__(self, path, **own):
        self.file = open(path, "rb")  # noqa: SIM115
        vars(self).update(own)

    def query_item(self, key):
        with getattr(self, "lock", nullcontext()):
            self.file.seek(8 * key)
            time.sleep(0.001)  # as a slow disk
            return {"row": np.frombuffer(self.file.read(8), np.int64)[0]}


class Tables:
    """A dataset that holds another one in containers."""

    keys = Table.keys

    def __init__(self, table):
        self.tables = {"all": [table]}

    def query_item(self, key):
        return self.tables["all"][0].query_item(key)


@pytest.mark.parametrize(
    "wrap, own, settings, is_told",
    [
        pytest.param(lambda table: table, {}, {}, True, id="a file"),
        pytest.param(Tables, {}, {}, True, id="in containers"),
        pytest.param(
            lambda table: DataAugmentationDataset(table, [lambda key, item: item]), {}, {}, True, id="wrapped"
        ),
        pytest.param(Tables, {"lock": threading.Lock()}, {}, False, id="a lock"),
        pytest.param(lambda table: [{"row": n} for n in table.keys], {}, {}, False, id="no file"),
        pytest.param(lambda table: table, {}, {"workers": 1}, False, id="workers that are set"),
    ],
)
def test_a_file_that_threads_would_share_is_read_by_one(tmp_path, caplog, monkeypatch, wrap, own, settings, is_told):
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    path = tmp_path / "table.bin"
    path.write_bytes(np.arange(40).tobytes())
    table = Table(path, **own)
    feed = feed_for(Subset("rows", Mode.EVAL, wrap(table)), "stream")

    with table.file, closing(AsyncExperiment({"residency": "stream", **settings}).cycle(feed, 4)) as cycle:
        blocks = list(iter(lambda: cycle.take(lambda _: 1), None))
    assert np.concatenate([block.columns["batch_row"] for block in blocks]).tolist() == [*range(40)]
    assert ("'rows' is read by one thread, since Table.file is an open file" in caplog.text) == is_told


def test_objects_that_answer_for_every_attribute_or_refuse_it_hide_no_file(tmp_path):
    refusing = type("Refusing", (dict,), {"__getattr__": dict.__getitem__})  # KeyError, not AttributeError
    willing = type("Willing", (dict,), {"__getattr__": dict.get})

    path = tmp_path / "rows"
    path.write_bytes(b"")
    table = Table(path, settings=willing(), other=refusing())
    with closing(table.file):
        assert open_file_in(table) == "Table.file"
        assert open_file_in(table.file) == type(table.file).__name__  # a dataset that is a file itself


def test_closing_a_pass_leaves_no_thread():
    before = set(threading.enumerate())
    cycle = AsyncExperiment({"residency": "stream", "workers": 3}).cycle(feed_for(numbered(50), "stream"), 1)
    cycle.take(lambda _: 1)
    started = set(threading.enumerate()) - before
    cycle.close()

    for thread in started:
        thread.join(10)
    assert started
    assert not any(thread.is_alive() for thread in started)


@pytest.mark.parametrize("residency", ["auto", "device", "host", "stream"])
def test_an_empty_subset_is_named(residency):
    with pytest.raises(DatasetError, match="Subset 's' is empty"):
        feed_for(numbered(3, keys=[]), residency)


def test_only_numbers_are_placed_on_the_device():
    placed = []
    feed = feed_for(numbered(4), "device", put=lambda columns: placed.append(dict(columns)) or columns)

    assert [list(columns) for columns in placed] == [["batch_n"]]
    assert list(feed.specs) == ["batch_n"]


def test_arrays_of_words_stay_on_the_host():
    subset = Subset("s", "eval", {"n": np.arange(3), "path": np.array(["/0", "/1", "/2"])})

    assert (
        taken(feed_for(subset, "auto"), 2)
        == taken(feed_for(subset, "stream"), 2)
        == [((0, 1), (0, 1), ("/0", "/1")), ((2,), (2,), ("/2",))]
    )


def test_streaming_reads_each_item_once_and_one_for_its_looks():
    dataset = stand_ins.Rows(6)
    cycle = feed_for(Subset("s", "eval", dataset), "stream").cycle(4)
    while cycle.take(lambda _: 1) is not None:
        pass

    assert dataset.queries == ["row 0", *dataset.keys]


# Items that change on the way


class Changing:
    """Item 0 is a float32; the others are given."""

    def __init__(self, *others, name="x"):
        self.items = [{"x": np.float32(0)}, *({name: value} for value in others)]
        self.keys = range(len(self.items))

    def query_item(self, key):
        return self.items[key]


def streamed(*others, batch_size=1, count=9, **options):
    cycle = feed_for(Subset("s", "eval", Changing(*others, **options)), "stream").cycle(batch_size)
    return [block.columns["batch_x"] for block in iter(lambda: cycle.take(lambda _: count), None)]


@pytest.mark.parametrize("count", [1, 2, 9])
@pytest.mark.parametrize("odd", [np.float64(2), np.zeros(2, np.float32), None, "two", [[1], [1, 2]], 2.5, 2])
def test_a_later_item_of_another_kind_is_named_in_any_portions(odd, count):
    with pytest.raises(DatasetError) as caught:
        streamed(np.float32(1), odd, np.float32(3), count=count)

    assert "key 2" in str(caught.value)
    assert "'s'" in str(caught.value)


@pytest.mark.parametrize("count", [1, 3])
def test_a_later_item_of_a_narrower_dtype_is_widened(count):
    columns = streamed(np.uint8(1), np.float16(0.5), count=count)

    assert {column.dtype for column in columns} == {np.dtype("float32")}
    assert np.concatenate(columns).tolist() == [0, 1, 0.5]


@pytest.mark.parametrize("buckets", [None, {"x": [4, 8]}], ids=["", "buckets"])
@pytest.mark.parametrize("residency", ["auto", "device", "host", "stream"])
def test_an_array_of_another_dtype_is_refused_wherever_items_are(residency, buckets):
    items = {key: {"x": np.zeros(4, "float64" if key == 7 else "float32")} for key in range(9)}
    subset = Subset("s", Mode.EVAL, {-1: None, **items}, buckets=buckets)

    def read():
        cycle = feed_for(subset, residency).cycle(4)
        return list(iter(lambda: cycle.take(lambda _: 1), None))

    with pytest.raises(DatasetError, match="'x' of subset 's' is another kind of value in key 7 than in key 0"):
        read()


def test_kept_items_are_widened_without_loss_and_plain_numbers_are_let_be():
    narrow = feed_for(
        Subset("s", Mode.EVAL, [{"x": np.float32(0.5)}, {"x": np.float16(1)}, {"x": np.uint8(2)}]), "host"
    )
    plain = feed_for(Subset("s", Mode.EVAL, [{"x": 1}, {"x": 0.5}]), "host")

    assert narrow.specs["batch_x"].dtype == np.float32
    assert plain.columns["batch_x"].tolist() == [1, 0.5]


def test_the_message_says_what_was_seen_and_what_to_write():
    with pytest.raises(DatasetError) as caught:
        streamed(np.float32(1), np.float64(2), np.float32(3))

    assert str(caught.value) == (
        "'x' of subset 's' is another kind of value in key 2 than in key 0.\n"
        "Seen: [] float64 against [] float32.\n"
        "Let the dataset give every item one shape and dtype, such as np.float32(...)."
    )


@pytest.mark.parametrize("first", [np.zeros(4), None])
def test_items_that_all_change_shape_are_told_what_to_write(first):
    items = [{"x": np.zeros(2)}, {"x": np.zeros(2)}]
    now = [*items]
    feed = feed_for(Subset("s", Mode.EVAL, DataAugmentationDataset(items, [lambda key, item: now[key]])), "stream")
    now[:] = [first if first is None else {"x": first}, {"x": np.zeros(4)}]

    with pytest.raises(DatasetError, match=r"in key [01] than in key 0") as caught:
        feed.cycle(2).take(lambda _: 1)

    assert ("subset.dataset = subset.dataset" in "".join(getattr(caught.value, "__notes__", []))) == (first is not None)


def test_the_message_shows_the_dtype_of_the_item_and_not_that_of_its_batch():
    items = [{"x": number(1)} for number in (np.float32, np.float32, np.int32)]
    cycle = feed_for(Subset("s", Mode.EVAL, items), "stream").cycle(3)

    with pytest.raises(DatasetError, match=r"in key 2 than in key 0.\nSeen: \[\] int32 against \[\] float32."):
        cycle.take(lambda _: 1)


def test_batches_of_ones_own_that_differ_in_length_are_not_blamed_on_an_item():
    class Padded(Subset):
        def batch(self, keys, **_):
            length = max(map(int, keys)) + 1
            return {"batch_x": np.zeros((len(keys), length), np.float32)}

    cycle = feed_for(Padded("s", "eval", [{"x": 1}] * 6), "stream").cycle(2)
    with pytest.raises(DatasetError) as caught:
        cycle.take(lambda _: 3)

    assert str(caught.value).startswith(
        "Batches of subset 's' are of several shapes: 'batch_x' with key 1 and with key 0."
    )
    assert "Seen: [2] float32 against [1] float32, without the batch axis." in str(caught.value)
    assert "Let its `batch` pad to one length for all." in str(caught.value)


@pytest.mark.parametrize("residency", ["device", "host", "stream"])
def test_batches_of_ones_own_have_a_row_for_each_key(residency):
    class Own(Subset):
        def batch(self, keys, **_):
            return super().batch(keys)

    data = DataAugmentationDataset([{"x": n} for n in range(4)], [lambda key, item: None if key % 4 else item])
    with pytest.raises(DatasetError, match=r"^`batch` of subset 's' gives 1 rows of 'batch_x' for 4 keys\."):
        feed_for(Own("s", "eval", data), residency).cycle(4).take(lambda _: 1)


@pytest.mark.parametrize("count", [1, 9])
def test_a_later_item_without_a_name_is_named(count):
    with pytest.raises(DatasetError, match="Key 1 of subset 's' has other names than key 0: x, y"):
        streamed(np.float32(1), name="y", count=count)


def test_python_numbers_come_as_numpy_makes_them():
    specs = feed_for(Subset("s", "train", [{"i": 1, "f": 0.5, "b": True, "l": [1, 2]}]), "auto").specs

    assert {name: str(spec.dtype) for name, spec in specs.items()} == {
        "batch_i": "int64", "batch_f": "float64", "batch_b": "bool", "batch_l": "int64",
    }  # fmt: skip
    assert specs["batch_l"].shape == (None, 2)


# An order of one's own


class Backwards(Subset):
    def shuffled_keys(self):
        return self.keys[::-1]


@pytest.mark.parametrize("residency", ["device", "stream"])
def test_a_class_may_rule_the_order(residency):
    subset = Backwards("s", Mode.TRAIN, numbered(5).dataset)

    assert [keys for keys, *_ in taken(feed_for(subset, residency), 2)] == [(4, 3), (2, 1)]


@pytest.mark.parametrize("residency", ["device", "stream"])
def test_an_instance_may_rule_the_order_with_repeats_and_gaps(residency):
    subset = numbered(5, keys=[4, 2, 0])
    subset.shuffled_keys = lambda: [2, 2, 0, 2]

    assert [keys for keys, *_ in taken(feed_for(subset, residency), 2)] == [(2, 2), (0, 2)]


@pytest.mark.parametrize(
    "order, wrong",
    [
        ([1, 7], "gives a key that the subset does not have.\nSeen: 7."),
        ([[1]], "gives a key that the subset does not have.\nSeen: "),
        ([], "gives no keys.\nSeen: none out of 5."),
    ],
)
def test_an_order_of_strange_keys_or_none_is_refused(order, wrong):
    subset = numbered(5)
    subset.shuffled_keys = lambda: order
    feed = feed_for(subset, "device")

    with pytest.raises(DatasetError) as caught:
        feed.cycle(2)
    assert f"shuffled_keys() of subset 's' {wrong}" in str(caught.value)


def test_a_type_error_of_the_users_own_order_is_not_hidden():
    subset = numbered(5)
    subset.shuffled_keys = lambda: len(3)
    feed = feed_for(subset, "device")

    with pytest.raises(TypeError, match="has no len"):
        feed.cycle(2)


# Parts


def test_specs_are_of_numeric_arrays_only():
    batch = {"a": np.zeros((2, 3), "u1"), "b": ["x", "y"], "c": np.array(["x", "y"]), "d": np.array([None, 1])}

    assert [(name, spec.shape, str(spec.dtype)) for name, spec in specs_of(batch).items()] == [
        ("a", (None, 3), "uint8")
    ]


def test_rows_are_counted_without_cutting_them():
    assert [Rows(np.arange(10), 4, drop_last=drop).steps for drop in (True, False)] == [2, 3]
    assert Rows(np.arange(3), 4, drop_last=True).take(0, 9).tolist() == [[0, 1, 2]]


def test_a_subset_emptied_after_its_feed_was_made_is_named():
    subset = numbered(3)
    feed = feed_for(subset, "stream")
    subset.keys = []

    with pytest.raises(DatasetError, match="Subset 's' is empty"):
        feed.cycle(2)


def test_keys_of_a_block_are_picked_when_asked_and_no_sooner():
    block = feed_for(numbered(6, Mode.EVAL), "device").cycle(2).take(lambda _: 2)

    assert isinstance(block, Block)
    assert (len(block.keys), block.keys[1], block.keys[-1], list(block.keys)) == (2, (2, 3), (2, 3), [(0, 1), (2, 3)])
    with pytest.raises(IndexError):
        block.keys[2]


class Meeting:
    """Items that are the same every time; the first to read some wait until so many threads do."""

    deterministic = True
    keys = tuple(range(64))

    def __init__(self, together):
        self.barrier, self.met = threading.Barrier(together), threading.Event()

    def query_item(self, key):
        if key and not self.met.is_set():  # the first item is looked at by itself, too
            self.barrier.wait(3)
            self.met.set()
        return None if key % 7 == 3 else {"n": key}


def columns_in(dataset, **options):
    exp = build_experiment({"subsets": [Subset("s", Mode.EVAL, dataset)], "chunk_processors": []} | options)
    return np.asarray(exp.program.feed(exp.subset("s")).columns["batch_n"]).tolist()


def test_columns_are_read_by_as_many_threads_as_a_configuration_asks_for():
    found = [columns_in(Meeting(3), workers=3), columns_in(Meeting(1)), columns_in(Meeting(1), workers="2 processes")]

    assert {tuple(columns) for columns in found} == {tuple(key for key in range(64) if key % 7 != 3)}
    with pytest.raises(DatasetError, match="BrokenBarrierError"):
        columns_in(Meeting(2))


def test_items_for_buckets_in_memory_are_read_by_as_many_threads_as_a_configuration_asks_for():
    def rows(dataset, **options):
        subset = Subset("s", Mode.EVAL, dataset, buckets={"n": [2, 9]})
        exp = build_experiment({"subsets": [subset], "residency": "host", "chunk_processors": []} | options)
        return {n: t["batch_n"].tolist() for n, t in exp.program.feed(exp.subset("s")).by_bucket.items()}

    class Long(Meeting):
        def query_item(self, key):
            item = super().query_item(key)
            return item and {"n": np.full(1 + key % 9, key)}

    found = [rows(Long(3), workers=3), rows(Long(1))]
    assert found[0] == found[1]
    assert set(found[0]) == {0, 1}


@pytest.mark.parametrize("workers", [1, 3])
def test_an_item_that_cannot_be_read_is_named_whoever_reads_it(workers):
    class Fails(Meeting):
        def query_item(self, key):
            return {"n": key} if key != 40 else 1 / 0

    with pytest.raises(DatasetError, match="40"):
        columns_in(Fails(1), workers=workers)
