"""Configuration files: overrides replace what a file assigns before it runs, and nothing is hidden when one fails."""

import copy
import dataclasses
import doctest
import itertools
import json
import math
import pickle
import random
import re
import sys
import traceback
import typing
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experimentator import assignments as assignments_module
from experimentator import config as config_module
from experimentator import overrides as overrides_module
from experimentator.config import (
    Config,
    ConfigError,
    as_config,
    grid,
    load,
    load_text,
    parse_assignment,
    parse_grid,
    resolved,
)

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
LITERALS = st.recursive(
    SCALARS, lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner)
)
VALUES = st.lists(st.integers(), min_size=1, max_size=3, unique=True)
AXES = st.dictionaries(st.sampled_from("abcd"), VALUES, max_size=3)


def message_of(act):
    with pytest.raises(ConfigError) as caught:
        act()
    return str(caught.value)


def write(folder, text, name="task.py"):
    path = folder / name
    path.write_text(text, "utf-8")
    return path


@pytest.mark.parametrize("module", [assignments_module, config_module, overrides_module])
def test_the_examples_in_the_docstrings_run(module):
    assert doctest.testmod(module).failed == 0


# laws


@given(LITERALS)
def test_any_literal_replaces_any_value(value):
    assert load_text("a = 1", {"a": value})["a"] == value


@given(LITERALS)
def test_a_derived_value_follows_an_override(value):
    assert load_text("a = 1\nb = [a]\nc = lambda: b", {"a": value})["c"]() == [value]


@given(LITERALS)
def test_overriding_equals_editing_the_file(value):
    text = "a = {}\nb = (a, a)\nif b: c: list = [*b]"
    assert load_text(text.format("None"), {"a": value}) == load_text(text.format(repr(value)))


@given(st.lists(st.sampled_from("abcde"), min_size=2, max_size=8, unique=False))
def test_derived_names_are_those_that_change(chain):
    names = [f"{name}{place}" for place, name in enumerate(chain)]
    text = f"{names[0]} = 1\nother = 1\n" + "\n".join(f"{b} = {a} + 1" for a, b in itertools.pairwise(names))
    before, after = load_text(text), load_text(text, {names[0]: 7})

    assert before.derived[names[0]] == tuple(n for n in before if n != names[0] and before[n] != after[n])


@given(AXES)
def test_a_grid_is_the_product_with_the_first_axis_slowest(axes):
    points = [*grid(axes)]

    assert len(points) == math.prod(map(len, axes.values()))
    assert all([*point] == [*axes] for point in points)
    keys = [[axes[name].index(point[name]) for name in axes] for point in points]
    assert keys == sorted(keys)


@given(LITERALS)
def test_a_literal_survives_the_command_line(value):
    assert parse_assignment(f"name={value!r}") == ("name", value)


@given(LITERALS)
def test_what_is_resolved_is_strict_json(value):
    config = resolved({"a": value, "b": object(), "c": {1: {2}}})
    assert json.loads(json.dumps(config, allow_nan=False)) == config


# what an override replaces

FORMS = {
    "plain": "a = 1",
    "annotated": "a: int = 1",
    "bare annotation": "a: int",
    "chained": "b = a = 1",
    "tuple": "b, a = 1, 2",
    "list": "[b, a] = range(2)",
    "starred": "b, *a = 1, 2, 3",
    "nested": "b, (c, a) = 1, (2, 3)",
    "computed": "def f(): return 1, 2\na, b = f()",
    "augmented": "a = 1\na += 'no number'",
    "if": "if True:\n    a = 1\nelse:\n    a = 2",
    "else": "if False:\n    a = 1\nelse:\n    a = 2",
    "not run": "if False:\n    a = 1",
    "for": "for a in range(3):\n    pass",
    "for without items": "for a in []:\n    pass",
    "in for": "for b in range(3):\n    a = b",
    "while": "b = 1\nwhile b:\n    a, b = 1, 0",
    "with": "import io\nwith io.StringIO() as a:\n    pass",
    "in with": "import io\nwith io.StringIO():\n    a = 1",
    "try": "try:\n    a = 1 / 0\nexcept ZeroDivisionError:\n    a = 2\nfinally:\n    b = a",
    "except": "try:\n    1 / 0\nexcept ZeroDivisionError:\n    a = 2",
    "match": "match 1:\n    case 1:\n        a = 2",
    "capture": "match [1, 2, 3]:\n    case [b, *a]:\n        pass",
    "rest": "match {'x': 1}:\n    case {**a}:\n        pass",
    "walrus": "b = [(a := 1)]",
    "walrus in a comprehension": "b = [a := i for i in range(3)]",
    "walrus in a condition": "if (a := 0) or True:\n    pass",
    "import": "import math as a",
    "import from": "from math import pi as a",
    "def": "def a(): pass",
    "class": "class a: pass",
    "twice": "a = 1\na = [a]",
    "global": "global a\na = 1",
    "exec": "a = 1\nexec('a = 2')",
}


