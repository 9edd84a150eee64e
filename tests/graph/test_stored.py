"""Graphs as files: JSON of our own that reads back, and that of Google's Model Explorer."""

import importlib.util
import json
import sys
from dataclasses import MISSING, asdict, fields
from functools import reduce
from importlib.machinery import PathFinder
from pathlib import Path

import dacite
import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experimentator.graph import (
    Box,
    Description,
    DescriptionError,
    Edge,
    Graph,
    Port,
    Ref,
    Tensor,
    describe_graph,
    difference,
    fold,
    from_json,
    plan,
    to_dot,
    to_json,
    to_model_explorer,
    with_costs,
    with_statuses,
)
from tests.graph.test_laws import START, programs
from tests.stubs import mix

SCHEMA = json.loads((Path(__file__).resolve().parents[2] / "docs" / "graph.schema.json").read_text("utf-8"))
BOX = {"id": "p9", "index": 0, "name": "a", "kind": "Mix", "text": "a"}


def described(**facts):
    listed = [mix("x -> x", node="net/Scale", salt=2), mix("x y -> loss", after=["net/Scale"]), mix("x -> z")]
    return describe_graph(Graph(listed, provided={"x", "y"}).select("loss"), **facts)


def full():
    shapes = {Ref("x", 0): ((None, 3), "uint8")}
    known = described(shapes=shapes, weights={"net/Scale": (5, 1)})
    return with_statuses(with_costs(known, {"net/Scale": 1}), {"Mix": "ok"})


@settings(deadline=None, max_examples=50)
@given(programs(), st.dictionaries(st.sampled_from(["Mix", "Mix#2"]), st.floats(0, 1e9)))
def test_what_is_written_is_read_back(program, costs):
    one = with_costs(describe_graph(Graph(program, provided=START)), costs)

    for view in (one, fold(one, above=0), plan(Graph(program, provided=START), "a"), difference(full(), one)):
        assert from_json(to_json(view)) == view


def test_a_file_holds_what_is_not_by_default(snapshot):
    assert to_json(full()) == snapshot


def test_the_schema_holds_for_every_view():
    broken = describe_graph(Graph([mix("absent -> x", after=["x"]), print], provided=()))
    views = [full(), fold(full(), above=0), plan(Graph([mix("x -> z"), mix("x -> y")], provided={"x"}), "y"), broken]

    for view in (*views, difference(full(), described()), difference(described(), views[2])):
        jsonschema.validate(json.loads(to_json(view)), SCHEMA)


@pytest.mark.parametrize("kind", [Description, Box, Port, Edge, Tensor])
def test_the_schema_knows_every_field(kind):
    known = SCHEMA if kind is Description else SCHEMA["$defs"][kind.__name__.lower()]

    required = {field.name for field in fields(kind) if field.default is MISSING}
    assert known["properties"].keys() - {"format"} == {field.name for field in fields(kind)} | versioned(kind)
    assert set(known["required"]) - {"format"} == required | (versioned(kind) if kind is Description else set())


def versioned(kind):
    return {"version"} if kind in (Description, Tensor) else set()


@pytest.mark.parametrize("wrong", [{"version": 2}, {"total": "3"}, {"boxes": [{"id": "p0"}]}, {"edges": [3]}])
def test_the_schema_refuses_what_is_damaged(wrong):
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**json.loads(to_json(full())), **wrong}, SCHEMA)


def test_names_that_later_versions_may_add_are_passed_over():
    data = json.loads(to_json(full()))
    data["boxes"][0]["colour"] = "red"

    assert from_json(json.dumps(data)) == from_json(to_json(full()))


@pytest.mark.parametrize(
    "text, seen",
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", '"format": "list"'),
        ("{}", '"format": null'),
        ('{"format": "experimentator graph", "version": 2}', '"version": 2, where 1 is known'),
        ('{"format": "experimentator graph", "version": 1}', "missing 2 required positional arguments"),
    ],
)
def test_other_files_are_refused(text, seen):
    with pytest.raises(DescriptionError, match="experimentator graph CONFIG -o") as refused:
        from_json(text)

    assert seen in str(refused.value)


@pytest.mark.parametrize(
    "field, value, where",
    [
        ("mode", 3, "mode of the file"),
        ("boxes", {}, "boxes of the file"),
        ("boxes", [3], "boxes of the file"),
        ("edges", [{"source": "a", "target": "b", "ref": ["x"]}], "ref of edges of the file"),
        ("total", True, "total of the file"),
        ("boxes", [{**BOX, "group": "a/" * 3000}], "groups of the file"),
        ("boxes", [reduce(lambda box, _: {**BOX, "folded": [box]}, range(300), BOX)], "folded boxes of the file"),
        ("edges", [{"source": "in0", "target": "nowhere"}], "edges of the file"),
        ("edges", [{"source": "in0", "target": "p0", "state": "odd"}], "edges of the file"),
        ("inputs", [{"id": "in0", "ref": ["x", 0], "role": "king", "name": "x"}], "'in0' of the file"),
    ],
)
def test_damage_is_found_where_it_is(field, value, where):
    data = {**json.loads(to_json(full())), field: value}

    with pytest.raises(DescriptionError, match=f"damaged, in {where}"):
        from_json(json.dumps(data))


@pytest.mark.parametrize("state", [state for state in SCHEMA["$defs"]["edge"]["properties"]["state"]["enum"] if state])
def test_every_state_that_a_file_may_give_an_edge_is_drawn(state):
    data = json.loads(to_json(full()))
    data["edges"][0]["state"] = state

    assert "fontcolor" in next(line for line in to_dot(from_json(json.dumps(data))).splitlines() if " -> p" in line)


def test_model_explorer_gets_groups_shapes_and_facts(snapshot):
    assert to_model_explorer(full()) == snapshot


def test_model_explorer_itself_loads_the_file():
    found = PathFinder.find_spec("model_explorer", [*sys.path, f"{sys.prefix}/model-explorer"])  # see the Makefile
    assert found, "Type: pip install --no-deps ai-edge-model-explorer"
    builder = loaded(Path(found.origin).with_name("graph_builder.py"))
    data = json.loads(to_model_explorer(fold(full(), above=0)))

    collection = dacite.from_dict(builder.GraphCollection, data, dacite.Config(strict=True))

    ids = {node.id for node in collection.graphs[0].nodes}
    assert {edge.sourceNodeId for node in collection.graphs[0].nodes for edge in node.incomingEdges} <= ids
    assert asdict(collection)["label"] == "ALL: 2 of 3 processors, x, y -> loss"


def loaded(path):
    """The module that defines the format, without the server around it."""
    spec = importlib.util.spec_from_file_location("model_explorer_format", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where its dataclasses look their types up
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("other", ["p0", "a b; x -> y", "", "Node"])
def test_ids_that_no_picture_could_be_drawn_by_are_refused(other):
    text = to_json(describe_graph(Graph([mix("x -> y")], provided={"x"})))

    with pytest.raises(DescriptionError, match="damaged, in ids of the file"):
        from_json(text.replace('"in0"', json.dumps(other)))
