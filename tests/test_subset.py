"""Which keys a subset uses, in which order, and how they become batches."""

from __future__ import annotations

import re
from collections import Counter
from typing import NamedTuple

import keras
import mlworkflow
import numpy as np
import pytest
from hypothesis import strategies as st

from experimentator import (
    BaseExperiment,
    CombinedSubset,
    ConfigError,
    DataAugmentationDataset,
    DatasetError,
    Mode,
    Subset,
    build_experiment,
    chunk_processor,
)
from experimentator.data.columns import columns_of, is_columnar
from experimentator.feed import feed_of
from experimentator.subset import find
from tests.stand_ins import Rows, arrays, law
from tests.test_experiment import config

ITEMS = {n: {"input": np.full(2, n, np.float32), "target": n % 2} for n in range(6)}


class Frame(NamedTuple):
    """A key as users have them."""

    video: str
    number: int


class Even(mlworkflow.Dataset):
    """Keys come from a generator, as in most datasets people write."""

    def yield_keys(self):
        yield from (0, 2, 4)

    def query_item(self, key):
        return ITEMS[key]


def training(dataset=None, **options):
    return Subset("training", Mode.TRAIN, arrays(0, 10) if dataset is None else dataset, **options)


def place(subset, seed=0, epoch=0):
    subset.seed, subset.epoch = seed, epoch
    return subset


# Order


@law(st.integers(0, 40), st.integers(1, 4), st.integers(0, 99), st.integers(0, 99))
def test_every_key_is_visited_repetitions_times(count, repetitions, seed, epoch):
    subset = place(training(keys=range(count), repetitions=repetitions), seed, epoch)

    assert len(subset) == len(subset.order()) == count * repetitions
    assert Counter(subset.shuffled_keys()) == dict.fromkeys(range(count), repetitions)


@law(st.integers(0, 99), st.text(min_size=1, max_size=5), st.integers(0, 99))
def test_the_order_depends_on_seed_name_and_epoch_only(seed, name, epoch):
    one = place(Subset(name, Mode.TRAIN, arrays(0, 10)), seed, epoch)
    other = place(Subset(name, Mode.TRAIN, ITEMS, keys=range(10)), 5, 5)
    other.order()
    np.random.seed(epoch)

    np.testing.assert_array_equal(one.order(), place(other, seed, epoch).order())


def test_another_seed_name_or_epoch_gives_another_order():
    subsets = [
        place(training(keys=range(99))),
        place(training(keys=range(99)), seed=1),
        place(training(keys=range(99)), 0, 1),
    ]
    subsets.append(Subset("other", Mode.TRAIN, arrays(), keys=range(99)))

    assert len({tuple(subset.order()) for subset in subsets}) == 4


@pytest.mark.parametrize("mode", [Mode.EVAL, Mode.INFER])
def test_only_training_is_shuffled(mode):
    subset = place(Subset("s", mode, arrays(0, 3), repetitions=2), 3, 3)

    assert subset.shuffled_keys() == (0, 1, 2, 0, 1, 2)
    assert not subset.is_training


def test_the_order_of_one_run_is_the_order_of_all_future_versions():
    assert place(training(), seed=1, epoch=2).order().tolist() == [5, 7, 8, 1, 9, 0, 6, 2, 4, 3]


# Keys


def test_without_keys_all_are_used_and_assigning_changes_them():
    subset = training()
    assert subset.keys == tuple(range(10))

    subset.keys = [3, 3, 1]

    assert (subset.keys, len(subset)) == ((3, 3, 1), 3)


@pytest.mark.parametrize("keys", [[], (), iter(())])
def test_no_keys_stay_no_keys_and_are_named_when_used(keys):
    subset = training(mlworkflow.DictDataset(ITEMS), keys=keys)

    assert (subset.keys, len(subset), list(subset.batches(2))) == ((), 0, [])
    with pytest.raises(
        DatasetError, match=r"Subset 'training' is empty.\nSeen: no key to make a batch of.\nGive it keys"
    ):
        subset.batch(subset.keys)


