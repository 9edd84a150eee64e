"""The traps of mlworkflow's own classes, each with the real one."""

from __future__ import annotations

from typing import NamedTuple

import mlworkflow
import numpy as np
import pytest

from experimentator import DataAugmentationDataset, DatasetError, FilteredSubset, Mode, Subset
from experimentator.loading.workers import Workers
from tests.stand_ins import feed_for

ITEMS = {n: {"input": np.full(2, n, np.float32), "target": n % 2} for n in range(12)}


class Frame(NamedTuple):
    """A key as users have them."""

    video: str
    number: int


class Doubled(mlworkflow.AugmentedDataset):
    """Two items of each."""

    def augment(self, root_key, root_item):
        for sign in (1, -1):
            yield Frame(root_key, sign), {**root_item, "input": sign * root_item["input"]}


class Generated(mlworkflow.Dataset):
    """Keys from a generator."""

    def __init__(self, *keys):
        self.given = keys

    def yield_keys(self):
        yield from self.given

    def query_item(self, key):
        return {"target": 0 if key is None else 1}


def evaluation(dataset, **options):
    return Subset("validation", Mode.EVAL, dataset, **options)


def passed(subset, batch_size=4, workers=None, residency="stream"):
    """The batches of one pass: keys, and the first number of each input."""
    feed = feed_for(subset, residency, workers)
    cycle = feed.cycle(batch_size)
    blocks = iter(lambda: cycle.take(lambda _: 2), None)
    return [
        (keys, block.columns["batch_input"][rows, 0].tolist())
        for block in blocks
        for keys, rows in zip(block.keys, block.index, strict=True)
    ]


def test_the_length_is_that_of_what_a_filter_keeps():
    filtered = mlworkflow.FilteredDataset(mlworkflow.DictDataset(ITEMS), lambda key, item: item["target"] == 1)

    assert len(filtered) == 12  # mlworkflow's answer
    assert len(evaluation(filtered)) == len(evaluation(DataAugmentationDataset(filtered))) == 6


def test_a_predicate_that_returns_a_numpy_bool_is_told_of_or_works_in_a_filtered_subset():
    def odd(key, item):
        return np.bool_(item["target"] == 1)

    silently_empty = mlworkflow.FilteredDataset(mlworkflow.DictDataset(ITEMS), lambda key: np.bool_(True))
    with pytest.raises(DatasetError, match=r"bool\(...\), or use a FilteredSubset"):
        passed(evaluation(silently_empty))

    kept = FilteredSubset("s", Mode.EVAL, mlworkflow.DictDataset(ITEMS), predicate=odd)
    assert kept.keys == (1, 3, 5, 7, 9, 11)


def test_no_keys_are_no_keys():
    dataset = mlworkflow.DictDataset(ITEMS)
    assert sum(len(keys) for keys, _ in dataset.batches(4, keys=[])) == 12  # mlworkflow's answer

    assert list(evaluation(dataset, keys=[]).batches(4)) == []
    assert list(evaluation(dataset).batches(4, keys=[])) == []


def test_a_key_of_none_ends_nothing():
    dataset = Generated(0, None, 4)
    assert list(Generated(0, None, 4).keys) == [0]  # mlworkflow's answer

    assert evaluation(dataset).keys == (0, None, 4)
    assert evaluation(dataset).batch([0, None])["batch_target"].tolist() == [1, 0]


def test_keys_can_be_cut_before_anybody_asked_for_all():
    with pytest.raises(TypeError):
        Generated(*range(9)).keys[2:5]  # mlworkflow's answer

    assert evaluation(Generated(*range(9))).keys[2:5] == (2, 3, 4)
    assert evaluation(DataAugmentationDataset(Generated(*range(9)))).keys[2:5] == (2, 3, 4)


