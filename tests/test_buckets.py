"""Items of many lengths in batches of a few: which batches there are, and what they hold."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import combinations, pairwise
from typing import Any, NamedTuple

import keras
import mlworkflow
import numpy as np
import pytest
from hypothesis import strategies as st

from experimentator import (
    Buckets,
    CombinedSubset,
    DatasetError,
    FilteredSubset,
    Mode,
    Subset,
    bucket_sizes,
    build_experiment,
    chunk_processor,
    item_random,
)
from experimentator.diagnosis import bad_data
from experimentator.loading.blocks import Spec, items_like
from experimentator.loading.workers import Workers
from tests.drawing import Sequences
from tests.stand_ins import feed_for, law

SIZES = [2, 5, 9]


def bucketed(lengths: Any, mode: Mode = Mode.EVAL, **options: Any) -> Subset:
    return Subset("s", mode, Sequences(lengths), **{"buckets": {"n": SIZES}, **options})


def taken(feed: Any, batch_size: int, counts: Any = (), skip: int = 0) -> list[tuple[tuple[Any, ...], int]]:
    """The keys of each batch and the length it has, each item checked."""
    cycle, counts, batches = feed.cycle(batch_size), iter(counts), []
    cycle.skip(skip)
    while (block := cycle.take(lambda _: next(counts, 3))) is not None:
        for keys, rows, objects in zip(block.keys, block.index, block.objects["batch_path"], strict=True):
            values = block.columns["batch_n"][rows]
            size = values.shape[1]
            assert [one.tolist() for one in values] == [[*range(1, n + 1)] + [0] * (size - n) for _, n in keys]
            assert objects == tuple(f"/{number}" for number, _ in keys)
            assert block.columns["batch_number"][rows].tolist() == [number for number, _ in keys]
            batches.append((keys, size))
    return batches


def least(length: int) -> int:
    return next(size for size in SIZES if size >= length)


@law(
    st.lists(st.integers(0, 9), min_size=1, max_size=60), st.sampled_from([Mode.TRAIN, Mode.EVAL]), st.integers(1, 9),
    st.lists(st.integers(1, 5)), st.integers(1, 2),
)  # fmt: skip
def test_every_batch_is_of_one_length_and_only_one_of_each_holds_items_of_a_smaller(lengths, mode, size, counts, times):
    subset = bucketed(lengths, mode, repetitions=times)
    batches = taken(feed_for(subset), size, counts)
    count = times * len(lengths)
    drops = mode == Mode.TRAIN and count >= size

    assert len(batches) == (count // size if drops else -(-count // size))
    assert [len(keys) for keys, _ in batches[:-1]] == [size] * (len(batches) - 1)
    seen = sorted(key for keys, _ in batches for key in keys)
    if not drops:
        assert seen == sorted(subset.keys * times)
    assert all(seen.count(key) <= times for key in subset.keys)
    for bucket in SIZES:
        here = [keys for keys, length in batches if length == bucket]
        assert all(least(n) <= bucket for keys in here for _, n in keys)
        assert sum(any(least(n) < bucket for _, n in keys) for keys in here) <= 1
    for residency, workers in (("host", None), ("device", None), ("stream", Workers(3))):
        assert taken(feed_for(subset, residency, workers), size, counts) == batches


@law(
    st.lists(st.integers(0, 9), min_size=1, max_size=60), st.sampled_from([Mode.TRAIN, Mode.EVAL]),
    st.tuples(*[st.integers(1, 7)] * 3), st.lists(st.integers(1, 5)),
)  # fmt: skip
def test_each_bucket_may_have_a_batch_size_of_its_own(lengths, mode, sizes, counts):
    subset = bucketed(lengths, mode, buckets=Buckets({"n": SIZES}, batch_sizes=sizes))
    feed = feed_for(subset, "host")
    batches = taken(feed, 1, counts)

    assert [len(keys) for keys, _ in batches[:-1]] == [sizes[SIZES.index(length)] for _, length in batches[:-1]]
    seen = sorted(key for keys, _ in batches for key in keys)
    if mode == Mode.EVAL:
        assert seen == sorted(subset.keys)
    largest = sizes[SIZES.index(max(least(n) for n in lengths))]
    assert len(lengths) - largest < len(seen)
    assert len(set(seen)) == len(seen)
    assert taken(feed, 1, counts, skip=len(batches) // 2) == batches[len(batches) // 2 :]


@law(st.lists(st.integers(0, 9), min_size=1, max_size=60), st.integers(1, 5), st.integers(0, 30), st.booleans())
def test_a_pass_begins_behind_the_batches_that_were_done(lengths, size, skip, streams):
    feed = feed_for(bucketed(lengths, Mode.TRAIN), "stream" if streams else "host")
    whole = taken(feed, size)

    assert taken(feed, size, [2, 1], skip=min(skip, len(whole))) == whole[min(skip, len(whole)) :]


@law(st.lists(st.integers(0, 9), min_size=1, max_size=40), st.integers(1, 5), st.sampled_from([Mode.TRAIN, Mode.EVAL]))
def test_a_single_bucket_pads_to_it_and_leaves_the_order_as_it_is(lengths, size, mode):
    subset = bucketed(lengths, mode, buckets={"n": [9]})
    plain = [keys for keys, _ in subset.batches(size)]

    assert taken(feed_for(subset), size) == [(keys, 9) for keys in plain]


def test_lengths_alternate_in_runs_within_an_epoch_and_otherwise_the_next():
    subset = bucketed([1, 4, 8] * 64, Mode.TRAIN)
    epochs = []
    for subset.epoch in range(2):
        epochs.append([length for _, length in taken(feed_for(subset), 2)])
    changes = [sum(a != b for a, b in pairwise(one)) for one in epochs]

    assert epochs[0] != epochs[1]
    assert all(5 <= change <= 11 for change in changes)  # of 12 runs of 8 batches, some beside one of the same length


def test_every_item_has_its_turn_and_no_length_a_place_of_its_own():
    subset = bucketed([1] * 40 + [4] * 6 + [8] * 3, Mode.TRAIN)
    feed, seen, places = feed_for(subset, "host"), Counter(), defaultdict(list)
    for subset.epoch in range(200):
        batches = taken(feed, 4)
        assert len(batches) == 49 // 4
        seen.update(key for keys, _ in batches for key in keys)
        for place, (_, length) in enumerate(batches):
            places[length].append(place / (len(batches) - 1))

    assert min(seen[key] for key in subset.keys) > 180  # of 200; one of 49 is left out each time
    assert all(0.4 < np.mean(places[length]) < 0.6 for length in SIZES)


def test_large_batches_of_large_items_lose_no_more_than_a_rest_and_no_item_for_ever():
    for batch_sizes, counts, least_share in (([4, 64, 1], (100, 60), 1.0), ([8, 16, 32], (493, 314, 147), 0.5)):
        lengths = [n for n, count in zip((1, 4, 8), counts, strict=False) for _ in range(count)]
        subset = bucketed(lengths, Mode.TRAIN, buckets=Buckets({"n": SIZES}, batch_sizes=batch_sizes))
        feed, seen = feed_for(subset, "host"), Counter()
        for subset.epoch in range(30):
            batches = taken(feed, 4)
            assert len(lengths) - max(batch_sizes) < sum(len(keys) for keys, _ in batches)
            seen.update(key for keys, _ in batches for key in keys)
        assert min(seen[key] for key in subset.keys) >= 30 * least_share


def batches_of(subset: Subset, batch_size: int) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    cycle = feed_for(subset).cycle(batch_size)
    while (block := cycle.take(lambda _: 1)) is not None:
        yield block.keys[0], {name: column[block.index[0]] for name, column in block.columns.items()}


def test_sizes_need_not_hold_each_other():
    wide, high = {"image": np.ones((2, 4), "float32")}, {"image": np.ones((4, 2), "float32")}
    items = [wide, high, wide, high, wide, {"image": np.ones((1, 1), "float32")}]
    buckets = Buckets({"image": [(2, 4), (4, 2)]})
    subset = Subset("s", Mode.EVAL, items, buckets=buckets)

    assert [(keys, batch["batch_image"].shape) for keys, batch in batches_of(subset, 2)] == [
        ((0, 2), (2, 2, 4)),
        ((4, 5), (2, 2, 4)),
        ((1, 3), (2, 4, 2)),
    ]
    assert buckets.whole().sizes == {"image": ((4, 4),)}
    for mode, sizes in ((Mode.EVAL, [2, 1, 2, 1]), (Mode.TRAIN, [2, 2])):
        subset = Subset("s", mode, items[:4] + items[:2], buckets=buckets)
        assert sorted(len(keys) for keys, _ in batches_of(subset, 2)) == sorted(sizes)
    few = Subset("s", Mode.TRAIN, [wide] * 4 + [high], buckets=buckets)  # too few for a batch: one of their own
    assert sorted(len(keys) for keys, _ in batches_of(few, 2)) == [1, 2, 2]


def test_one_name_may_stay_as_it_is():
    items = [{"n": [1] * n, "m": [1] * m} for n, m in ((2, 3), (4, 1))]
    subset = Subset("s", Mode.EVAL, items, buckets={"n": [2, 4], "m": [3, 3]})

    assert [batch["batch_m"].shape for _, batch in subset.batches(1)] == [(1, 3), (1, 3)]


def test_draws_of_an_evaluation_are_those_that_sizes_were_read_with():
    class Drawn(Sequences):
        def query_item(self, key):
            return super().query_item((key[0], int(item_random().integers(1, 10))))

    loss = chunk_processor(inputs=["batch_n"], outputs=["loss"])(lambda n: keras.ops.sum(n))
    settings = {"residency": "stream", "seed": 5, "batch_size": 4, "hide_progress": True, "chunk_processors": [loss]}
    exp = build_experiment({"subsets": [Subset("s", Mode.EVAL, Drawn([0] * 30), buckets={"n": SIZES})], **settings})

    assert exp.evaluate() == exp.evaluate()


def test_another_seed_or_mode_draws_other_sizes_which_are_asked_anew():
    class Drawn(Sequences):
        def query_item(self, key):
            return super().query_item((key[0], int(item_random().integers(1, 10))))

    loss = chunk_processor(inputs=["batch_n"], outputs=["loss"])(lambda n: keras.ops.sum(n))
    settings = {"residency": "stream", "batch_size": 4, "hide_progress": True, "chunk_processors": [loss]}
    subset = Subset("s", Mode.EVAL, Drawn([0] * 30), buckets={"n": SIZES})
    exp = build_experiment({"subsets": [subset], **settings})
    losses = []
    for exp.seed in (1, 2, 1):
        losses.append(exp.evaluate()["s_loss"])

    assert losses[0] == losses[2] != losses[1]


@pytest.mark.parametrize("residency", ["host", "stream"])
@pytest.mark.parametrize("has", [lambda n: n < 3, lambda n: n > 3])
@pytest.mark.parametrize("value", ["text", 7])
def test_a_name_that_only_some_lengths_have_is_told(residency, has, value):
    items = [{"n": [1] * n, **({"extra": value} if has(n) else {})} for n in (1, 4)]
    feed = lambda: feed_for(Subset("s", Mode.EVAL, items, buckets={"n": SIZES}), residency).cycle(1)  # noqa: E731
    with pytest.raises(DatasetError, match=r"Key 1 of subset 's' has other names than key 0: extra"):
        drained(feed)


def drained(begin: Any) -> None:
    cycle = begin()
    while cycle.take(lambda _: 1) is not None:
        pass


def test_items_that_fit_no_bucket_together_are_looked_at_in_one_that_holds_all():
    items = [{"n": np.ones((2, 4))}, {"n": np.ones((4, 2))}]
    subset = Subset("s", Mode.EVAL, items, buckets={"n": np.array([[2, 4], [4, 2]])})

    assert subset.batch([0, 1])["batch_n"].shape == (2, 4, 4)


def test_what_is_not_finite_is_found_in_every_length():
    items = [{"n": np.full(n, np.nan if n == 8 else 1.0, "float32")} for n in (1, 8)]
    loss = chunk_processor(inputs=["batch_n"], outputs=["loss"])(lambda n: keras.ops.sum(n))
    subset = Subset("s", Mode.TRAIN, items, buckets={"n": SIZES})
    exp = build_experiment({"subsets": [subset], "chunk_processors": [loss], "hide_progress": True})

    (said,) = bad_data(exp)
    assert "'batch_n' holds NaN" in said
    assert "key 1" in said


def test_an_order_of_ones_own_rules_within_each_length():
    subset = bucketed([1, 8, 1, 8, 1, 8], Mode.TRAIN)
    subset.shuffled_keys = lambda: subset.keys[::-1]

    assert taken(feed_for(subset), 3) == [(((5, 8), (3, 8), (1, 8)), 9), (((4, 1), (2, 1), (0, 1)), 2)]


def test_a_batch_to_look_at_has_the_least_length_that_holds_it():
    subset = bucketed([1, 2, 4, 3])

    assert [batch["batch_n"].tolist() for _, batch in subset.batches(2)] == [
        [[1, 0], [1, 2]],
        [[1, 2, 3, 4, 0], [1, 2, 3, 0, 0]],
    ]
    assert subset.sample()[1]["batch_n"].shape == (1, 9)


def test_what_stands_for_a_batch_of_a_bucket_is_one_item_that_fits_there():
    items = {length: {"n": np.ones(length), "length": np.int32(length)} for length in [8, 7, 4, 1]}
    subset = Subset("s", Mode.EVAL, items, buckets={"n": SIZES})
    found = [
        items_like(
            {"batch_n": Spec((None, size), np.dtype("float64")), "batch_length": Spec((None,), np.dtype("int32"))},
            [subset],
            2,
        )
        for size in SIZES
    ]

    assert [batch["batch_n"].shape for batch in found] == [(2, size) for size in SIZES]
    assert [batch["batch_length"].tolist() for batch in found] == [[1, 1], [4, 4], [8, 8]]


def test_by_tells_lengths_without_reading():
    subset = bucketed([1, 9, 3], buckets=Buckets({"n": SIZES}, by=lambda key: key[1]))
    feed = feed_for(subset)
    assert len(subset.dataset.read) == 1  # the sample

    assert sorted(length for _, length in taken(feed, 1)) == [2, 5, 9]


class Key(NamedTuple):
    name: str
    length: int


def test_by_may_be_a_field_of_the_key_and_fill_another_number():
    items = {Key("a", 1): {"batch": [7]}, Key("b", 2): {"batch": [7, 7]}}
    subset = Subset("s", Mode.EVAL, items, buckets=Buckets({"batch": [1, 3]}, by="length", fill={"batch": -1}))

    assert subset.batch(subset.keys)["batch_batch"].tolist() == [[7, -1, -1], [7, 7, -1]]


def test_several_names_and_several_axes():
    items = [{"image": np.ones((n, 2 * n, 3), np.uint8), "caption": [1] * n} for n in (1, 2, 3, 2)]
    buckets = {"batch_image": [(2, 4), (3, 8)], "caption": [1, 4]}
    feed = feed_for(Subset("s", Mode.EVAL, items, buckets=buckets), "host")
    block = feed.cycle(2).take(lambda _: 9)

    assert list(block.keys) == [(0, 1), (2, 3)]
    assert block.columns["batch_image"].shape == (4, 3, 8, 3)
    assert block.columns["batch_caption"].tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 0, 0]]
    by = Buckets(buckets, by=lambda key: ((key, 2 * key), key))
    assert [by.asked(by.by(n), n, subset="s") for n in (1, 2, 3)] == [0, 1, 1]


def test_what_is_left_out_every_time_is_in_no_batch():
    class Odd(Sequences):
        def query_item(self, key):
            return super().query_item(key) if key[0] % 2 else None

    subset = Subset("s", Mode.EVAL, Odd([1, 2, 3, 4, 5, 6]), buckets={"n": SIZES})
    expected = [(((1, 2), (3, 4)), 5), (((5, 6),), 9)]

    assert taken(feed_for(subset), 2) == taken(feed_for(subset, "host"), 2) == expected


def test_in_other_processes_it_is_the_same():
    subset = bucketed([1, 9, 3, 4, 2, 2, 5])

    assert taken(feed_for(subset, "stream", Workers(2, are_processes=True)), 2) == taken(feed_for(subset), 2)


def test_chosen_and_combined_subsets_have_them_too():
    chosen = FilteredSubset(
        "s", Mode.EVAL, Sequences([1, 9, 3]), predicate=lambda key: key[1] > 1, buckets={"n": SIZES}
    )
    assert sorted(length for _, length in taken(feed_for(chosen), 1)) == [5, 9]

    parts = [
        Subset(name, Mode.TRAIN, [{"n": [1] * n} for n in lengths]) for name, lengths in (("a", [1, 2]), ("b", [7]))
    ]
    both = CombinedSubset("both", Mode.TRAIN, parts, buckets={"n": SIZES})
    assert sorted(batch["batch_n"].shape[1] for _, batch in both.batches(1)) == [2, 2, 9]


def test_buckets_may_be_assigned():
    loss = chunk_processor(inputs=["batch_n"], outputs=["loss"])(lambda n: keras.ops.sum(n))
    exp = build_experiment({"subsets": [bucketed([1, 2])], "chunk_processors": [loss], "hide_progress": True})
    assert exp.evaluate() == {"s_loss": 1 + 1 + 2}
    exp.subset("s").buckets = Buckets({"n": [2]}, fill=5)
    assert exp.evaluate() == {"s_loss": 1 + 5 + 1 + 2}
    exp.subset("s").buckets = None
    with pytest.raises(DatasetError, match="one shape in key"):
        exp.evaluate()


def test_buckets_that_are_taken_away_leave_items_of_one_shape_on_the_device():
    loss = chunk_processor(inputs=["batch_n"], outputs=["loss"])(lambda n: keras.ops.sum(n))
    subset = Subset("s", Mode.EVAL, [{"n": [1, 1]}, {"n": [1, 1]}], buckets={"n": [3]})
    exp = build_experiment({"subsets": [subset], "chunk_processors": [loss], "hide_progress": True})
    assert exp.evaluate() == {"s_loss": 4}
    subset.buckets = None

    assert exp.evaluate() == {"s_loss": 4}


def test_parts_of_a_combination_leave_buckets_to_it():
    part = Subset("a", Mode.TRAIN, [{"n": [1]}], buckets={"n": [2]})
    with pytest.raises(DatasetError, match=r"Part 'a' of subset 'both' has buckets.\nSeen: n 2.\nGive them to the"):
        CombinedSubset("both", Mode.TRAIN, [part])


@law(st.lists(st.integers(0, 12), min_size=1, max_size=30), st.integers(1, 4), st.sampled_from([1, 2, 5]))
def test_sizes_that_are_found_leave_the_least_padding(lengths, count, multiple):
    def padded(sizes):
        return sum(next(size for size in sizes if size >= length) for length in lengths)

    found = bucket_sizes(lengths, count, multiple_of=multiple)
    possible = range(multiple, 16, multiple)
    fit = [sizes for n in range(1, count + 1) for sizes in combinations(possible, n) if sizes[-1] >= max(lengths)]

    assert padded(found) == min(map(padded, fit))
    assert len(found) <= count
    assert Buckets({"n": found}).count == len(found)


def test_lengths_that_are_none_are_told():
    for given in ([], [1.5], ["a"]):
        with pytest.raises(DatasetError, match="bucket_sizes needs lengths from 0 on"):
            bucket_sizes(given, 3)
    with pytest.raises(DatasetError, match="count=0"):
        bucket_sizes([1], 0)


# What is refused


@pytest.mark.parametrize("sizes", [[4, 4], [4, 4, 0], [4, 4, 1.5], 4, "abc"])
def test_batch_sizes_that_are_none_are_told(sizes):
    with pytest.raises(DatasetError, match=r"no whole numbers above 0, one for each.\nSeen: .*\nWrite 3 of them"):
        Buckets({"n": SIZES}, batch_sizes=sizes)


@pytest.mark.parametrize(
    "sizes, told",
    [
        ({"n": [4, 4]}, r"The bucket of 4 would stay empty: one before it is as large.\nSeen: n 4, 4.\nWrite buckets="),
        ({"n": [8, 4]}, "The bucket of 4 would stay empty"),
        ({"n": [(2, 4), (2, 3)]}, "The bucket of 2 x 3 would stay empty"),
        ({"n": []}, r"The buckets of 'n' are no sizes.\nSeen: \[\].\nEach is a whole number above 0, or a tuple"),
        ({"n": 4}, "are no sizes"),
        ({"n": [0, 4]}, "are no sizes"),
        ({"n": [1.5]}, "are no sizes"),
        ({"n": [float("inf")]}, "are no sizes"),
        ({"n": [2, (4, 2)]}, "are no sizes"),
        ({"n": [2], "m": [2, 3]}, r"equally many sizes for each name.\nSeen: n: 1, m: 2"),
        ({"n": [2], "batch_n": [3]}, r"Buckets name 'n' twice.\nSeen: n, batch_n"),
        ({}, r"which sizes each name is padded to.\nSeen: {}"),
        ([2, 4], r"which sizes each name is padded to.\nSeen: \[2, 4\]"),
        ({1: [2]}, "which sizes each name is padded to"),
    ],
)
def test_sizes_that_are_none_are_told(sizes, told):
    for make in (Buckets, lambda sizes: bucketed([1], buckets=sizes)):
        with pytest.raises(DatasetError, match=told):
            make(sizes)


@pytest.mark.parametrize(
    "fill, told",
    [
        ("x", r"`fill` is no number.\nSeen: 'x'.\nGive a number, or one for each of n"),
        ([1, 2], "`fill` is no number"),
        (None, "`fill` is no number"),
        ({"m": 1}, r"`fill` of buckets names 'm', which they do not.\nSeen: {'m': 1}"),
    ],
)
def test_a_fill_that_is_none_is_told(fill, told):
    with pytest.raises(DatasetError, match=told):
        Buckets({"n": SIZES}, fill=fill)


@pytest.mark.parametrize("fill, dtype", [(0.5, "int32"), (-1, "uint8"), (float("nan"), "int64"), (300, "uint8")])
def test_a_fill_that_items_cannot_hold_is_told(fill, dtype):
    buckets = Buckets({"n": [3]}, fill=fill)
    with pytest.raises(DatasetError, match=rf"`fill` of 'n' in buckets is no {dtype}.\nSeen: fill={fill}"):
        Subset("s", Mode.EVAL, [{"n": np.ones(2, dtype)}], buckets=buckets).batch([0])
    assert (
        Subset("s", Mode.EVAL, [{"n": np.ones(2, "float32")}], buckets=buckets).batch([0])["batch_n"].dtype == "float32"
    )


@pytest.mark.parametrize("residency", ["host", "stream"])
@pytest.mark.parametrize(
    "buckets, told",
    [
        (
            {"n": [2, 5]},
            r"Key \(1, 9\) of subset 's' fits in no bucket.\nSeen: n 9, where buckets have n 2 or 5.\nAdd",
        ),
        ({"m": [2]}, r"pad 'm', no array of 1 axes in key \(0, 1\).\nSeen: no such name; the item has n, path, number"),
        ({"number": [2]}, r"pad 'number', no array of 1 axes in key \(0, 1\).\nSeen: np.int32\(0\); the item"),
    ],
)
def test_items_that_fit_no_bucket_are_told(residency, buckets, told):
    subset = bucketed([1, 9], buckets=buckets)
    with pytest.raises(DatasetError, match=told):
        taken(feed_for(subset, residency), 1)


@pytest.mark.parametrize("residency", ["host", "stream"])
def test_what_varies_beside_them_is_named(residency):
    class Masked(Sequences):
        def query_item(self, key):
            return {**super().query_item(key), "mask": [True] * key[1]}

    subset = Subset("s", Mode.EVAL, Masked([1, 4]), buckets={"n": SIZES})
    with pytest.raises(
        DatasetError, match=r"'mask' varies in subset 's', and its buckets do not name it.\n.*\nName it, too"
    ):
        taken(feed_for(subset, residency), 1)


@pytest.mark.parametrize("residency", ["host", "stream"])
def test_axes_that_vary_unnamed_are_told(residency):
    items = [{"n": np.ones(shape)} for shape in ((1, 2), (2, 3))]
    subset = Subset("s", Mode.EVAL, items, buckets={"n": [2, 4]})
    with pytest.raises(
        DatasetError, match=r"'n' varies in more axes of subset 's' .*\n.*\nSay .* {'n': \[\(2, 8\), \(4, 8\)\]}"
    ):
        feed_for(subset, residency).cycle(1).take(lambda _: 9)


def test_a_by_that_gives_no_size_is_told():
    with pytest.raises(
        DatasetError, match=r"`by` of the buckets of subset 's' gives no size for key \(0, 1\).\nSeen: 'x'"
    ):
        feed_for(bucketed([1], buckets=Buckets({"n": SIZES}, by=lambda key: "x"))).cycle(1)


def test_items_that_are_larger_than_was_said_are_told():
    subset = bucketed([9, 9], buckets=Buckets({"n": SIZES}, by=lambda key: 3))
    for residency in ("host", "stream"):
        with pytest.raises(
            DatasetError, match=r"'n' of key \(0, 9\) of .* larger than what `by` .*\nSeen: 9, .* bucket of 5"
        ):
            taken(feed_for(subset, residency), 2)


def test_items_of_another_length_every_time_need_by():
    class Drawn(Sequences):
        def query_item(self, key):
            return super().query_item((key[0], int(item_random().integers(1, 10))))

    subset = Subset("s", Mode.TRAIN, Drawn([0] * 40), buckets={"n": SIZES})
    subset.epoch = 1
    with pytest.raises(DatasetError, match=r"larger than when it was read for its size.*\n.*\nLet `by` give"):
        list(batches_of(subset, 4))
    subset.buckets = Buckets({"n": SIZES}, by=lambda key: 9)
    block = feed_for(subset).cycle(40).take(lambda _: 1)
    assert block.columns["batch_n"].shape == (40, 9)


def test_what_is_left_out_by_chance_is_told():
    class Drawn(Sequences):
        def query_item(self, key):
            return super().query_item(key) if item_random().uniform() < 0.5 else None

    subset = Subset("s", Mode.TRAIN, Drawn([1] * 40), buckets={"n": SIZES})
    subset.epoch = 1
    with pytest.raises(DatasetError, match=r"left out in some passes only, or .*\nSeen: None for key \(\d+, 1\)"):
        taken(feed_for(subset), 4)


def test_with_a_batch_of_ones_own_they_are_refused():
    class Own(Subset):
        def batch(self, keys, *, into=None):
            return {"batch_n": np.zeros((len(keys), 3))}

    with pytest.raises(DatasetError, match="has both buckets and a `batch` of its own"):
        feed_for(Own("s", Mode.EVAL, Sequences([1]), buckets={"n": SIZES}))


def test_transforms_of_mlworkflow_see_items_as_they_are():
    parent = mlworkflow.DictDataset({key: {"n": np.ones(key)} for key in (1, 4)})
    dataset = mlworkflow.TransformedDataset(parent, [lambda key, item: {"n": 2 * item["n"]}])
    subset = Subset("s", Mode.EVAL, dataset, buckets={"n": SIZES})

    assert [batch["batch_n"].tolist() for _, batch in subset.batches(1)] == [[[2.0, 0.0]], [[2.0, 2.0, 2.0, 2.0, 0.0]]]


def test_no_thread_that_asks_for_sizes_keeps_a_process_from_ending():
    asking: dict[str, bool] = {}

    class Asked(Sequences):
        def query_item(self, key: int) -> Any:
            thread = threading.current_thread()
            asking[thread.name] = thread.daemon
            return super().query_item(key)

    feed = feed_for(Subset("s", Mode.EVAL, Asked([1, 3, 8] * 9), buckets={"n": SIZES}), workers=Workers(2))
    asking.clear()

    assert len(feed.numbers) == 27
    assert set(asking.values()) == {True}


@pytest.mark.parametrize("residency", ["host", "stream"])
@pytest.mark.parametrize("lists", [[[1, 2], []], [[], [1, 2]]])
def test_an_empty_list_is_one_of_whole_numbers(residency, lists):
    subset = Subset("s", Mode.EVAL, [{"tokens": one} for one in lists], buckets=Buckets({"tokens": [2]}, fill=-1))
    block = feed_for(subset, residency).cycle(2).take(lambda _: 1)

    assert block.columns["batch_tokens"].dtype.kind == "i"
    assert sorted(block.columns["batch_tokens"].tolist()) == [[-1, -1], [1, 2]]
