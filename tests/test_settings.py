"""The living configuration: every change is heard, and what cannot work is refused at once."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import strategies as st

from experimentator import ConfigError
from experimentator.settings import DEFAULTS, LIBRARY_KEYS, Settings, check_names, check_values, listed
from tests.stand_ins import law

KEYS = st.sampled_from(["batch_size", "mine", "yours"])
HOW = st.sampled_from(["set", "update", "merge", "setdefault", "del", "pop", "popitem", "clear"])
EDITS = st.lists(st.tuples(HOW, KEYS, st.integers(1, 3)))


def watched(**values):
    heard = []
    return Settings(values, lambda *change: heard.append(change)), heard


def edit(target, how, key, value):
    edits = {
        "set": lambda: target.__setitem__(key, value),
        "update": lambda: target.update({key: value}, mine=value),
        "merge": lambda: target.__ior__({key: value}),
        "setdefault": lambda: target.setdefault(key, value),
        "del": lambda: target.__delitem__(key) if key in target else None,
        "pop": lambda: target.pop(key, 7),
        "popitem": lambda: target.popitem() if target else None,
        "clear": lambda: target.clear(),
    }
    return edits[how]()


@law(EDITS)
def test_settings_are_a_dictionary_whose_changes_replayed_give_its_values(edits):
    settings, heard = watched(mine=0)
    plain, replayed = {"mine": 0}, {"mine": 0}
    for how, key, value in edits:
        first, second = edit(settings, how, key, value), edit(plain, how, key, value)
        assert how == "merge" or first == second
    for key, old, new in heard:
        assert replayed.get(key) == old
        replayed[key] = new

    assert settings == plain == {key: value for key, value in replayed.items() if value is not None}


def test_a_value_that_is_the_same_is_no_change():
    settings, heard = watched(batch_size=32, mine=None)
    settings["batch_size"] = 32
    settings["mine"] = None

    assert heard == []


def test_taking_out_counts_as_none():
    settings, heard = watched(mine=3)

    assert settings.pop("mine") == 3
    assert heard == [("mine", 3, None)]
    with pytest.raises(KeyError):
        settings.pop("mine")


def test_an_augmented_assignment_is_heard():
    settings, heard = watched(batch_size=32)
    settings |= {"batch_size": 64}

    assert isinstance(settings, Settings)
    assert heard == [("batch_size", 32, 64)]


def test_a_refused_value_leaves_everything_as_it_was():
    def refuse(key, old, new):
        raise ConfigError("no")

    settings = Settings({"a": 1, "b": 2}, refuse)
    for how, key in (("set", "a"), ("set", "mine"), ("del", "a"), ("pop", "a"), ("setdefault", "mine"), ("clear", "")):
        with pytest.raises(ConfigError):
            edit(settings, how, key, 9)

    assert list(settings.items()) == [("a", 1), ("b", 2)]


def test_a_value_that_cannot_work_is_refused_before_anybody_hears():
    settings, heard = watched(batch_size=32)

    with pytest.raises(ConfigError, match="batch_size=0 cannot be used"):
        settings["batch_size"] = 0
    assert (settings, heard) == ({"batch_size": 32}, [])


# Names


@pytest.mark.parametrize("key", LIBRARY_KEYS)
def test_a_letter_too_few_in_a_library_key_is_refused_with_the_right_name(key):
    if len(key) < 5:
        return  # too short to tell a slip from a word
    with pytest.raises(ConfigError, match=rf"'{key[:-1]}' is not a key of the library.\nDid you mean '{key}'"):
        check_names({key[:-1]: 1}, set=(), taken=())


@pytest.mark.parametrize("key", ["lr", "epochs", "width", "dropout", "SEED", "network", "sizes"])
def test_names_of_ones_own_pass(key):
    check_names({key: 1}, set=(), taken=())


def test_a_near_miss_passes_beside_the_real_key():
    for own in ("subset", "subsets_of_mine", "all_subsets", "g_optimizer", "batch_sizes", "optimizer2"):
        check_names({own: 1}, set={"subsets", "optimizer", "batch_size"}, taken=())
    check_names({"speed": 1, "optimized": 2, "optimize": True}, set={"seed", "optimizer"}, taken=())
    check_names({"val_epochs": 1}, set={"eval_epochs"}, taken=())

    with pytest.raises(ConfigError, match="Did you mean 'subsets'"):
        check_names({"subset": 1}, set=(), taken=())


SLIPS = [
    ("batchsize", "batch_size"),
    ("optimiser", "optimizer"),
    ("optimzer", "optimizer"),
    ("optmiizer", "optimizer"),
    ("hide_progres", "hide_progress"),
    ("batch_sie", "batch_size"),
]


@pytest.mark.parametrize("slip, key", SLIPS)
def test_a_slip_beside_the_real_key_is_refused(slip, key):
    with pytest.raises(ConfigError, match=f"'{slip}' is not a key of the library; '{key}' is set, too"):
        check_names({slip: 1}, set={key}, taken=())


def test_a_name_of_a_method_is_refused_unless_the_file_imported_it():
    with pytest.raises(ConfigError, match=r"'train' is the name of a method or property(.|\n)*Seen: train = 3"):
        check_names({"train": 3}, set=(), taken={"train"})

    with pytest.raises(ConfigError, match=r"In a configuration, write subsets = "):
        check_names({"subset": []}, set=(), taken={"subset"})
    check_names({"train": np.mean, "graph": np, "predict": int}, set=(), taken={"train", "graph", "predict"})


# Values

WORKING = {
    "batch_size": [1, np.int64(3)],
    "steps_per_call": [None, "auto", 4],
    "eval_epochs": [None, 0, 5, [1, 2], range(3), {4}],
    "residency": ["auto", "device", "stream"],
    "jit_compile": ["auto", True, False],
    "precision": [None, "float32"],
    "seed": [None, 0, -3, np.int32(5)],
    "learning_rate": [None, 0, 0.1, np.float32(0.1), np.array(0.1)],
    "mine": [None, "anything"],
}
BROKEN = {
    "batch_size": [None, 0, -1, 2.0, True, "32", np.float32(3)],
    "steps_per_call": [0, "fast", 1.5],
    "eval_epochs": [-1, 0.5, "last", True],
    "residency": [None, "gpu", 1, np.array([0.1, 0.2])],
    "jit_compile": [None, "yes", 1],
    "precision": ["float8", 16],
    "seed": [1.5, "seven"],
    "learning_rate": [-0.1, np.nan, np.inf, "0.1", np.array([0.1, 0.2])],
    "metrics": [3, ["accuracy", 3]],
}


@pytest.mark.parametrize("key, value", [(key, value) for key, values in WORKING.items() for value in values])
def test_a_value_that_works_passes(key, value):
    check_values({key: value})


@pytest.mark.parametrize("key, value", [(key, value) for key, values in BROKEN.items() for value in values])
def test_a_value_that_cannot_work_says_what_to_write(key, value):
    with pytest.raises(ConfigError) as caught:
        check_values({key: value})

    assert str(caught.value).startswith(f"{key}={value!r} cannot be used.\nWrite ")


def test_defaults_are_values_that_work():
    check_values(DEFAULTS)

    assert set(DEFAULTS) <= set(LIBRARY_KEYS)


def test_names_may_be_listed_alone_or_several_or_not():
    assert [listed(names) for names in (None, "a", ["a", "b"], ("a",))] == [[], ["a"], ["a", "b"], ["a"]]


def test_the_page_of_settings_lists_every_one_and_its_default():
    page = (Path(__file__).resolve().parent.parent / "docs" / "settings.md").read_text("utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", page, flags=re.MULTILINE))

    assert {*rows} == {*LIBRARY_KEYS, "epochs"}
    for name, default in DEFAULTS.items():
        assert rows[name].strip("`") in (str(default), f'"{default}"'), name
    assert {name for name, default in rows.items() if default[:1] == "`"} <= {*DEFAULTS}
