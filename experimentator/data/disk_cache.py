"""A dataset that caches items on disk, one file each: the first process that needs an item writes it, all read it.

A file holds a digest, then the numbers of an item as safetensors, among them everything else as JSON: nothing in it can
be run, and a damaged file is noticed and made anew.
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

from experimentator.checkpoint import to_safetensors, write_atomically
from experimentator.data.chance import generators_in
from experimentator.data.datasets import WrappedDataset
from experimentator.data.items import DatasetError, refuse_masks
from experimentator.data.keys import key_digest
from experimentator.data.reading import Reading, drawing
from experimentator.saving.packing import PackingError, from_safetensors, pack, unpack

log = logging.getLogger(__name__)
JSON = "json"  # the array of what is no array; the names of others begin with "item"


class DiskCachedDataset(WrappedDataset):
    """The items of a parent, kept in files under `folder`; several processes and threads may use it at once.

    Wrap it around slow datasets that give the same each time, and put random transforms outside of it. If the parent
    draws random numbers, it does so once, by the key alone. Files are found by key and `version`: give another version
    when the parent changes, and another folder to each of two datasets with equal keys, such as row numbers. A partial
    file is never read: a writer that is killed leaves only a hidden one.

    Items hold arrays of numbers or booleans, strings, numbers, None, and lists, tuples, sets and dictionaries of these.

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
        return self.folder / digest[:2] / f"{digest}.item"

    def query_item(self, key: Hashable) -> Any:
        """The item of one key, from its file if there is one, else from the parent."""
        path = self.path(key)
        data = _read(path)
        if data is None:
            if self._generators is None:
                self._generators = generators_in(self.parent)
            with Reading(("cache", self.version)).at(key, 0), drawing(self._generators):
                item = self.parent.query_item(key)
            data = _packed(item, key)
            write_atomically(path, _digest(data) + data, lasting=False)  # a file lost to a power cut is made anew
        arrays = from_safetensors(data, path)
        return unpack(json.loads(arrays[JSON].tobytes()), arrays)


def _read(path: Path) -> bytes | None:
    """An item as `_packed` made it; None if its file is missing or damaged."""
    try:
        with path.open("rb", buffering=0) as file:  # a buffer would copy once more
            digest, data = file.read(hashlib.sha256().digest_size), file.read()
    except FileNotFoundError:
        return None
    if digest == _digest(data):
        return data
    log.warning("%s is damaged: its digest is another; the item is read again.", path)
    return None


def _packed(item: Any, key: Hashable) -> bytes:
    arrays: dict[str, np.ndarray] = {}
    if isinstance(item, Mapping):
        item = dict(item)
        for name, value in item.items():
            refuse_masks(name, [value])
    try:
        text = json.dumps(pack(item, arrays, name="item"))
        for name, array in arrays.items():
            if array.dtype.kind == "V":  # bfloat16, which another process may not know
                raise PackingError(f"{name} cannot be saved: it is of {array.dtype}")
    except PackingError as error:
        raise DatasetError(
            f"The item of key {key!r:.80} cannot be kept on disk.",
            str(error).partition(".\n")[0],
            "Files hold arrays of numbers, strings, numbers, None, lists, tuples, sets and dictionaries: convert it in "
            "the dataset, or cache before the transform that adds it.",
        ) from None
    return to_safetensors({**arrays, JSON: np.frombuffer(text.encode(), np.uint8)})


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()  # CPUs have instructions for it