@pytest.mark.parametrize("text", FORMS.values(), ids=FORMS.keys())
def test_an_override_replaces_every_form_of_assignment(text):
    override = object()
    config = load_text(text + "\nfollows = lambda: a\nsame = a", {"a": override})

    assert config["a"] is config["same"] is config["follows"]() is override


def test_what_follows_from_the_first_of_two_assignments_follows():
    assert load_text("a = 1\nb = a + 1\na = 10\nc = a + 1", {"a": 5}) == {"a": 5, "b": 6, "c": 6}


def test_a_replaced_right_side_is_not_evaluated():
    assert load_text("a = 1 / 0\na += 1 / 0\nb = (a := 1 / 0)", {"a": 5}) == {"a": 5, "b": 5}


def test_the_right_side_of_an_unpacking_is_still_evaluated():
    assert load_text("seen = []\na, b = seen.append(1), 2", {"a": 5}) == {"a": 5, "b": 2, "seen": [1]}


def test_the_other_name_of_a_chain_keeps_its_value():
    assert load_text("a = b = 1", {"a": 5}) == {"a": 5, "b": 1}


def test_each_name_of_a_chain_gets_its_own_override():
    assert load_text("a = b = 1 / 0", {"a": 5, "b": 6}) == {"a": 5, "b": 6}


def test_a_walrus_in_a_replaced_right_side_still_binds():
    assert load_text("a = (b := 2) + 1\na += (c := 3)", {"a": 5}) == {"a": 5, "b": 2, "c": 3}


def test_an_unpacked_override_holds_inside_the_loop():
    assert load_text("seen = []\nfor a, b in [(1, 2)]:\n    seen += [a, b]", {"a": 5})["seen"] == [5, 2]


@pytest.mark.parametrize(
    "text",
    [
        "def f():\n    a = 1\n    return a\nb = f()",
        "b = (lambda a=1: a)()",
        "class C:\n    a = 1\nb = C.a",
        "b = [a for a in [1]][0]",
        "b = (lambda: [a := 1])()[0]",
    ],
)
def test_inner_names_are_not_replaced(text):
    assert load_text("a = 0\n" + text, {"a": 5})["b"] == 1


def test_any_object_can_be_an_override_and_is_not_copied():
    override = SimpleNamespace(x=1)
    assert load_text("a = None\nb = a.x", {"a": override})["a"] is override


def test_an_override_that_the_file_changes_in_place_stays_as_it_was_given():
    sizes = [64]
    config = load_text("sizes = [32]\nsizes.append(10)", {"sizes": sizes})

    assert (config["sizes"], sizes, config.overrides) == ([64, 10], [64], {"sizes": [64]})


def test_a_deleted_name_is_gone_even_when_overridden():
    assert load_text("a = 1\nb = a\ndel a", {"a": 5}) == {"b": 5}


# one namespace


def test_functions_see_later_names_and_imports():
    config = load_text("def f(): return math.floor(late)\nimport math\nlate = 2.5")
    assert config["f"]() == 2


def test_globals_update_locals_is_harmless():
    text = "a = 1\nglobals().update(locals())\nb = a\ndef f(): return b\nglobals().update(locals())"
    config = load_text(text, {"a": 5})
    assert (config["a"], config["f"]()) == (5, 5)


def test_dunder_names_are_left_out():
    assert load_text("_a = __name__ and 1\n__b = 2") == {"_a": 1}


