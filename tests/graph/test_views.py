"""Views: the list, the modes, the plan, and what differs between two graphs."""

import pytest
from hypothesis import given, settings

from experimentator.graph import (
    Graph,
    GraphError,
    Mode,
    Ref,
    changes,
    describe_graph,
    difference,
    plan,
    table,
    to_dot,
    to_mermaid,
    whole,
)
from tests.graph.test_laws import START, programs
from tests.stubs import mix

LIST = [
    mix("x -> x", node="Scale"),
    mix("x -> x", node="Crop", mode=Mode.TRAIN),
    mix("x -> logits", node="Head", salt=1),
    mix("logits y -> loss", node="Loss"),
    mix("logits y -> accuracy", node="Accuracy"),
    mix("logits -> classes", node="ArgMax", mode=Mode.INFER),
]


def graph(*processors, mode=Mode.TRAIN, provided=("x", "y")):
    return Graph(processors or LIST, provided=provided, mode=mode)


def states(description):
    return {box.name: box.state for box in description.boxes if box.state}


def test_the_whole_list_forgets_what_was_selected():
    assert len(whole(graph().select("loss")).boxes) == 5
    assert len(whole(graph().select("loss"), mode=Mode.ALL).boxes) == 6


def test_each_mode_has_its_own_list():
    assert [len(whole(graph(), mode=mode).boxes) for mode in (Mode.TRAIN, Mode.EVAL, Mode.INFER)] == [5, 4, 5]


@pytest.mark.parametrize("names", [("loss",), ()])
def test_a_plan_says_why_the_others_do_not_run(names, snapshot):
    view = plan(graph().select("loss"), *names)

    assert table(view) == snapshot
    assert changes(view) == snapshot(name="changes")


def test_a_plan_is_drawn_with_the_rest_greyed(snapshot):
    view = plan(graph(), "loss")

    assert to_dot(view) == snapshot
    assert to_mermaid(view) == snapshot(name="mermaid")


def test_a_plan_shows_inputs_that_only_the_pruned_read():
    view = plan(graph(mix("x -> loss"), mix("z -> w")), "loss")

    assert [(port.name, port.state) for port in view.inputs] == [("x", ""), ("z", "pruned")]
    assert view.headline == "plan: TRAIN: 1 of 2 processors, x -> loss"


def test_an_input_that_is_repeated_beside_what_does_not_run_is_greyed_there():
    dot = to_dot(plan(graph(*[mix(f"x -> y{place}") for place in range(5)], mix("x -> loss")), "loss"))

    assert "in0_p5 [label=<x>" in dot
    assert all(f"in0_p{place} [label=<x x>" in dot for place in range(5))


def test_a_plan_tells_which_names_are_taken_as_given():
    shadowing = graph(mix("absent -> x", node="Load"), mix("x -> y"), mode=Mode.INFER)

    (box, *_) = plan(shadowing, "y").boxes

    assert box.notes == ("cannot run here: x taken as given",)


def test_a_plan_tells_that_nobody_knows_yet_what_an_undeclared_callable_does():
    assert plan(graph(mix("x -> y"), print), "y").boxes[1].notes == ("what it reads and writes is not known",)


def test_a_plan_of_a_broken_graph_is_drawn():
    assert "missing" in to_dot(plan(graph(mix("absent -> loss")), "loss"))


def test_an_inserted_processor_is_one_difference():
    before, after = (describe_graph(graph(*listed)) for listed in (LIST[:1] + LIST[2:], LIST))

    view = difference(before, after)

    assert states(view) == {"Crop": "added", "Head": "rewired"}
    assert [box.notes for box in view.boxes if box.name == "Head"] == [("x: from Scale to Crop",)]


def test_a_difference_is_told_in_text_and_drawn(snapshot):
    before = describe_graph(graph().select("loss", "accuracy"), weights={"Head": (10, 0)})
    after = describe_graph(graph(*changed()).select("loss"), weights={"Head": (20, 0)})
    view = difference(before, after)

    assert changes(view) == snapshot
    assert table(view) == snapshot(name="table")
    assert to_dot(view) == snapshot(name="dot")
    assert to_mermaid(view) == snapshot(name="mermaid")


def changed():
    return [LIST[0], mix("x -> logits", node="Head", salt=2, mode=Mode.TRAIN), mix("z ->", node="Watch"), LIST[3]]


def test_modes_differ_by_what_runs_in_them():
    train, evaluate, infer = (whole(graph(), mode=mode) for mode in (Mode.TRAIN, Mode.EVAL, Mode.INFER))

    assert states(difference(evaluate, infer)) == {"ArgMax": "added"}
    assert difference(train, evaluate).mode == "TRAIN -> EVAL"


