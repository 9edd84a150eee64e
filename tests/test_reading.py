"""What is drawn while an item is read depends on its address: on no worker, and on nothing read before."""

from __future__ import annotations

import random
import secrets
import threading
from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property, partial

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.model_selection import train_test_split

from experimentator import (
    BalancedSubset,
    BaseExperiment,
    Callback,
    CombinedSubset,
    DataAugmentationDataset,
    DatasetError,
    Mode,
    Subset,
    build_experiment,
    chunk_processor,
    item_random,
)
from experimentator.data.chance import generators_in
from experimentator.data.keys import key_digest
from experimentator.data.reading import visits_of
from experimentator.loading.workers import Workers
from tests.drawing import HELD, ITEMS, WAYS, Shaking, by_numpy, by_parameter, by_python, subset_of
from tests.stand_ins import feed_for, law


def drawn(subset, workers=None, batch_size=5):
    """What one pass gives, by key and visit."""
    cycle, found, count = feed_for(subset, workers=workers).cycle(batch_size), {}, Counter()
    for block in iter(lambda: cycle.take(lambda _: 2), None):
        for keys, rows in zip(block.keys, block.index, strict=True):
            for key, row in zip(keys, rows, strict=True):
                found[key, count[key]] = tuple(float(block.columns[name][row]) for name in sorted(block.columns))
                count[key] += 1
    return found


@pytest.mark.parametrize("way", WAYS)
def test_draws_are_those_of_the_address_whatever_the_workers_and_batches(way):
    alone = drawn(subset_of(way, repetitions=2), batch_size=6)

    assert drawn(subset_of(way, repetitions=2), Workers(3), batch_size=4) == alone
    assert len(set(alone.values())) == len(alone) == 48


def test_processes_draw_what_threads_draw():
    ways = ["numpy's functions", "generators it holds", "a dataset", "pairs"]

    for way in ways:
        two = Workers(2, are_processes=True)
        assert drawn(subset_of(way), two, batch_size=6) == drawn(subset_of(way), batch_size=8), way


@pytest.mark.parametrize("way", WAYS)
def test_training_draws_anew_every_epoch_and_evaluation_never(way):
    first, second = (drawn(subset_of(way, epoch=epoch)) for epoch in (0, 1))
    assert not set(first.values()) & set(second.values())

    assert drawn(subset_of(way, Mode.EVAL, epoch=0)) == drawn(subset_of(way, Mode.EVAL, epoch=1))


def test_evaluating_a_training_subset_draws_the_same_whatever_the_epoch():
    loss = chunk_processor(inputs=["batch_n"], outputs=["loss"])(lambda n: n.mean())
    exp = BaseExperiment({"subsets": [subset_of("a parameter")], "chunk_processors": [loss], "batch_size": 24})
    results = []
    for exp.epoch in range(3):
        results.append(exp.evaluate("s"))

    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize("residency", ["stream", "host"])
def test_looking_at_a_subset_in_the_midst_of_a_pass_leaves_its_draws_alone(residency):
    class Drawn:
        keys = range(24)

        def query_item(self, key):
            return {"n": np.float32(item_random().uniform())}

    class Look(Callback):
        looks = busy = False

        def init(self, exp):
            self.exp, self.seen = exp, []

        def on_batch_end(self, loss, mode, **_):
            if self.busy:
                return
            self.seen.append(float(loss))
            self.busy = True
            if self.looks:
                self.exp.evaluate("training")
                self.exp.predict("training", outputs=["batch_same"])
            self.busy = False

    def losses():
        layer, look = keras.layers.Dense(1), Look()
        mean = chunk_processor(inputs=["batch_n"], outputs=["loss", "batch_same"])(
            lambda n: (keras.ops.mean(n + 0 * layer(n[:, None])[:, 0]), n)
        )
        settings = {"residency": residency, "steps_per_call": 1, "hide_progress": True, "seed": 5, "batch_size": 4}
        subset, optimizer = Subset("training", Mode.TRAIN, Drawn()), keras.optimizers.SGD(0.0)
        exp = build_experiment(
            {"subsets": [subset], "chunk_processors": [mean], "optimizer": optimizer, "callbacks": [look], **settings}
        )
        exp.train(2)
        return look.seen

    seen = []
    for Look.looks in (False, True):
        seen.append(losses())

    assert seen[0] == seen[1]
    assert len(set(seen[0])) > 6