def test_a_predicate_that_returns_numpy_booleans_is_hinted_at():
    by_key = mlworkflow.FilteredDataset(mlworkflow.DictDataset(ITEMS), lambda key: np.bool_(True))
    by_item = mlworkflow.FilteredDataset(mlworkflow.DictDataset(ITEMS), lambda key, item: np.bool_(True))

    with pytest.raises(DatasetError, match=r"'training' is empty.(.|\n)*wrap a numpy result in bool\(...\)"):
        training(by_key).batch(training(by_key).keys)
    with pytest.raises(DatasetError, match=r"fails to list its keys.\nSeen: AssertionError(.|\n)*in bool\(...\)"):
        len(training(by_item))


def test_none_and_named_tuples_are_keys_like_others():
    frame = Frame("a.mp4", 3)
    subset = training(mlworkflow.DictDataset({None: ITEMS[0], frame: ITEMS[1], "last": ITEMS[2]}))

    assert subset.keys == (None, frame, "last")
    assert subset.batch(subset.keys)["batch_target"].tolist() == [0, 1, 0]


def test_a_none_among_generated_keys_ends_nothing():
    class Gaps(Even):
        def yield_keys(self):
            yield from (0, None, 4)

    assert training(Gaps()).keys == (0, None, 4)


def test_a_key_that_is_not_hashable_is_refused_by_subset():
    with pytest.raises(
        DatasetError, match=r"A key of subset 'training' is not hashable.\nSeen: unhashable type: 'list'"
    ):
        training(ITEMS, keys=[[1, 2]])


@pytest.mark.parametrize("mask", [np.arange(5) < 3, [True, True, False, False]])
def test_a_mask_is_no_list_of_keys(mask):
    told = r"'training' has a mask for keys.\nSeen: True, True, .*\nWrite .*np.flatnonzero\(mask\)"
    with pytest.raises(DatasetError, match=told):
        training({"input": np.arange(5)}, keys=mask)


@pytest.mark.parametrize("keys", [100, slice(0, 100), "training"])  # as of `training, validation = split(...)`
def test_what_is_no_list_of_keys_is_refused_by_subset(keys):
    told = rf"Subset 'training' has no list of keys.\nSeen: {re.escape(repr(keys))}.\nWrite one: range"
    with pytest.raises(DatasetError, match=told):
        training(ITEMS, keys=keys)


def test_numpy_keys_are_taken():
    subset = training(ITEMS, keys=np.arange(3))

    assert subset.batch(np.array([0, 2]))["batch_target"].tolist() == [0, 0]


def test_subsets_over_one_dataset_keep_their_keys_to_themselves():
    class Once(Rows):
        def __init__(self):
            super().__init__(4)
            self.keys = (key for key in self.keys)

    dataset = Once()
    one, other = training(dataset), Subset("validation", Mode.EVAL, dataset)
    one.keys = one.keys[:1]

    assert (len(one), len(other)) == (1, 4)


@pytest.mark.parametrize("repetitions", [0, -1, 1.5, "2", None, float("nan"), float("inf")])
def test_repetitions_are_whole_and_positive(repetitions):
    with pytest.raises(ValueError, match=rf"Subset 'training' has repetitions={repetitions!r}. Write a whole number"):
        training(repetitions=repetitions)


@pytest.mark.parametrize("batch_size", [0, -1, 2.5, "4", None])
def test_a_batch_size_is_whole_and_positive(batch_size):
    with pytest.raises(ValueError, match=rf"Subset 'training' is read with batch_size={batch_size!r}. Write a whole"):
        next(training().batches(batch_size))


@pytest.mark.parametrize("repetitions", [0, -1, 1.5, "2", None])
def test_repetitions_that_cannot_be_are_refused_when_they_are_set_and_change_nothing(repetitions):
    subset = training(repetitions=2)

    with pytest.raises(ValueError, match=rf"Subset 'training' has repetitions={repetitions!r}. Write a whole number"):
        subset.repetitions = repetitions
    assert len(subset) == len(subset.order()) == 2 * len(subset.keys)
    subset.repetitions = 3
    assert len(subset) == len(subset.order()) == 3 * len(subset.keys)


# Datasets


def test_a_dataset_is_assigned_as_it_is_given_and_brings_keys_where_none_were():
    free, bound = (Subset("s", Mode.EVAL, {"input": np.arange(6)}, keys) for keys in (None, [1, 0]))
    assert (len(free), len(bound)) == (6, 2)
    for subset in (free, bound):
        subset.dataset = {"input": np.arange(10, 13)}

    assert free.batch(free.keys)["batch_input"].tolist() == [10, 11, 12]
    assert bound.batch(bound.keys)["batch_input"].tolist() == [11, 10]