def test_two_live_configurations_share_no_names():
    first, second = (load_text("def f(): return a\na = 1", {"a": value}) for value in (1, 2))
    assert (first["f"](), second["f"]()) == (1, 2)


def test_dataclasses_type_hints_and_pickle_work():
    imports = "from __future__ import annotations\nfrom dataclasses import dataclass\n"
    cls = load_text(imports + "@dataclass\nclass C:\n    x: Own\nOwn = int")["C"]

    assert typing.get_type_hints(cls) == {"x": int}
    assert dataclasses.asdict(pickle.loads(pickle.dumps(cls(3)))) == {"x": 3}


def test_the_future_of_the_library_is_not_the_configurations():
    assert load_text("class C:\n    x: int")["C"].__annotations__ == {"x": int}


def test_module_annotations_and_star_imports_work():
    config = load_text("a: int = 1\nfrom math import *\nb = floor(pi) + a")
    assert (config["a"], config["b"]) == (1, 4)


def test_a_configuration_can_be_copied_and_pickled():
    config = load_text("a = 1\nb = a")
    for twin in (copy.copy(config), pickle.loads(pickle.dumps(config))):
        assert (twin, twin.text, twin.derived) == (config, config.text, config.derived)


# overrides that nobody set


def test_an_unknown_override_is_refused_with_near_matches():
    assert message_of(lambda: load_text("batch_size = 1\nrate = 2", {"batchsize": 3}, filename="c.py")) == (
        "c.py does not set 'batchsize', so it cannot be overridden.\n"
        "Names that can be: batch_size, rate.\n"
        "Did you mean 'batch_size'?"
    )


def test_an_unknown_override_like_nothing_else_says_what_to_write():
    assert message_of(lambda: load_text("", {"x": 3}, filename="c.py")).endswith(
        "Names that can be: none.\nWrite `x = ...` in it first."
    )


def test_imports_functions_and_classes_are_no_suggestions():
    text = "import os\nfrom math import pi\nrate = 1\ndef f(): pass\nclass C: pass\nimport a\na = 3"
    message = message_of(lambda: load_text(text, {"x": 3}))

    assert "Names that can be: a, rate.\n" in message
    assert load_text("from math import pi\nb = pi", {"pi": 3})["b"] == 3


@pytest.mark.parametrize("value", [3, "tf", None])
def test_a_module_does_not_give_way_to_a_plain_value(value):
    message = message_of(lambda: load_text("import math as a\nb = a.pi", {"a": value}))

    assert f"'a' is the module math here and cannot be overridden with {value!r}.\nOverride another name" in message
    assert load_text("import math as a\nb = a.pi", {"a": SimpleNamespace(pi=3)})["b"] == 3


def test_inner_names_cannot_be_overridden():
    for text in ("def f():\n    a = 1", "f = lambda a: a", "class C:\n    a = 1", "b = [a for a in 'x']", "import a.b"):
        assert "does not set 'c'" in message_of(lambda text=text: load_text(text, {"c": 1}))
    assert "does not set 'a'" in message_of(lambda: load_text("def f():\n    a = 1", {"a": 1}))


def test_a_known_name_may_be_set_although_the_file_does_not():
    config = load_text("b = eager", {"eager": True}, known={"eager", "batch_size"})
    assert config == {"eager": True, "b": True}


def test_a_known_name_that_nobody_overrides_is_not_set():
    assert load_text("a = 1", known={"eager"}) == {"a": 1}


# what follows from what