def test_predictions_draw_what_an_evaluation_draws_whatever_came_before():
    class Drawn:
        keys = range(5)

        def query_item(self, key):
            return {"n": np.float32(item_random().uniform())}

    def built():
        loss = chunk_processor(inputs=["batch_n"], outputs=["loss", "batch_same"])(lambda n: (keras.ops.mean(n), n))
        subset = Subset("validation", Mode.EVAL, Drawn())
        return build_experiment({"subsets": [subset], "chunk_processors": [loss], "seed": 5, "hide_progress": True})

    first, later = built(), built()
    measured = later.evaluate()["validation_loss"]
    for exp in (first, later):
        assert exp.predict("validation", outputs=["batch_same"])["batch_same"].mean() == pytest.approx(measured)
    assert first.predict("validation")["batch_same"].mean() == pytest.approx(measured)


@law(st.sampled_from(sorted(WAYS)), st.integers(0, 99), st.integers(0, 9))
def test_another_seed_or_name_draws_otherwise(way, seed, epoch):
    one, other = subset_of(way, seed=seed, epoch=epoch), subset_of(way, seed=seed + 1, epoch=epoch)
    renamed = subset_of(way, seed=seed, epoch=epoch)
    renamed.name = "t"

    items = [str(subset.query_item(3)) for subset in (one, other, renamed)]
    assert len(set(items)) == 3
    assert str(one.query_item(3)) == items[0]


def test_reading_leaves_the_generators_of_others_where_they_stood():
    subset = subset_of("Python's functions")
    states = random.getstate(), str(np.random.get_state()), HELD.bit_generator.state
    list(subset.batches(4))

    assert (random.getstate(), str(np.random.get_state()), HELD.bit_generator.state) == states


