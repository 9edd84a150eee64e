"""Items per second of the feeds: light items in columns, heavy items through worker threads.

Command:  python benchmarks/loading.py [--quick]

Light: 60,000 images of 28x28 uint8 with a label, gathered by rows (a host feed), beside a loop over items.
Heavy: 256x256x3 uint8 images with numpy augmentation, streamed by an asynchronous experiment's feed with two workers,
beside two raw threads that each make one batch at a time. All in one process, in turn; medians. Appends to
history.jsonl.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from _report import append, table

from experimentator import Mode, Subset
from experimentator.feed import feed_of
from experimentator.memory import keep_large_buffers

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


def passes(feed: Any, portion: int) -> int:
    """One pass over a feed, `portion` batches at a time; the number of items."""
    cycle, items = feed.cycle(BATCH), 0
    while (block := cycle.take(portion)) is not None:
        items += block.index.size
    return items


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
    for _ in range(rounds):
        for name, contender in contenders.items():
            start = time.perf_counter()
            items = contender()
            seen[name].append(items / (time.perf_counter() - start))
    return {name: round(statistics.median(values)) for name, values in seen.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer items and rounds")
    options = parser.parse_args()
    count, rounds = (6_000, 3) if options.quick else (60_000, 7)
    columns = {"input": np.zeros((count, 28, 28), np.uint8), "target": np.zeros(count, np.int32)}
    host = feed_of(Subset("light", Mode.TRAIN, columns), residency="host", put=dict, room=0)
    light = rates({"host feed": lambda: passes(host, 64), "loop over items": lambda: by_item(columns)}, rounds)

    keep_large_buffers()
    dataset = Heavy(512 if options.quick else 2048)
    streamed = feed_of(Subset("heavy", Mode.TRAIN, dataset), residency="stream", put=dict, room=0)
    streamed.workers = 2
    heavy = rates(
        {"streamed, two workers": lambda: passes(streamed, 8), "two raw threads": lambda: two_threads(dataset)}, rounds
    )
    for name, result in {"light": light, "heavy": heavy}.items():
        print(f"\n### {name}\n\n{table([{'contender': c, 'items/s': f'{rate:,.0f}'} for c, rate in result.items()])}")
    append("loading, quick" if options.quick else "loading", {"light": light, "heavy": heavy})


if __name__ == "__main__":
    main()