@pytest.mark.parametrize(
    "text, expected",
    [
        ("a = 1\nb = 2", ()),
        ("b = 2\na = b", ()),
        ("a = 1\nb = a\nc = b", ("b", "c")),
        ("a = 1\nb = lambda x: x + a", ("b",)),
        ("a = 1\nb = lambda a: a", ()),
        ("a = 1\nb = lambda a=a: a", ("b",)),
        ("a = 1\nb = [a * x for x in range(3)]", ("b",)),
        ("a = 1\nb = [a for a in range(3)]", ()),
        ("a = 1\nif a:\n    b = 1\nelse:\n    c = 1", ("b", "c")),
        ("a = 1\nfor i in range(a):\n    b = i", ("i", "b")),
        ("a = 1\nfor x, y in [(a, 2)]:\n    pass", ("x", "y")),
        ("a = 1\ndef f(): return a\nb = f()", ("f", "b")),
        ("a = 1\nclass C:\n    x = a", ("C",)),
        ("a = z = 1\nb, c = a, z", ("b",)),
        ("a = z = 1\nb, *c = a, z", ("b", "c")),
        ("a = 1\nb = 1\nb += a", ("b",)),
        ("a = 1\na = [a]", ()),
        ("a = 1\nb = {}\nb['x'] = a", ("b",)),
        ("a = 1\nb = (c := a)", ("c", "b")),
        ("a = 1\nmatch a:\n    case [x]:\n        b = 1", ("x", "b")),
        ("a = 1\nwith open(a) if 0 else __import__('io').StringIO() as b:\n    pass", ("b",)),
        ("a = 1\nb = f'{a}'", ("b",)),
        ("a = 1\nassert a", ()),
    ],
)
def test_derived_names_are_found_in_the_text(text, expected):
    assert load_text(text).derived["a"] == expected


def test_an_overridden_name_is_derived_from_nothing():
    assert load_text("a = 1\nb = a\nc = b", {"b": 5}).derived == {"a": (), "b": ("c",), "c": ()}


# failures


def test_a_failure_names_the_file_the_line_and_the_exception():
    text = "a = 1\n\nb = (\n    a / 0\n)"
    assert message_of(lambda: load_text(text, filename="c.py")) == (
        "c.py:4: ZeroDivisionError: division by zero\n    a / 0\nCorrect this line, or override a name that it uses."
    )


@pytest.mark.parametrize("text", ["raise ValueError('say so')", "if True: raise ValueError('say so')"])
def test_what_the_file_raises_itself_needs_no_advice(text):
    assert message_of(lambda: load_text(text, filename="c.py")) == f"c.py:1: ValueError: say so\n    {text}"


def test_a_failure_keeps_its_cause_and_the_lines_in_its_traceback():
    with pytest.raises(ConfigError) as caught:
        load_text("a = 1\ndef f():\n    return missing\nb = f()", {"a": [1, 2]})

    cause = caught.value.__cause__
    assert type(cause) is NameError
    assert "return missing" in "".join(traceback.format_exception(cause))


def test_a_failure_elsewhere_shows_the_innermost_line_of_the_configuration():
    text = "import json\ndef f():\n    return json.loads('x')\nb = f()"
    assert message_of(lambda: load_text(text)).startswith("<config>:3: JSONDecodeError: ")


def test_lines_stay_exact_below_overrides_of_many_lines():
    text = "a = [\n  1,\n]\nb = a = [\n  2,\n]\nc = 1 / 0"
    assert message_of(lambda: load_text(text, {"a": "x\ny\n\n"})).startswith("<config>:7: ZeroDivisionError")


def test_form_feeds_and_carriage_returns_do_not_shift_lines():
    assert "    b = 1 / 0\n" in message_of(lambda: load_text("a = '\x0c\u2028'\r\nb = 1 / 0\r\n"))


def test_an_exception_without_words_has_no_trailing_colon():
    assert message_of(lambda: load_text("assert 0")).startswith("<config>:1: AssertionError\n    assert 0\n")


def test_lambdas_of_two_texts_show_their_own_lines_later():
    first, second = load_text("f = lambda: 1 / 0  # first"), load_text("f = lambda: 1 / 0  # second")
    for config, word in ((first, "# first"), (second, "# second")):
        with pytest.raises(ZeroDivisionError) as caught:
            config["f"]()
        assert word in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    "text, line, shown",
    [("a = 1\nb = = 2", 2, "b = = 2"), ("a = 1\nreturn a", 2, "return a"), ("if 1:\na = 1", 2, "a = 1")],
)
def test_a_syntax_error_names_its_line(text, line, shown):
    message = message_of(lambda: load_text(text))
    assert f"<config>:{line}: " in message
    assert message.endswith(f"    {shown}\nCorrect this line: Python cannot read it.")


