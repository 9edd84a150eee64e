"""Keys cut into parts: disjoint, covering, the same every time, in their shares, groups whole."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from typing import NamedTuple

import mlworkflow
import numpy as np
import pytest
from hypothesis import strategies as st

from experimentator import BasicDatasetSplitter, DatasetError, Mode, k_fold, split
from experimentator.data.quotas import quotas
from tests.stand_ins import law


class Frame(NamedTuple):
    """A key as users have them."""

    video: str
    number: int


SHARES = st.lists(st.integers(1, 9), min_size=1, max_size=4).map(
    lambda parts: {f"part {n}": part / sum(parts) for n, part in enumerate(parts)}
)
CLASSES = st.lists(st.sampled_from("abc"), min_size=40, max_size=80)


def items(classes):
    return {"kind": np.array(list(classes))}


@law(SHARES, CLASSES, st.integers(0, 9), st.booleans())
def test_parts_are_disjoint_cover_all_and_have_their_shares_within_a_key(shares, classes, seed, is_stratified):
    parts = split(items(classes), shares, stratify="kind" if is_stratified else None, seed=seed)

    assert list(parts) == list(shares)
    assert sorted(key for part in parts.values() for key in part) == list(range(len(classes)))
    for kind, total in Counter(classes).items() if is_stratified else [(None, len(classes))]:
        counts = {name: sum(kind in (None, classes[key]) for key in part) for name, part in parts.items()}
        assert all(abs(counts[name] - total * share) < 1 for name, share in shares.items())


@law(SHARES, st.lists(st.integers(1, 6), min_size=28, max_size=60), st.integers(0, 9))
def test_many_small_classes_and_the_whole_have_their_shares_within_a_key(shares, sizes, seed):
    classes = np.repeat(np.arange(len(sizes)), sizes)
    parts = split({"kind": classes}, shares, stratify="kind", seed=seed)

    counts = np.array([np.bincount(classes[list(part)], minlength=len(sizes)) for part in parts.values()])
    wanted = np.array(list(shares.values()))
    assert np.all(abs(counts - np.outer(wanted, sizes)) < 1)
    assert np.all(abs(counts.sum(1) - wanted * len(classes)) < 1 - 1e-9)


@pytest.mark.parametrize("size, shares", [(3, (0.8, 0.2)), (4, (0.9, 0.1)), (6, (0.6, 0.2, 0.2))])
def test_classes_of_a_few_keys_leave_the_shares_of_the_whole_exact(size, shares):
    parts = split({"kind": np.arange(100 * size) // size}, dict(enumerate(shares)), stratify="kind")

    assert [len(part) for part in parts.values()] == [round(100 * size * share) for share in shares]


@pytest.mark.parametrize("totals, parts", [([7, 5], [5, 2, 5, 2, 2, 5, 5]), ([4, 5, 6, 7, 4, 1], [20, 1, 20, 1, 3])])
def test_sums_that_one_look_at_each_total_would_miss_are_evened_out(totals, parts):
    totals, shares = np.array(totals), np.array(parts) / sum(parts)
    due = quotas(totals, shares)

    assert np.all(due.sum(1) == totals)
    assert np.all(abs(due - np.outer(totals, shares)) < 1)
    assert np.all(abs(due.sum(0) - totals.sum() * shares) < 1)


def test_keys_without_a_number_are_one_class():
    parts = split({"kind": np.array([np.nan] * 50 + [1.0] * 50)}, {"x": 0.6, "y": 0.4}, stratify="kind")

    assert {name: sum(key < 50 for key in part) for name, part in parts.items()} == {"x": 30, "y": 20}


@pytest.mark.parametrize(
    "shares", [(np.float32(0.7), np.float32(0.3)), (np.int64(70), np.uint8(30)), (0.7, np.float64(0.3))]
)
def test_shares_may_be_numbers_of_numpy(shares):
    assert [len(part) for part in split(items("ab" * 5), dict(enumerate(shares))).values()] == [7, 3]


@law(st.permutations(range(40)), st.integers(0, 9))
def test_the_order_of_keys_and_the_rest_of_the_world_do_not_matter(keys, seed):
    expected = split(items("ab" * 20), {"x": 0.7, "y": 0.3}, seed=seed, stratify="kind")
    np.random.seed(seed)
    parts = split(items("ab" * 20), {"x": 0.7, "y": 0.3}, keys=keys, seed=seed, stratify="kind")

    assert {name: set(part) for name, part in parts.items()} == {name: set(part) for name, part in expected.items()}
    assert all(list(part) == [key for key in keys if key in part] for part in parts.values())


@law(st.lists(st.integers(0, 12), min_size=30, max_size=90), st.integers(0, 5), st.booleans())
def test_a_group_never_crosses_parts(groups, seed, is_stratified):
    keys = [Frame(f"video {group}", number) for number, group in enumerate(groups)]
    dataset = mlworkflow.DictDataset({key: {"odd": key.number % 2} for key in keys})
    if len(set(groups)) < 6:
        return
    options = {"group": "video", "stratify": "odd" if is_stratified else None, "seed": seed}
    for parts in (split(dataset, {"x": 0.6, "y": 0.4}, **options).values(), *k_fold(dataset, 3, **options)):
        videos = [{key.video for key in part} for part in parts]
        assert not videos[0] & videos[1]
        assert sum(map(len, parts)) == len(keys)


def test_groups_of_one_size_meet_the_shares():
    keys = [Frame(f"video {n // 5}", n) for n in range(100)]
    parts = split(
        mlworkflow.DictDataset({key: {"x": 1} for key in keys}), {"x": 60, "y": 40}, group=lambda key: key.video
    )

    assert [len(part) for part in parts.values()] == [60, 40]


@law(st.integers(2, 6), CLASSES, st.integers(0, 9))
def test_every_key_validates_in_one_fold_and_trains_in_the_others(count, classes, seed):
    folds = k_fold(items(classes), count, stratify="kind", seed=seed)

    assert sorted(key for fold in folds for key in fold.validation) == list(range(len(classes)))
    assert all(sorted(fold.training + fold.validation) == list(range(len(classes))) for fold in folds)
    for kind, total in Counter(classes).items():
        assert all(abs(sum(classes[key] == kind for key in fold.validation) - total / count) < 1 for fold in folds)


def test_another_seed_splits_otherwise():
    parts = [split(items("ab" * 20), {"x": 0.5, "y": 0.5}, seed=seed)["x"] for seed in range(3)]

    assert len(set(map(tuple, parts))) == 3


def test_parts_of_an_array_are_picked_by_their_keys():
    images = np.arange(60).reshape(20, 3)
    parts = split({"input": images}, {"x": 0.7, "y": 0.3})

    assert images[parts["x"]].shape == (14, 3)
    assert images[k_fold({"input": images}, 4)[0].validation].shape == (5, 3)


def test_another_process_splits_alike():
    code = (
        "from experimentator import split; import numpy as np;"
        "keys = {('a', n): {'x': 1} for n in range(30)} | {f'k{n}': {'x': 1} for n in range(30)};"
        "print(split(keys, {'x': 0.5, 'y': 0.5}))"
    )
    command, path = [sys.executable, "-c", code], ":".join(sys.path)
    environments = [{"PYTHONHASHSEED": seed, "PYTHONPATH": path} for seed in "12"]
    outputs = {subprocess.run(command, capture_output=True, check=True, env=one).stdout for one in environments}

    assert len(outputs) == 1


# The splitter


@law(st.integers(5, 30), st.integers(5, 30), st.integers(0, 9), st.integers(0, 9))
def test_the_splitter_gives_disjoint_subsets_for_every_fold(validation, testing, fold, seed):
    splitter = BasicDatasetSplitter(validation, testing, seed=seed)
    subsets = splitter(items("ab" * 100), fold)

    assert [(subset.name, subset.mode) for subset in subsets] == [
        ("training", Mode.TRAIN), ("validation", Mode.EVAL), ("testing", Mode.EVAL),
    ]  # fmt: skip
    assert sorted(key for subset in subsets for key in subset.keys) == list(range(200))
    assert all(abs(len(s) - 2 * pc) < 1.01 for s, pc in zip(subsets[1:], (validation, testing), strict=True))


def test_the_folds_of_a_splitter_test_on_other_keys_each():
    splitter = BasicDatasetSplitter(10, 10)
    tested = [key for fold in range(5) for subset in splitter(items("ab" * 50), fold)[1:] for key in subset.keys]

    assert sorted(tested) == list(range(100))


def test_a_percentage_of_zero_leaves_its_subset_away_and_repetitions_are_handed_on():
    splitter = BasicDatasetSplitter(20, 0, repetitions={"training": 3})
    training, validation = splitter(items("ab" * 10))

    assert (len(training.keys), len(training), len(validation)) == (16, 48, 4)


# Errors


@pytest.mark.parametrize("shares", [{}, {"x": 0.5}, {"x": 0.9, "y": 0.2}, {"x": -0.5, "y": 1.5}, {"x": "all"}])
def test_shares_that_do_not_sum_to_one_are_refused(shares):
    said = r'do not sum to 1, or to 100 percent, or to the 4 keys.\nSeen: (.|\n)*Write {"training": 0.8'
    with pytest.raises(DatasetError, match=said):
        split(items("abab"), shares)


def test_shares_without_names_are_refused():
    said = r'are given by the names of its parts.\nSeen: \[0.5, 0.5\](.|\n)*Write {"training": 0.8'
    with pytest.raises(DatasetError, match=said):
        split(items("abab"), [0.5, 0.5])


def test_shares_may_be_numbers_of_keys():
    parts = split(items("abab" * 60), {"training": 192, "validation": 47, "testing": 1}, stratify="kind")

    assert [len(part) for part in parts.values()] == [192, 47, 1]
    assert parts == split(
        items("abab" * 60), {"training": 192 / 240, "validation": 47 / 240, "testing": 1 / 240}, stratify="kind"
    )


def test_a_splitter_of_more_than_everything_is_refused():
    with pytest.raises(DatasetError, match="do not sum to 1"):
        BasicDatasetSplitter(60, 50)(items("abab"))


@pytest.mark.parametrize("count", [1, 0, True, 2.5])
def test_folds_are_two_or_more(count):
    with pytest.raises(DatasetError, match="There is no such number of folds"):
        k_fold(items("abab"), count)


def test_too_few_keys_or_groups_are_named():
    with pytest.raises(DatasetError, match=r"A fold has no keys.\nSeen: 3 keys for 4 folds"):
        k_fold(items("abc"), 4)
    with pytest.raises(DatasetError, match="A split leaves nothing to 'y'"):
        split(items("abc"), {"x": 0.5, "y": 0.5}, group=lambda key: "all one")


@pytest.mark.parametrize(
    "prices, told", [(np.linspace(0.1, 9.7, 50), 1), (np.arange(50.0), 0), ([0.5, np.nan] * 25, 0)]
)
def test_strata_of_measured_numbers_are_told(prices, told, caplog):
    k_fold({"price": np.array(prices)}, 5, stratify="price")

    assert len([one for one in caplog.messages if "stratify='price' has hardly any effect" in one]) == told


def test_keys_given_twice_are_refused():
    with pytest.raises(DatasetError, match=r"A split is given keys twice.\nSeen: 1 and 0 others"):
        split(items("abc"), {"x": 0.5, "y": 0.5}, keys=[1, 1, 2])


def test_parts_of_a_set_of_keys_are_in_one_order():
    names = {f"{number:02}.png" for number in range(40)}
    parts = split({name: {"x": 1} for name in names}, {"a": 0.5, "b": 0.5}, keys=names)

    assert all(part == sorted(part) for part in parts.values())


def test_a_field_that_is_nowhere_is_named():
    with pytest.raises(DatasetError, match=r"A split asks for the field 'kin'(.|\n)*Did you mean 'kind'"):
        split(items("abab"), {"x": 0.5, "y": 0.5}, stratify="kin")
