"""Plain values and arrays as JSON and safetensors, and back, bit for bit; other objects are refused by name.

>>> arrays = {}
>>> tree = pack({"best": float("inf"), "seen": (1, np.arange(2))}, arrays, name="callback")
>>> unpack(tree, arrays)
{'best': inf, 'seen': (1, array([0, 1]))}
>>> pack({"file": object()}, arrays, name="callback")
Traceback (most recent call last):
experimentator.saving.packing.PackingError: callback['file'] cannot be saved: it is an object.
Keep numbers, text, truth values, None, lists, tuples, dicts, sets and arrays in the state.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experimentator.checkpoint import CheckpointError
from experimentator.graph import Mode
from experimentator.records.plainfile import strict_json

KIND = "$"  # the key that marks a value of a type that JSON lacks
DEEPEST = 50  # levels of nesting
DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "BOOL": "bool",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8",
    "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8",
}  # fmt: skip


class PackingError(TypeError):
    """A value that is no number, text or array, nor a container of such."""


def pack(value: Any, arrays: dict[str, np.ndarray], *, name: str) -> Any:
    """A value as JSON can hold it; arrays go into `arrays` under names that begin with `name`."""
    return _packed(value, arrays, name, 0)


def is_plain(value: Any) -> bool:
    """Whether `pack` takes a value."""
    try:
        pack(value, {}, name="")
    except PackingError:
        return False
    return True


def unpack(tree: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """The value that `pack` was given.

    Raises:
        CheckpointError: for a tree that `pack` did not make.
    """
    if isinstance(tree, list):
        return [unpack(one, arrays) for one in tree]
    if not isinstance(tree, dict):
        return tree
    if KIND not in tree:
        return {key: unpack(one, arrays) for key, one in tree.items()}
    try:
        return _KINDS[tree[KIND]](tree["of"], arrays)
    except (KeyError, TypeError, ValueError) as error:
        seen = f"{tree!r:.80} ({type(error).__name__}: {error})"
        raise CheckpointError(f"A saved state is damaged.\nSeen: {seen}.\nTake another checkpoint.") from None


def to_json(values: Any, *, indent: int | None = 1) -> bytes:
    """JSON whose bytes are equal for equal values; without indentation, long ones are written twice as fast."""
    return (json.dumps(values, indent=indent, allow_nan=False) + "\n").encode()


def from_json(data: bytes, path: Path) -> Any:
    """The values of a checkpoint's JSON file, read strictly."""
    try:
        return strict_json(data)
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged.\nSeen: {error}.\nTake another checkpoint of that run.") from None


def from_safetensors(data: bytes, path: Path) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file, bfloat16 ones too."""
    from safetensors import SafetensorError, deserialize

    try:
        found: list[tuple[str, dict[str, Any]]] = deserialize(data)  # type: ignore[no-untyped-call]  # ships no types
        return {  # the data are bytearrays, so that arrays are writable without a copy
            name: np.frombuffer(one["data"], np.dtype(DTYPES[one["dtype"]])).reshape(one["shape"])
            for name, one in found
        }
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is no safetensors file.\nSeen: {error}.\nTake another checkpoint.") from None


def _packed(value: Any, arrays: dict[str, np.ndarray], name: str, depth: int) -> Any:
    if _is_told(value):
        return value
    if type(value) is float:
        sign = "-" * (math.copysign(1, value) < 0)  # also of NaN, whose repr leaves it out
        return {KIND: "float", "of": f"{sign}{abs(value)!r}"}
    if isinstance(value, Mode):
        return {KIND: "mode", "of": int(value)}
    if isinstance(value, np.ndarray | np.generic) and value.dtype.name in DTYPES.values():
        key = name if name not in arrays else f"{name}/{len(arrays)}"
        arrays[key] = np.asarray(value)
        return {KIND: "array" if isinstance(value, np.ndarray) else "scalar", "of": key}
    if depth > DEEPEST or type(value) not in (list, tuple, dict, set, frozenset):
        raise _unsavable(value, name)
    if isinstance(value, dict):
        return _packed_dict(value, arrays, name, depth)
    listed = sorted(value, key=repr) if isinstance(value, set | frozenset) else value
    inside = [
        one if _is_told(one) else _packed(one, arrays, f"{name}[{place}]", depth + 1)
        for place, one in enumerate(listed)
    ]
    return inside if type(value) is list else {KIND: type(value).__name__, "of": inside}


def _is_told(value: Any) -> bool:
    """Whether JSON holds it as it is."""
    return value is None or type(value) in (bool, int, str) or (type(value) is float and math.isfinite(value))


def _packed_dict(value: dict[Any, Any], arrays: dict[str, np.ndarray], name: str, depth: int) -> Any:
    pairs = [  # names are made where they are needed: a history has a number for each epoch and measure
        (key, one if _is_told(one) else _packed(one, arrays, f"{name}[{key!r:.40}]", depth + 1))
        for key, one in value.items()
    ]
    if all(type(key) is str for key in value) and KIND not in value:
        return dict(pairs)
    return {KIND: "dict", "of": [[_packed(key, arrays, name, depth + 1), one] for key, one in pairs]}


def _unsavable(value: Any, name: str) -> PackingError:
    kind = f"array of {value.dtype}" if isinstance(value, np.ndarray) else type(value).__name__
    article = "an" if kind[:1].lower() in "aeiou" else "a"
    return PackingError(
        f"{name} cannot be saved: it is {article} {kind}.\n"
        "Keep numbers, text, truth values, None, lists, tuples, dicts, sets and arrays in the state."
    )


_KINDS: Mapping[str, Callable[[Any, Mapping[str, np.ndarray]], Any]] = {
    "float": lambda of, arrays: float(of),
    "mode": lambda of, arrays: Mode(of),
    "array": lambda of, arrays: arrays[of].copy(),
    "scalar": lambda of, arrays: arrays[of][()],
    "tuple": lambda of, arrays: tuple(unpack(of, arrays)),
    "set": lambda of, arrays: set(unpack(of, arrays)),
    "frozenset": lambda of, arrays: frozenset(unpack(of, arrays)),
    "dict": lambda of, arrays: {unpack(key, arrays): unpack(one, arrays) for key, one in of},
}
