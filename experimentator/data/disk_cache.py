"""A dataset that caches items on disk, one file each: the first process that needs an item writes it, all read it.

A file holds the numbers of an item as safetensors, everything else as JSON, and a digest of both: nothing in it can be
run, and a damaged file is noticed and made anew.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experimentator.checkpoint import write_atomically
from experimentator.data.chance import generators_in
from experimentator.data.datasets import WrappedDataset
from experimentator.data.items import DatasetError, refuse_masks
from experimentator.data.keys import key_digest
from experimentator.data.reading import Reading, drawing

log = logging.getLogger(__name__)
FORMAT = "experimentator item 1"
Parts = tuple[dict[str, np.ndarray], str]


class DiskCachedDataset(WrappedDataset):
    """The items of a parent, kept in files under `folder`; several processes and threads may use it at once.

    Wrap it around slow datasets that give the same each time, and put random transforms outside of it. If the parent
    draws random numbers, it does so once, by the key alone. Files are found by key and `version`: give another version
    when the parent changes, and another folder to each of two datasets with equal keys, such as row numbers. A partial
    file is never read: a writer that is killed leaves only a hidden one.

    Arrays are of numbers or booleans; other values of an item are those of JSON: strings, numbers, None, lists and
    dictionaries; tuples and arrays within them come back as such.

    >>> import tempfile
    >>> class Slow:
    ...     keys, read = ("a", "b"), []
    ...     def query_item(self, key):
    ...         self.read.append(key)
    ...         return {"input": np.zeros(2, "float32"), "path": f"/{key}"}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     cached = DiskCachedDataset(Slow(), folder)
    ...     items = [cached.query_item("a") for _ in range(3)]
    >>> items[2], Slow.read
    ({'input': array([0., 0.], dtype=float32), 'path': '/a'}, ['a'])

    Raises:
        DatasetError: for an item that files cannot hold, naming the value, and for keys without a stable digest.
        CheckpointError: where nothing can be written.
    """

    deterministic = True
    _draws_in = ()  # generators in the parent are set here
    _generators: list[Any] | None = None  # those, once they were searched

    def __init__(self, parent: Any, folder: str | os.PathLike[str], *, version: str = ""):
        super().__init__(parent)
        self.folder = Path(folder)
        self.version = version

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_generators": None}

    def path(self, key: Hashable) -> Path:
        """The file of one key."""
        digest = hashlib.blake2b(f"{self.version}/{key_digest(key)}".encode(), digest_size=16).hexdigest()
        return self.folder / digest[:2] / f"{digest}.safetensors"

    def query_item(self, key: Hashable) -> Any:
        """The item of one key, from its file if there is one, else from the parent."""
        path = self.path(key)
        found = self._read(path)
        if found is None:
            if self._generators is None:
                self._generators = generators_in(self.parent)
            with Reading(("cache", self.version)).at(key, 0), drawing(self._generators):
                item = self.parent.query_item(key)
            found = _taken_apart(item, key)
            write_atomically(path, _written(found), lasting=False)  # a file lost to a power cut is made anew
        return _put_together(found)

    def _read(self, path: Path) -> Parts | None:
        """The parts of an item; None if its file is missing or damaged."""
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        try:
            return _checked(data)
        except ValueError as error:
            log.warning("%s is damaged (%s); the item is read again.", path, error)
            return None


def _taken_apart(item: Any, key: Hashable) -> Parts:
    """Arrays by name, and the rest as JSON; arrays inside other values get names of their own."""
    arrays: dict[str, np.ndarray] = {}

    def plain(value: Any, name: str) -> Any:
        if isinstance(value, (np.ndarray, np.generic)):
            if value.dtype.kind not in "biuf" or value.dtype.itemsize > 8:
                raise _refusal(key, name, f"an array of {value.dtype}", "numbers or booleans")
            arrays[str(len(arrays))] = np.array(value, dtype=value.dtype.newbyteorder("="), order="C")
            return {"array": str(len(arrays) - 1), "is_scalar": isinstance(value, np.generic)}
        if value is None or type(value) in (bool, int, float, str):
            return value
        if type(value) is tuple:
            return {"tuple": [plain(one, name) for one in value]}
        if type(value) is list:
            return [plain(one, name) for one in value]
        if type(value) is dict and all(type(one) is str for one in value):
            return {"dict": {one: plain(value[one], f"{name}[{one!r}]") for one in value}}
        raise _refusal(
            key, name, f"a {type(value).__name__}", "arrays, strings, numbers, None, lists, tuples, dictionaries"
        )

    if item is not None and not isinstance(item, Mapping):
        raise _refusal(key, "the item", f"a {type(item).__name__}", "a dictionary")
    for name, value in (item or {}).items():
        refuse_masks(name, [value])
    whole = None if item is None else {"dict": {str(name): plain(value, repr(name)) for name, value in item.items()}}
    return arrays, json.dumps(whole)


def _put_together(parts: Parts) -> Any:
    """The item of these parts, with values that nothing else shares."""
    arrays, text = parts

    def value(plain: Any) -> Any:
        if isinstance(plain, list):
            return [value(one) for one in plain]
        if not isinstance(plain, dict):
            return plain
        if "array" in plain:
            return arrays[plain["array"]][()] if plain["is_scalar"] else arrays[plain["array"]]
        if "tuple" in plain:
            return tuple(value(one) for one in plain["tuple"])
        return {name: value(one) for name, one in plain["dict"].items()}

    return value(json.loads(text))


def _written(parts: Parts) -> bytes:
    from safetensors.numpy import save

    arrays, text = parts
    data: bytes = save(arrays, {"format": FORMAT, "item": text, "digest": _digest(parts)})
    return data


def _checked(data: bytes) -> Parts:
    """The parts in the bytes of a file; ValueError if it is damaged or holds something else."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        size = int.from_bytes(data[:8], "little")
        about = json.loads(data[8 : 8 + size])["__metadata__"]
        arrays = {name: array if array.flags.writeable else array.copy() for name, array in load(data).items()}
        parts = arrays, str(about["item"])
        expected = str(about["digest"])
    except (SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{type(error).__name__}: {error!s:.80}") from None
    if expected != _digest(parts):
        raise ValueError("its digest is another")
    return parts


def _digest(parts: Parts) -> str:
    arrays, text = parts
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass"))  # CPUs have instructions for SHA-256
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode())
        digest.update(np.ascontiguousarray(arrays[name]).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _refusal(key: Hashable, name: str, seen: str, kinds: str) -> DatasetError:
    return DatasetError(
        f"{name} of key {key!r:.80} cannot be kept on disk.",
        seen,
        f"Files hold {kinds}: convert it in the dataset, or cache before the transform that adds it.",
    )
