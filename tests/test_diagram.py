"""Diagrams: every format, without a `dot` command, in a process that can be killed."""

import re
from xml.etree import ElementTree

import pytest

from experimentator.diagram import DiagramError, draw, page, picture, save
from experimentator.graph import (
    DescriptionError,
    Graph,
    chunk_processor,
    describe_graph,
    difference,
    plan,
    with_costs,
)
from tests.graph.test_pictures import ODD
from tests.pictures import needs_pictures
from tests.stubs import mix

pytestmark = needs_pictures

STARTS = {
    "html": b"<!doctype html>",
    "svg": b"<?xml",
    "png": b"\x89PNG",
    "pdf": b"%PDF",
    "dot": b"digraph",
    "gv": b"digraph",
    "mmd": b"---\ntitle: ",
    "md": b"```mermaid\n---\ntitle: ",
    "txt": b"ALL: 2 processors",
    "json": b'{\n "format": "experimentator graph"',
    "model-explorer.json": b'{\n "label": "ALL: 2 processors',
}


@pytest.fixture
def graph():
    return Graph([mix("x -> h"), mix("h y -> loss")], provided={"x", "y"}).select("loss")


@pytest.mark.parametrize("suffix", STARTS)
def test_every_format_is_written_without_a_dot_command(graph, suffix, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")

    save(graph, tmp_path / f"graph.{suffix}")

    assert (tmp_path / f"graph.{suffix}").read_bytes().startswith(STARTS[suffix])


def test_a_view_is_written_like_a_graph(graph, tmp_path):
    save(plan(graph, "h"), tmp_path / "plan.txt")

    assert "not needed for h" in (tmp_path / "plan.txt").read_text()


def test_a_notebook_shows_the_picture(graph):
    assert "<svg" in graph._repr_mimebundle_()["image/svg+xml"]


def test_an_unknown_suffix_lists_the_known_ones(graph, tmp_path):
    known = ".svg, .png, .pdf, .html, .dot, .gv, .mmd, .md, .txt, .model-explorer.json, .json"

    with pytest.raises(DiagramError, match=re.escape(known)):
        save(graph, tmp_path / "graph.jpg")


def test_a_name_without_a_suffix_is_told_so(graph, tmp_path):
    with pytest.raises(DiagramError, match="Seen: no suffix"):
        save(graph, tmp_path / ".svg")


def test_an_svg_follows_the_readers_theme_unless_one_is_chosen(graph):
    assert b"prefers-color-scheme: dark" in picture(graph)
    assert b"prefers-color-scheme" not in picture(graph, theme="light")
    assert picture(graph, theme="dark") != picture(graph, theme="light")


def test_every_colour_of_a_light_svg_has_a_dark_partner(graph):
    svg = picture(with_costs(difference(describe_graph(graph.select("h")), describe_graph(graph)), {"Mix": 1.0}))
    style, drawing = svg.decode().split("</style>")

    colours = set(re.findall(r'(?:fill|stroke)="(?!none)([^"]+)"', drawing))

    assert all(f'[fill="{colour}"]' in style for colour in colours)


def test_an_svg_says_more_where_the_mouse_rests(graph):
    svg = picture(graph).decode()

    assert re.search(r"<title>#1 Mix\(\)\n?(&#10;)?.*reads h, y", svg, re.DOTALL)
    assert "xlink:title" not in svg


def test_lines_of_boxes_are_anchored_at_their_middle_whatever_the_fonts_of_the_reader(graph):
    nodes = re.findall(r'<g id="node\d+" class="node">.*?</g>\n</g>\n</g>', picture(graph).decode(), re.DOTALL)

    assert len(nodes) == 5
    for node in nodes:
        assert set(re.findall(r'text-anchor="(\w+)"', node)) == {"middle"}
        assert len(set(re.findall(r'text-anchor="middle" x="([^"]+)"', node))) == 1


def test_any_names_make_a_well_formed_svg_without_markup_of_their_own():
    steps = [mix("-> x", node=f"{name}/{name}", salt=name) for name in ODD]
    inputs = [chunk_processor(inputs=[name], outputs=[f"{name}2"])(lambda x: x) for name in ODD]
    drawn = picture(describe_graph(Graph([*steps, *inputs], provided=ODD), title="<&> ]]> -->"), fold=False)

    tags = {element.tag.rpartition("}")[2] for element in ElementTree.fromstring(drawn).iter()}
    assert tags <= {"svg", "style", "g", "title", "text", "path", "polygon", "polyline", "ellipse"}


@pytest.mark.parametrize("cost", [float("nan"), float("inf")])
def test_a_cost_that_is_no_number_is_on_no_page(graph, cost):
    described = describe_graph(graph)

    assert '"cost"' in page({"": with_costs(described, {described.boxes[0].name: 1.0})})
    assert '"cost":null' in page({"": with_costs(described, {described.boxes[0].name: cost})})


def test_an_unknown_theme_lists_the_known_ones(graph):
    with pytest.raises(DescriptionError, match="Write 'light' or 'dark'"):
        picture(graph, theme="sepia")


def test_only_drawn_formats_can_be_drawn():
    with pytest.raises(DiagramError, match="svg, png, pdf"):
        draw("digraph { a }", "gif")


def test_a_drawing_that_takes_too_long_is_killed():
    with pytest.raises(DiagramError, match=r"within 0\.001 s[^$]*--for name"):
        draw("digraph { a -> b }", "svg", timeout=0.001)


@pytest.mark.parametrize(
    "said, command",
    [
        ("No module named 'pygraphviz'", 'pip install "pygraphviz>=2"'),
        ("libgobject-2.0.so.0: cannot open shared object file: No such file or directory", "apt-get install libpango"),
    ],
)
def test_without_pygraphviz_or_what_it_needs_the_error_holds_the_command_to_type(said, command, tmp_path, monkeypatch):
    (tmp_path / "pygraphviz.py").write_text(f"raise ImportError({said!r})")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    with pytest.raises(DiagramError, match=f"Seen: {said}\\.\nType: {command}"):
        draw("digraph { a }", "svg")


def test_what_graphviz_complains_about_is_passed_on():
    with pytest.raises(DiagramError, match=r"syntax error[^$]*exit status"):
        draw("digraph { a -> ", "svg")


def test_a_picture_replaces_the_old_one_or_leaves_it(graph, tmp_path):
    (tmp_path / "graph.svg").write_text("old")

    with pytest.raises(DiagramError):
        save(graph, tmp_path / "graph.svg", timeout=0.001)

    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


def test_a_hundred_readers_of_one_input_are_drawn_in_seconds():
    graph = Graph([mix(f"batch_input -> y{place}") for place in range(100)], provided={"batch_input"})

    assert picture(graph, timeout=20.0, fold=False).count(b'class="node"') == 300


def test_a_thousand_processors_in_groups_are_drawn_group_by_group():
    flows = [
        (group, at, " ".join(f"x{group}_{max(0, at - back)}" for back in (0, 1, 2)))
        for group in range(20)
        for at in range(50)
    ]
    steps = [mix(f"{reads} -> x{group}_{at + 1}", node=f"tower {group}/step {at}") for group, at, reads in flows]
    graph = Graph(steps, provided={f"x{group}_0" for group in range(20)}).select(
        *(f"x{group}_50" for group in range(20))
    )

    drawn = picture(graph, timeout=20.0).decode()

    assert len(re.findall(r">tower \d+: 50 processors<", drawn)) == 20


@pytest.mark.parametrize("depth", [1, 1000])
def test_a_thousand_processors_are_drawn_in_seconds(depth):
    steps = [mix(f"x{row}_{at} -> x{row}_{at + 1}") for row in range(1000 // depth) for at in range(depth)]
    graph = Graph(steps, provided={f"x{row}_0" for row in range(1000 // depth)})

    assert b"1000 processors" in picture(graph, timeout=20.0)