def test_a_dataset_assigned_to_an_experiment_is_what_it_reads():
    mean = chunk_processor(inputs=["batch_input"], outputs=["mean"])(lambda batch_input: batch_input.mean())
    subset = Subset("v", Mode.EVAL, {"input": np.arange(6.0)})
    exp = build_experiment(
        {"experiment_type": BaseExperiment, "chunk_processors": [mean], "metrics": ["mean"]}
        | {"subsets": [subset], "batch_size": 2}
    )
    assert exp.evaluate() == {"v_mean": 2.5}
    exp.subset("v").dataset = {"input": np.array([7.0, 9.0])}

    assert exp.evaluate() == {"v_mean": 8.0}


@pytest.mark.parametrize(
    "dataset",
    [
        ITEMS,
        [ITEMS[n] for n in range(6)],
        {"input": np.stack([ITEMS[n]["input"] for n in range(6)]), "target": [0, 1] * 3},
        mlworkflow.DictDataset(ITEMS),
        mlworkflow.TransformedDataset(mlworkflow.DictDataset(ITEMS), [lambda key, item: item]),
        mlworkflow.CachedDataset(Even()),
        Even(),
    ],
    ids=["mapping", "sequence", "arrays", "DictDataset", "TransformedDataset", "CachedDataset", "Dataset"],
)
def test_every_kind_of_dataset_gives_the_same_batch(dataset):
    batch = training(dataset).batch([4, 2])

    assert (batch["batch_input"].tolist(), batch["batch_target"].tolist()) == ([[4, 4], [2, 2]], [0, 0])
    assert batch["batch_input"].dtype == np.float32


def test_a_filtered_dataset_counts_what_it_keeps():
    filtered = mlworkflow.FilteredDataset(mlworkflow.DictDataset(ITEMS), lambda key, item: key > 3)

    assert len(filtered) == 6  # mlworkflow's answer
    assert len(training(filtered)) == 2
    assert training(filtered).batch(training(filtered).keys)["batch_target"].tolist() == [0, 1]


def test_a_pickled_dataset_is_read_back(tmp_path):
    with (tmp_path / "items.pickle").open("wb") as file:
        mlworkflow.PickledDataset.create(mlworkflow.DictDataset(ITEMS), file)
    dataset = mlworkflow.PickledDataset(tmp_path / "items.pickle")
    batch = training(dataset).batch(training(dataset).keys)
    dataset.file_handler.close()

    assert batch["batch_input"].tolist() == [[n, n] for n in range(6)]


# Batches


@pytest.mark.parametrize(
    "mode, drop_last, sizes",
    [("train", None, [4, 4]), ("eval", None, [4, 4, 2]), ("train", False, [4, 4, 2]), ("eval", True, [4, 4])],
)
def test_training_drops_a_last_smaller_batch_unless_told_otherwise(mode, drop_last, sizes):
    subset = Subset("s", Mode.of(mode), arrays(0, 10))

    assert [len(keys) for keys, _ in subset.batches(4, drop_last=drop_last)] == sizes


def test_a_subset_smaller_than_a_batch_is_one_batch():
    assert [len(batch["batch_input"]) for _, batch in training().batches(64)] == [10]


@law(st.integers(1, 12), st.permutations(range(10)))
def test_batches_hold_the_keys_they_come_with(size, keys):
    for part, batch in training({"input": range(10)}).batches(size, keys=keys, drop_last=False):
        assert batch["batch_input"].tolist() == list(part)


# Columns


@law(st.lists(st.integers(-10, 9), max_size=12))
def test_columns_are_the_batch_of_all_keys(keys):
    arrays_, items = training(keys=keys), training([{"input": 0}] * 10, keys=keys)
    if not keys:
        with pytest.raises(DatasetError, match="is empty"):
            columns_of(arrays_)
        return
    batch = arrays_.batch(keys)
    assert all(np.array_equal(column, batch[name]) for name, column in columns_of(arrays_)[1].items())
    assert columns_of(items)[1]["batch_input"].tolist() == [0] * len(keys)