def test_shapes_and_texts_that_differ_are_told():
    graphs = [graph(mix("x -> y", node="A"), code) for code in (lambda chunk: 1, lambda chunk: 2)]
    shapes = [{Ref("y", 1): ((None, size), "int32")} for size in (3, 4)]
    before, after = (describe_graph(one, shapes=known) for one, known in zip(graphs, shapes, strict=True))

    notes = [note for box in difference(before, after).boxes for note in box.notes]

    assert notes == ["y: [B, 3] int32 -> [B, 4] int32", "lambda chunk: 1 -> lambda chunk: 2"]


def test_numbers_that_keras_gives_to_layers_make_no_difference():
    def layer(name):
        return type("Layer", (), {"name": name, "__call__": lambda self: None})()

    graphs = [graph(mix("x -> y", node="A", salt=layer(name))) for name in ("dense_3", "dense_14", "conv_3")]
    one, same, other = map(describe_graph, graphs)

    assert states(difference(one, same)) == {}
    assert [box.notes for box in difference(one, other).boxes] == [("salt: dense_3 -> conv_3",)]


def test_groups_in_groups_are_frames_in_frames_and_code_stands_beside_them():
    listed = [mix("x -> a", node="in/augment/Flip"), mix("a -> b", node="in/Scale"), lambda chunk: chunk["b"]]
    lines = [line.strip() for line in to_mermaid(describe_graph(graph(*listed))).splitlines()]

    frames = [line for line in lines if line.startswith(("subgraph", "end", "p"))]
    assert frames[:6] == [
        "p2[\"lambda chunk: chunk['b']\"]:::code",
        'subgraph g1p0["in"]',
        'p1["Scale: Mix()"]',
        'subgraph g2p0["augment"]',
        'p0["Flip: Mix()"]',
        "end",
    ]


def test_a_name_that_a_plan_does_not_know_is_refused_with_the_near_one():
    with pytest.raises(GraphError, match="Did you mean 'logits'"):
        plan(graph(), "logit")


def test_other_names_written_are_a_rewiring():
    before, after = (describe_graph(graph(mix(f"x -> {name}", node="A"))) for name in "yz")

    assert [box.notes for box in difference(before, after).boxes] == [("writes: y -> z",)]


def test_other_outputs_and_other_items_are_differences_too():
    listed = Graph([mix("x -> y", node="Head"), mix("y -> z", node="Tail")], provided={"x"})
    small, large = ({Ref("x", 0): ((None, size), "uint8")} for size in (8, 16))
    before = describe_graph(listed.select("z"), shapes=small)

    outputs = difference(before, describe_graph(listed.select("y", "z"), shapes=small))
    items = difference(before, describe_graph(listed.select("z"), shapes=large))

    both = difference(before, describe_graph(listed.select("y", "z"), shapes=large))

    assert changes(outputs).splitlines()[1:] == ["+ output y"]
    assert changes(both).splitlines()[2:] == ["+ output y"]
    assert changes(items).splitlines()[1:] == ["~ #0 Head: Mix()  x: [B, 8] uint8 -> [B, 16] uint8"]


def test_an_output_is_told_beside_a_processor_that_wrote_it_and_is_gone():
    processors = [mix("x -> x", node="Crop", mode=Mode.TRAIN), mix("x -> y", node="Head")]
    train = describe_graph(Graph(processors, provided={"x"}, mode=Mode.TRAIN).select("y"))
    infer = describe_graph(Graph(processors, provided={"x"}, mode=Mode.INFER).select("x", "y"))

    assert changes(difference(train, infer)).splitlines()[-1] == "+ output x"


@settings(deadline=None, max_examples=50)
@given(programs())
def test_a_graph_does_not_differ_from_itself(program):
    one, same = (describe_graph(Graph(program, provided=START)) for _ in range(2))

    assert not any(made.state for made in (*difference(one, same).drawn, *difference(one, same).edges))
    assert changes(difference(one, same)).endswith("Nothing differs.")


@settings(deadline=None, max_examples=50)
@given(programs(), programs())
def test_a_difference_holds_every_processor_of_both_once(program, other):
    before, after = (describe_graph(Graph(listed, provided=START)) for listed in (program, other))

    view = difference(before, after)

    counts = [sum(box.state == state for box in view.boxes) for state in ("removed", "added")]
    assert len(view.kept) == len(after.boxes)
    assert counts[0] - counts[1] == len(before.boxes) - len(after.boxes)


def test_a_plan_of_many_processors_is_made_at_once():
    pruned = [mix(f"x -> y{place}") for place in range(3000)]

    view = plan(graph(*pruned, mix("x -> loss")), "loss")

    assert [box.index for box in view.boxes] == list(range(3001))
