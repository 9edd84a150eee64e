"""Undeclared callables: what they read and write is found by running the list once."""

import inspect
from functools import partial, wraps

import numpy as np
import pytest

from experimentator.graph import (
    BrokenGraphError,
    ChunkProcessor,
    DeclarationError,
    Graph,
    MissingTensorError,
    Mode,
    RecordedProcessor,
    UndeclaredProcessorError,
    chunk_processor,
    record,
)
from tests.stubs import mix


def test_lambdas_are_first_class():
    flag = False
    processors = [
        lambda chunk: chunk.update({"y": chunk["x"] + 1}),
        None,
        lambda chunk: chunk.update({"x": 0}) if flag else None,
        lambda chunk: chunk.update({"loss": chunk["y"] * chunk["x"]}),
    ]

    assert Graph(processors, provided={"x"}).run({"x": 2}) == {"y": 3, "loss": 6}


def test_recording_runs_each_callable_once():
    seen = []
    processors = [lambda chunk, place=place: seen.append(place) for place in range(3)]

    record(processors, {}, mode=Mode.TRAIN)

    assert seen == [0, 1, 2]


def test_a_declared_list_is_not_run():
    processors = (mix("absent -> y"), None)

    assert record(processors, {}, mode=Mode.ALL) == processors


def test_a_call_given_stands_around_every_processor():
    seen = []

    def call(node, chunk):
        seen.append((node.name, sorted(chunk)))
        node.processor(chunk)

    record([mix("x -> y"), lambda chunk: None], {"x": 1}, mode=Mode.ALL, call=call)

    assert seen == [("Mix", ["x"]), ("lambda", ["x", "y"])]


def test_recording_sees_one_mode():
    processors = [chunk_processor(mode=Mode.TRAIN)(lambda chunk: chunk.update(a=1)), lambda chunk: chunk.update(b=1)]

    train, other = record(processors, {}, mode=Mode.EVAL)

    assert train is processors[0]
    assert (other.outputs, other.mode) == (("b",), Mode.ALL)


def test_a_recorded_callable_keeps_its_mode_label_and_place():
    @chunk_processor(mode=Mode.TRAIN, node="head", after=["other"])
    def head(chunk): ...

    (recorded,) = record([head], {}, mode=Mode.TRAIN)

    assert (recorded.mode, recorded.node, recorded.after, repr(recorded)) == (Mode.TRAIN, "head", ["other"], "head")
    assert recorded._source == head._source


def test_a_callable_waits_for_the_only_write_below():
    processors = [lambda c: c.update(z=c["y"] + 1), lambda c: c.update(y=c["u"] + 1), lambda c: c.update(u=c["x"] + 1)]

    graph = Graph(processors, provided={"x"}).record({"x": 1})

    assert [node.index for node in graph.order] == [2, 1, 0]
    assert graph.run({"x": 1}) == {"z": 4, "y": 3, "u": 2}


def test_those_below_a_late_writer_see_what_it_wrote():
    processors = [lambda c: c.update(x=c["y"]), lambda c: c.update(z=c["x"]), lambda c: c.update(y=7)]

    assert Graph(processors, provided={"x"}).run({"x": 1}) == {"x": 7, "z": 7, "y": 7}


def test_a_name_written_twice_below_is_not_guessed():
    processors = [lambda c: c.update(z=c["y"]), lambda c: c.update(y=1), lambda c: c.update(y=2)]

    (failed, *_) = record(processors, {}, mode=Mode.ALL)

    assert (failed.failed, failed.inputs) == ("y", ("y",))


def test_deleted_names_are_gone_while_recording():
    processors = [lambda c: c.update(y=c.pop("x")), lambda c: c.update(z="x" in c)]

    assert Graph(processors, provided={"x"}).run({"x": 1}) == {"y": 1, "z": False}


def test_what_is_not_recorded_has_no_place_in_the_dataflow():
    graph = Graph([print, mix("x -> y"), repr], provided={"x"})

    with pytest.raises(UndeclaredProcessorError) as error:
        graph.select("y")

    assert str(error.value) == (
        "What #0 print and #2 repr read and write is not known yet: they declare no inputs and outputs.\n"
        "Call `graph.record(tensors)` with a value for each name of the dataset, "
        "or declare them with @chunk_processor(inputs=[...], outputs=[...])."
    )


