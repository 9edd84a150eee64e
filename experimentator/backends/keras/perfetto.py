"""Traces that Perfetto opens, with the names of processors on what ran."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any

from experimentator.backends.keras.scopes import owner_of

TRACE = "trace.json.gz"
Event = dict[str, Any]
Lines = Iterable[tuple[str, Iterable[Event]]]  # of a thread or a stream: its name and what ran on it


def write_trace(folder: Path, processes: Iterable[tuple[str, Lines]]) -> None:
    """Write `folder/trace.json.gz` of what ran on the lines of processes."""
    with gzip.open(folder / TRACE, "wt", encoding="utf-8") as file:
        json.dump({"displayTimeUnit": "ns", "traceEvents": list(_events(processes))}, file)


def event_of(name: str, start: float, duration: float, paths: Iterable[str], scopes: Mapping[str, str]) -> Event:
    """An event that ran for `duration` from `start`, in microseconds; `paths` may tell the scope that it stands in.

    `scopes` holds the names of processors by name scope. The first path that stands in one gives the event its name.
    """
    told: Event = {"ph": "X", "name": name, "ts": start, "dur": duration}
    for path in paths:
        if owner := owner_of(path, scopes):
            way = "backward" if "gradient_tape/" in path or "transpose(" in path else "forward"
            return told | {"cat": owner, "args": {"processor": owner, "pass": way, "scope": path}}
    return told


def _events(processes: Iterable[tuple[str, Lines]]) -> Iterator[Event]:
    """Trace events: https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU (complete, "X")."""
    threads = count(1)  # Perfetto takes numbers of 32 bits, and 0 for the system's idling; profilers' are hashes
    for process, (name, lines) in enumerate(processes, start=1):
        yield {"ph": "M", "pid": process, "name": "process_name", "args": {"name": name}}
        for thread, events in lines:
            place = {"pid": process, "tid": next(threads)}
            yield {"ph": "M", **place, "name": "thread_name", "args": {"name": thread}}
            for event in events:
                yield event | place
