"""Data in the containers of other libraries, and what makes a dataset of them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np


def equal_lengths(arrays: Mapping[str, Any]) -> str:
    """What to write for arrays of several lengths; sparse matrices have none."""
    sparse = [f"{name!r}: {name}.toarray()" for name, one in arrays.items() if hasattr(one, "toarray")]
    return f"Write {{{', '.join(sparse)}}}, or a dataset of dense rows." if sparse else "Make lengths equal."


BY_PLACE = """. For a dataset that is read by position, as PyTorch's are, give Named(source):

class Named:
    def __init__(self, source):
        self.source, self.keys = source, range(len(source))

    def query_item(self, key):
        return dict(zip(["input", "target"], self.source[key]))  # its pairs"""


def dataset_of_others(source: Any) -> str:
    """How data of another library become a dataset, as the end of an error message; empty for unknown kinds.

    >>> dataset_of_others(iter([]))
    '. Items need keys, to be shuffled and found again: list(source), of dictionaries'
    """
    kinds = {(kind.__module__.partition(".")[0], kind.__name__) for kind in type(source).__mro__}
    if hasattr(source, "iloc"):  # of pandas
        columns = ", or dict(table), of columns by their names" * hasattr(source, "columns")
        return f': {{"input": table[[...]].to_numpy(), "target": table["..."].to_numpy()}}{columns}'
    for way in ("to_dict", "to_pydict"):  # of polars, of Arrow
        if hasattr(source, way) and hasattr(source, "columns"):
            return f": source.{way}()"
    if callable(getattr(source, "keys", None)) and hasattr(source, "__getitem__"):  # as groups of zarr
        return ": dict(source)"
    if hasattr(source, "as_numpy_iterator"):
        return _of_tensorflow(source)
    if isinstance(source, np.ndarray):
        return ': {"input": array}'
    if ("torch", "DataLoader") in kinds:
        by_place = ""
        with suppress(Exception):  # the user's dataset is read
            by_place = BY_PLACE * isinstance(source.dataset[0], tuple | list)
        write = ". Of a DataLoader give loader.dataset: batch_size is a setting, and training subsets are shuffled"
        return f"{write}{by_place}"
    if ("keras", "PyDataset") in kinds:
        return ". A PyDataset gives batches: give what it makes them of, item by item"
    if hasattr(source, "__getitem__") and hasattr(source, "__len__") and not isinstance(source, str | bytes):
        return BY_PLACE
    if hasattr(source, "__iter__") or inspect.isgeneratorfunction(source):
        items = "list(source())" if callable(source) else "list(source)"
        return f". Items need keys, to be shuffled and found again: {items}, of dictionaries"
    return ""


def _of_tensorflow(source: Any) -> str:
    """The code that makes a list of items with names of a `tf.data.Dataset`."""
    spec = source.element_spec
    parts = list(spec.values()) if isinstance(spec, Mapping) else list(spec) if isinstance(spec, tuple) else [spec]
    shapes: list[Any] = [getattr(part, "shape", None) for part in parts]
    sizes = {shape[0] for shape in shapes} if all(getattr(shape, "rank", None) for shape in shapes) else set()
    read = f"source{'.unbatch()' * (sizes == {None})}.as_numpy_iterator()"
    may_be_batches = len(sizes) == 1 and sizes != {None}
    known = ", with source.unbatch() where its elements are batches" * may_be_batches
    if isinstance(spec, tuple):
        return f': [dict(zip(["input", "target"], one)) for one in {read}]{known}'
    return f": list({read}){', of elements that are dictionaries' * (not isinstance(spec, Mapping))}{known}"
