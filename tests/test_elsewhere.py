"""Habits from Keras, PyTorch and Lightning: each is answered with what to write here."""

from __future__ import annotations

import re

import pytest

from experimentator import build_experiment
from experimentator.elsewhere import ATTRIBUTES


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_a_name_of_other_libraries_is_answered_with_what_an_experiment_has(name):
    exp = build_experiment({})
    with pytest.raises(AttributeError, match=f"no attribute '{name}', nor a setting of that name.\n") as caught:
        getattr(exp, name)

    assert all(hasattr(exp, told) for told in re.findall(r"exp\.(\w+)", str(caught.value)))


def test_a_setting_may_have_a_name_of_other_libraries():
    exp = build_experiment({"model": "small"})

    assert exp.model == "small"


def test_a_name_that_nobody_knows_leaves_python_to_find_one_alike():
    exp = build_experiment({"width": 4})
    with pytest.raises(AttributeError, match=r"nor a setting of that name$") as caught:
        exp.widht  # noqa: B018  # the access is the test

    assert (caught.value.name, caught.value.obj) == ("widht", exp)