@pytest.mark.parametrize("residency", ["auto", "device", "host", "stream"])
def test_an_empty_dataset_gives_no_batch_and_is_named(residency):
    empty = mlworkflow.DictDataset({})
    assert [len(keys) for keys in mlworkflow.datasets.chunkify([], 4)] == [0]  # mlworkflow's answer

    assert list(evaluation(empty).batches(4)) == []
    with pytest.raises(DatasetError, match="Subset 'validation' is empty"):
        passed(evaluation(empty), residency=residency)


@pytest.mark.parametrize(
    "odd, wrong",
    [
        ({"input": np.zeros(2), "target": 0, "more": 1}, "has other names than key 0: more"),
        ({"input": np.zeros(2)}, "has other names than key 0: target"),
        ({"input": np.zeros(3), "target": 0}, "'input' has one shape in key 0 .* and another in key 1"),
    ],
)
def test_names_that_differ_and_ragged_arrays_are_named_with_their_key(odd, wrong):
    dataset = mlworkflow.DictDataset({0: {"input": np.zeros(2), "target": 0}, 1: odd})

    with pytest.raises(DatasetError, match=wrong):
        evaluation(dataset).batch([0, 1])


@pytest.mark.parametrize("wrap", [mlworkflow.TransformedDataset, DataAugmentationDataset])
def test_transforms_in_place_do_not_compound_over_cached_items(wrap):
    def tenfold(key, item):
        item["input"] *= 10
        item["target"] = item["target"] + 10
        return item

    cached = mlworkflow.CachedDataset(mlworkflow.DictDataset({0: {"input": np.ones(2), "target": 1}}))
    subset = evaluation(wrap(cached, [tenfold]))
    for _ in range(3):
        batch = subset.batch([0])
        assert (batch["batch_input"].tolist(), batch["batch_target"].tolist()) == ([[10, 10]], [11])


@pytest.mark.parametrize("workers", [None, Workers(4), Workers(2, are_processes=True)])
def test_a_pickled_dataset_is_read_by_several_workers(tmp_path, workers):
    mlworkflow.PickledDataset.create(mlworkflow.DictDataset(ITEMS), str(tmp_path / "items.pickle"))
    dataset = mlworkflow.PickledDataset(str(tmp_path / "items.pickle"))
    batches = passed(evaluation(dataset, repetitions=3), 3, workers)
    dataset.file_handler.close()

    assert [number for _, numbers in batches for number in numbers] == [*range(12)] * 3


def test_an_augmented_dataset_gives_each_of_its_items_in_several_threads():
    dataset = Doubled(mlworkflow.DictDataset(ITEMS))
    batches = passed(evaluation(dataset, repetitions=4), 2, Workers(4))

    assert [(key, value) for keys, values in batches for key, value in zip(keys, values, strict=True)] == [
        (Frame(n, sign), sign * n) for n in range(12) for sign in (1, -1)
    ] * 4


def test_our_datasets_go_into_those_of_mlworkflow_and_back():
    ours = DataAugmentationDataset(
        mlworkflow.DictDataset(ITEMS), [lambda key, item: {**item, "target": item["target"] + 1}]
    )
    theirs = mlworkflow.CachedDataset(mlworkflow.TransformedDataset(ours, [lambda key, item: item]))
    filtered = mlworkflow.FilteredDataset(theirs, lambda key, item: item["target"] == 2)

    assert evaluation(filtered).batch([1, 3])["batch_target"].tolist() == [2, 2]
    assert evaluation(filtered).keys == (1, 3, 5, 7, 9, 11)


def test_a_filter_whose_keys_were_read_may_be_read_by_processes():
    filtered = mlworkflow.FilteredDataset(mlworkflow.DictDataset(ITEMS), lambda key, item: item["target"] == 1)
    keys = list(filtered.keys)

    assert passed(evaluation(filtered, keys=keys[1:]), workers=Workers(1, are_processes=True)) == [
        ((3, 5, 7, 9), [3, 5, 7, 9]),
        ((11,), [11]),
    ]
