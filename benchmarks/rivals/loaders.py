"""Data loaders of others over the same items, for benchmarks/loading.py; those that are not installed are left out."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib.util import find_spec
from typing import Any

import numpy as np

Passes = dict[str, Callable[[], int]]


class Places:
    """The items by their places, as torch and Grain ask for them."""

    def __init__(self, dataset: Any):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset.keys)

    def __getitem__(self, place: int) -> Any:
        return self.dataset.query_item(self.dataset.keys[place])


def loaders(dataset: Any, batch: int, *, workers: int) -> Passes:
    """One pass over `dataset` (`keys` and `query_item`) for each loader; a pass returns the number of items."""
    found: Passes = {}
    for package, make in (("mlworkflow", _mlworkflow), ("torch", _torch), ("grain", _grain), ("tensorflow", _tf_data)):
        if find_spec(package):
            found |= make(dataset, batch, workers)
    return found


def slices(columns: dict[str, np.ndarray], batch: int) -> Passes:
    """One pass over columns as tf.data takes them whole."""
    if not find_spec("tensorflow"):
        return {}
    import tensorflow as tf

    pipeline = tf.data.Dataset.from_tensor_slices(columns).batch(batch).prefetch(2)
    return {"tf.data, slices": lambda: sum(len(chunk["target"]) for chunk in pipeline)}


def _mlworkflow(dataset: Any, batch: int, workers: int) -> Passes:
    from mlworkflow import Dataset, SideRunner

    class Items(Dataset):
        def yield_keys(self) -> Iterable[int]:
            yield from dataset.keys

        def query_item(self, key: int) -> Any:
            return dataset.query_item(key)

    items = Items()

    def plain() -> int:
        return sum(len(chunk["target"]) for _, chunk in items.batches(batch))

    def aside() -> int:
        return sum(len(chunk["target"]) for _, chunk in SideRunner().yield_async(items.batches(batch)))

    return {"mlworkflow": plain, "mlworkflow, side thread": aside}


def _torch(dataset: Any, batch: int, workers: int) -> Passes:
    from torch.utils.data import DataLoader

    def passes(count: int) -> Callable[[], int]:
        loader = DataLoader(Places(dataset), batch, num_workers=count, persistent_workers=count > 0)
        return lambda: sum(len(chunk["target"]) for chunk in loader)

    return {f"torch DataLoader, {count} workers": passes(count) for count in (0, workers)}


def _grain(dataset: Any, batch: int, workers: int) -> Passes:
    import grain

    def passes(threads: int) -> Callable[[], int]:
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=64 * max(1, threads))
        pipeline = grain.MapDataset.source(Places(dataset)).to_iter_dataset(options).batch(batch)
        return lambda: sum(len(chunk["target"]) for chunk in pipeline)

    return {f"Grain, {threads} threads": passes(threads) for threads in (0, workers)}


def _tf_data(dataset: Any, batch: int, workers: int) -> Passes:
    import tensorflow as tf

    sample = dataset.query_item(dataset.keys[0])
    types = [tf.as_dtype(np.asarray(sample[name]).dtype) for name in ("input", "target")]

    def read(place: Any) -> Any:
        item = dataset.query_item(dataset.keys[int(place)])
        return item["input"], item["target"]

    pipeline = tf.data.Dataset.range(len(dataset.keys))
    pipeline = pipeline.map(lambda key: tf.numpy_function(read, [key], types), num_parallel_calls=workers)
    pipeline = pipeline.batch(batch).prefetch(2)
    return {f"tf.data, {workers} parallel": lambda: sum(len(target) for _, target in pipeline)}
