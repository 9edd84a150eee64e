"""What worker processes read in tests; they import no framework with it: datasets, and what draws, each in its way."""

from __future__ import annotations

import random
from typing import Any

import mlworkflow
import numpy as np

from experimentator import DataAugmentationDataset, Mode, PairedDataset, Subset, item_random


class Sequences:
    """A dataset of sequences, of which nothing is known but that each is as long as its key says."""

    def __init__(self, lengths: Any):
        self.keys = tuple(enumerate(lengths))
        self.read: list[Any] = []

    def query_item(self, key: Any) -> Any:
        self.read.append(key)
        return {"n": np.arange(1, key[1] + 1), "path": f"/{key[0]}", "number": np.int32(key[0])}


ITEMS = [{"n": np.float64(n)} for n in range(24)]
HELD = np.random.default_rng(3)


class Shaking:
    """A transform that holds its generators."""

    def __init__(self):
        self.random = {"one": np.random.default_rng(1), "other": random.Random(1)}

    def __call__(self, key, item):
        item["n"] += self.random["one"].uniform() + self.random["other"].random()
        return item


class Own:
    """A dataset that draws by itself."""

    keys = range(24)

    def query_item(self, key):
        return {"n": np.random.uniform() + random.random() + HELD.uniform()}


class Asking(Own):
    """A dataset that asks for the generator of the item."""

    def query_item(self, key):
        return {"n": item_random().uniform() + item_random().uniform()}


def by_parameter(key, item, random):
    item["n"] += random.uniform()
    return item


def by_numpy(key, item):
    import numpy.random as drawn

    return {"n": item["n"] + drawn.uniform(0, np.random.random())}


def by_python(key, item, mode):
    return {"n": item["n"] + random.random() + HELD.normal()}


WAYS = {
    "a parameter": lambda: DataAugmentationDataset(ITEMS, [by_parameter, by_parameter]),
    "numpy's functions": lambda: DataAugmentationDataset(ITEMS, [by_numpy]),
    "Python's functions": lambda: DataAugmentationDataset(ITEMS, [by_python, by_numpy]),
    "generators it holds": lambda: DataAugmentationDataset(ITEMS, [Shaking(), Shaking()]),
    "mlworkflow's transforms": lambda: mlworkflow.TransformedDataset(
        mlworkflow.DictDataset(dict(enumerate(ITEMS))), [by_numpy]
    ),
    "a dataset": Own,
    "the item's generator": Asking,
    "pairs": lambda: PairedDataset(DataAugmentationDataset(ITEMS, [by_parameter, by_numpy])),
}


def subset_of(way, mode=Mode.TRAIN, seed=5, epoch=2, **options):
    subset = Subset("s", mode, WAYS[way](), **options)
    subset.seed, subset.epoch = seed, epoch
    return subset
