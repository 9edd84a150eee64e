"""Every message in full: what is wrong, what was seen, what to write."""

import pickle

import numpy as np
import pytest

from experimentator.graph import (
    AmbiguousWriteError,
    BrokenGraphError,
    CycleError,
    DeclarationError,
    Graph,
    GraphError,
    MissingTensorError,
    Mode,
    Node,
    UndeclaredProcessorError,
    UndeclaredReadError,
    UndeclaredWriteError,
    UnknownModeError,
    UnknownNameError,
    UnknownNodeError,
    UnwrittenOutputError,
)
from experimentator.graph.errors import near, raise_all
from tests.stubs import Op, mix


class SoftmaxCrossEntropy(Op):
    line = None

    def __repr__(self):
        return "SoftmaxCrossEntropy()"


def message(kind, ask):
    with pytest.raises(kind) as error:
        ask()
    assert type(error.value) is kind
    return str(error.value)


def selecting(*names, processors, provided=(), mode=Mode.TRAIN):
    return lambda: Graph(processors, provided=provided, mode=mode).select(*names)


def test_a_missing_name_is_told_with_its_reader_and_a_near_match():
    processors = [Op("batch_input -> batch_logits"), None, SoftmaxCrossEntropy("batch_logit batch_target -> loss")]
    ask = selecting("loss", processors=processors, provided=["batch_input", "batch_target"])

    assert message(MissingTensorError, ask) == (
        "No tensor named 'batch_logit' for #2 SoftmaxCrossEntropy() [TRAIN].\n"
        "Known here: batch_input, batch_logits, batch_target, loss.\n"
        "Did you mean 'batch_logits'? Else list its writer, or add 'logit' to the dataset's items."
    )


def test_a_name_given_without_its_prefix_is_told_as_such():
    ask = selecting("batch_logits", processors=[Op("batch_input -> batch_logits")], provided=["input"], mode=Mode.INFER)

    assert message(MissingTensorError, ask).endswith(
        "The prefix 'batch_' is missing from 'input': write 'batch_input'."
    )


def test_a_name_of_an_item_is_answered_with_what_processors_read():
    error = MissingTensorError(name="x", mode=Mode.TRAIN, known=["batch_x", "y"])

    assert str(error).endswith("Did you mean 'batch_x'? The names of an item have 'batch_' before them.")


def test_a_prefix_that_an_item_has_already_is_told_as_such():
    ask = selecting("batch_logits", processors=[Op("batch_input -> batch_logits")], provided=["batch_batch_input"])

    assert message(MissingTensorError, ask).endswith(
        "The prefix 'batch_' is added to the names of an item: call it 'input' there."
    )


def test_the_line_that_lists_the_reader_is_told():
    assert message(MissingTensorError, selecting("y", processors=[Op("x -> y")])) == (
        "No tensor named 'x' for #0 Op() [TRAIN], task.py:12.\n"
        "Known here: y.\n"
        "List its writer, or add it to the dataset's items."
    )


def test_a_place_that_the_reader_shows_itself_is_told_once():
    ask = selecting("y", processors=[Op("x -> y", node="lambda (task.py:12)")])

    assert message(MissingTensorError, ask).startswith("No tensor named 'x' for #0 lambda (task.py:12)() [TRAIN].\n")


def test_a_missing_output_is_told():
    assert message(MissingTensorError, selecting("los", processors=[Op("-> loss")], mode=Mode.EVAL)) == (
        "No tensor named 'los' to select [EVAL].\n"
        "Known here: loss.\n"
        "Did you mean 'loss'? Else list its writer, or add it to the dataset's items."
    )


@pytest.mark.parametrize("name, known, meant", [
    ("batch_input", ["batch_logits", "batch_price"], None),  # alike in what all names of batches begin with
    ("batch_probs", ["batch_probabilities", "batch_x"], "batch_probabilities"),
    ("loss", ["batch_logits"], None),
    ("Batch_Logit", ["batch_input", "batch_logits"], "batch_logits"),
])  # fmt: skip
def test_a_name_is_near_by_what_follows_the_prefix(name, known, meant):
    assert near(name, known) == meant


def test_nothing_known_is_told():
    assert message(MissingTensorError, selecting("loss", processors=[])) == (
        "No tensor named 'loss' to select [TRAIN].\n"
        "Known here: nothing.\n"
        "List its writer, or add it to the dataset's items."
    )