def test_threads_that_draw_from_what_all_share_do_not_mix_their_numbers():
    def slowly(key, item):
        first = random.random()
        threading.Event().wait(1e-4)  # let others draw meanwhile
        return {"n": first + np.random.normal()}

    subset = Subset("s", Mode.EVAL, DataAugmentationDataset(ITEMS, [slowly]))
    expected = [subset.query_item(key) for key in range(24)]
    results, barrier = {}, threading.Barrier(4)

    def read(number):
        barrier.wait()
        results[number] = [subset.query_item(key) for key in range(24)]

    threads = [threading.Thread(target=read, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(results.values()) == [expected] * 4


@pytest.mark.parametrize("workers", [None, Workers(3)])
def test_a_subset_that_makes_its_batches_itself_draws_by_address_too(workers):
    class Own(Subset):
        def batch(self, keys, **options):
            return super().batch(keys, **options)

    subset = Own("s", Mode.TRAIN, WAYS["a parameter"](), repetitions=2)
    subset.seed, subset.epoch = 5, 2

    assert drawn(subset, workers, batch_size=6) == drawn(subset_of("a parameter", repetitions=2), batch_size=6)


def test_repeated_keys_of_balanced_and_combined_subsets_are_drawn_anew():
    dataset = DataAugmentationDataset({"n": [0.0] * 5, "target": [0, 0, 0, 0, 1]}, [by_parameter])
    balanced = BalancedSubset("b", Mode.TRAIN, dataset, by="target")
    both = CombinedSubset("c", Mode.TRAIN, [Subset("x", Mode.TRAIN, dataset), balanced], [1, 1])

    for subset in (balanced, both, Subset("d", Mode.TRAIN, dataset, keys=[1, 1, 1])):
        values = [value for values in drawn(subset).values() for value in values if value not in (0.0, 1.0)]
        assert len(values) == len(set(values)) == len(subset) // 5 * 5 or len(values) == 3


def test_a_transform_added_later_is_looked_into():
    subset = Subset("s", Mode.EVAL, DataAugmentationDataset(ITEMS, [by_parameter]))
    before = subset.query_item(1)
    subset.dataset.transforms.append(by_numpy)

    assert subset.query_item(1) == subset.query_item(1) != before


def test_what_a_dataset_of_the_user_calls_its_parts_is_its_own_affair():
    dataset = WAYS["a parameter"]()
    dataset.parts = 3

    assert Subset("s", Mode.EVAL, dataset).query_item(1) is not None


def test_outside_of_subsets_nobody_fixes_the_draws():
    dataset = WAYS["a parameter"]()

    assert dataset.query_item(1) != dataset.query_item(1)


def alias(key, item):
    import numpy as other

    draw = other.random.normal
    return {"n": draw()}


def from_imports(key, item):
    from numpy import abs, random

    return {"n": abs(random.normal())}


def inner(key, item):
    return [np.random.normal() for _ in range(3)]


def closed():
    import numpy

    return lambda key, item: numpy.random.normal()


def called(key, item):
    return by_numpy(key, item)


class Drawn:
    def __init__(self):
        self.value = np.random.normal()


def by_an_object_of_its_own(key, item):
    return {"n": Drawn().value}


class MakesObjects:
    kind = Drawn

    def query_item(self, key):
        return {"n": self.kind().value}


class MakesItself(Drawn):
    def query_item(self, key):
        return {"n": type(self)().value}


class MakesItselfByMethod(Drawn):
    @classmethod
    def made(cls):
        return cls()

    def query_item(self, key):
        return {"n": self.made().value}


class ReplacesItself(Drawn):
    def query_item(self, key):
        return {"n": replace(self).value}


class BeginsAnew(Drawn):
    def query_item(self, key):
        self.__init__()
        return {"n": self.value}


def addressed(key, item):
    import numpy.random as drawn
    from numpy.random import default_rng

    return {"n": np.abs(item["n"]), "m": drawn.default_rng(key).normal() + default_rng(key).normal()}


def fixed(key, item):
    return np.random.default_rng(key).normal() + np.random.Generator(np.random.Philox(key)).normal()


OBJECTS = [
    by_an_object_of_its_own,
    MakesObjects(),
    MakesItself(),
    MakesItselfByMethod(),
    ReplacesItself(),
    BeginsAnew(),
]


@pytest.mark.parametrize("draws", [by_numpy, alias, from_imports, inner, closed(), called, *OBJECTS])
def test_code_that_draws_from_what_all_share_is_seen(draws):
    assert generators_in(draws) == [np.random.mtrand._rand]


def packaged(key, item):
    return {"n": train_test_split(item["n"], random_state=key), "m": given(st.integers())}


class DrawnOnce:
    """A dataset that drew its values when it was made, as a synthetic one does."""

    keys = range(4)

    def __init__(self):
        self.values = np.random.normal(size=4) + HELD.normal(size=4)

    def query_item(self, key):
        return {"n": self.values[key]}


@pytest.mark.parametrize(
    "quiet", [addressed, packaged, fixed, by_parameter, len, "text", None, int, {"a": [1]}, DrawnOnce()]
)
def test_code_that_draws_from_generators_of_its_own_making_is_left_alone(quiet):
    assert generators_in(quiet) == []


class Everywhere:
    """Somebody's class, whose draws hide in methods of every kind."""

    @property
    def shown(self):
        return np.random.normal()

    @cached_property
    def kept(self):
        return random.random()

    @staticmethod
    def plain():
        return HELD.normal()


class Permissive:
    """An object that has whatever it is asked for, and raises when that is used."""

    def __getattr__(self, name):
        raise RuntimeError(name)


def test_generators_are_found_in_methods_of_every_kind_and_odd_objects_are_left_alone():
    assert len(generators_in([Everywhere(), partial(by_parameter, random=HELD), np.random.normal])) == 3
    assert generators_in([Permissive(), {"a": (object(), 1.0)}]) == []


def test_what_the_system_draws_is_nobodys_to_set():
    dataset = DataAugmentationDataset([{"x": 0}], [lambda key, item: {"x": secrets.randbelow(7) + secrets.choice([7])}])

    assert 7 <= Subset("s", Mode.EVAL, dataset).query_item(0)["x"] < 14


def test_generators_that_somebody_holds_are_found():
    assert HELD in generators_in(by_python)
    assert len(generators_in(Shaking())) == 2


def by_argument(key, item, rng=HELD):
    return {"n": rng.normal()}


class ByClass:
    rng = np.random.default_rng(2)

    def __call__(self, key, item):
        return {"n": self.rng.normal()}


@dataclass(slots=True)
class BySlot:
    rng: np.random.Generator

    def __call__(self, key, item):
        return {"n": self.rng.normal()}


@pytest.mark.parametrize(
    "shift",
    [by_argument, partial(by_argument, rng=np.random.default_rng(3)), ByClass(), BySlot(np.random.default_rng(4))],
)
def test_a_generator_is_found_wherever_a_transform_keeps_it(shift):
    subset = Subset("s", Mode.EVAL, DataAugmentationDataset([{"n": 0.0}] * 2, [shift]))

    assert subset.query_item(1) == subset.query_item(1) != subset.query_item(0)


# Keys and visits


KEY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3),
    max_leaves=5,
)


