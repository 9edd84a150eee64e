"""Descriptions: what is told of a graph, in one place, for every face."""

import subprocess
import sys
from functools import partial

import pytest

from experimentator.graph import (
    Graph,
    Mode,
    RecordedProcessor,
    Ref,
    chunk_processor,
    describe_graph,
    table,
    to_dot,
    to_mermaid,
    tree,
    with_costs,
    with_statuses,
)
from tests.stubs import Mix, Op, mix

double = lambda chunk: chunk.update(y=2 * chunk["x"])


def shift(chunk):
    chunk["y"] = chunk["x"]


def boxes(*processors, provided=("x", "batch_target"), **facts):
    return describe_graph(Graph(processors, provided=provided), **facts).boxes


@pytest.fixture
def described():
    processors = [
        mix("batch_input -> batch_input", node="prepare/Scale", salt=3),
        mix("batch_input -> batch_input", node="prepare/Crop", mode=Mode.TRAIN),
        mix("batch_input -> batch_logits", node="Head"),
        Op("batch_logits batch_target -> class_loss", is_metric=True),
        Op("class_loss -> loss"),
        Op("batch_logits batch_target -> accuracy", node="Accuracy", is_metric=True),
    ]
    shapes = {Ref("batch_input", 0): ((None, 28, 28, 1), "uint8"), Ref("batch_logits", 1): ((None, 10), "float32")}
    graph = Graph(processors, provided={"batch_input", "batch_target"}, mode=Mode.TRAIN).select("loss", "accuracy")
    weights = {"Head": (1_000, 250)}
    described = describe_graph(graph, shapes=shapes, weights=weights)
    return with_statuses(with_costs(described, {"Head": 0.0125}), {"Head": "ok"})


def test_the_table_has_a_column_for_each_thing_known(described, snapshot):
    assert table(described) == snapshot


def test_the_tree_leads_from_outputs_to_inputs(described, snapshot):
    assert tree(described) == snapshot


def test_the_drawing_holds_all_that_is_known(described, snapshot):
    assert to_dot(described) == snapshot
    assert to_dot(described, theme="dark").count("<B>Head</B>") == 1


def test_whose_parameters_a_processor_uses_is_told():
    graph = Graph([mix("x -> y", node="Trunk"), mix("y -> loss", node="Twin")], provided={"x"})
    described = describe_graph(graph, weights={"Trunk": (10, 0)}, shares={"Twin": ("Trunk",)})

    assert "those of Trunk" in table(described)
    assert "parameters of Trunk<" in to_dot(described)


def test_losses_and_metrics_have_roles(described):
    assert [box.role for box in described.boxes] == ["processor"] * 3 + ["loss", "loss", "metric"]
    assert [port.role for port in described.outputs] == ["metric", "loss"]


def test_groups_come_from_names_or_the_caller():
    listed = [mix("-> a", node="m/n/A"), Op("-> b", group="own"), mix("-> c")]

    assert [box.group for box in boxes(*listed, groups={2: "told"})] == ["m/n", None, "told"]


@pytest.mark.parametrize("group", ["/own", "/", "//", "own//part/", "/own/"])
def test_a_group_is_drawn_wherever_its_slashes_stand(group):
    listed = [mix("-> a", node=f"{group}/A"), mix("-> b")]
    described = describe_graph(Graph(listed, provided=()), groups={1: group})

    assert all("p0" in text and "p1" in text for text in (to_dot(described), to_mermaid(described)))


def test_a_lambda_is_told_by_its_text():
    (box,) = boxes(double)

    assert box.code == 'lambda chunk: chunk.update(y=2 * chunk["x"])'
    assert "0  lambda chunk: chunk.update(" in table(describe_graph(Graph([double], provided={"x"})))


def test_of_two_lambdas_on_a_line_each_has_its_own_text():
    first, second = boxes(lambda chunk: chunk.update(a=1), lambda chunk: chunk.update(b=2))

    assert (first.code, second.code) == ("lambda chunk: chunk.update(a=1)", "lambda chunk: chunk.update(b=2)")


def test_where_python_keeps_no_columns_a_lambda_alone_on_its_line_is_told_by_its_text(tmp_path):
    (tmp_path / "listed.py").write_text(
        "from experimentator.graph import Graph, describe_graph\n"
        "alone = lambda chunk: 0\n"
        "twins = (lambda chunk: 1), (lambda chunk: 2)\n"
        "print([box.code for box in describe_graph(Graph([alone, *twins], provided=())).boxes])\n"
    )
    command = [sys.executable, "-X", "no_debug_ranges", tmp_path / "listed.py"]

    assert subprocess.run(command, capture_output=True, text=True).stdout == "['lambda chunk: 0', None, None]\n"


@pytest.mark.parametrize("wrap", [lambda f: f, partial, chunk_processor(mode=Mode.TRAIN)])
def test_an_undeclared_function_is_told_by_its_first_line(wrap):
    assert boxes(wrap(shift))[0].code == "def shift(chunk):"


