"""Items per second of the feeds: light items in columns, heavy items through worker threads.

Command:  python benchmarks/loading.py [--quick]

Light: 60,000 images of 28x28 uint8 with a label, gathered by rows (a host feed), beside a loop over items.
Heavy: 256x256x3 uint8 images with numpy augmentation, streamed by an asynchronous experiment with two workers in
blocks of the size that the library gives them, beside two raw threads that each make one batch at a time.
Python: items whose reading is a loop in Python, which holds the interpreter's lock: two threads and two processes.
Light and heavy items also by mlworkflow, torch's DataLoader, Grain and tf.data, where these are installed.
In turn; medians. Unless it is quick, it writes to benchmarks/results/ and history.jsonl.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import numpy as np
from _report import publish, table
from rivals.loaders import loaders, slices

from experimentator import Mode, Subset, build_experiment
from experimentator.feed import feed_of
from experimentator.loading.blocks import BLOCK_BYTES, batch_bytes
from experimentator.loading.memory import keep_large_buffers

BATCH = 64


class Heavy:
    """Images that are flipped, brightened and cast anew at every reading."""

    def __init__(self, count: int):
        self.keys = range(count)
        self.image = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)

    def query_item(self, key: int) -> dict[str, Any]:
        image = self.image[:, ::-1] if key % 2 else self.image
        bright = np.clip(image.astype(np.float32) * (0.8 + 0.4 * (key % 7) / 7), 0, 255)
        return {"input": bright.astype(np.uint8), "target": np.int32(key % 10)}


class Rows:
    """Rows of columns as items, for loaders that ask for one at a time."""

    def __init__(self, columns: dict[str, np.ndarray]):
        self.columns, self.keys = columns, range(len(columns["target"]))

    def query_item(self, key: int) -> dict[str, Any]:
        return {name: column[key] for name, column in self.columns.items()}


class Slow:
    """Items that take a loop in Python to make."""

    def __init__(self, count: int):
        self.keys = range(count)

    def query_item(self, key: int) -> dict[str, Any]:
        return {"input": np.float32(sum(number * number % 7 for number in range(5000))), "target": np.int32(key % 10)}


def passes(subset: Subset, residency: str, workers: Any) -> Callable[[], int]:
    """One pass over a subset as an asynchronous experiment makes it; it returns the number of items."""
    exp = build_experiment({"subsets": [subset], "residency": residency, "workers": workers, "hide_progress": True})
    feed = feed_of(subset, residency=residency, put=dict, room=lambda: 0)
    portion = max(1, BLOCK_BYTES // (batch_bytes(feed.specs) * BATCH))

    def one_pass() -> int:
        items = 0
        with closing(exp.cycle(feed, BATCH)) as cycle:
            while (block := cycle.take(lambda _: min(64, portion))) is not None:
                items += block.index.size
        return items

    return one_pass


def two_threads(dataset: Heavy) -> int:
    """The same items by two threads, one batch each."""

    def make(keys: Any) -> int:
        items = [dataset.query_item(key) for key in keys]
        return len(np.stack([item["input"] for item in items])) + 0 * len(np.stack([item["target"] for item in items]))

    batches = [dataset.keys[start : start + BATCH] for start in range(0, len(dataset.keys), BATCH)]
    with ThreadPoolExecutor(2) as pool:
        return sum(pool.map(make, batches))


def by_item(columns: dict[str, np.ndarray]) -> int:
    """A loop over items and np.stack, as many write it."""
    count = len(columns["target"])
    for start in range(0, count, BATCH):
        items = [
            {name: column[row] for name, column in columns.items()} for row in range(start, min(start + BATCH, count))
        ]
        for name in columns:
            np.stack([item[name] for item in items])
    return count


def rates(contenders: dict[str, Callable[[], int]], rounds: int) -> dict[str, float]:
    seen: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, contender in contenders.items():
            start = time.perf_counter()
            items = contender()
            if number:  # the first round starts processes
                seen[name].append(items / (time.perf_counter() - start))
    return {name: round(statistics.median(values)) for name, values in seen.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer items and rounds")
    options = parser.parse_args()
    count, rounds = (6_000, 1) if options.quick else (60_000, 7)
    columns = {"input": np.zeros((count, 28, 28), np.uint8), "target": np.zeros(count, np.int32)}
    host = passes(Subset("light", Mode.TRAIN, columns), "host", 2)
    others = loaders(Rows(columns), BATCH, workers=2) | slices(columns, BATCH)
    light = rates({"experimentator, columns": host, "loop over items": lambda: by_item(columns), **others}, rounds)

    keep_large_buffers()
    dataset = Heavy(512 if options.quick else 2048)
    subset = Subset("heavy", Mode.TRAIN, dataset)
    heavy = rates(
        {
            "experimentator, two threads": passes(subset, "stream", 2),
            "experimentator, two processes": passes(subset, "stream", "2 processes"),
            "two raw threads": lambda: two_threads(dataset),
            **loaders(dataset, BATCH, workers=2),
        },
        rounds,
    )
    subset = Subset("slow", Mode.TRAIN, Slow(512 if options.quick else 2048))
    slow = rates({f"experimentator, {w}": passes(subset, "stream", w) for w in ("2 threads", "2 processes")}, rounds)
    results = {"light": light, "heavy": heavy, "python": slow}
    texts = [
        f"### {name}\n\n{table([{'contender': c, 'items/s': f'{rate:,.0f}'} for c, rate in result.items()])}\n"
        for name, result in results.items()
    ]
    bars = {f"Loading, {name} items: items per second": dict(result) for name, result in results.items()}
    publish("loading", results, "\n".join(["## Loading", "", *texts]), bars=bars, quick=options.quick)


if __name__ == "__main__":
    main()