@pytest.mark.parametrize(
    "text, write",
    [
        ("a = 1\nsizes: [32, -1]", "Write sizes = [32, -1]."),
        ("flag: True\n", "Write flag = True."),
        ('{"a": 3,\n "b": true}', "Write name = value"),
    ],
)
def test_what_sets_nothing_in_python_is_refused(text, write):
    with pytest.raises(ConfigError, match=rf"this line sets nothing.\n.*\n{re.escape(write)}"):
        load_text(text)


def test_a_dictionary_that_a_file_shows_is_no_slip():
    assert load_text('sizes = [1, 2]\n{"sizes": len(sizes)}') == {"sizes": [1, 2]}


@pytest.mark.parametrize("text", ["a: int\na = 1", "a: 'int | None'\na = 1", "a: None\na = 1", "a: [int]\na = 1"])
def test_a_type_of_a_name_that_is_set_later_is_taken(text):
    assert load_text(text)["a"] == 1


@pytest.mark.parametrize("text", ["a = '\0'", "a = '\ud800'", "a = " + "-" * 20_000 + "1", "a = " + "1+" * 9_999 + "1"])
def test_a_text_that_cannot_be_parsed_is_one_clear_error(text):
    assert message_of(lambda: load_text(text)).startswith("<config>:1: ")


def test_an_override_that_a_function_writes_over_is_told(caplog):
    text = "rate = 0.1\nother = [1]\ndef slow():\n    global rate\n    rate = 0.5\nother.append(rate)\n"

    assert load_text(text, {"rate": 0.2, "other": []})["other"] == [0.2]
    assert caplog.text == ""
    assert load_text(f"{text}slow()", {"rate": 0.2})["rate"] == 0.5
    assert "rate is overridden, but a function of the configuration sets it anew (global rate), to 0.5" in caplog.text


def test_a_module_of_the_same_name_that_was_imported_before_is_told(tmp_path, caplog, monkeypatch):
    for number, name in enumerate(["first", "second"]):
        (tmp_path / name).mkdir()
        (tmp_path / name / "shared_name.py").write_text(f"value = {number}")
        (tmp_path / name / "task.py").write_text("import json, os.path\nfrom shared_name import value")
        (tmp_path / name / "json.py").write_text("")

    assert load(tmp_path / "first" / "task.py")["value"] == 0
    assert caplog.text == ""
    load(tmp_path / "second" / "task.py")
    assert f"not the one in {tmp_path / 'second'}" in caplog.text
    assert len(caplog.records) == 1

    monkeypatch.delitem(sys.modules, "shared_name")
    assert load(tmp_path / "second" / "task.py")["value"] == 1
    monkeypatch.delitem(sys.modules, "shared_name")
    assert len(caplog.records) == 1


@pytest.mark.parametrize("stop, exception", [("raise KeyboardInterrupt", KeyboardInterrupt), ("exit(3)", SystemExit)])
def test_an_interrupt_passes(stop, exception):
    before = set(sys.modules)
    with pytest.raises(exception):
        load_text(f"from sys import exit\n{stop}")
    assert set(sys.modules) == before


def test_a_configuration_error_survives_pickling():
    error = ConfigError("a", "b", "c")
    assert str(pickle.loads(pickle.dumps(error))) == str(error) == "a\nb\nc"


# files


def test_a_file_is_loaded_with_its_source(tmp_path):
    path = write(tmp_path, "\ufeffa = 1\nhere = __file__")
    config = load(path, {"a": 2})

    assert (config["a"], config["here"], config.filename) == (2, str(path), str(path))
    assert config.text == "a = 1\nhere = __file__"


def test_a_file_imports_its_neighbours_and_leaves_the_path_alone(tmp_path):
    write(tmp_path, "value = 7", "neighbour_of_a_config.py")
    path, before = write(tmp_path, "import neighbour_of_a_config as n\na = n.value"), [*sys.path]

    assert load(path)["a"] == 7
    assert sys.path == before


def test_the_path_is_restored_after_a_failure(tmp_path):
    before = [*sys.path]
    path = write(tmp_path, "import sys\nsys.path.insert(0, 'own')\n1 / 0")

    assert message_of(lambda: load(path)).startswith(f"{path}:3: ZeroDivisionError")
    assert [p for p in sys.path if p != "own"] == before
    sys.path[:] = before