@pytest.mark.parametrize("odd", [10, -11, 2**80, "a", 2.0, None, (0, 1)])
def test_a_key_that_is_no_row_is_named(odd):
    with pytest.raises(DatasetError) as caught:
        columns_of(training(keys=[1, odd, 2]))

    assert f"The dataset of subset 'training' fails on key {odd!r}." in str(caught.value)


def test_all_rows_in_order_are_not_copied():
    whole = arrays(0, 10)

    assert columns_of(training(whole))[1]["batch_input"].base is whole["input"].base


def test_arrays_of_words_become_lists_of_objects():
    _, columns = columns_of(training({"path": np.array(["a", "b", "c"]), "input": [1, 2, 3]}, keys=[2, 0]))

    assert columns["batch_path"] == ["c", "a"]


def test_what_may_change_is_not_kept_as_columns():
    class Noisy(Subset):
        def query_item(self, key):
            return {"input": np.random.normal()}

    assert not is_columnar(training(Rows(3)))
    assert not is_columnar(training(mlworkflow.TransformedDataset(mlworkflow.DictDataset(ITEMS))))
    assert not is_columnar(Noisy("training", Mode.TRAIN, ITEMS))


# Showing and finding


def test_a_subset_shows_what_it_is():
    assert repr(training(repetitions=3)) == "<Subset training [TRAIN]: 30 items>"
    assert training().type is Mode.TRAIN


def test_finding_lists_what_there_is():
    subsets = [training(), Subset("validation", Mode.EVAL, ITEMS)]

    assert find(subsets, "validation") is subsets[1]
    with pytest.raises(ConfigError, match=r"No subset named 'test'.\nThere are: training, validation."):
        find(subsets, "test")
    with pytest.raises(ConfigError, match="There are: none"):
        find([], "test")


@pytest.mark.parametrize("name", [3, None, Mode.TRAIN, "", np.zeros(3)])
def test_a_name_that_is_no_text_or_empty_is_refused(name):
    with pytest.raises(ConfigError, match=r"^A subset's name is a text, not (\w+).\nSeen: .*\.\nWrite Subset\("):
        Subset(name, "train", ITEMS)


# Keys that a dataset lacks


@pytest.mark.parametrize("dataset", [ITEMS, mlworkflow.DictDataset(ITEMS)], ids=["mapping", "DictDataset"])
def test_a_key_that_the_dataset_lacks_is_named_with_those_it_has(dataset):
    with pytest.raises(DatasetError) as caught:
        training(dataset, keys=[1, "two"]).batch([1, "two"])

    assert str(caught.value) == (
        "The dataset of subset 'training' fails on key 'two'.\nSeen: KeyError: 'two'.\n"
        "Mend the item, or leave its key out: Subset(..., keys=[...]). It is not among the dataset's keys, such as 0, "
        "1, 2."
    )


def test_keys_that_a_streamed_dataset_lacks_are_named_before_anything_is_read():
    dataset = Rows(4)

    with pytest.raises(
        DatasetError, match=r"has no key 'row 7', one of 2 that it lacks.\nSeen: 4 keys, such as 'row 0'"
    ):
        feed_of(training(dataset, keys=["row 1", "row 7", "row 9"]), residency="auto", put=dict, room=lambda: 0)
    assert dataset.queries == ["row 1"]


def test_drop_last_may_be_given_by_place():
    assert [len(keys) for keys, _ in training().batches(4, None, False)] == [4, 4, 2]


# Epochs of some of the keys


def visited(epochs, seed=0, **options):
    """The positions that epochs visit, one behind the other."""
    subset, found = training(**options), []
    for epoch in range(epochs):
        place(subset, seed, epoch)
        order = subset.order().tolist()
        assert len(order) == len(subset)
        found += order
    return found


@pytest.mark.parametrize("length", [1, 3, 5, 10, 14, 27])
def test_epochs_of_some_keys_go_on_where_the_last_one_ended(length):
    assert visited(20, seed=3, length=length) == visited(54, seed=3)[: 20 * length]
    assert visited(3, seed=3, length=length) != visited(3, seed=4, length=length)


def test_repetitions_count_in_what_is_left():
    assert visited(5, length=8, repetitions=2) == visited(2, repetitions=2)