@pytest.mark.parametrize("ask", [lambda g: g.order, lambda g: g.dag, lambda g: g.computable, lambda g: g.select()])
def test_an_undeclared_callable_alone_is_told_too(ask):
    with pytest.raises(UndeclaredProcessorError, match="What #0 print reads and writes is not known yet: it decl"):
        ask(Graph([print], provided=()))


def reader(chunk):
    chunk["y"] = chunk["x"], chunk["target"]


def test_a_callable_that_cannot_be_recorded_is_reported_once_by_every_select():
    graph = Graph([reader, mix("x -> z")], provided={"x"}).record({"x": 1})

    with pytest.raises(MissingTensorError, match="No tensor named 'target' for #0 reader"):
        graph.select("z")


def test_all_that_cannot_be_recorded_is_reported_at_once():
    with pytest.raises(BrokenGraphError) as error:
        Graph([reader, lambda chunk: chunk["weight"]], provided={"x"}).run({"x": 1})

    assert [problem.name for problem in error.value.problems] == ["target", "weight"]


def test_a_callable_that_cannot_be_recorded_keeps_what_another_mode_knows():
    (known,) = record([reader], {"x": 1, "target": 2}, mode=Mode.TRAIN)

    (kept,) = record([reader], {"x": 1}, mode=Mode.INFER, known={0: known})

    assert kept is known
    assert isinstance(kept, RecordedProcessor)


def test_a_callable_that_ran_and_then_cannot_is_marked():
    def picky(chunk):
        if "late" in chunk:
            chunk["absent"]

    processors = [lambda c: c.update(late=c["below"]), picky, lambda c: c.update(below=1)]

    assert [entry.failed for entry in record(processors, {}, mode=Mode.ALL)] == [None, "absent", None]


def test_an_error_while_recording_is_the_users_with_a_note():
    def broken(chunk):
        raise RuntimeError(chunk["x"])

    with pytest.raises(RuntimeError, match="1") as error:
        Graph([broken], provided={"x"}, mode=Mode.EVAL).run({"x": 1})

    line = broken.__code__.co_firstlineno
    assert error.value.__notes__ == [
        f"In chunk processor #0 broken [EVAL], test_record.py:{line}. Its chunk: x int.",
    ]


def test_a_recorded_callable_that_reads_more_later_is_told():
    more = []
    graph = Graph([lambda c: [c[name] for name in more]], provided={"x"}).record({"x": 1})
    more.append("x")

    with pytest.raises(ValueError, match=r"reads 'x', which is not among its inputs: none\.\nDeclare it: inputs="):
        graph.run({"x": 1})


def returned(chunk):
    return {"x": chunk["x"] * 2}


def returned_tensor(chunk):
    return chunk["x"] * 2


@pytest.mark.parametrize(
    "function, told",
    [
        (returned, "it returns 'x', but only what it writes counts.\nWrite chunk['x'] = ... instead"),
        (lambda chunk: {"y": chunk["x"]}, "it returns 'y', but"),
        (chunk_processor(mode="eval")(returned), "it returns 'x', but"),
        (returned_tensor, "it returns a tensor, but only what it writes counts.\nWrite chunk['name'] = ..."),
    ],
)
def test_what_is_returned_and_not_written_is_refused(function, told):
    with pytest.raises(DeclarationError) as error:
        record([function], {"x": np.ones(2)}, mode=Mode.EVAL)

    assert told in str(error.value)
    declare = "@chunk_processor(inputs=['x'], outputs=[...])"
    assert str(error.value).endswith(f"{declare}. One that is there for its effect returns nothing.")


class Returns(ChunkProcessor):
    """As of earlier versions, which ignored what is returned."""

    def __call__(self, chunk):
        return {"y": chunk["x"] * 2}


def returned_whole(chunk):
    chunk["y"] = chunk["x"] * 2
    return chunk


def doubled_in_training(chunk):
    if chunk.training:
        chunk["x"] = chunk["x"] * 2
    return chunk["x"]