def test_a_recorded_lambda_keeps_its_text():
    graph = Graph([double], provided={"x"}).record({"x": 1})

    (box,) = describe_graph(graph).boxes

    assert isinstance(graph.nodes[0].processor, RecordedProcessor)
    assert (box.code[:12], box.writes) == ("lambda chunk", (Ref("y", 1),))


def test_where_no_source_is_at_hand_the_place_is_told():
    made = eval("lambda chunk: None")
    twins = eval("[lambda: 0, lambda: 0]", {})

    assert [(box.code, box.text) for box in boxes(made)] == [(None, "lambda (<string>:1)")]
    assert [box.code for box in boxes(*twins, print)] == [None] * 3


def test_source_that_cannot_be_read_is_left_out(tmp_path):
    path = tmp_path / "cells.py"
    path.write_text("%magic\nlambda: 0\n")
    made = eval(compile("lambda: 0", str(path), "eval"))

    assert boxes(made)[0].code is None


def test_declared_functions_say_enough_by_themselves():
    named = chunk_processor(inputs=["x"], outputs=["y"])(lambda x: x)

    assert [box.code for box in boxes(chunk_processor(outputs=["y"])(shift_named), named)] == [None, "lambda x: x"]


def shift_named(x):
    return x


def test_arguments_are_kept_in_full_without_addresses():
    long = list(range(100))
    (box,) = boxes(mix("-> y", salt=long, after=[object]))
    (odd,) = boxes(mix("-> y", salt=object()))

    assert box.arguments == (("salt", repr(long)),)
    assert "..." in box.text
    assert odd.arguments == (("salt", "<object object>"),)
    assert "0x" not in odd.text


def test_a_hostile_argument_is_named_by_its_type():
    class Hostile:
        def __repr__(self):
            raise RuntimeError

    assert boxes(mix("-> y", salt=Hostile()))[0].arguments == (("salt", "<Hostile>"),)


def test_arguments_that_cannot_be_read_are_left_out():
    class Odd(Mix):
        broken = property(lambda self: 1 / 0)

    odd = Odd(outputs=("y",), salt=3)
    vars(odd)["broken"] = 1

    assert [(box.text, box.arguments) for box in boxes(odd)] == [("Odd()", ())]


def test_a_description_shows_itself_in_a_line():
    assert repr(describe_graph(Graph([], provided=()))) == "<Description ALL: 0 processors, nothing -> nothing>"


def test_a_name_that_nobody_provides_is_a_missing_input():
    described = describe_graph(Graph([mix("absent x -> y")], provided={"x"}))

    assert [(port.name, port.role) for port in described.inputs] == [("absent", "missing"), ("x", "input")]
    assert "missing" in to_dot(described)


def test_costs_and_statuses_may_come_later(described):
    later = with_statuses(with_costs(described, {"Head": 0.5}), {"Head": "failed: no memory"})

    assert "500 ms" in table(later)
    assert later.boxes[2].health == "failed"


@pytest.mark.parametrize(
    "status, health, sign",
    [("ok", "ok", "✓ "), ("failed: x", "failed", "✗ "), ("not run", "idle", ""), ("NaN", "warning", "! ")],
)
def test_every_status_is_told_by_a_sign(described, status, health, sign):
    failing = with_statuses(described, {"Head": status})

    assert failing.boxes[2].health == health
    assert f">{sign}{status}<" in to_dot(failing)


def test_heat_needs_a_cost_above_nothing(described):
    assert "■</FONT> 0 s" not in to_dot(with_costs(described, {"Head": 0.0}))
    assert "■</FONT> 12.5 ms" in to_dot(described)
    assert "■</FONT> 2 ms" in to_dot(with_costs(described, {"Head": float("nan"), "Accuracy": 0.002, "Op": -1.0}))


def test_a_cycle_is_drawn_and_listed_whole():
    described = describe_graph(Graph([mix("b -> a", node="A"), mix("a -> b", node="B"), Op("x ->")], provided={"x"}))

    assert tree(described).splitlines()[1:4] == ["a = A: Mix()", "b = B: Mix()", "a = A: Mix() (above)"]
    assert tree(described).splitlines()[-1] == "x (input)"


def test_an_order_alone_and_a_deletion_are_shown():
    processors = [mix("-> y", node="A"), Op("x ->", after=["A"], deletes=["x"])]
    described = describe_graph(Graph(processors, provided={"x"}))

    assert "└─ after = A: Mix()" in tree(described)
    assert "deletes x" in to_dot(described)


def test_long_texts_are_cut_and_kept_in_tooltips():
    dot = to_dot(describe_graph(Graph([mix("-> y", salt="word " * 60, node="name " * 30)], provided=())))

    label, tooltip = dot.split("p0 [label=")[1].split("tooltip=")[:2]

    assert len(label) < 500
    assert "word " * 60 in tooltip


def test_many_tensors_between_two_boxes_share_one_edge():
    names = " ".join(f"t{place}" for place in range(6))
    dot = to_dot(describe_graph(Graph([mix(f"-> {names}"), mix(f"{names} -> loss")], provided=()).select("loss")))

    assert dot.count("p0 -> p1") == 1
    assert "and 3 more" in dot
