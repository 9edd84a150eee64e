"""Subsets, datasets and modes that others wrote, through the engine."""

from __future__ import annotations

from enum import Enum, Flag, auto

import mlworkflow
import numpy as np
import pytest

from experimentator import (
    BaseExperiment,
    CallbackedExperiment,
    DataAugmentationDataset,
    DatasetError,
    Mode,
    Subset,
    build_experiment,
    chunk_processor,
)
from experimentator.data.foreign import as_subset
from experimentator.graph import UnknownModeError


class Phase(Enum):
    """Members by name; the values say nothing."""

    INFER = auto()
    TRAIN = auto()
    EVAL = auto()


class Stage(Enum):
    """Members by value."""

    LEARN = "train"
    CHECK = "eval"


class Bits(Flag):
    """Flags of other numbers."""

    EVAL = 1
    TRAIN = 2


class Theirs:
    """A subset that has never heard of ours."""

    def __init__(self, name, mode):
        self.name, self.type, self.keys, self.flavour = name, mode, [f"k{n}" for n in range(6)], "sweet"

    def query_item(self, key):
        return {"x": np.float32(key[1]), "path": f"/{key}"}

    def shuffled_keys(self):
        return self.keys[::-1]

    def __len__(self):
        return len(self.keys)


class Heard:
    """A callback that writes down what it hears."""

    def __init__(self):
        self.cycles, self.keys, self.paths = [], [], []

    def on_cycle_begin(self, cycle_name, cycle_type, **_):
        self.cycles.append((cycle_name, cycle_type))

    def on_batch_end(self, keys, batch_path, **_):
        self.keys += keys
        self.paths += batch_path


def experiment(*subsets, **options):
    loss = chunk_processor(inputs=["batch_x"], outputs=["loss"])(lambda x: x.mean())
    features = [BaseExperiment, CallbackedExperiment]
    config = {"subsets": list(subsets), "chunk_processors": [loss], "batch_size": 4, "hide_progress": True}
    return build_experiment({"experiment_type": features, **config, **options})


@pytest.mark.parametrize(
    "given, mode",
    [
        (Phase.TRAIN, Mode.TRAIN),
        (Phase.EVAL, Mode.EVAL),
        (Phase.INFER, Mode.INFER),
        (Stage.CHECK, Mode.EVAL),
        (Bits.TRAIN, Mode.TRAIN),
        (Bits.TRAIN | Bits.EVAL, Mode.TRAIN | Mode.EVAL),
        ("train|infer", Mode.TRAIN | Mode.INFER),
    ],
)
def test_modes_of_other_enums_are_read_by_name_then_by_value(given, mode):
    assert Mode.of(given) is mode


def test_a_mode_of_ones_own_comes_back_as_it_was_given():
    subset = Subset("s", Phase.TRAIN, [{"x": 1}])
    assert (subset.mode, subset.type, subset.is_training, str(subset)) == (
        Mode.TRAIN, Phase.TRAIN, True, "s [TRAIN]: 1 items",
    )  # fmt: skip

    subset.mode = Mode.EVAL
    assert (subset.type, subset.is_training) == (Mode.EVAL, False)
    assert Subset("s", "train", [{"x": 1}]).type is Mode.TRAIN


def test_older_configurations_call_the_mode_a_stage():
    assert Subset("s", stage=Phase.EVAL, dataset=[{"x": 1}]).mode is Mode.EVAL
    with pytest.raises(UnknownModeError, match="None is not a mode"):
        Subset("s", dataset=[{"x": 1}])


def test_transforms_get_the_mode_that_was_given():
    seen = []

    def note(key, item, mode):
        seen.append(mode)
        return item

    for mode in (Phase.EVAL, Mode.EVAL):
        Subset("s", mode, DataAugmentationDataset([{"x": 1}], [note])).query_item(0)
    DataAugmentationDataset([{"x": 1}], [note]).query_item(0)

    assert seen == [Phase.EVAL, Mode.EVAL, Mode.ALL]


@pytest.mark.parametrize("residency", ["auto", "device", "host", "stream"])
def test_a_foreign_subset_is_evaluated_in_its_own_order_and_its_objects_arrive(residency):
    heard = Heard()
    exp = experiment(Theirs("mine", Phase.EVAL), callbacks=[heard], residency=residency)

    assert exp.evaluate() == {"mine_loss": 2.5}
    assert heard.keys == [f"k{n}" for n in range(6)][::-1]
    assert heard.paths == [f"/{key}" for key in heard.keys]
    assert heard.cycles == [("mine", Phase.EVAL)]


def test_a_foreign_subset_may_be_found_read_and_evaluated_by_hand():
    exp = experiment(Subset("ours", Mode.EVAL, [{"x": np.float32(1)}]))
    theirs = Theirs("mine", "eval")

    assert exp.evaluate(theirs) == {"mine_loss": 2.5}
    assert [keys for keys, _ in exp.batch_generator(theirs, 3)] == [("k5", "k4", "k3"), ("k2", "k1", "k0")]
    assert as_subset(theirs).flavour == "sweet"
    assert experiment(theirs).subset("mine").flavour == "sweet"


def test_a_foreign_subset_may_leave_its_items_to_a_dataset():
    class Light:
        name, mode, keys = "mine", Mode.EVAL, (2, 0)
        dataset = mlworkflow.DictDataset({n: {"x": np.float32(n)} for n in range(3)})

    assert experiment(Light()).evaluate() == {"mine_loss": 1.0}


@pytest.mark.parametrize("given", [3, "training", object(), Theirs, mlworkflow.DictDataset({0: {"x": 1}})])
def test_what_is_no_subset_is_refused(given):
    with pytest.raises(
        DatasetError, match=r"`subsets` lists something that is no subset.\nSeen: (.|\n)*Write|List Subset\(name"
    ):
        _ = experiment(given).subsets


def test_a_subset_may_be_renamed_at_any_time():
    subset = Subset("s", Mode.EVAL, [{"x": np.float32(1)}])
    exp = experiment(subset)
    exp.evaluate()
    subset.name = "renamed"

    assert exp.evaluate() == {"renamed_loss": 1.0}
    assert exp.subset("renamed") is subset


def test_objects_bypass_the_graph_and_reach_callbacks_untouched():
    calibrations = [object() for _ in range(5)]
    items = [{"x": np.float32(n), "path": calibration} for n, calibration in enumerate(calibrations)]
    heard = Heard()
    experiment(Subset("s", Mode.EVAL, items), callbacks=[heard]).evaluate()

    assert all(one is other for one, other in zip(heard.paths, calibrations, strict=True))
