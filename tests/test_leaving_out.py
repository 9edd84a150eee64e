"""Items that are left out: batches are made of those that follow, however they are fed."""

from __future__ import annotations

import pickle
from contextlib import closing

import mlworkflow
import numpy as np
import pytest
from hypothesis import strategies as st

from experimentator import (
    AsyncExperiment,
    DataAugmentationDataset,
    DatasetError,
    Mode,
    Subset,
    build_experiment,
    chunk_processor,
)
from experimentator.loading.workers import Workers
from tests.stand_ins import feed_for, law


def sieved(count, dropped, mode=Mode.EVAL, wrap=DataAugmentationDataset, **options):
    dataset = wrap(mlworkflow.DictDataset({n: {"n": n, "path": f"/{n}"} for n in range(count)}), [Drop(dropped)])
    return Subset("s", mode, dataset, **options)


class Drop:
    """A transform that leaves keys out."""

    def __init__(self, keys):
        self.keys = keys

    def __call__(self, key, item):
        return None if key in self.keys else item


def taken(subset, residency, batch_size, counts=(), workers=None, skip=0):
    feed = feed_for(subset, residency, workers)
    cycle, counts, batches = feed.cycle(batch_size), iter(counts), []
    cycle.skip(skip)
    while (block := cycle.take(lambda _: next(counts, 1))) is not None:
        for place, row in enumerate(block.index):
            numbers = tuple(np.asarray(block.columns["batch_n"])[row].tolist())
            assert block.keys[place] == numbers
            assert block.objects["batch_path"][place] == tuple(f"/{n}" for n in numbers)
            batches.append(numbers)
    return batches


@pytest.mark.parametrize("residency", ["device", "host"])
def test_a_pass_over_columns_may_be_resumed_where_they_have_no_room(residency):
    subset = sieved(12, {0, 1, 2}, Mode.TRAIN)
    cycle = feed_for(subset, residency).cycle(2)
    streamed = feed_for(subset).cycle(2)
    for _ in range(2):
        cycle.take(lambda _: 1)
    streamed.skip(2, left_out=cycle.left_out)

    assert streamed.take(lambda _: 1).keys[0] == cycle.take(lambda _: 1).keys[0]


@law(
    st.integers(1, 30), st.sets(st.integers(0, 30)), st.sampled_from([Mode.TRAIN, Mode.EVAL]), st.integers(1, 9),
    st.lists(st.integers(1, 5)), st.integers(1, 2),
)  # fmt: skip
def test_what_is_kept_comes_in_order_in_whole_batches_however_it_is_fed(count, dropped, mode, size, counts, times):
    subset = sieved(count, dropped, mode, repetitions=times)
    kept = [key for key in subset.shuffled_keys() if key not in dropped]
    if not kept:
        return
    is_cut = mode == Mode.TRAIN and len(kept) > size
    whole = [tuple(kept[start : start + size]) for start in range(0, len(kept), size)]
    if is_cut and len(whole[-1]) < size:
        whole.pop()

    columns = {residency: taken(subset, residency, size, counts) for residency in ("device", "host")}
    assert list(columns.values()) == [whole, whole]
    assert [keys for keys, _ in subset.batches(size)] == whole
    streamed = [taken(subset, "stream", size, counts, workers) for workers in (None, Workers(3))]
    assert streamed == [whole, whole]


@law(
    st.integers(1, 30), st.sets(st.integers(0, 30)), st.sampled_from([Mode.TRAIN, Mode.EVAL]), st.integers(1, 6),
    st.integers(0, 30), st.sampled_from(["device", "stream"]),
)  # fmt: skip
def test_a_pass_begins_behind_the_batches_that_were_done(count, dropped, mode, size, skip, residency):
    if dropped >= set(range(count)):
        return
    subset = sieved(count, dropped, mode)
    whole = taken(subset, residency, size)

    assert taken(subset, residency, size, [2, 3], skip=min(skip, len(whole))) == whole[min(skip, len(whole)) :]