def test_a_configuration_may_load_another(tmp_path):
    write(tmp_path, "a = 1\nb = a", "base_config.py")
    imports = "from pathlib import Path\nfrom experimentator.config import load\n"
    text = imports + "base = load(Path(__file__).with_name('base_config.py'), {'a': 2})"
    assert load(write(tmp_path, text))["base"] == {"a": 2, "b": 2}


def test_a_missing_file_is_one_clear_error(tmp_path):
    write(tmp_path, "", "training.py")
    path = tmp_path / "trainig.py"
    assert message_of(lambda: load(path)) == (
        f"There is no configuration file '{path}'.\nIts folder holds: training.py.\n"
        f"Did you mean '{tmp_path / 'training.py'}'?"
    )


def test_a_missing_folder_is_one_clear_error(tmp_path):
    message = message_of(lambda: load(tmp_path / "no" / "c.py"))
    assert message.endswith("Its folder holds: no .py file.\nWrite the path of a Python file.")


def test_a_folder_is_one_clear_error(tmp_path):
    assert message_of(lambda: load(tmp_path)) == (
        f"{tmp_path} cannot be read.\nIs a directory.\nWrite the path of a Python file."
    )


def test_a_file_that_is_no_text_is_one_clear_error(tmp_path):
    path = tmp_path / "c.py"
    path.write_bytes(b"a = '\xff\xfe'")

    message = message_of(lambda: load(path))
    assert message.startswith(f"{path} is not a text file.\n'utf-8' codec")
    assert message.endswith("\nSave it as UTF-8.")


# the seed


@pytest.mark.parametrize(
    "text, options",
    [
        ("seed = 3", {}),
        ("seed: int = 3", {}),
        ("x = seed = 3", {}),
        ("seed = 1", {"overrides": {"seed": 3}}),
        ("", {"overrides": {"seed": 3}, "known": ["seed"]}),
    ],
)
def test_a_seed_is_in_force_before_the_file_runs(text, options):
    draw = "from random import random\ndrawn = random()\n"
    assert load_text(draw + text, **options)["drawn"] == random.Random(3).random()


@pytest.mark.parametrize(
    "text, overrides",
    [("a = 1", {}), ("seed = None", {}), ("seed = 3", {"seed": None}), ("seed = int('3')", {"seed": None})],
)
def test_without_a_seed_random_is_left_alone(text, overrides):
    before = random.getstate()
    load_text(text, overrides)
    assert random.getstate() == before


@pytest.mark.parametrize(
    "text",
    [
        "seed = int('3')",
        "seed, batch_size = 3, 16",
        "SEED = 3\nseed = SEED",
        "if True:\n    seed = 3",
        "import numpy\nseed = numpy.int64(3)",
        "for seed in (1, 3): pass",
        "seed = 1\nseed = seed + 2",
        "seed = 1\nimport random\nrandom.random()\nseed = 3",
    ],
)
def test_a_seed_that_the_file_computes_rules_what_comes_below(text):
    later = load_text(f"{text}\nfrom random import random\ndrawn = random()")
    assert later["drawn"] == random.Random(3).random()


def test_a_seed_rules_what_a_framework_draws_of_itself():
    text = "seed = 3\nimport tensorflow as tf\ndrawn = float(tf.random.normal(()))"
    assert load_text(text)["drawn"] == load_text(text)["drawn"] != load_text(text, {"seed": 4})["drawn"]


def test_what_is_called_seed_and_is_no_number_seeds_nothing():
    assert load_text("import numpy\nseed = numpy.arange(3)")["seed"].tolist() == [0, 1, 2]


def test_a_computed_seed_gives_way_to_one_that_was_given():
    text = "seed = int('3')\nfrom random import random\ndrawn = random()"
    assert load_text(text, {"seed": 4})["drawn"] == random.Random(4).random()


def test_a_seed_that_is_no_whole_number_is_refused():
    assert message_of(lambda: load_text("seed = 3", {"seed": "x"})) == (
        "The seed is not a whole number.\nIt is 'x'.\nWrite `seed = 3`, or None for no seed."
    )


# resolved


class Scalar:
    shape = ()

    def item(self):
        return 2.5


class Broken:
    def __repr__(self):
        raise RuntimeError