@law(KEY, KEY)
def test_equal_keys_have_equal_digests_and_others_have_others(one, other):
    assert (key_digest(one) == key_digest(other)) == (one == other)


def test_a_digest_is_the_same_in_all_future_versions():
    assert key_digest(("a.mp4", 3)) == "599e30879f1945f2f748a5b7e3a5b73e"


def test_a_key_that_differs_from_run_to_run_is_refused_where_somebody_draws():
    subset = Subset("s", Mode.EVAL, DataAugmentationDataset({object(): {"n": 1.0}}, [by_parameter]))

    with pytest.raises(DatasetError, match=r"a number that is the same in every run.\nSeen: a object.\nMake"):
        subset.batch(subset.keys)


@law(st.lists(st.integers(0, 5)))
def test_visits_count_what_came_before(numbers):
    expected = [numbers[:place].count(number) for place, number in enumerate(numbers)]

    assert visits_of(numbers).tolist() == expected


def test_the_visits_of_a_whole_epoch_are_counted_by_key():
    subset = Subset("training", Mode.TRAIN, [{"x": 1}] * 9, keys=[7, 8, 7])

    assert subset.visits(np.array([2, 1, 0])).tolist() == [0, 0, 1]
    assert not Subset("training", Mode.TRAIN, [{"x": 1}] * 3).visits(np.array([2, 1, 0])).any()


def test_the_visits_of_a_short_epoch_look_at_its_own_keys_alone():
    hashed = []

    class Key(str):
        __slots__ = ()

        def __hash__(self):
            hashed.append(self)
            return super().__hash__()

    keys = [Key(number % 2000) for number in range(4000)]
    subset = Subset("training", Mode.TRAIN, [{"x": 1}], keys=keys, length=4)
    hashed.clear()

    visits = subset.visits(np.array([7, 2007, 8, 7]))

    assert visits.tolist() == [0, 1, 0, 2]
    assert len(hashed) < 20


def test_draws_from_a_seed_generator_of_keras_are_told_once(caplog):
    seed, unused = keras.random.SeedGenerator(1), keras.random.SeedGenerator(2)

    def shift(key, item):
        return {"n": item["n"] + np.asarray(keras.random.normal([], seed=seed if unused else None))}

    subset = Subset("training", Mode.TRAIN, DataAugmentationDataset([{"n": 0.0}] * 4, [shift, lambda key, item: item]))
    for key in range(4):
        subset.query_item(key)

    (record,) = caplog.records
    assert "shift' draws from a SeedGenerator of Keras" in record.getMessage()


def test_a_transform_that_has_a_seed_generator_and_draws_nothing_from_it_passes(caplog):
    layer = keras.layers.Dropout(0.5, seed=1)
    data = DataAugmentationDataset([{"n": np.ones(2)}], [lambda key, item: {"n": np.asarray(layer(item["n"]))}])

    Subset("training", Mode.TRAIN, data).query_item(0)

    assert not caplog.records