def test_a_name_of_another_mode_is_told():
    processors = [Op("-> logits", mode=Mode.TRAIN), Op("-> logits", mode=Mode.EVAL), Op("logits -> y")]

    assert message(MissingTensorError, selecting("y", processors=processors, mode=Mode.INFER)) == (
        "No tensor named 'logits' for #2 Op() [INFER], task.py:12.\n"
        "Known here: y.\n"
        "'logits' is produced only in TRAIN|EVAL: widen its writer's mode, or narrow the mode of its reader."
    )


def test_an_output_of_another_mode_is_told():
    ask = selecting("loss", processors=[Op("-> loss", mode=Mode.TRAIN)], mode=Mode.INFER)

    assert message(MissingTensorError, ask) == (
        "No tensor named 'loss' to select [INFER].\n"
        "Known here: nothing.\n"
        "'loss' is produced only in TRAIN: widen its writer's mode, or ask for it there only."
    )


def test_a_near_match_of_another_mode_is_told():
    ask = selecting("logit", processors=[Op("-> logits", mode=Mode.TRAIN)], mode=Mode.EVAL)

    assert message(MissingTensorError, ask) == (
        "No tensor named 'logit' to select [EVAL].\n"
        "Known here: nothing.\n"
        "Did you mean 'logits', of another mode? Else list its writer, or add it to the dataset's items."
    )


def test_a_deleted_name_is_told_with_who_did_it():
    processors = [Op("x -> y", deletes="x"), Op("x -> z")]

    assert message(MissingTensorError, selecting("z", processors=processors, provided="x")) == (
        "No tensor named 'x' for #1 Op() [TRAIN], task.py:12.\n"
        "#0 Op() deletes it above.\n"
        "Known here: y, z.\n"
        "List its writer, or add it to the dataset's items."
    )


def test_a_missing_version_is_told_with_those_there_are():
    processors = [Op("x -> x"), Op("x@2 -> y")]

    assert message(MissingTensorError, selecting("y", processors=processors, provided="x")) == (
        "No tensor named 'x@2' for #1 Op() [TRAIN], task.py:12.\n"
        "Known here: x, x@1, y.\n"
        "Did you mean 'x@1'? Else list its writer, or add it to the dataset's items."
    )


def test_ambiguous_writes_are_told_with_their_writers():
    processors = [Op("x -> y"), Op("-> x"), Op("-> x"), Op("-> x")]

    assert message(AmbiguousWriteError, selecting("y", processors=processors)) == (
        "#0 Op() reads 'x' [TRAIN], which nothing above it writes or provides, but 3 processors write: "
        "#1 Op(), #2 Op() and #3 Op().\n"
        "List #0 Op() below the one it should read, or give each write a name of its own."
    )


def test_a_cycle_is_told_as_a_path():
    processors = [Op("u b -> a"), Op("a -> h"), Op("h a -> b c")]

    assert message(CycleError, selecting("c", processors=processors, provided="u")) == (
        "Processors wait on each other: #0 Op() -[a]-> #1 Op() -[h]-> #2 Op() -[b]-> #0 Op().\n"
        "Break the loop: let one of them read a name that is written earlier."
    )


def test_a_cycle_through_after_is_told():
    processors = [Op("-> a", node="first", after="second"), Op("a -> b", node="second")]

    assert message(CycleError, selecting("b", processors=processors)) == (
        "Processors wait on each other: #0 first() -[a]-> #1 second() -[after]-> #0 first().\n"
        "Break the loop: let one of them read a name that is written earlier."
    )


def test_a_processor_that_waits_on_itself_is_told():
    assert message(CycleError, selecting("x", processors=[Op("x@1 -> x")])) == (
        "A processor waits on itself: #0 Op() -[x]-> #0 Op().\n"
        "Break the loop: let one of them read a name that is written earlier."
    )


def test_a_long_cycle_is_cut():
    ring = [Op(f"n{i} -> n{(i + 1) % 100}", node=f"n{i}") for i in range(100)]

    assert message(CycleError, selecting("n5", processors=ring)) == (
        "Processors wait on each other: #0 n0() -[n1]-> #1 n1() -[n2]-> #2 n2() -[n3]-> ... 94 more ... -> "
        "#97 n97() -[n98]-> #98 n98() -[n99]-> #99 n99() -[n0]-> #0 n0().\n"
        "Break the loop: let one of them read a name that is written earlier."
    )


