"""DOT, Mermaid and plain text: the same in every process, and whole whatever the names hold."""

import os
import subprocess
import sys
import types

import pytest

from experimentator.graph import ChunkProcessor, Graph, Mode, chunk_processor, describe_graph, to_dot
from tests.pictures import needs_pictures, pygraphviz
from tests.stubs import Op, mix

ODD = [
    'qu"ote',
    "back\\slash",
    "two\nlines",
    "né→名",
    "a&lt;b",
    "<b>",
    "|;{}[]#%%",
    "`code`",
    " ",
    "\ud800",
    "\x00",
    "end",
    "</text><script>x</script>",
    "--> ::: {{%%{init}%%}}",
    "]]> <!--",
    "x" * 20_000,
]


@pytest.fixture
def graph():
    processors = [
        Op("batch_input -> batch_input", node="Scale"),
        Op("batch_input -> batch_logits", node="Dense head"),
        Op("batch_target ->", mode=Mode.TRAIN, after=["Scale"]),
        Op("batch_logits batch_target -> loss", node="Loss"),
    ]
    return Graph(processors, provided={"batch_input", "batch_target"}, mode=Mode.TRAIN).select("loss", "batch_target")


def test_a_graph_is_an_aligned_table(graph):
    assert (
        str(graph)
        == """\
TRAIN: 4 processors, batch_input, batch_target -> batch_target, loss
#  processor     reads                      writes         mode
0  Scale()       batch_input@0              batch_input@1  ALL
1  Dense head()  batch_input@1              batch_logits   ALL
2  Op()          batch_target                              TRAIN
3  Loss()        batch_logits batch_target  loss           ALL"""
    )
    assert repr(graph) == "<Graph TRAIN: 4 processors, batch_input, batch_target -> batch_target, loss>"


def test_a_pruned_graph_tells_how_much_is_left(graph):
    assert str(graph.select("batch_logits")).startswith("TRAIN: 2 of 4 processors, batch_input -> batch_logits\n")


def test_a_graph_is_drawn_in_dot(graph, snapshot):
    assert graph.to_dot() == snapshot


def test_a_graph_is_drawn_in_mermaid(graph, snapshot):
    assert graph.to_mermaid() == snapshot


def test_an_older_version_that_comes_out_is_told_apart():
    graph = Graph([mix("x -> x"), mix("x -> x")], provided={"x"}).select("x", "x@1")

    assert "p0 -> out1 [label=<&#160;x@1&#160;>" in graph.to_dot()


def test_a_label_stands_above_what_it_labels():
    alone, above = (Graph([made("-> x", node="Dense head")], provided=()).to_dot() for made in (Op, mix))

    assert "<<B>Dense head</B>>" in alone
    assert '<<B>Dense head</B><BR/><FONT POINT-SIZE="10">Mix</FONT>>' in above


@needs_pictures
@pytest.mark.parametrize("name", ODD)
def test_any_name_makes_a_valid_drawing(name):
    processors = [
        mix("-> x", node=f"{name}/" * 3 + name),
        chunk_processor(inputs=[name], outputs=[name + "2"])(lambda a: a),
    ]
    dot = Graph(processors, provided={name}).to_dot()

    drawn = pygraphviz.AGraph(string=dot)

    assert sorted(drawn.nodes()) == ["in0", "out0", "out1", "p0", "p1"]
    assert len(drawn.edges()) == 3


@pytest.mark.parametrize("name", ODD)
def test_any_name_makes_one_line_of_mermaid_and_text(name):
    graph = Graph([chunk_processor(inputs=[name], outputs=[name + "2"])(lambda a: a)], provided={name})

    assert [len(picture.splitlines()) for picture in (graph.to_mermaid(), str(graph))] == [12, 3]
    assert all(line.count('"') in (0, 2) for line in graph.to_mermaid().splitlines()[3:])


@needs_pictures
def test_one_input_of_many_readers_is_drawn_beside_each():
    graph = Graph([mix(f"x -> y{i}") for i in range(100)], provided={"x"})

    drawn = pygraphviz.AGraph(string=to_dot(describe_graph(graph), fold=False))

    assert [drawn.in_degree(f"p{i}") for i in range(100)] == [1] * 100
    assert all(drawn.has_edge(f"in0_p{i}", f"p{i}") for i in range(100))
    assert not drawn.has_node("in0")


@needs_pictures
def test_a_broken_graph_is_still_drawn():
    graph = Graph([mix("b -> a"), mix("a absent -> b")], provided=())

    assert pygraphviz.AGraph(string=graph.to_dot()).has_edge("in0", "p1")
    assert str(graph).splitlines()[3].startswith("1  Mix()")
    assert "\nflowchart TD\n" in graph.to_mermaid()


@needs_pictures
def test_undeclared_callables_are_drawn_without_names():
    graph = Graph([print, mix("x -> y")], provided={"x"})

    assert str(graph).splitlines()[2] == "0  print      ?      ?       ALL"
    assert pygraphviz.AGraph(string=graph.to_dot()).has_node("p0")
    assert 'p0["print"]' in graph.to_mermaid()


def test_a_picture_of_a_broken_repr_is_a_picture():
    class Odd(ChunkProcessor):
        inputs, outputs = (), ("x",)

        def __repr__(self):
            raise RuntimeError

    assert "Odd()" in str(Graph([Odd()], provided=()))


def test_notebooks_show_the_picture_and_the_table(monkeypatch):
    graph = Graph([], provided=())
    shown = {"DiagramError": RuntimeError, "picture": lambda description: description.mode.encode()}
    monkeypatch.setitem(sys.modules, "experimentator.diagram", types.SimpleNamespace(**shown))

    assert graph._repr_mimebundle_() == {"image/svg+xml": "ALL", "text/plain": str(graph)}
    assert graph._repr_svg_() == describe_graph(graph)._repr_svg_() == "ALL"


def test_without_a_picture_notebooks_show_the_table_and_the_reason(monkeypatch):
    def fail(description):
        raise RuntimeError("no Graphviz")

    shown = {"DiagramError": RuntimeError, "picture": fail}
    monkeypatch.setitem(sys.modules, "experimentator.diagram", types.SimpleNamespace(**shown))

    assert describe_graph(Graph([], provided=()))._repr_mimebundle_()["text/plain"].endswith("\n\nno Graphviz")
    assert Graph([], provided=())._repr_svg_() is None


SCRIPT = """
from experimentator.graph import Graph, GraphError
from tests.stubs import mix
names = [f"n{i}" for i in range(20)]
processors = [mix(f"{name} -> y{name}", after=["c"]) for name in names] + [mix("a -> b"), mix("b -> a", node="c")]
graph = Graph(processors, provided=set(names))
print(graph, graph.to_dot(), graph.to_mermaid())
try:
    graph.select("a", "u", "v", *[f"y{name}" for name in names])
except GraphError as error:
    print(error)
"""


def test_two_processes_draw_the_same():
    runs = [
        subprocess.run(
            [sys.executable, "-c", SCRIPT], capture_output=True, check=True, env={**os.environ, "PYTHONHASHSEED": seed}
        )
        for seed in ("1", "2")
    ]

    assert runs[0].stdout == runs[1].stdout
    assert b"wait on each other" in runs[0].stdout