@pytest.mark.parametrize(
    "value, expected",
    [
        (1, 1),
        (True, True),
        (None, None),
        ((1, [2.0]), [1, [2.0]]),
        ({"a": {1: "x"}}, {"a": {"1": "x"}}),
        (math.nan, "nan"),
        ([math.inf, -math.inf], ["inf", "-inf"]),
        (Scalar(), 2.5),
        (object(), "<object object>"),
        ({"c", "a", "b"}, "{'a', 'b', 'c'}"),
        (b"x" * 500, "b'" + "x" * 195 + "..."),
        (Broken(), "<Broken instance>"),
        (1j, "1j"),
        ([math], [repr(math)]),
    ],
)
def test_a_value_is_resolved_to_json(value, expected):
    assert resolved({"value": value}) == {"value": expected}


def test_of_what_is_long_the_beginning_is_resolved():
    found = resolved(
        {"text": "x" * 5000, "keys": list(range(1437)), "table": dict.fromkeys("abcdefghijklmnopqrstuvw", 0)}
    )

    assert found["text"] == "x" * 197 + "..."
    assert found["keys"] == [*range(20), "... 1417 more"]
    assert list(found["table"].items())[-2:] == [("t", 0), ("...", "3 more")]


def test_a_list_that_holds_itself_is_resolved():
    loop = [1]
    loop.append(loop)
    assert resolved({"loop": loop}) == {"loop": [1, "..."]}


def test_modules_imports_and_private_names_are_not_resolved():
    text = "from __future__ import annotations\nimport os\nfrom math import floor, pi\nfrom pathlib import Path\n_a = 1"
    assert resolved(load_text(text)) == {"pi": math.pi}
    assert resolved(load_text("from experimentator import *\nMode = Stage\nrate = 1")) == {"rate": 1}


def test_what_a_configuration_defines_is_resolved_the_same_each_time():
    text = "f = lambda: 1\nclass C: pass\nc = C()"
    expected = {"f": "<function <lambda>>", "C": "<class 'C'>", "c": "<C object>"}
    assert resolved(load_text(text)) == resolved(load_text(text)) == expected


# the command line


@pytest.mark.parametrize(
    "text, value",
    [
        ("a=-1", -1),
        ("a=1e-4", 1e-4),
        ("a=True", True),
        ("a=None", None),
        ("a = [1, 2]", [1, 2]),
        ("a=adam", "adam"),
        ("a=data/mnist-2", "data/mnist-2"),
        ("a=/data/x.npz", "/data/x.npz"),
        ("a=s3://x?y=z", "s3://x?y=z"),
        ("a='None'", "None"),
        ("a=''", ""),
    ],
)
def test_an_assignment_takes_literals_words_and_paths(text, value):
    assert parse_assignment(text) == ("a", value)


@pytest.mark.parametrize("value", ["[1, 2", "{1:", "(1", "'x", '"x', "{[]}"])
def test_a_broken_literal_is_refused(value):
    assert message_of(lambda: parse_assignment(f"a={value}")) == (
        f"{f'a={value}'!r} has no usable value.\n{value!r} is a broken literal.\n"
        f"Write a Python literal, or in quotes if text is meant: a={value!r}."
    )


@pytest.mark.parametrize(
    "value, problem",
    [
        ("=0.1", "begins with ="),
        ("2*32", "would have to be computed"),
        ("Adam(1)", "would have to be computed"),
        ("false", "would be text, which counts as true; Python writes False"),
        ("none", "would be text, which counts as true; Python writes None"),
        ("", "is empty"),
    ],
)
def test_a_value_that_would_silently_become_text_is_refused(value, problem):
    assert f"{value!r} {problem}.\n" in message_of(lambda: parse_assignment(f"a={value}"))


@pytest.mark.parametrize("text, name", [("a", "a"), ("=1", ""), ("a-b=1", "a-b"), ("class=1", "class"), ("1a=2", "1a")])
def test_an_assignment_needs_a_name(text, name):
    assert message_of(lambda: parse_assignment(text)) == (
        f"{text!r} is not an assignment.\nThe name is {name!r}.\nWrite name=value: rate=0.1."
    )


def test_a_grid_is_read_axis_by_axis():
    axes = parse_grid(["learning_rate=[0.1,0.01]", "batch_size=(32, 64)"])
    assert axes == {"learning_rate": [0.1, 0.01], "batch_size": [32, 64]}


