"""DOT, Mermaid and plain text: the same in every process, and whole whatever the names hold."""

import os
import subprocess
import sys
import types

import pygraphviz
import pytest

from experimentator.graph import ChunkProcessor, Graph, Mode, chunk_processor
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


def test_a_graph_is_drawn_in_dot(graph):
    lines = graph.to_dot().splitlines()

    assert lines[0] == 'digraph "TRAIN" {'
    assert lines[5:] == [
        '  in0 [label="batch_input", shape=ellipse, style=filled, fillcolor="#cfe3f5", color="#0072b2"];',
        '  in1 [label="batch_target", shape=ellipse, style=filled, fillcolor="#cfe3f5", color="#0072b2"];',
        '  p0 [label="Scale()"];',
        '  p1 [label="Dense head()"];',
        '  p2 [label="Op()\\nTRAIN only", penwidth=1.6, style="rounded,filled,dashed"];',
        '  p3 [label="Loss()"];',
        '  in0 -> p0 [label="batch_input@0"];',
        '  p0 -> p1 [label="batch_input@1"];',
        '  in1 -> p2 [label="batch_target"];',
        "  p0 -> p2 [style=dashed, label=after];",
        '  p1 -> p3 [label="batch_logits"];',
        '  in1 -> p3 [label="batch_target"];',
        '  out0 [label="batch_target", shape=ellipse, style=filled, fillcolor="#fbe3c0", color="#d55e00"];',
        '  in1 -> out0 [label=""];',
        '  out1 [label="loss", shape=ellipse, style=filled, fillcolor="#fbe3c0", color="#d55e00"];',
        '  p3 -> out1 [label=""];',
        "}",
    ]


def test_a_graph_is_drawn_in_mermaid(graph):
    assert (
        graph.to_mermaid()
        == """\
flowchart TD
  in0(["batch_input"])
  in1(["batch_target"])
  p0["Scale()"]
  p1["Dense head()"]
  p2["Op()"]
  p3["Loss()"]
  in0 -->|"batch_input@0"| p0
  p0 -->|"batch_input@1"| p1
  in1 -->|"batch_target"| p2
  p0 -.->|after| p2
  p1 -->|"batch_logits"| p3
  in1 -->|"batch_target"| p3
  in1 --> out0(["batch_target"])
  p3 --> out1(["loss"])
"""
    )


def test_an_older_version_that_comes_out_is_told_apart():
    graph = Graph([mix("x -> x"), mix("x -> x")], provided={"x"}).select("x", "x@1")

    assert 'p0 -> out1 [label="x@1"]' in graph.to_dot()


def test_a_label_stands_above_what_it_labels():
    assert '[label="Dense head()"]' in Graph([Op("-> x", node="Dense head")], provided=()).to_dot()
    assert '[label="Dense head\\nMix()"]' in Graph([mix("-> x", node="Dense head")], provided=()).to_dot()


@pytest.mark.parametrize("name", ODD)
def test_any_name_makes_a_valid_drawing(name):
    processors = [mix("-> x", node=name), chunk_processor(inputs=[name], outputs=[name + "2"])(lambda a: a)]
    dot = Graph(processors, provided={name}).to_dot()

    drawn = pygraphviz.AGraph(string=dot)

    assert sorted(drawn.nodes()) == ["in0", "out0", "out1", "p0", "p1"]
    assert len(drawn.edges()) == 3


@pytest.mark.parametrize("name", ODD)
def test_any_name_makes_one_line_of_mermaid_and_text(name):
    graph = Graph([chunk_processor(inputs=[name], outputs=[name + "2"])(lambda a: a)], provided={name})

    assert [len(picture.splitlines()) for picture in (graph.to_mermaid(), str(graph))] == [5, 3]
    assert all(line.count('"') in (0, 2) for line in graph.to_mermaid().splitlines())


def test_one_input_of_many_readers_is_drawn_beside_each():
    graph = Graph([mix(f"x -> y{i}") for i in range(100)], provided={"x"})

    drawn = pygraphviz.AGraph(string=graph.to_dot())

    assert [drawn.degree(f"in0_{i}") for i in range(100)] == [1] * 100
    assert not drawn.has_node("in0")


def test_a_broken_graph_is_still_drawn():
    graph = Graph([mix("b -> a"), mix("a absent -> b")], provided=())

    assert pygraphviz.AGraph(string=graph.to_dot()).has_edge("in0", "p1")
    assert str(graph).splitlines()[3].startswith("1  Mix()")
    assert graph.to_mermaid().startswith("flowchart TD")


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


def test_notebooks_show_the_drawing(monkeypatch):
    diagram = types.ModuleType("experimentator.diagram")
    diagram.svg = lambda dot: f"<svg>{dot.partition(' ')[0]}</svg>"
    monkeypatch.setitem(sys.modules, "experimentator.diagram", diagram)

    assert Graph([], provided=())._repr_svg_() == "<svg>digraph</svg>"


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
