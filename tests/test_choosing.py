"""Subsets that choose: filtered, balanced by class, combined in proportions."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import mlworkflow
import numpy as np
import pytest
from hypothesis import strategies as st

from experimentator import (
    BalancedSubset,
    CombinedSubset,
    DataAugmentationDataset,
    DatasetError,
    FilteredSubset,
    Mode,
    Subset,
)
from experimentator.data.mixture import length_to_show_all, take_turns
from experimentator.feed import fed
from experimentator.graph import UnknownModeError
from tests.stand_ins import Rows, feed_for, law


class Frame(NamedTuple):
    """A key as users have them."""

    video: str
    number: int


FRAMES = {Frame(video, number): {"input": np.float32(number)} for video in "ab" for number in range(3)}
PROPORTIONS = st.lists(st.integers(1, 6), min_size=1, max_size=4)


def labelled(*targets):
    return {"input": np.arange(len(targets)), "target": np.array(targets)}


def visited(subset, batch_size, residency="device"):
    """The keys of one pass, batch by batch, as the engine takes them."""
    cycle = feed_for(subset, residency).cycle(batch_size)
    return [keys for block in iter(lambda: cycle.take(lambda _: 3), None) for keys in block.keys]


# Turns


@law(PROPORTIONS, st.integers(0, 60))
def test_every_round_holds_each_kind_as_often_as_its_proportion(proportions, length):
    turns, total = take_turns(proportions, length), sum(proportions)
    rounds = [turns[start : start + total] for start in range(0, length - total + 1, total)]

    assert len(turns) == length
    assert all(np.bincount(one, minlength=len(proportions)).tolist() == proportions for one in rounds)


@law(st.integers(1, 40), st.integers(1, 40), st.integers(1, 90), st.integers(0, 200))
def test_two_kinds_are_never_off_by_an_item(first, second, size, start):
    turns = take_turns([first, second], start + size)[start:]

    assert abs(np.sum(turns == 0) - size * first / (first + second)) < 2
    assert abs(np.sum(take_turns([first, second], size) == 0) - size * first / (first + second)) < 1


@law(PROPORTIONS, st.data())
def test_the_length_is_enough_to_show_all(proportions, data):
    sizes = [data.draw(st.integers(1, 30)) for _ in proportions]
    length = length_to_show_all(proportions, sizes)
    counts = np.bincount(take_turns(proportions, length), minlength=len(sizes))

    assert all(counts >= sizes)
    assert length < max(size / share for size, share in zip(sizes, proportions, strict=True)) * sum(proportions) + sum(
        proportions
    )


# Filtered


@pytest.mark.parametrize("wrap", [bool, np.bool_, np.array], ids=["bool", "numpy bool", "array of one"])
@pytest.mark.parametrize("dataset", [FRAMES, mlworkflow.DictDataset(FRAMES)], ids=["mapping", "mlworkflow"])
def test_keys_are_filtered_by_key_or_item_whatever_kind_of_true_is_returned(wrap, dataset):
    by_key = FilteredSubset("s", Mode.EVAL, dataset, predicate=lambda key: wrap(key.video == "b"))
    by_item = FilteredSubset("s", Mode.EVAL, dataset, predicate=lambda key, item: wrap(item["input"] > 1))

    assert by_key.keys == tuple(key for key in FRAMES if key.video == "b")
    assert (by_item.keys, len(by_item)) == ((Frame("a", 2), Frame("b", 2)), 2)


def test_a_filter_works_on_keys_given_or_assigned_and_reads_items_when_they_are_needed():
    dataset = Rows(6)
    subset = FilteredSubset(
        "s", Mode.EVAL, dataset, ["row 1", "row 2"], predicate=lambda key, item: item["target"] == 1
    )
    assert dataset.queries == []

    assert subset.keys == ("row 1",)
    subset.keys = ["row 4", "row 5"]
    assert subset.keys == ("row 5",)


@pytest.mark.parametrize("answer", [None, "yes", 1.5, np.array([True, False])])
def test_a_predicate_that_answers_neither_true_nor_false_is_refused(answer):
    subset = FilteredSubset("s", Mode.EVAL, FRAMES, predicate=lambda key: answer)

    with pytest.raises(DatasetError, match=r"subset 's' answers neither True nor False for key Frame(.|\n)*Return"):
        len(subset)


def test_a_predicate_of_other_arguments_is_refused():
    with pytest.raises(
        DatasetError, match=r"takes neither one nor two arguments.\nSeen: 3 of them.\nWrite a function of \(key\)"
    ):
        len(FilteredSubset("s", Mode.EVAL, FRAMES, predicate=lambda a, b, c: True))


def test_a_builtin_is_asked_about_the_key():
    items = {"input": np.arange(4)}

    assert FilteredSubset("s", Mode.EVAL, items, predicate={1, 2}.__contains__).keys == (1, 2)
    assert FilteredSubset("s", Mode.EVAL, items, predicate=bool).keys == (1, 2, 3)
    assert FilteredSubset("s", Mode.EVAL, items, predicate=lambda key=0: key > 1).keys == (2, 3)
    with pytest.raises(DatasetError, match=r"subset 's' is neither a function nor a name.\nSeen: 5.\nWrite a function"):
        len(FilteredSubset("s", Mode.EVAL, items, predicate=5))


def test_a_predicate_that_fails_is_named_with_its_key():
    subset = FilteredSubset("s", Mode.EVAL, {"input": np.arange(4)}, predicate=lambda key: 1 / (key - 2) < 0)

    with pytest.raises(
        DatasetError, match=r"predicate of subset 's' fails on key 2.\nSeen: ZeroDivisionError: (.|\n)*M"
    ):
        len(subset)


def test_a_predicate_that_takes_the_key_for_the_item_is_told_how_to_see_the_item():
    subset = FilteredSubset("s", Mode.EVAL, {"input": np.arange(4)}, predicate=lambda item: item["input"] > 2)

    with pytest.raises(DatasetError, match=r"It is given the key alone: let it take \(key, item\) to see the item."):
        len(subset)


def test_a_field_that_is_nowhere_is_named_with_those_there_are():
    with pytest.raises(DatasetError) as caught:
        len(FilteredSubset("s", Mode.EVAL, FRAMES, predicate="vido"))

    assert str(caught.value) == (
        "The predicate of subset 's' asks for the field 'vido', which key Frame(video='a', number=0) and its item "
        "lack.\n"
        "Seen: in the key: video, number; in the item: input.\n"
        "Did you mean 'video'? Name one of these, or give a function of (key) or (key, item)."
    )


def test_a_filter_that_keeps_nothing_is_named_when_it_is_used():
    with pytest.raises(DatasetError, match=r"'s' is empty: its predicate is true of no key.\nSeen: 6 keys.\nMend"):
        visited(FilteredSubset("s", Mode.EVAL, FRAMES, predicate=lambda key: False), 2)


# Balanced


@law(st.lists(st.integers(0, 3), min_size=2, max_size=40), st.integers(1, 3), st.integers(0, 9))
def test_every_class_comes_equally_often_and_every_key_at_least_once(targets, repetitions, epoch):
    classes = set(targets)
    if len(classes) < 2:
        return
    subset = BalancedSubset("s", Mode.TRAIN, labelled(*targets), repetitions=repetitions, by="target")
    subset.epoch = epoch
    batches = visited(subset, len(classes))

    assert all(len({targets[key] for key in keys}) == len(classes) for keys in batches)
    assert {key for keys in batches for key in keys} == set(range(len(targets)))
    assert sum(map(len, batches)) == len(subset) == len(subset.order())
    assert len(subset) == max(Counter(targets).values()) * len(classes) * repetitions


def test_a_predicate_balances_what_it_is_true_of_against_the_rest():
    by = [lambda key: key > 7, lambda key, item: item["target"] > 7, lambda key: np.bool_(key > 7)]

    for one in by:
        subset = BalancedSubset("s", Mode.TRAIN, labelled(*range(10)), by=one)
        assert [sum(key > 7 for key in keys) for keys in visited(subset, 4)] == [2] * 4


def test_an_epoch_of_given_length_moves_on_through_the_keys():
    subset = BalancedSubset("s", Mode.TRAIN, labelled(*[0] * 20, *[1] * 2), by="target", length=8)
    epochs = []
    for subset.epoch in range(80):
        epochs.append(subset.shuffled_keys())

    assert {len(keys) for keys in epochs} == {len(subset)} == {8}
    assert len({key for keys in epochs for key in keys}) == 22


@pytest.mark.parametrize(
    "options, wrong",
    [
        ({"by": "target", "classes": [0, 1, 2]}, "it has no key of class 2.\nSeen: 2 of 0, 1 of 1."),
        ({"by": "target", "classes": [0]}, "it has keys of class 1, which `classes` does not list."),
        ({"by": lambda key: True}, "it has one class only.\nSeen: 3 of True."),
        ({"by": lambda key: [key]}, "`by` of subset 's' gives no class for key 0.\nSeen: a list."),
        ({"by": "targt"}, "Did you mean 'target'?"),
    ],
)
def test_classes_that_cannot_be_balanced_are_named(options, wrong):
    with pytest.raises(DatasetError) as caught:
        len(BalancedSubset("s", Mode.TRAIN, labelled(0, 0, 1), **options))

    assert wrong in str(caught.value)


@pytest.mark.parametrize("length", [0, -1, 2.5, True])
def test_a_length_is_a_number_of_keys(length):
    with pytest.raises(DatasetError, match="Subset 's' has no length"):
        BalancedSubset("s", Mode.TRAIN, labelled(0, 1), by="target", length=length)


def test_items_that_transforms_leave_out_now_and_then_have_a_class_all_the_same():
    def sometimes(key, item, random):
        return None if random.random() < 0.5 else {**item, "target": item["target"] + 10}

    dataset = DataAugmentationDataset(labelled(*[0] * 20, *[1] * 20), [sometimes])
    subsets = [BalancedSubset("s", Mode.TRAIN, dataset, by="target", length=8) for _ in range(2)]

    groups = [{one: places.tolist() for one, places in subset.groups.items()} for subset in subsets]
    assert groups[0] == groups[1]
    assert set(groups[0]) == {0, 1, 10, 11}


# Combined


def parts(*sizes, mode=Mode.TRAIN, **options):
    return [Subset(f"part {n}", mode, {"input": np.arange(size)}, **options) for n, size in enumerate(sizes)]


@law(PROPORTIONS, st.integers(1, 3), st.integers(0, 5), st.sampled_from(["device", "host", "stream"]), st.data())
def test_every_batch_holds_the_proportions_exactly(proportions, times, epoch, residency, data):
    sizes = [data.draw(st.integers(1, 20)) for _ in proportions]
    subset = CombinedSubset("s", Mode.TRAIN, parts(*sizes), proportions)
    subset.epoch = epoch
    whole = np.array(proportions) // np.gcd.reduce(proportions)
    batches = visited(subset, int(times * whole.sum()), residency)

    full = [keys for keys in batches if len(keys) == times * whole.sum()]
    counts = [[sum(key.subset == part.name for key in keys) for part in subset.parts] for keys in full]
    assert all(count == (times * whole).tolist() for count in counts)
    assert set(subset.shuffled_keys()) == set(subset.keys)
    assert len(subset) == len(subset.shuffled_keys())


@law(st.lists(st.integers(1, 20), min_size=1, max_size=4), st.integers(1, 2))
def test_without_proportions_every_key_comes_once_for_each_repetition(sizes, repetitions):
    subset = CombinedSubset("s", Mode.TRAIN, parts(*sizes, repetitions=repetitions))

    assert Counter(subset.shuffled_keys()) == dict.fromkeys(subset.keys, repetitions)


def test_parts_keep_orders_of_their_own():
    first, second = parts(6, 6)
    first.shuffled_keys = lambda: first.keys[::-1]
    keys = CombinedSubset("s", Mode.TRAIN, [first, second], [1, 1]).shuffled_keys()

    assert [key.key for key in keys if key.subset == "part 0"] == [5, 4, 3, 2, 1, 0]


@pytest.mark.parametrize("mode", [Mode.TRAIN, Mode.EVAL])
def test_a_part_comes_round_in_another_order_each_time_and_in_every_epoch(mode):
    subset = CombinedSubset("s", Mode.TRAIN, parts(60, 12, mode=mode), [1, 1])
    rounds = []
    for subset.epoch in range(2):
        small = [key.key for key in subset.shuffled_keys() if key.subset == "part 1"]
        rounds += [tuple(small[start : start + 12]) for start in range(0, 60, 12)]

    assert len(set(rounds)) == len(rounds) == 10
    assert all(sorted(one) == list(range(12)) for one in rounds)


def test_parts_may_be_balanced_or_combined_themselves():
    balanced = BalancedSubset("b", Mode.TRAIN, labelled(0, 0, 0, 1), by="target")
    inner = CombinedSubset("i", Mode.TRAIN, [balanced, Subset("more", Mode.TRAIN, labelled(2, 2))], [2, 1])
    outer = CombinedSubset("o", Mode.TRAIN, [inner, Subset("last", Mode.TRAIN, labelled(3, 3))], [3, 1])
    batch = next(outer.batches(8))[1]

    assert Counter(batch["batch_target"].tolist()) == {0: 2, 1: 2, 2: 2, 3: 2}


def test_a_combined_subset_for_evaluation_keeps_its_order():
    subset = CombinedSubset("s", Mode.EVAL, parts(2, 2, mode=Mode.EVAL))

    assert [key.key for key in subset.shuffled_keys()] == [0, 0, 1, 1]


def test_keys_of_parts_may_be_assigned_later():
    subset = CombinedSubset("s", Mode.TRAIN, parts(4, 4))
    subset.parts[0].keys = [1]

    assert len(subset) == 5
    with pytest.raises(DatasetError, match="The keys of subset 's' follow from its parts"):
        subset.keys = [1]


@pytest.mark.parametrize(
    "proportions", [[1], [1, 2, 3], [1, 0], [1, -1], [1, float("nan")], [True, 1], {"part 0": 1, "x": 1}]
)
def test_proportions_are_numbers_above_zero_for_each_part(proportions):
    with pytest.raises(DatasetError) as caught:
        CombinedSubset("s", Mode.TRAIN, parts(2, 2), proportions)

    assert str(caught.value) == (
        f"Subset 's' has proportions that do not fit.\nSeen: {proportions!r} for part 0, part 1.\n"
        'Give a number above 0 for each, such as {"part 0": 1, "part 1": 1}.'
    )


@pytest.mark.parametrize("subsets", [[], [*parts(1), *parts(1)]])
def test_parts_have_names_of_their_own(subsets):
    with pytest.raises(DatasetError, match="Subset 's' needs at least one part"):
        CombinedSubset("s", Mode.TRAIN, subsets)


def test_a_subset_in_the_place_of_the_mode_or_of_the_list_is_told():
    one, other = parts(2, 2)
    with pytest.raises(UnknownModeError, match="is not a mode"):
        CombinedSubset("s", one, other)
    with pytest.raises(DatasetError, match=r"(?s)parts of subset 's' are no list.*\[one, other\]"):
        CombinedSubset("s", Mode.TRAIN, one)


def test_an_empty_part_is_named():
    subset = CombinedSubset("s", Mode.TRAIN, [*parts(2), Subset("none", Mode.TRAIN, {"input": [1]}, keys=[])])

    with pytest.raises(DatasetError, match="Subset 'none' is empty"):
        visited(subset, 2)


# What is assigned later


def test_what_chooses_may_be_assigned_later():
    data = labelled(0, 0, 1, 1, 1) | {"other": np.array([0, 1, 2, 2, 2])}
    balanced = BalancedSubset("training", Mode.TRAIN, data, by="target")
    assert list(balanced.groups) == [0, 1]
    balanced.by = "other"
    assert list(balanced.groups) == [0, 1, 2]
    balanced.classes = [0, 1, 2, 3]
    with pytest.raises(DatasetError, match="has no key of class 3"):
        len(balanced)

    filtered = FilteredSubset("some", Mode.EVAL, data, predicate=lambda key: key > 1)
    assert filtered.keys == (2, 3, 4)
    filtered.predicate = lambda key: key < 2
    assert filtered.keys == (0, 1)


@pytest.mark.parametrize("repetitions", [1, 2])
def test_a_length_is_that_of_the_epoch_whatever_is_repeated(repetitions):
    data, options = labelled(0, 0, 1), {"length": 7, "repetitions": repetitions}
    part = Subset("part", Mode.TRAIN, data)

    for subset in (
        BalancedSubset("training", Mode.TRAIN, data, by="target", **options),
        CombinedSubset("training", Mode.TRAIN, [part], **options),
        Subset("training", Mode.TRAIN, data, **options),
    ):
        assert len(subset) == len(subset.order()) == 7


def test_proportions_of_numpy_are_numbers_too():
    parts_of_two = [Subset(name, Mode.TRAIN, labelled(0, 1)) for name in "ab"]
    assert CombinedSubset("training", Mode.TRAIN, parts_of_two, np.array([0.75, 0.25], "float32")).shares == (3, 1)


# What is assigned to parts


def test_a_dataset_that_is_assigned_anew_takes_the_place_of_the_old_one_though_keys_were_given():
    part, other = (Subset(name, Mode.EVAL, {"x": np.zeros(2)}, [0, 1]) for name in "ab")
    both, feeds = CombinedSubset("both", Mode.EVAL, [part, other]), {}

    def columns(subset):
        return fed(feeds, subset, Mode.EVAL, residency="device", put=dict, room=lambda: 0).columns["batch_x"].tolist()

    assert columns(both) == [0, 0, 0, 0]
    part.dataset = {"x": np.ones(2)}
    assert columns(both) == [1, 1, 0, 0]
    columns(other)
    other.dataset.arrays["x"][:] = 2
    other.dataset = other.dataset
    assert columns(other) == [2, 2]


def test_classes_are_those_of_the_dataset_that_is_assigned_last():
    subset = BalancedSubset("s", Mode.TRAIN, labelled(0, 0, 1), [0, 1, 2], by="target", classes=np.array([0, 1]))
    before = {one: places.tolist() for one, places in subset.groups.items()}
    subset.dataset = labelled(1, 0, 0)

    assert before == {0: [0, 1], 1: [2]}
    assert {one: places.tolist() for one, places in subset.groups.items()} == {1: [0], 0: [1, 2]}


def test_the_order_of_a_combination_leaves_the_draws_of_a_part_alone():
    part = Subset("a", Mode.TRAIN, {"x": np.zeros(4)})
    part.seed, part.epoch = 5, 3
    own = Subset("b", Mode.TRAIN, {"x": np.zeros(4)})
    own.seed, own.epoch = 5, 3
    own.shuffled_keys = lambda: own.keys[own.epoch % 2 :]
    both = CombinedSubset("both", Mode.EVAL, [part, own])
    both.seed, both.epoch = 1, 1

    assert (both.order() >= 4).tolist() == [False, True] * 4
    assert (part.seed, part.epoch, own.seed, own.epoch) == (5, 3, 5, 3)


def test_what_a_part_draws_from_is_found_when_its_dataset_was_replaced():
    class Noise:
        keys = (0, 1)

        def __init__(self):
            self.random = np.random.default_rng()

        def query_item(self, key):
            return {"x": self.random.normal()}

    part = Subset("a", Mode.EVAL, [{"x": 0.0}] * 2)
    both = CombinedSubset("both", Mode.EVAL, [part, Subset("b", Mode.EVAL, [{"x": 0.0}])])
    both.query_item(both.keys[0])
    part.dataset = Noise()

    assert both.query_item(both.keys[0]) == both.query_item(both.keys[0])


def test_a_part_with_batches_of_its_own_is_refused():
    class Own(Subset):
        def batch(self, keys, **_):
            return super().batch(keys)

    with pytest.raises(DatasetError, match=r"^Part 'a' of subset 'both' has a `batch` of its own"):
        CombinedSubset("both", Mode.EVAL, [Own("a", Mode.EVAL, [{"x": 1}])])


def test_a_part_may_be_of_a_class_that_only_follows_the_protocol():
    class Mine:
        name, type, keys = "mine", "eval", ["a", "b"]

        def query_item(self, key):
            return {"x": key}

    both = CombinedSubset("both", Mode.EVAL, [Mine(), Subset("b", Mode.EVAL, [{"x": "c"}] * 2)])
    assert next(both.batches(4))[1]["batch_x"] == ["a", "c", "b", "c"]
    with pytest.raises(DatasetError, match="something that is no subset"):
        CombinedSubset("both", Mode.EVAL, [{"x": [1]}])