@pytest.mark.parametrize(
    "text, seen, write",
    [
        ("a=1", "It is 1, of type int.", "Write a=[1]."),
        ("a=x", "It is 'x', of type str.", "Write a=['x']."),
        ("a={1}", "It is {1}, of type set.", "Write a=[{1}]."),
        ("a=[]", "It is [], of type list.", "Write a=[1, 2]."),
    ],
)
def test_an_axis_is_a_list_of_values(text, seen, write):
    expected = f"The axis 'a' is not a list of at least one value.\n{seen}\n{write}"
    assert message_of(lambda: parse_grid([text])) == expected


def test_an_axis_given_twice_is_refused():
    assert message_of(lambda: parse_grid(["a=[1]", "a=[2]"])) == (
        "The axis 'a' is given twice.\nIt has [1] and [2].\nWrite one list with all values."
    )


# what can be a configuration


def test_a_mapping_is_copied():
    source = {"a": [1]}
    config = as_config(source, {"b": 2})

    assert (type(config), config, source) == (Config, {"a": [1], "b": 2}, {"a": [1]})


def test_a_configuration_keeps_its_source():
    first = load_text("a = 1\nb = a")
    assert as_config(first).derived == {"a": ("b",), "b": ()}
    assert as_config(first).text == first.text


@pytest.mark.parametrize("as_type", [str, lambda path: path])
def test_a_path_is_loaded(tmp_path, as_type):
    assert as_config(as_type(write(tmp_path, "a = 1")), {"a": 2}) == {"a": 2}
    assert as_config(as_type(write(tmp_path, "a = 1", "no_suffix"))) == {"a": 1}
    assert as_config(as_type(write(tmp_path, "a = 1", "rate=0.1"))) == {"a": 1}


def test_text_is_run():
    assert as_config("a = 1", {"eager": 1}, known=["eager"]) == {"a": 1, "eager": 1}
    assert as_config("a = 1", {"a": 2}) == {"a": 2}
    assert as_config("pass\n") == {}


def test_an_object_with_a_dict_is_read():
    assert as_config(SimpleNamespace(dict={"a": 1}), {"a": 2}) == {"a": 2}


def test_a_near_miss_of_a_key_is_refused():
    message = message_of(lambda: as_config({"rate": 1}, {"batchsize": 2}, known=["batch_size"]))
    assert message == (
        "The configuration does not set 'batchsize', so it cannot be overridden.\n"
        "Names that can be: batch_size, rate.\nDid you mean 'batch_size'?"
    )


def test_a_part_of_a_key_is_refused():
    message = message_of(lambda: as_config({"optimizer": {"rate": 1}}, {"optimizer.rate": 2}))
    assert "does not set 'optimizer.rate'" in message
    assert message.endswith("Override 'optimizer' as a whole.")


def test_a_mapping_with_keys_that_are_no_names_is_refused():
    assert message_of(lambda: as_config({1: 2})) == (
        "A configuration's keys are names.\nOne of them is 1.\nWrite a string for every key."
    )


@pytest.mark.parametrize("source", ["training", ""])
def test_a_string_that_is_neither_path_nor_text_says_both_readings(source):
    assert message_of(lambda: as_config(source)) == (
        f"{source!r} is not a configuration.\n"
        "Read as a path, there is no such file and it does not end in .py; "
        "read as config text, it has no '=' and no second line.\n"
        "Write the path of a Python file, its text, or a dictionary."
    )


class Plain:
    rate = 1


@pytest.mark.parametrize("source, how", [(SimpleNamespace(rate=1), "it"), (Plain, "it"), (Plain(), "type(it)")])
def test_of_an_object_the_dictionary_is_told_that_holds_its_values(source, how):
    assert message_of(lambda: as_config(source)).endswith(f"or a dictionary, as vars({how}).")
    assert eval(f"vars({how})", {"it": source})["rate"] == 1


@pytest.mark.parametrize("source, kind", [(None, "NoneType"), (3, "int"), (b"a = 1", "bytes")])
def test_anything_else_is_refused(source, kind):
    assert f"is not a configuration.\nIt is a {kind}.\n" in message_of(lambda: as_config(source))
