"""What a chunk notes, and that a callable gives the same once its names are declared."""

import copy
import pickle

import pytest

from experimentator.graph import Chunk, Graph, Mode, UndeclaredReadError, UndeclaredWriteError, UnknownNameError
from tests.stubs import mix

X = {"x": 3, "t": 4}


def attempt(chunk):
    try:
        chunk["y"] = chunk["absent"]
    except KeyError:
        chunk["y"] = 0


def scratch(chunk):
    chunk["tmp"] = chunk["x"]
    chunk["y"] = chunk.pop("tmp")


def replace(chunk):
    chunk["x"] = 1
    del chunk["x"]


def merge(chunk):
    chunk |= {"y": chunk["x"]}


# what it does: (function, reads, misses, writes, deletes)
CASES = {
    "update": (lambda c: c.update({"p": c["x"] * 2}), "x", "", "p", ""),
    "update with several": (lambda c: c.update(p=c["x"], q=c["t"]), "x t", "", "p q", ""),
    "in place": (lambda c: c.update(x=c["x"] / 255), "x", "", "x", ""),
    "item": (lambda c: c.__setitem__("y", c["x"] + c["t"]), "x t", "", "y", ""),
    "merge": (merge, "x", "", "y", ""),
    "union": (lambda c: c.update(y=len(c | {"z": 1})), "x t", "", "y", ""),
    "copy": (lambda c: c.update(y=sum(c.copy().values())), "x t", "", "y", ""),
    "unpacking": (lambda c: c.update(y=sum({**c}.values())), "x t", "", "y", ""),
    "get": (lambda c: c.update(y=c.get("x")), "x", "", "y", ""),
    "get absent": (lambda c: c.update(y=c.get("nope", 0)), "", "nope", "y", ""),
    "in": (lambda c: c.update(y="x" in c), "x", "", "y", ""),
    "in absent": (lambda c: c.update(y="nope" in c), "", "nope", "y", ""),
    "in, not a name": (lambda c: c.update(y=5 in c), "", "", "y", ""),
    "in names": (lambda c: c.update(y="x" in c.keys()), "x", "", "y", ""),  # noqa: SIM118
    "in after writing": (lambda c: (c.update(y=1), c.update(z="y" in c)), "", "", "y z", ""),
    "caught": (attempt, "", "absent", "y", ""),
    "reads own write": (lambda c: (c.update(y=c["x"]), c.update(z=c["y"])), "x", "", "y z", ""),
    "items": (lambda c: c.update({k + "_f": v * 1.0 for k, v in c.items()}), "x t", "", "x_f t_f", ""),
    "values": (lambda c: c.update(y=sum(c.values())), "x t", "", "y", ""),
    "names": (lambda c: c.update({k + "_f": c[k] for k in c if k == "x"}), "x", "", "x_f", ""),
    "writing while walking": (lambda c: [c.update({k + "_f": c[k]}) for k in c], "x t", "", "x_f t_f", ""),
    "setdefault": (lambda c: c.setdefault("w", 1), "", "w", "w", ""),
    "setdefault present": (lambda c: c.update(y=c.setdefault("x", 1)), "x", "", "y", ""),
    "pop": (lambda c: c.update(y=c.pop("x")), "x", "", "y", "x"),
    "pop absent": (lambda c: c.update(y=c.pop("nope", 1)), "", "nope", "y", ""),
    "popitem": (lambda c: c.update(y=c.popitem()[1]), "x", "", "y", "x"),
    "clear": (lambda c: c.clear(), "x t", "", "", "x t"),
    "del": (lambda c: c.__delitem__("x"), "x", "", "", "x"),
    "del and write": (lambda c: (c.__delitem__("x"), c.update(x=1)), "x", "", "x", ""),
    "write and del": (replace, "", "", "", "x"),
    "scratch": (scratch, "x", "", "y", "tmp"),
    "equal": (lambda c: c.update(y=c == {}), "x t", "", "y", ""),
    "flag": (lambda c: c.update({"y": 1}) if c.training else None, "", "", "", ""),
    "pure": (lambda c: None, "", "", "", ""),
}


@pytest.mark.parametrize("case", CASES)
def test_a_chunk_notes_what_is_done_to_it(case):
    function, *expected = CASES[case]
    chunk = Chunk(X, mode=Mode.EVAL)

    function(chunk)

    assert [chunk.reads, chunk.misses, chunk.writes, chunk.deletes] == [tuple(names.split()) for names in expected]


@pytest.mark.parametrize("case", CASES)
def test_recorded_callables_give_what_they_gave(case):
    function, _, _, writes, deletes = CASES[case]
    chunk = Chunk(X, mode=Mode.EVAL)
    function(chunk)

    graph = Graph([function], provided=X, mode=Mode.EVAL).record(X)

    assert graph.run(X) == {name: chunk[name] for name in writes.split()}
    assert graph.nodes[0].deletes == tuple(deletes.split())


def test_a_chunk_is_a_real_dictionary():
    chunk = Chunk(X, mode=Mode.TRAIN)

    assert isinstance(chunk, dict)
    assert (chunk.training, len(chunk), repr(chunk)) == (True, 2, "<Chunk x, t [TRAIN]>")
    assert repr(Chunk({}, mode=Mode.ALL)) == "<Chunk empty [ALL]>"


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda chunk: pickle.loads(pickle.dumps(chunk))])
def test_a_copy_of_a_chunk_is_a_plain_dictionary(copied):
    assert type(copied(Chunk(X, mode=Mode.TRAIN))) is dict
    assert copied(Chunk(X, mode=Mode.TRAIN)) == X


def test_an_absent_name_tells_those_known():
    with pytest.raises(UnknownNameError) as error:
        Chunk(X, mode=Mode.ALL)["y"]

    assert str(error.value) == "No tensor named 'y' in this chunk. Known here: x, t."


BROKEN = {
    "read": (lambda c: c["t"], UndeclaredReadError),
    "test": (lambda c: "t" in c, UndeclaredReadError),
    "get": (lambda c: c.get("t"), UndeclaredReadError),
    "read of an output": (lambda c: c["y"], UndeclaredReadError),
    "write": (lambda c: c.update(t=1), UndeclaredWriteError),
    "delete": (lambda c: c.__delitem__("x"), UndeclaredWriteError),
    "pop": (lambda c: c.pop("x"), UndeclaredWriteError),
}


@pytest.mark.parametrize("case", BROKEN)
def test_nothing_is_read_or_written_outside_the_declaration(case):
    function, kind = BROKEN[case]
    processor = mix("x -> y")

    with pytest.raises(kind):
        Graph([processor], provided=X).run(X, call=lambda node, chunk: function(chunk))


def test_a_declared_output_may_be_tested_and_defaulted():
    graph = Graph([mix("x -> y")], provided=X)

    assert graph.run(X, call=lambda node, chunk: chunk.setdefault("y", "y" in chunk)) == {"y": False}


def test_an_output_may_be_written_twice():
    graph = Graph([mix("x -> y")], provided=X)

    assert graph.run(X, call=lambda node, chunk: (chunk.update(y=1), chunk.update(y=2))) == {"y": 2}
