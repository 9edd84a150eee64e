"""Nothing grows: many epochs in one process, and a subset larger than what is kept of it."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np
import pytest

from experimentator import AsyncExperiment, Callback, Mode, Subset, backends, build_experiment
from experimentator import feed as feeds
from experimentator.graph import chunk_processor
from tests.test_experiment import config

PAGES = Path("/proc/self/statm")
linux = pytest.mark.skipif(not PAGES.exists(), reason="reads /proc")


def resident() -> int:
    """Bytes of this process that lie in memory."""
    return int(PAGES.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Watch(Callback):
    """Resident memory after each epoch."""

    def __init__(self):
        self.seen = []

    def on_epoch_end(self, **_):
        self.seen.append(resident())


@linux
@pytest.mark.parametrize("residency", ["device", "stream"])
def test_fifty_epochs_keep_resident_memory_flat(residency):
    watch = Watch()
    exp = build_experiment(config(callbacks=[watch], residency=residency, jit_compile=False))
    exp.train(52)

    assert watch.seen[-1] - watch.seen[1] < 4 << 20
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("experimentator-feed")]
    assert len(threads) <= 1


class Large:
    """2 GiB of images that exist only while they are read."""

    keys = range(1024)
    deterministic = True

    def query_item(self, key):
        return {"image": np.full((1 << 21,), key % 251, np.uint8)}


class Watched(AsyncExperiment):
    """Notes the most memory held at the end of any call."""

    highest = 0

    def fire(self, event, **state):
        super().fire(event, **state)
        self.highest = max(self.highest, resident())


@linux
def test_a_subset_larger_than_memory_streams_within_bounds(monkeypatch):
    for place in (feeds, backends):
        monkeypatch.setattr(place, "free_host_memory", lambda: 1 << 30)
    peak = chunk_processor(inputs=["batch_image"], outputs=["loss"])(lambda image: np.float64(image[:, 0].mean()))
    exp = build_experiment(
        {"subsets": [Subset("validation", Mode.EVAL, Large())], "chunk_processors": [peak], "batch_size": 8}
        | {"experiment_type": [Watched], "workers": 2}
    )
    before = resident()

    assert exp.evaluate()["validation_loss"] == np.mean([key % 251 for key in Large.keys])
    assert exp.highest - before < 700 << 20