def test_every_problem_is_told_at_once():
    processors = [
        Op("b -> a"),
        Op("a -> b"),
        Op("d -> c"),
        Op("c -> d"),
        Op("nope -> e", after="Opp"),
        Op("f -> g"),
        Op("-> f"),
        Op("-> f"),
    ]

    assert message(BrokenGraphError, selecting("b", "d", "e", "g", "loss", processors=processors)) == (
        "6 problems in this graph:\n"
        "1. No tensor named 'loss' to select [TRAIN].\n"
        "   Known here: a, b, c, d, e, f, g.\n"
        "   List its writer, or add it to the dataset's items.\n"
        "2. No tensor named 'nope' for #4 Op() [TRAIN], task.py:12.\n"
        "   Known here: a, b, c, d, e, f, g.\n"
        "   List its writer, or add it to the dataset's items.\n"
        "3. #5 Op() reads 'f' [TRAIN], which nothing above it writes or provides, but 2 processors write: "
        "#6 Op() and #7 Op().\n"
        "   List #5 Op() below the one it should read, or give each write a name of its own.\n"
        "4. #4 Op() runs after 'Opp', which is not in the list.\n"
        "   Known here: Op, Op#2, Op#3, Op#4, Op#5, Op#6, Op#7, Op#8.\n"
        "   Did you mean 'Op'? Write the name or the class of a listed processor.\n"
        "5. Processors wait on each other: #0 Op() -[a]-> #1 Op() -[b]-> #0 Op().\n"
        "   Break the loop: let one of them read a name that is written earlier.\n"
        "6. Processors wait on each other: #2 Op() -[c]-> #3 Op() -[d]-> #2 Op().\n"
        "   Break the loop: let one of them read a name that is written earlier."
    )


def test_the_problems_of_a_report_can_be_reached_one_by_one():
    with pytest.raises(BrokenGraphError) as error:
        Graph([mix("x y -> z")], provided=()).select("z")

    assert [(type(p), p.name) for p in error.value.problems] == [(MissingTensorError, "x"), (MissingTensorError, "y")]


def test_a_hopeless_graph_has_a_short_report():
    text = message(BrokenGraphError, selecting("y", processors=[Op(" ".join(f"n{i}" for i in range(999)) + "-> y")]))

    assert text.startswith("More than 50 problems in this graph:\n1. No tensor named 'n0' for")
    assert text.count("No tensor named") == 50


def test_many_known_names_are_cut():
    text = message(MissingTensorError, selecting("zz", processors=[], provided=[f"x{i:03}" for i in range(99)]))

    assert "x000, x001," in text
    assert "x038, x039 and 59 more.\n" in text


def test_an_absent_target_of_after_is_told():
    assert message(UnknownNodeError, selecting("y", processors=[Op("-> y", after=["Cast"])])) == (
        "#0 Op() runs after 'Cast', which is not in the list.\n"
        "Known here: Op.\n"
        "Write the name or the class of a listed processor."
    )


def running(write, read=(), flow="x -> y"):
    def call(node, chunk):
        chunk.update({name: chunk[name] for name in read})
        chunk.update(dict.fromkeys(write))

    return lambda: Graph([Op(flow)], provided={"x"}, mode=Mode.EVAL).run({"x": 1}, call=call)


def test_a_read_outside_the_declaration_is_told():
    assert message(UndeclaredReadError, running([], ["xx"])) == (
        "#0 Op() reads 'xx', which is not among its inputs: 'x'.\n"
        "Did you mean 'x'? Else declare it: inputs=['x', 'xx']."
    )


def test_a_write_outside_the_declaration_is_told():
    assert message(UndeclaredWriteError, running(["z"])) == (
        "#0 Op() writes 'z', which is not among its outputs: 'y'.\nDeclare it: outputs=['y', 'z']."
    )


def test_a_write_without_any_output_is_told():
    assert message(UndeclaredWriteError, running(["z"], flow="x ->")) == (
        "#0 Op() writes 'z', which is not among its outputs: none.\nDeclare it: outputs=['z']."
    )


