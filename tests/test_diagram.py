"""Diagrams: every format, without a `dot` command, in a process that can be killed."""

import pytest

from experimentator.diagram import DiagramError, draw, save, svg
from experimentator.graph import Graph
from tests.stubs import mix

STARTS = {
    "svg": b"<?xml",
    "png": b"\x89PNG",
    "pdf": b"%PDF",
    "dot": b"digraph",
    "mmd": b"flowchart",
    "txt": b"ALL: 2 processors",
}


@pytest.fixture
def graph():
    return Graph([mix("x -> h"), mix("h y -> loss")], provided={"x", "y"}).select("loss")


@pytest.mark.parametrize("suffix", STARTS)
def test_every_format_is_written_without_a_dot_command(graph, suffix, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")

    save(graph, tmp_path / f"graph.{suffix}")

    assert (tmp_path / f"graph.{suffix}").read_bytes().startswith(STARTS[suffix])


def test_a_notebook_shows_the_picture(graph):
    assert "<svg" in graph._repr_svg_()


def test_an_unknown_suffix_lists_the_known_ones(graph, tmp_path):
    with pytest.raises(DiagramError, match=r"\.svg, \.png, \.pdf, \.dot, \.mmd, \.txt"):
        save(graph, tmp_path / "graph.jpg")


def test_only_drawn_formats_can_be_drawn():
    with pytest.raises(DiagramError, match="svg, png, pdf"):
        draw("digraph { a }", "gif")


def test_a_drawing_that_takes_too_long_is_killed():
    with pytest.raises(DiagramError, match=r"within 0\.001 s[^$]*--for name"):
        svg("digraph { a -> b }", timeout=0.001)


def test_without_pygraphviz_the_error_holds_the_command_to_type(tmp_path, monkeypatch):
    (tmp_path / "pygraphviz.py").write_text("raise ModuleNotFoundError('No module named pygraphviz')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    with pytest.raises(DiagramError, match='Type: pip install "pygraphviz>=2"'):
        svg("digraph { a }")


def test_what_graphviz_complains_about_is_passed_on():
    with pytest.raises(DiagramError, match=r"syntax error[^$]*exit status"):
        svg("digraph { a -> ")


def test_a_picture_replaces_the_old_one_or_leaves_it(graph, tmp_path):
    (tmp_path / "graph.svg").write_text("old")

    with pytest.raises(DiagramError):
        save(graph, tmp_path / "graph.svg", timeout=0.001)

    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


def test_a_hundred_readers_of_one_input_are_drawn_in_seconds():
    graph = Graph([mix(f"batch_input -> y{place}") for place in range(100)], provided={"batch_input"})

    assert svg(graph.to_dot(), timeout=20.0).count('class="node"') == 300