@law(st.integers(20, 60), st.sets(st.integers(0, 59)), st.integers(1, 4), st.integers(1, 5), st.booleans())
def test_calls_end_where_they_must_though_items_are_left_out(count, dropped, size, stride, is_ahead):
    if dropped >= set(range(count)):
        return
    feed = feed_for(sieved(count, dropped))
    with closing(feed.cycle(size)) as cycle:
        if is_ahead:
            cycle.read_ahead()
        blocks = list(iter(lambda: cycle.take(lambda done: min(4, stride - done % stride)), None))
    ends = np.cumsum([len(block.index) for block in blocks])

    assert set(range(stride, ends[-1] + 1, stride)) <= set(ends.tolist())
    assert sum(block.index.size for block in blocks) == count - len(dropped & set(range(count)))


def test_items_of_a_dataset_that_leaves_out_by_itself_are_read_again():
    class Gaps:
        keys = range(9)

        def query_item(self, key):
            return {"n": key, "path": f"/{key}"} if key % 3 else None

    assert taken(Subset("s", Mode.EVAL, Gaps()), "stream", 2, skip=2) == [(7, 8)]


@pytest.mark.parametrize("wrap", [DataAugmentationDataset, mlworkflow.TransformedDataset])
def test_any_dataset_may_leave_out_in_processes_too(wrap):
    subset = sieved(9, {0, 4}, wrap=wrap)

    assert taken(subset, "stream", 3, [2], Workers(2, are_processes=True)) == [(1, 2, 3), (5, 6, 7), (8,)]


def test_evaluation_averages_what_is_kept_as_an_asynchronous_experiment_reads_it():
    loss = chunk_processor(inputs=["batch_n"], outputs=["loss"])(lambda n: n.mean())
    features = {"experiment_type": [AsyncExperiment], "hide_progress": True, "batch_size": 4, "workers": 3}
    exp = build_experiment({"subsets": [sieved(50, set(range(0, 50, 3)))], "chunk_processors": [loss], **features})

    assert exp.evaluate() == {"s_loss": pytest.approx(np.mean([n for n in range(50) if n % 3]))}


@pytest.mark.parametrize("residency", ["device", "host", "stream"])
def test_a_subset_that_leaves_out_all_is_named(residency):
    with pytest.raises(
        DatasetError, match=r"Subset 's' leaves out every item.\nSeen: None for key 0.\nLet a transform"
    ):
        taken(sieved(5, range(5)), residency, 2)
    with pytest.raises(DatasetError, match="leaves out every item"):
        sieved(5, range(5)).batch([0, 1])


def test_items_are_kept_where_the_dataset_says_that_they_are_always_the_same():
    subset = sieved(9, {0, 4})
    assert feed_for(subset, "auto").place == "streamed"

    subset.dataset.deterministic = True
    assert feed_for(subset, "auto").place == "on the device"
    assert taken(subset, "auto", 3) == [(1, 2, 3), (5, 6, 7), (8,)]


def test_a_transform_of_other_arguments_is_refused():
    subset = Subset("s", Mode.EVAL, DataAugmentationDataset([{"x": 1}], [lambda item: item]))

    with pytest.raises(DatasetError, match=r"does not take \(key, item\).\nSeen: item.\nWrite a function") as caught:
        subset.query_item(0)
    assert str(caught.value).startswith("The transform 'test_a_transform")
    assert caught.value.__notes__ == ["For key 0 of subset 's'."]
    assert pickle.loads(pickle.dumps(caught.value)).__notes__ == caught.value.__notes__  # noqa: S301  # our own


def test_transforms_of_every_kind_are_called():
    class Bound:
        def change(self, key, item, mode, extra=0):
            return {"x": item["x"] + 1}

    transforms = [
        lambda key, item: {"x": item["x"] + 1},
        lambda *given: {"x": given[1]["x"] + 1},
        lambda key, item, *, mode: {"x": item["x"] + (mode == Mode.EVAL)},
        Bound().change,
        None,
    ]
    dataset = DataAugmentationDataset([{"x": 0}], transforms)

    assert Subset("s", Mode.EVAL, dataset).query_item(0) == {"x": 4}
    assert len(dataset.transforms) == 4
