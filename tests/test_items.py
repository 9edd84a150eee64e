"""What counts as a dataset, how one item is read, and how many become arrays."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import mlworkflow
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st
from scipy import sparse

from experimentator import DataAugmentationDataset, Mode, Subset, build_experiment
from experimentator.data.columns import columns_of
from experimentator.data.items import (
    ArrayDataset,
    DatasetError,
    as_dataset,
    check_keys,
    check_names,
    is_deterministic,
    is_numeric,
    keys_of,
    query,
    stack,
    usable_keys,
)
from tests.stand_ins import law


class Box(NamedTuple):
    """A value that looks like a list of numbers, and is an object."""

    left: int
    right: int


class Bare:
    """The least that counts as a dataset; `keys` and items are given."""

    def __init__(self, keys, item=None):
        self.keys, self.item = keys, {"x": 1} if item is None else item

    def query_item(self, key):
        return self.item


def stacked(*values):
    return stack([{"x": value} for value in values], range(len(values)), subset="training")["x"]


# Stacking


@law(st.lists(st.lists(st.integers(-9, 9), min_size=2, max_size=2), min_size=1))
def test_stacking_is_what_numpy_makes_of_the_list_of_values(rows):
    np.testing.assert_array_equal(stacked(*rows), np.array(rows))


@pytest.mark.parametrize(
    "value, dtype, shape",
    [
        (3, "int64", ()),
        (0.5, "float64", ()),
        (True, "bool", ()),
        (1j, "complex128", ()),
        ([1, 2], "int64", (2,)),
        ((1.0, 2.0), "float64", (2,)),
        ([[1, 2], [3, 4]], "int64", (2, 2)),
        ([np.zeros(3, "f4")] * 2, "float32", (2, 3)),
        (np.float32(1), "float32", ()),
        (np.array(7, "u1"), "uint8", ()),
        ([], "float64", (0,)),
    ],
)
def test_numbers_become_arrays_with_a_batch_axis_and_the_dtype_they_have(value, dtype, shape):
    column = stacked(value, value)

    assert (column.dtype, column.shape) == (dtype, (2, *shape))


@pytest.mark.parametrize(
    "value",
    [
        "cat",
        b"cat",
        None,
        object(),
        {"a": 1},
        {1, 2},
        Box(1, 2),
        [[1], [1, 2]],
        ["a", "b"],
        2**80,
        np.array(["a"]),
        np.array([None]),
        np.datetime64("2020-01-01"),
        np.zeros(2, [("a", int)]),
        range(3),
    ],
    ids=lambda value: type(value).__name__,
)
def test_anything_else_stays_a_list_of_the_objects_given(value):
    column = stacked(value, value)

    assert isinstance(column, list)
    assert all(seen is value for seen in column)


def test_one_object_among_numbers_makes_the_column_one_of_objects():
    assert stacked(1, None, 2) == [1, None, 2]


def test_numbers_of_several_dtypes_become_what_numpy_promotes_them_to():
    assert stacked(1, 2.5).dtype == np.float64
    assert stacked(np.float32(1), np.uint8(1)).dtype == np.float32


def test_a_shape_that_differs_names_both_keys():
    with pytest.raises(DatasetError) as caught:
        stacked(np.zeros((2, 3)), np.zeros((2, 3)), np.zeros((4, 3)))

    assert str(caught.value) == (
        "'x' has one shape in key 0 of subset 'training' and another in key 2.\n"
        "Seen: [2, 3] and [4, 3].\n"
        "Crop, resize or pad the items to one shape, or let the subset pad them to a few: buckets={'x': [32, 64, 128]}."
    )


@pytest.mark.parametrize(
    "item, odd, seen", [({"a": 1}, "b", "a against a, b"), ({"a": 1, "b": 2, 3: 4}, "3", "a, b, 3 against a, b")]
)
def test_other_names_than_those_of_the_first_item_are_refused(item, odd, seen):
    with pytest.raises(
        DatasetError, match=rf"Key 'k2' of subset 's' has other names than key 'k1': {odd}.\nSeen: {seen}"
    ):
        stack([{"a": 1, "b": 2}, item], ["k1", "k2"], subset="s")


def test_the_odd_item_is_named_wherever_it_stands():
    whole = {"a": 1, "b": 2}
    for place in range(3):
        items = [whole] * place + [{"a": 1}] + [whole] * (2 - place)
        with pytest.raises(
            DatasetError, match=f"Key {place} of subset 's' has other names than key {int(not place)}: b"
        ):
            stack(items, range(3), subset="s")


def test_names_in_another_order_are_the_same_names():
    check_names(["b", "a"], ["a", "b"], key=1, first=0, subset="s")

    column = stack([{"a": 1, "b": 2}, {"b": 4, "a": 3}], [0, 1], subset="s")["a"]
    assert column.tolist() == [1, 3]


def test_a_dtype_that_somebody_registered_counts_as_numbers():
    ml_dtypes = pytest.importorskip("ml_dtypes")

    assert is_numeric(np.zeros(2, ml_dtypes.bfloat16))
    assert stacked(np.zeros(2, ml_dtypes.bfloat16)).dtype == ml_dtypes.bfloat16


# Reading one item


def test_an_item_that_raises_is_named_and_the_cause_is_kept():
    with pytest.raises(DatasetError, match=r"'s' fails on key 'b'.\nSeen: KeyError: 'b'.\nMend the item") as caught:
        query(as_dataset({"a": {"x": 1}}, subset="s"), "b", subset="s")

    assert isinstance(caught.value.__cause__, KeyError)


@pytest.mark.parametrize("item", [(1, 2), [1], "text", np.zeros(2), 3])
def test_an_item_that_is_no_dictionary_is_named(item):
    with pytest.raises(DatasetError, match=r"The item of key 7 of subset 's' is not a dictionary.\nSeen: a "):
        query(Bare([7], item), 7, subset="s")


def test_keys_that_stand_where_the_dataset_belongs_are_told_as_such():
    with pytest.raises(DatasetError, match=r"If these are keys, name the dataset before them"):
        query(as_dataset([3, 5], subset="s"), 0, subset="s")


def test_a_transform_that_is_in_no_list_is_told_as_such():
    with pytest.raises(DatasetError, match=r"are a list.\nSeen: <function .*\nWrite .*\(dataset, \[transform\]\)"):
        DataAugmentationDataset([{"x": 1}], lambda key, item: item)


def test_ctrl_c_inside_a_dataset_stays_ctrl_c():
    class Slow(Bare):
        def query_item(self, key):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        query(Slow([1]), 1, subset="s")


def test_changing_a_returned_item_does_not_reach_the_dataset():
    items = {"a": {"x": 1}}
    query(as_dataset(items, subset="s"), "a", subset="s")["x"] = 2

    assert items == {"a": {"x": 1}}


# What counts as a dataset


def test_arrays_of_unequal_length_are_refused_with_their_lengths():
    with pytest.raises(DatasetError, match=r"needs equally long arrays.\nSeen: x: 3, y: 2, z: a scalar.\nMake lengths"):
        ArrayDataset({"x": np.zeros(3), "y": [1, 2], "z": 5})


def test_of_sparse_matrices_in_a_dict_of_arrays_the_dense_ones_are_told():
    with pytest.raises(DatasetError, match=r"Seen: x: a csr_array, y: 3.\nWrite {'x': x.toarray\(\)}"):
        ArrayDataset({"x": sparse.csr_array(np.eye(3)), "y": [1, 2, 3]})


def test_ragged_rows_in_a_dict_of_arrays_are_refused_by_name():
    with pytest.raises(DatasetError, match="'boxes' in a dict of arrays is ragged"):
        as_dataset({"x": [1, 2], "boxes": [[1], [1, 2]]}, subset="s")


def test_rows_that_numpy_holds_as_objects_are_stacked_or_the_odd_one_is_named():
    rows = np.empty(2, object)
    rows[:] = [np.array([1, 2]), [3, 4]]
    assert columns_of(Subset("s", "train", {"x": rows}))[1]["batch_x"].tolist() == [[1, 2], [3, 4]]

    rows[1] = [3, 4, 5]
    with pytest.raises(DatasetError, match=r"'x' has one shape in key 0 .* another in key 1.\nSeen: \[2\] and \[3\]"):
        columns_of(Subset("s", "train", {"x": rows}))


@pytest.mark.parametrize("key", [True, None, slice(2), "a", 1.0, (0, 1), 5, -6])
def test_keys_of_arrays_are_rows_and_nothing_else(key):
    dataset = ArrayDataset({"x": np.arange(5)})

    if key is True:
        assert dataset.query_item(key) == {"x": 1}
    else:
        with pytest.raises((TypeError, IndexError)):
            dataset.query_item(key)


@pytest.mark.parametrize("source", [None, 3, "text", b"bytes", np.zeros((3, 2)), {1, 2}, iter([{"x": 1}])])
def test_anything_else_is_no_dataset(source):
    with pytest.raises(DatasetError, match=r"Subset 's' has no dataset.\nSeen: a \w+.\nGive a mlworkflow.Dataset"):
        as_dataset(source, subset="s")


class Table:
    iloc = columns = None  # as tables of pandas have


def loader(dataset):
    return type("DataLoader", (), {"__module__": "torch.utils.data", "dataset": dataset})()


PAIRS = tf.data.Dataset.from_tensor_slices((np.zeros((4, 2)), np.zeros(4)))


def pairs():
    yield {"x": 1}


class ByPlace:
    """A dataset as PyTorch reads them."""

    numbers = (1, 2)

    def __len__(self):
        return len(self.numbers)

    def __getitem__(self, place):
        return {"x": self.numbers[place]}


class Pairs(ByPlace):
    def __getitem__(self, place):
        return [(1, 2), (3, 4)][place]


class Arrow:
    columns, to_pydict = (), dict


class Group(ByPlace):
    def keys(self):
        return ["x"]


@pytest.mark.parametrize(
    "source, write",
    [
        (np.zeros((3, 2)), 'arrays: {"input": array}.'),
        (Table(), '"target": table["..."].to_numpy()}, or dict(table), of columns by their names.'),
        (tf.data.Dataset.range(3), "arrays: list(source.as_numpy_iterator()), of elements that are dictionaries."),
        (PAIRS, 'arrays: [dict(zip(["input", "target"], one)) for one in source.as_numpy_iterator()].'),
        (PAIRS.batch(2), "for one in source.unbatch().as_numpy_iterator()]."),
        (PAIRS.batch(2, drop_remainder=True), "with source.unbatch() where its elements are batches."),
        (PAIRS.map(lambda x, y: {"x": x, "y": y}).batch(2), "arrays: list(source.unbatch().as_numpy_iterator())."),
        (Pairs(), 'return dict(zip(["input", "target"], self.source[key]))  # its pairs.'),
        (Arrow(), "arrays: source.to_pydict()."),
        (Group(), "arrays: dict(source)."),
        (loader(ByPlace()), "and training subsets are shuffled."),
        (loader(Pairs()), "self.source[key]))  # its pairs."),
        (keras.utils.PyDataset(), ". A PyDataset gives batches: give what it makes them of, item by item."),
        (pairs(), "and found again: list(source), of dictionaries."),
        (pairs, "and found again: list(source()), of dictionaries."),
        ((np.zeros((3, 2)), np.zeros(3)), 'a tuple of arrays, [3, 2], [3].\nName them: {"input": x, "target": y}.'),
    ],
    ids=type,
)
def test_data_of_others_are_answered_with_what_makes_them_a_dataset(source, write):
    with pytest.raises(DatasetError) as caught:
        as_dataset(source, subset="s")

    assert str(caught.value).endswith(write)


def test_the_dataset_that_is_told_for_pairs_read_by_place_reads_them():
    with pytest.raises(DatasetError, match="give Named") as caught:
        as_dataset(Pairs(), subset="s")
    told: dict[str, Any] = {}
    exec(str(caught.value).partition("\n\n")[2], told)
    assert as_dataset(told["Named"](Pairs()), subset="s").query_item(1) == {"input": 3, "target": 4}


def test_a_source_of_dictionaries_read_by_place_is_a_dataset():
    dataset = as_dataset(ByPlace(), subset="s")

    assert (dataset.keys, dataset.query_item(np.int64(1)), is_deterministic(dataset)) == (range(2), {"x": 2}, False)
    dataset.items.numbers = (1, 2, 3)
    assert dataset.keys == range(3)


def test_rows_of_numbers_and_text_in_a_dict_of_arrays_stay_as_they_are():
    dataset = ArrayDataset({"x": np.arange(2), "box": [Box("a", 1), Box("b", 2)], "name": ["a", "b"]})

    assert dataset.query_item(1) == {"x": 1, "box": Box("b", 2), "name": "b"}


def test_a_tensor_that_numpy_refuses_is_named_with_its_key():
    class Tensor:
        dtype = "bfloat16"

        def __array__(self, *_, **__):
            raise TypeError("Got unsupported ScalarType BFloat16")

    with pytest.raises(DatasetError, match=r"^'x' of key 1 of subset 'training' cannot become an array of numpy"):
        stacked(np.float32(1), Tensor())


def test_an_image_that_shows_its_array_is_one():
    class Image:
        __array_interface__ = np.zeros((2, 3), "uint8").__array_interface__

    assert stacked(Image(), Image()).shape == (2, 2, 3)


def test_a_mapping_of_items_is_told_from_a_dict_of_arrays():
    assert as_dataset({"a": {"x": 1}, "b": {"x": 2}}, subset="s").keys == ("a", "b")
    assert as_dataset({0: {"x": 1}}, subset="s").query_item(0) == {"x": 1}
    assert as_dataset({"a": [1, 2], "b": (3, 4)}, subset="s").query_item(1) == {"a": 2, "b": 4}


class Making(Sequence):
    """A sequence that makes its items, as one that augments them does."""

    def __len__(self):
        return 2

    def __getitem__(self, place):
        return {"x": np.random.default_rng().normal()}


def test_only_what_cannot_change_is_known_to_be_deterministic():
    items = {0: {"x": 1}}
    inner = mlworkflow.DictDataset(items)
    willing = Bare([0])
    willing.deterministic = True

    known = [as_dataset(source, subset="s") for source in (items, [items[0]], {"x": [1]}, inner, willing)]
    unknown = [mlworkflow.TransformedDataset(inner), mlworkflow.CachedDataset(inner), Bare([0])]
    unknown.append(as_dataset(Making(), subset="s"))
    assert [is_deterministic(dataset) for dataset in known + unknown] == [True] * 5 + [False] * 4
    assert "deterministic" not in vars(inner)


# Keys


def test_keys_may_be_anything_that_can_be_walked():
    assert keys_of(Bare(np.array([5, 3])), subset="training") == (5, 3)

    class Method(Bare):
        def keys(self):
            yield from "ab"

        def __init__(self):
            pass

    assert [keys_of(Bare(keys), subset="s") for keys in (["a", "b"], ("a", "b"), "ab", {"a": 1, "b": 2}.keys())] == [
        ("a", "b")
    ] * 4
    assert keys_of(Method(), subset="s") == keys_of(mlworkflow.DictDataset({"a": 1, "b": 2}), subset="s") == ("a", "b")


def test_a_generator_of_keys_is_read_once_for_all_who_ask():
    dataset = Bare(key for key in "ab")

    assert keys_of(dataset, subset="s") == ("a", "b")
    assert keys_of(dataset, subset="s") == ("a", "b")


def test_numbers_of_numpy_are_looked_up_among_keys_at_once():
    keys, start = tuple(np.arange(20_000)), time.perf_counter()
    check_keys(Bare(range(20_000)), keys, subset="s")

    assert time.perf_counter() - start < 1


def test_keys_of_a_set_have_the_same_order_in_every_process():
    names = {f"{number}.png" for number in range(100)}

    assert keys_of(Bare(names), subset="s") == usable_keys(frozenset(names), subset="s") == tuple(sorted(names))


@pytest.mark.parametrize("unit", ["D", "us", "ns"])
def test_times_of_numpy_are_looked_up_as_they_are(unit):
    keys = list(np.arange("2020-01-01", "2020-01-04", dtype="M8[D]").astype(f"M8[{unit}]"))

    check_keys(Bare(keys), keys[1:], subset="s")
    with pytest.raises(DatasetError, match=r"has no key np\.datetime64"):
        check_keys(Bare(keys[:2]), keys, subset="s")


# Transforms that work in place


def in_place(key, item):
    item["array"] *= 10
    item["number"] = item["number"] * 10
    return item


@pytest.mark.parametrize("wrap", [lambda d: d, mlworkflow.CachedDataset], ids=["kept by the parent", "cached"])
def test_transforms_in_place_do_not_compound(wrap):
    kept = {0: {"array": np.array([2]), "number": 2}}
    dataset = mlworkflow.TransformedDataset(wrap(mlworkflow.DictDataset(kept)), [in_place])
    dataset = as_dataset(dataset, subset="s")

    for _ in range(3):
        assert query(dataset, 0, subset="s") == {"array": np.array([20]), "number": 20}
    assert kept == {0: {"array": np.array([2]), "number": 2}}


@pytest.mark.parametrize("kept", [{"a": np.zeros(1)}, [np.zeros(1)], (np.zeros(1), "a"), [{"a": (np.zeros(1),)}]])
def test_transforms_in_place_do_not_compound_within_containers(kept):
    def in_place(key, item):
        one = item["kept"]
        while not isinstance(one, np.ndarray):
            one = one["a"] if isinstance(one, dict) else one[0]
        one += 1
        return item

    dataset = DataAugmentationDataset([{"kept": kept}], [in_place])

    assert [str(dataset.query_item(0)) for _ in range(3)] == [str({"kept": kept}).replace("0.", "1.")] * 3


def test_transforms_further_up_are_guarded_once_however_many_subsets_there_are():
    inner = mlworkflow.TransformedDataset(
        mlworkflow.DictDataset({0: {"array": np.array([2]), "number": 2}}), [in_place]
    )
    outer = mlworkflow.FilteredDataset(inner, lambda key, item: True)
    for _ in range(3):
        as_dataset(outer, subset="s")

    assert len(inner.transforms) == 2
    assert [outer.query_item(keys_of(outer, subset="s")[0])["number"] for _ in range(3)] == [20] * 3


def test_transforms_see_items_that_are_no_dictionaries_as_they_are():
    seen = []
    dataset = mlworkflow.TransformedDataset(mlworkflow.DictDataset({0: (1, 2)}), [lambda key, item: seen.append(item)])
    as_dataset(dataset, subset="s").query_item(0)

    assert seen == [(1, 2)]


# What numpy has of its own


def test_another_byte_order_becomes_that_of_this_machine():
    given = np.arange(3, dtype=">f4")

    array = ArrayDataset({"x": given}).arrays["x"]
    assert array.dtype == np.float32
    assert array.dtype.isnative
    np.testing.assert_array_equal(array, given)
    assert stacked(*given).dtype.isnative


def test_numbers_in_a_column_of_objects_as_pandas_has_them_are_numbers():
    given = {"target": [2, 0, 1], "name": ["a", "b", "c"], "age": [1, None, 3]}
    columns = ArrayDataset({name: np.array(column, object) for name, column in given.items()}).columns((0, 1, 2))

    assert columns["target"].dtype == np.int64
    assert columns["target"].tolist() == given["target"]
    assert columns["name"].dtype == columns["age"].dtype == object


def test_a_mask_that_nobody_would_heed_is_refused():
    masked = np.ma.masked_array([1.0, 9.0, 3.0], [False, True, False])

    for make in (lambda: ArrayDataset({"x": masked}), lambda: stacked(masked, masked)):
        with pytest.raises(DatasetError, match=r"^'x' is a masked array(.|\n)*values.filled\(0\)"):
            make()
    with pytest.raises(DatasetError, match="'x' is a masked array"):
        stacked(np.arange(3.0), masked)
    padded = Subset("training", Mode.TRAIN, [{"x": masked}] * 2, buckets={"x": [4]})
    with pytest.raises(DatasetError, match="'x' is a masked array"):
        padded.batch([0, 1])
    with pytest.raises(DatasetError, match="'batch_x' is a masked array"):
        build_experiment({"chunk_processors": []}).predict({"batch_x": masked})
    whole = np.ma.masked_array([0, 1])
    assert stacked(whole, None) == [whole, None]
    np.testing.assert_array_equal(ArrayDataset({"x": np.ma.masked_array([1.0, 2.0])}).arrays["x"], [1, 2])


@pytest.mark.parametrize(
    "part", [[{"input": 1.0}], as_dataset({0: {"input": 1.0}}, subset="validation")], ids=["items", "a dataset"]
)
def test_datasets_by_name_are_several(part):
    with pytest.raises(
        DatasetError, match=r"Subset 'training' has several datasets.\nSeen: a dict of datasets, 'train', 'test'"
    ):
        as_dataset({"train": part, "test": part}, subset="training")


def test_a_column_may_hold_dictionaries():
    known = [{"age": 3}, {"age": 5}]

    for column in (known, np.array(known, object)):
        data = as_dataset({"input": np.arange(2.0), "known": column}, subset="training")
        assert data.query_item(1) == {"input": 1.0, "known": {"age": 5}}
