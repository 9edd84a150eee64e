"""Folding: large graphs in few boxes, and nothing lost."""

from collections import Counter

import pytest
from hypothesis import given, settings

from experimentator.graph import (
    Graph,
    Mode,
    describe_graph,
    fold,
    plan,
    table,
    to_dot,
    to_mermaid,
    with_costs,
    with_statuses,
)
from tests.graph.test_laws import START, programs
from tests.stubs import Op, mix


def chain(length, *, first=0, prefix=""):
    return [mix(f"x{i} -> x{i + 1}", node=f"{prefix}s{i}") for i in range(first, first + length)]


def described(processors, *names, provided=("x0",)):
    graph = Graph(processors, provided=provided)
    return describe_graph(graph.select(*names) if names else graph)


def sizes(description):
    return [len(box.members) for box in description.boxes]


@settings(deadline=None, max_examples=50)
@given(programs())
def test_folding_lists_every_processor_once(program):
    whole = describe_graph(Graph(program, provided=START))

    folded = fold(whole, above=0)

    assert Counter(member for box in folded.boxes for member in box.members) == Counter(whole.boxes)
    assert {end for edge in folded.edges for end in (edge.source, edge.target)} <= {made.id for made in folded.drawn}


def test_long_chains_fold_into_stretches():
    assert sizes(fold(described(chain(120), "x120"))) == [6] * 20
    assert sizes(fold(described(chain(1000), "x1000"))) == [50] * 20
    assert sizes(fold(described(chain(120), "x120"), above=0)) == [40, 40, 40]


def test_small_graphs_are_left_as_they_are():
    small = described(chain(40), "x40")

    assert fold(small) is small
    assert to_dot(small) == to_dot(small, fold=False) != to_dot(small, fold=True)


def test_equals_with_the_same_ends_fold_and_their_ports_too():
    folded = fold(described([mix(f"x0 -> y{i}") for i in range(50)]))

    assert sizes(folded) == [50]
    assert [len(port.folded) for port in folded.outputs] == [50]
    assert "50: y0 ... y9" in to_dot(folded)


def test_parallel_chains_fold_twice():
    listed = [mix(f"x{b}_{i} -> x{b}_{i + 1}") for b in range(10) for i in range(5)]
    listed.append(mix(f"{' '.join(f'x{b}_5' for b in range(10))} -> loss", node="Sum"))

    folded = fold(described(listed, "loss", provided=[f"x{b}_0" for b in range(10)]), above=2)

    assert sizes(folded) == [50, 1]
    assert [len(port.folded) for port in folded.inputs] == [10]


def test_no_more_is_folded_than_is_needed():
    listed = [mix(f"x{b}_{i} -> x{b}_{i + 1}") for b in range(10) for i in range(5)]

    ends = [f"x{b}_5" for b in range(10)]

    assert sizes(fold(described(listed, *ends, provided=[f"x{b}_0" for b in range(10)]))) == [5] * 10


def test_what_skips_a_stretch_folds_with_it():
    listed = []
    for block in range(100):
        parts = (f"r{block} -> a{block}", f"a{block} -> b{block}", f"r{block} b{block} -> r{block + 1}")
        listed += [mix(part) for part in parts]

    assert sizes(fold(described(listed, "r100", provided=["r0"]))) == [15] * 20


def test_an_input_that_every_step_of_a_chain_reads_does_not_keep_it_from_folding():
    listed = [mix(f"x{i} mask -> x{i + 1}") for i in range(100)]
    folded = fold(described(listed, "x100", provided=["x0", "mask"]))

    assert sizes(folded) == [5] * 20
    assert [port.name for port in folded.inputs] == ["mask", "x0"]


def test_what_a_view_marked_stays_a_box_of_its_own():
    failing = with_statuses(described(chain(50), "x50"), {"s20": "failed: no memory"})

    assert sizes(fold(failing)) == [5, 5, 5, 5, 1, 5, 5, 5, 5, 5, 4]


def test_pruned_processors_fold_among_themselves():
    graph = Graph([*chain(30), *(mix(f"z{i} -> z{i + 1}") for i in range(30))], provided={"x0", "z0"}, mode=Mode.TRAIN)

    folded = fold(plan(graph, "x30"))
    assert [(len(box.members), box.state) for box in folded.boxes] == [(5, "")] * 6 + [(5, "pruned")] * 6


def crossed(group, count):
    """Processors that neither follow one another nor are alike."""
    names = [f"{group}{i}" for i in range(count)]
    flows = [f"x0 {' '.join(names[max(0, i - 2) : i])} -> {names[i]}" for i in range(count)]
    return [mix(flow, node=f"net/{group}/{name}") for flow, name in zip(flows, names, strict=True)]


def test_many_processors_fold_by_their_groups():
    folded = fold(described([step for group in "abc" for step in crossed(group, 60)], "a59", "b59", "c59"))

    assert [(box.label, box.group, len(box.members)) for box in folded.boxes] == [(g, "net", 60) for g in "abc"]
    assert "a: 60 processors" in to_dot(folded)


def tangle(count):
    return [mix(f"{' '.join(f'y{j}' for j in range(max(0, i - 3), i)) or 'x0'} -> y{i}") for i in range(count)]


def test_tangles_are_drawn_as_they_are_unless_they_are_large():
    assert len(fold(described(tangle(100), "y99")).boxes) == 100
    assert sizes(fold(described(tangle(1000), "y999"))) == [25] * 40


def test_text_never_folds():
    whole = described(chain(100), "x100")

    assert table(fold(whole)).count("\n") == table(whole).count("\n") == 101


def test_a_folded_chain_is_drawn_with_its_members(snapshot):
    folded = fold(described(chain(12, prefix="g/"), "x12"), above=0)

    assert to_dot(folded) == snapshot
    assert to_mermaid(folded) == snapshot(name="mermaid")


def test_weights_and_costs_add_up():
    costs, weights = {f"s{i}": 0.5 for i in range(3)}, {f"s{i}": (2, 1) for i in range(3)}
    graph = Graph([*chain(3), Op("x3 -> y")], provided={"x0"}).select("y")

    described = with_costs(describe_graph(graph, weights=weights), costs)
    (box,) = [box for box in fold(described, above=0).boxes if box.folded]
    assert (box.cost, box.trainable, box.frozen) == (1.5, 6, 3)


@pytest.mark.parametrize("edges", [100, 500, 2000])
def test_the_more_edges_the_less_effort_goes_into_their_course(edges):
    listed = [mix(f"{' '.join(f'y{j}' for j in range(max(0, i - 4), i)) or 'x0'} -> y{i}") for i in range(edges // 4)]

    efforts = {100: "nslimit=2;", 500: "nslimit=0.2;", 2000: "splines=line"}

    assert efforts[edges] in to_dot(described(listed, f"y{edges // 4 - 1}"), fold=False)