@pytest.mark.parametrize(
    "function",
    [
        returned_whole,
        doubled_in_training,
        Returns(),
        lambda chunk: {"y": chunk.setdefault("y", chunk["x"])},
        lambda chunk: np.isfinite(chunk["x"]),  # as a check is, which acts by itself
        lambda chunk: chunk.pop("x"),
    ],
)
def test_what_is_returned_and_written_or_of_no_use_is_let_be(function):
    assert record([function], {"x": np.ones(2), "z": 1}, mode=Mode.EVAL)[0].inputs == ("x",)


def of_a_tensor(x):
    return x * 2


def of_its_shape(x):
    return x.shape


def by_attribute(chunk):
    chunk["y"] = chunk.x


def to_attribute(chunk):
    chunk.y = chunk["x"]


class OfATensor(ChunkProcessor):
    inputs, outputs = ["x"], ["y"]

    def __call__(self, x):
        return x * 2


@pytest.mark.parametrize(
    "function, told",
    [
        (of_a_tensor, "Its parameter 'x' is the chunk, a dictionary: take chunk['x'] of it, or declare @chunk_proc"),
        (OfATensor(), "Its parameter 'x' is the chunk"),
        (of_its_shape, "Its parameter 'x' is the chunk"),
        (by_attribute, "The chunk is a dictionary. Write chunk['x']."),
        (to_attribute, "The chunk is a dictionary. Write chunk['y']."),
    ],
)
def test_a_chunk_that_is_taken_for_a_tensor_or_an_object_is_told(function, told):
    with pytest.raises((TypeError, AttributeError)) as error:
        record([function], {"x": 1}, mode=Mode.EVAL, call=lambda node, chunk: node.processor(chunk))

    assert error.value.__notes__[0].startswith(told)


def test_an_error_of_named_tensors_is_not_laid_to_the_chunk():
    declared = chunk_processor(inputs=["x"], outputs=["y"])(lambda x: x.absent)

    with pytest.raises(AttributeError) as error:
        record([declared], {"x": 1}, mode=Mode.EVAL, call=lambda node, chunk: node.processor(chunk))

    assert len(error.value.__notes__) == 1


def test_an_error_of_what_takes_the_chunk_is_not_laid_to_a_tensor_of_its_name():
    def halved(chunk):
        raise ValueError(f"{chunk['x']} is odd")

    with pytest.raises(ValueError, match="odd") as error:
        record([halved], {"x": 1, "chunk": 2}, mode=Mode.EVAL)

    assert len(error.value.__notes__) == 1


def test_an_empty_list_records_nothing():
    assert record([None], {"x": 1}, mode=Mode.ALL, call=lambda node, chunk: None) == (None,)


def without_chunk(): ...


def of_tensors(x, y): ...


@pytest.mark.parametrize(
    "function, told",
    [
        (without_chunk, "parameters are none.\nWrite `lambda chunk: ...`."),
        (
            chunk_processor(mode="train|eval")(of_tensors),
            "parameters are x, y.\nWrite `lambda chunk: ...`, or declare tensors by name: "
            "@chunk_processor(inputs=['x', 'y'], outputs=[...]).",
        ),
    ],
)
def test_what_has_no_place_for_the_chunk_is_told(function, told):
    with pytest.raises(DeclarationError) as error:
        Graph([None, function], provided=(), mode=Mode.EVAL).record({})

    wrong = f"{function.__name__} at chunk_processors[1] is not declared properly: it is given the chunk, and its "
    assert str(error.value) == wrong + told


@wraps(without_chunk)
def handing_on(*given): ...


def signed(chunk): ...


signed.__signature__ = inspect.Signature()


class Called:
    def __call__(self, chunk, by=2): ...


class CalledByClass:
    @staticmethod
    def __call__(chunk): ...


class CalledByObject:
    __call__ = Called()


class CalledInPart:
    __call__ = staticmethod(partial(lambda by, chunk: None, 3))


LENIENT = [CalledByClass(), CalledByObject(), CalledInPart()]
LENIENT += [handing_on, signed, Called(), Called().__call__, partial(lambda x, y: y, 1), partial(lambda x, y: x, y=1)]


@pytest.mark.parametrize("function", [*LENIENT, dict.keys])
def test_whatever_takes_one_value_or_does_not_tell_takes_the_chunk(function):
    assert Graph([function], provided=()).record({}).nodes[0].outputs == ()
