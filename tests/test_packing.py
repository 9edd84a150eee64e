"""Values and arrays as JSON and safetensors: the same bits come back, and what is no value is refused by name."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example
from hypothesis import strategies as st

from experimentator import Mode
from experimentator.checkpoint import CheckpointError, to_safetensors
from experimentator.saving.packing import (
    PackingError,
    from_json,
    from_safetensors,
    pack,
    to_json,
    unpack,
)
from tests.stand_ins import law

HERE = Path("state.json")
DTYPES = ["float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint64", "uint32", "uint8", "bool"]
arrays = st.tuples(st.lists(st.integers(0, 3), max_size=3), st.sampled_from(DTYPES)).map(
    lambda drawn: (np.random.default_rng(0).normal(size=drawn[0]) * 9).astype(drawn[1])
)
keys = st.one_of(st.text(), st.integers(), st.tuples(st.integers(), st.text()))
leaves = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.sampled_from(list(Mode)), arrays)
values = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(keys, inner, max_size=3),
        st.frozensets(st.integers(), max_size=3),
    ),
    max_leaves=8,
)


def same(one, other):
    """Equal in kind and in every bit."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return list(one) == list(other) and all(map(same, one.values(), other.values()))
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, np.ndarray):
        return (one.shape, one.dtype, one.tobytes()) == (other.shape, other.dtype, other.tobytes())
    if isinstance(one, float):
        return math.copysign(1, one) == math.copysign(1, other) and (one == other or (one != one and other != other))
    return one == other


def through_files(value):
    found = {}
    tree = to_json(pack(value, found, name="value"))
    return unpack(from_json(tree, HERE), from_safetensors(to_safetensors(found), HERE))


def test_arrays_that_are_read_may_be_written_to():
    found = from_safetensors(to_safetensors({"moment": np.zeros(3)}), HERE)

    found["moment"] += 1
    assert found["moment"].tolist() == [1, 1, 1]


@law(values)
@example(-math.nan)
@example(-math.inf)
def test_what_is_packed_comes_back_in_kind_and_in_every_bit(value):
    assert same(through_files(value), value)


@law(values)
def test_the_same_value_is_the_same_bytes(value):
    assert to_json(pack(value, {}, name="value")) == to_json(pack(value, {}, name="value"))


def test_numbers_of_numpy_stay_numbers_of_numpy():
    assert same(through_files({"best": np.float32(0.1)}), {"best": np.float32(0.1)})


@pytest.mark.parametrize(
    "value, told",
    [
        ({"file": object()}, r"here\['file'\] cannot be saved: it is an object"),
        ([1, {"a": {1: lambda: None}}], r"here\[1\]\['a'\]\[1\] cannot be saved: it is a function"),
        (np.array(["text"]), "here cannot be saved: it is an array of <U4"),
    ],
)
def test_what_is_no_value_is_refused_by_the_way_to_it(value, told):
    with pytest.raises(PackingError, match=told):
        pack(value, {}, name="here")


def test_endless_nesting_is_refused():
    endless = []
    endless.append(endless)

    with pytest.raises(PackingError, match="cannot be saved"):
        pack(endless, {}, name="here")


@pytest.mark.parametrize(
    "text",
    [b'{"a": 1, "a": 2}', b'{"a": NaN}', b'{"a": Infinity}', b'{"a": 1e999}', b'{"a": -1e999}', b"[" * 100_000, b"\xff",
     b"", b"{", b'{"a": ' + b"9" * 5000 + b"}"],
    ids=["twice", "NaN", "Infinity", "1e999", "-1e999", "deep", "no UTF-8", "empty", "cut", "long number"],
)  # fmt: skip
def test_json_that_takes_liberties_is_refused(text):
    with pytest.raises(CheckpointError, match="is damaged"):
        from_json(text, HERE)


@pytest.mark.parametrize(
    "tree",
    [{"$": "eval", "of": "1"}, {"$": "array", "of": "../x"}, {"$": "array"}, {"$": "mode", "of": "x"},
     {"$": ["a"], "of": 1},
     {"$": "dict", "of": [[[], 1]]}, {"$": "set", "of": [[]]}, {"$": "float", "of": "x"}, {"$": "tuple", "of": 3}],
    ids=str,
)  # fmt: skip
def test_a_tree_that_nobody_packed_is_refused(tree):
    with pytest.raises(CheckpointError, match="A saved state is damaged"):
        unpack({"inside": [tree]}, {"array": np.zeros(1)})


@pytest.mark.parametrize(
    "data",
    [b"", b"\x00" * 8, b"\xff" * 16, (2**40).to_bytes(8, "little") + b"{}", (2).to_bytes(8, "little") + b"{}x",
     (60).to_bytes(8, "little") + b'{"a":{"dtype":"F32","shape":[9999999],"data_offsets":[0,4]}}'.ljust(60) + b"1234"],
    ids=["empty", "zeros", "ones", "a header longer than the file", "a tail", "a shape larger than its bytes"],
)  # fmt: skip
def test_a_hostile_safetensors_file_is_refused(data):
    with pytest.raises(CheckpointError, match="no safetensors file"):
        from_safetensors(data, HERE)