def test_a_pass_that_evaluates_visits_the_first_keys_and_a_training_subset_all_of_them():
    subset = Subset("validation", Mode.EVAL, arrays(0, 10), length=4)
    assert (len(subset), subset.order().tolist()) == (4, [0, 1, 2, 3])

    loss = chunk_processor(inputs=["batch_n"], outputs=["loss"])(keras.ops.mean)
    training = Subset("training", Mode.TRAIN, [{"n": np.float32(n)} for n in range(8)], length=2)
    exp = build_experiment({"subsets": [training], "chunk_processors": [loss], "batch_size": 2, "hide_progress": True})
    assert exp.evaluate("training") == {"training_loss": 3.5}


def test_an_evaluation_visits_no_key_twice_whatever_its_length():
    subset = Subset("validation", Mode.EVAL, arrays(0, 10), length=25)
    assert (len(subset), subset.order().tolist()) == (10, list(range(10)))
    assert subset.amount == "10 of 10 items"
    subset.repetitions = 3
    assert subset.amount == "25 of 30 items"


def test_keys_that_fill_no_batch_of_a_short_epoch_are_told(caplog):
    exp = build_experiment(config(batch_size=8))
    exp.subset("training").length = 20
    exp.train(1)
    assert "4 of the 20 keys that an epoch of 'training' visits do not fill a batch" in caplog.text
    caplog.clear()
    exp = build_experiment(config(batch_size=8))
    exp.subset("training").length = 16
    exp.train(1)
    assert "do not fill a batch" not in caplog.text
    exp.subset("training").length = 12
    exp.train(2)
    assert "4 of the 12 keys" in caplog.text


def test_a_dataset_is_not_asked_for_keys_that_were_given():
    class Closes:
        is_open = True

        @property
        def keys(self):
            if not self.is_open:
                raise OSError("closed")
            return range(4)

        def query_item(self, key):
            return {"n": np.float32(key)}

    subset = Subset("training", Mode.TRAIN, Closes(), keys=range(4))
    Closes.is_open = False
    assert not subset.is_outgrown
    items = [{"n": np.float32(1)}]
    parts = CombinedSubset("training", Mode.TRAIN, [Subset("a", Mode.TRAIN, items)])
    assert not parts.is_outgrown
    assert len(parts) == 1
    items += items
    assert parts.is_outgrown


def test_keys_that_take_long_to_list_are_listed_once(monkeypatch):
    monkeypatch.setattr("experimentator.subset.SLOW", 0.0)

    class Slow:
        listed = 0

        def keys(self):
            self.listed += 1
            return range(4)

        def query_item(self, key):
            return {"n": np.float32(key)}

    dataset = Slow()
    subset = Subset("training", Mode.TRAIN, DataAugmentationDataset(dataset, []))
    assert len(subset.keys) == 4
    assert not subset.is_outgrown
    assert dataset.listed == 1


@pytest.mark.parametrize("as_list", [False, True])
def test_keys_that_a_dataset_has_got_since_are_told_once_until_it_is_assigned_anew(as_list, caplog):
    class Growing:
        def __init__(self):
            self.items = [{"n": np.float32(n)} for n in range(4)]

        @property
        def keys(self):
            return range(len(self.items))

        def query_item(self, key):
            return self.items[key]

    dataset = Growing()
    given = dataset.items if as_list else dataset
    subset = Subset("training", Mode.TRAIN, given)
    nothing = keras.Variable(0.0)
    loss = chunk_processor(inputs=["batch_n"], outputs=["loss"])(lambda n: keras.ops.mean(n) + 0 * nothing)
    settings = {"subsets": [subset], "chunk_processors": [loss], "optimizer": keras.optimizers.SGD(), "batch_size": 2}
    exp = build_experiment(settings, hide_progress=True)
    exp.train(1)
    assert "keys" not in caplog.text
    dataset.items += [{"n": np.float32(8)}] * 4
    assert exp.train(3)[-1]["training_loss"] == 1.5
    assert caplog.text.count("The dataset of subset 'training' has gained or lost keys since") == 1

    subset.dataset = given
    caplog.clear()
    assert exp.train(4)[-1]["training_loss"] == 4.75
    assert "keys" not in caplog.text


def test_an_order_of_ones_own_says_how_many_keys_there_are():
    class Own(Subset):
        def shuffled_keys(self):
            return self.keys[::-1]

    subset = Own("training", Mode.TRAIN, arrays(0, 10), length=4)
    assert (len(subset), str(subset)) == (10, "training [TRAIN]: 10 items")
    assert str(training(length=4)) == "training [TRAIN]: 4 of 10 items"

    class Sorted(Subset):
        def shuffled_keys(self):
            return tuple(sorted(super().shuffled_keys()))

    subset = Sorted("training", Mode.TRAIN, arrays(0, 10), length=4)
    assert len(subset) == len(subset.order()) == 10


