"""The laws of the graph, over random programs; `by_demand` and `in_list_order` are written without its code."""

import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experimentator.graph import Graph, Mode
from tests.stubs import Mix, by_demand, in_list_order, undeclared

NAMES = list("abcde")
START = {"a": 1, "b": 2}


def law(*strategies):
    return lambda test: settings(deadline=None, max_examples=100)(given(*strategies)(test))


@st.composite
def programs(draw):
    """Lists that make sense from top to bottom, with names overwritten at will."""
    live, program = set(START), []
    for salt in range(draw(st.integers(1, 9))):
        reads = draw(st.lists(st.sampled_from(sorted(live)), unique=True, max_size=3))
        writes = draw(st.lists(st.sampled_from(NAMES), unique=True, max_size=2))
        live.update(writes)
        program.append(Mix(tuple(reads), tuple(writes), salt))
    return program


@st.composite
def fresh_programs(draw):
    """The same, every write under a name of its own."""
    current, program = {name: name for name in START}, []
    for mixed in draw(programs()):
        reads = tuple(current[name] for name in mixed.inputs)
        current |= {name: f"{name}{mixed.salt}" for name in mixed.outputs}
        program.append(Mix(reads, tuple(current[name] for name in mixed.outputs), mixed.salt))
    return program


def random_order(dag, rng):
    waiting = dict(dag.in_degree())
    ready, order = [node for node, count in waiting.items() if not count], []
    while ready:
        order.append(ready.pop(rng.randrange(len(ready))))
        for _, reader in dag.out_edges(order[-1]):
            waiting[reader] -= 1
            ready += [reader] if not waiting[reader] else []
    return tuple(order)


@law(programs())
def test_a_graph_gives_what_the_list_gives(program):
    expected = in_list_order(program, START)

    assert Graph(program, provided=START).run(START).items() <= expected.items()


@law(programs(), st.randoms(use_true_random=False))
def test_any_topological_order_gives_the_result_of_list_order(program, rng):
    graph = Graph(program, provided=START)
    expected = graph.run(START)

    other = Graph(program, provided=START)
    other.order = random_order(other.dag, rng)

    assert other.run(START) == expected


@law(programs(), st.sets(st.sampled_from(NAMES)))
def test_pruning_never_changes_a_kept_output(program, names):
    whole = Graph(program, provided=START).run(START)
    kept = sorted(names & set(whole))

    graph = Graph(program, provided=START).select(*kept)

    assert graph.run({name: START[name] for name in graph.inputs}) == {name: whole[name] for name in kept}


@law(programs(), st.sets(st.sampled_from(NAMES)))
def test_select_is_idempotent(program, names):
    graph = Graph(program, provided=START)
    once = graph.select(*(names & set(graph.outputs)))

    twice = once.select(*once.outputs)

    assert (twice.nodes, twice.order, twice.inputs, twice.outputs) == (
        once.nodes,
        once.order,
        once.inputs,
        once.outputs,
    )


@law(fresh_programs(), st.randoms(use_true_random=False))
def test_a_program_whose_writes_are_all_fresh_may_be_shuffled(program, rng):
    expected = Graph(program, provided=START).run(START)
    rng.shuffle(program)

    assert Graph(program, provided=START).run(START) == expected == by_demand(program, START)


@law(programs(), st.integers(0, 8))
def test_reads_follow_the_binding_rule(program, place):
    below = Mix(("z",), ("y",), 50), Mix((), ("z",), 51)  # z is read above its only write
    program[place:place] = below

    assert Graph(program, provided=START).run(START) == by_demand(program, START)


@law(programs())
def test_recorded_is_declared(program):
    lambdas = [undeclared(processor) for processor in program]
    declared = Graph(program, provided=START)

    recorded = Graph(lambdas, provided=START).record(START)

    assert [(set(n.reads), n.writes) for n in recorded.nodes] == [(set(n.reads), n.writes) for n in declared.nodes]
    assert recorded.run(START) == declared.run(START)


@law(fresh_programs(), st.randoms(use_true_random=False))
def test_a_shuffled_program_is_recorded_as_it_is_declared(program, rng):
    expected = Graph(program, provided=START).run(START)
    rng.shuffle(program)

    assert Graph([undeclared(p) for p in program], provided=START).run(START) == expected


@law(fresh_programs(), st.randoms(use_true_random=False))
def test_the_order_is_the_dags_with_ties_broken_by_list_order(program, rng):
    rng.shuffle(program)
    graph = Graph(program, provided=START)

    assert graph.order == tuple(nx.lexicographical_topological_sort(graph.dag, key=lambda node: node.index))


@law(programs())
def test_every_version_has_one_writer_and_every_edge_moves_one(program):
    graph = Graph(program, provided=START)

    assert sum(len(node.writes) for node in graph.nodes) == len(graph.writers)
    assert all(refs and set(refs) <= set(tail.writes) for tail, _, refs in graph.dag.edges(data="refs"))


@law(programs(), st.sampled_from([Mode.TRAIN, Mode.EVAL, Mode.INFER]), st.data())
def test_modes_filter_before_versions_are_bound(program, mode, data):
    modes = [data.draw(st.sampled_from([Mode.ALL, mode, Mode.ALL & ~mode])) for _ in program]
    marked = [Mix(p.inputs, p.outputs, p.salt, mode=m) for p, m in zip(program, modes, strict=True)]
    alone = [p for p in marked if p.mode & mode]

    kept = Graph(marked, provided=START, mode=mode)

    assert [(n.reads, n.writes) for n in kept.nodes] == [
        (n.reads, n.writes) for n in Graph(alone, provided=START, mode=mode).nodes
    ]


@pytest.mark.parametrize("shuffled", [False, True])
def test_long_chains_need_no_recursion(shuffled):
    chain = [Mix((f"n{i}",), (f"n{i + 1}",), i) for i in range(5000)]
    listed = chain[::-1] if shuffled else chain

    graph = Graph(listed, provided={"n0"}).select("n5000")

    assert graph.run({"n0": 0})["n5000"] == in_list_order(chain, {"n0": 0})["n5000"]
    assert len(graph.dag.edges) == 4999