@pytest.mark.parametrize("delete", [lambda chunk: chunk.pop("x"), lambda chunk: chunk.__delitem__("x")])
def test_a_name_deleted_outside_the_declaration_is_told_to_be_deleted(delete):
    graph = Graph([Op("x -> y")], provided={"x"})

    assert message(UndeclaredWriteError, lambda: graph.run({"x": 1}, call=lambda node, chunk: delete(chunk))) == (
        "#0 Op() deletes 'x', which is neither among its outputs, 'y', nor what it deletes: none.\n"
        "Read it as chunk['x'] and leave it there, or declare it: deletes=['x']."
    )


@pytest.mark.parametrize("flow", ["x -> y", "y -> y"])
def test_an_output_left_unwritten_is_told(flow):
    graph = Graph([Op(flow)], provided={"x", "y"})

    assert message(UnwrittenOutputError, lambda: graph.run({"x": 1, "y": 1}, call=lambda node, chunk: None)) == (
        "#0 Op() declares 'y' as output but does not write it.\nWrite chunk['y'] = ..., or take it off its outputs."
    )


def test_a_tensor_not_given_to_run_is_told():
    graph = Graph([Op("x u -> y")], provided={"x", "u"})

    assert message(MissingTensorError, lambda: graph.run({"x": 1})) == (
        "No tensor named 'u' for #0 Op() [ALL], task.py:12.\nKnown here: x.\n"
        "List its writer, or add it to the dataset's items."
    )


def test_an_unsound_graph_is_told_when_run():
    assert message(CycleError, lambda: Graph([Op("b -> a"), Op("a -> b")], provided=()).run({})).startswith(
        "Processors"
    )
    assert message(CycleError, lambda: Graph([Op("b -> a"), Op("a -> b")], provided=()).order).startswith("Processors")


def test_an_unknown_mode_is_told():
    assert message(UnknownModeError, lambda: Mode.of("test")) == (
        "'test' is not a mode.\nWrite 'train', 'eval' or 'infer', or combine Mode members with |."
    )


class Unranked:
    dtype = "float32"

    @property
    def shape(self):
        raise ValueError("unknown rank")


class Symbolic:
    dtype = "float32"
    shape = (None, 3)


def test_an_error_of_a_processor_carries_a_note():
    def fail(node, chunk):
        raise ZeroDivisionError

    tensors = {"a": np.ones((2, 3)), "b": Symbolic(), "c": Unranked(), "d": 5}
    graph = Graph([Op("a b c d -> y")], provided=tensors, mode=Mode.TRAIN)

    with pytest.raises(ZeroDivisionError) as error:
        graph.run(tensors, call=fail)

    assert error.value.__notes__ == [
        "In chunk processor #0 Op() [TRAIN], task.py:12. "
        "Its chunk: a [2, 3] float64, b [B, 3] float32, c Unranked, d int."
    ]


def test_a_note_does_without_a_place_and_tensors():
    with pytest.raises(GraphError) as error:
        Graph([SoftmaxCrossEntropy("-> y")], provided=()).run({}, call=lambda node, chunk: chunk["x"])

    assert error.value.__notes__ == ["In chunk processor #0 SoftmaxCrossEntropy() [ALL]. Its chunk: empty."]


def test_no_problem_raises_nothing():
    raise_all([])


def test_nodes_show_themselves():
    assert repr(Node(3, "Op", Op("->"))) == "<Node #3 Op()>"


def test_every_error_arrives_from_another_process_with_its_words():
    lonely = MissingTensorError(name="a", reader=lambda: 0, mode=Mode.TRAIN, known=["b"])  # a reader that stays there
    lonely.add_note("and a note")
    errors = [
        lonely,
        BrokenGraphError([lonely, UnknownModeError("test")]),
        DeclarationError("half", seen="no names", write="Declare them."),
        UndeclaredProcessorError(["half"]),
        AmbiguousWriteError(name="a", reader=lambda: 0, writers=[lambda: 0], mode=Mode.EVAL),
        CycleError(path=[lambda: 0], names=["a"]),
        UnknownNodeError("half", target="double", known=["half"]),
        UndeclaredReadError("half", name="a", inputs=["b"]),
        UndeclaredWriteError("half", name="a", outputs=["b"]),
        UnwrittenOutputError("half", missing=["a"]),
        UnknownNameError("a", known=["b"]),
        UnknownModeError("test"),
    ]

    for error in errors:
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), str(again)) == (type(error), str(error))
        assert getattr(again, "__notes__", []) == getattr(error, "__notes__", [])
    assert pickle.loads(pickle.dumps(lonely)).name == "a"