@pytest.mark.parametrize("length", [0, -1, 2.5, True, "2"])
def test_a_length_that_is_none_is_refused(length):
    with pytest.raises(DatasetError, match="Subset 'training' has no length"):
        Subset("training", Mode.TRAIN, arrays(0, 10), length=length)


def test_an_instance_that_arranges_its_keys_itself_decides_how_many_it_visits():
    subset = Subset("s", Mode.TRAIN, {"x": np.arange(6)}, length=2)
    subset.arrange = lambda: np.arange(6, dtype=np.int32)

    assert len(subset) == len(subset.order()) == 6


def test_the_length_may_be_assigned():
    subset = Subset("training", Mode.TRAIN, arrays(0, 10))
    subset.length = 4
    assert (len(subset), len(subset.order())) == (4, 4)
    subset.length = None
    assert len(subset.order()) == 10


@pytest.mark.parametrize("residency", ["stream", "host", "device"])
def test_a_training_evaluates_after_each_stretch(residency):
    exp = build_experiment(config(batch_size=8, residency=residency))
    exp.subset("training").length = 24
    exp.train(4)

    assert [row["epoch"] for row in exp.history if "validation_loss" in row] == [1, 2, 3, 4]
    assert exp.counts["training"]["batches"] == 4 * 3
    seen = build_experiment(config(batch_size=8, residency=residency))
    seen.train(2)
    pairs = zip(exp.backend.weights().values(), seen.backend.weights().values(), strict=True)
    assert all(np.array_equal(one, other) for one, other in pairs)


class Buffered:
    """Items in one array that is filled anew for each."""

    keys = range(5)

    def __init__(self, made):
        self.made, self.filled = made, np.zeros(2)

    def query_item(self, key):
        self.filled[:] = key
        return {"x": self.made(self.filled), "camera": CAMERA}


class Tensor:
    """As PyTorch's."""

    __module__ = "torch"
    dtype, ndim = np.dtype(float), 1

    def __init__(self, array):
        self.array = array

    def detach(self):
        return self

    def numpy(self):
        return self.array


CAMERA = np.array([1.0, np.nan])  # items may share what does not change


@pytest.mark.parametrize("made", [lambda x: x, lambda x: x[:1], Tensor], ids=["itself", "a part", "a tensor"])
@pytest.mark.parametrize("residency", ["device", "stream"])
def test_one_array_for_all_items_is_refused_since_a_batch_would_hold_the_last(made, residency):
    mean = chunk_processor(inputs=["batch_camera"], outputs=["loss"])(lambda camera: camera[0, 0])
    settings = {"subsets": [Subset("s", Mode.EVAL, Buffered(made))], "chunk_processors": [mean]}

    with pytest.raises(DatasetError, match=r"'x' of subset 's' is the same array in keys 0 and 1\.\n.*\n.*copy\(\)"):
        build_experiment(settings, residency=residency).evaluate()


def test_items_with_arrays_of_their_own_may_share_one_that_never_changes():
    subset = Subset("s", Mode.EVAL, Buffered(np.copy))

    assert subset.batch(subset.keys)["batch_x"].tolist() == [[key, key] for key in range(5)]


def test_what_pytorch_says_of_tensors_is_no_tensor():
    size = type("Size", (tuple,), {"__module__": "torch"})((2, 3))
    subset = Subset("s", Mode.EVAL, [{"size": size}] * 2)

    assert subset.batch([0, 1])["batch_size"].tolist() == [[2, 3], [2, 3]]


@pytest.mark.parametrize("wrap", [lambda items: items, DataAugmentationDataset])
def test_items_that_a_list_gains_are_there_once_it_is_assigned_anew(wrap):
    items = [{"x": 0}]
    subset = Subset("s", Mode.EVAL, wrap(items))
    assert subset.keys == (0,)
    items.append({"x": 1})
    is_outgrown = subset.is_outgrown
    subset.dataset = subset.dataset

    assert (is_outgrown, subset.keys, subset.is_outgrown) == (True, (0, 1), False)
