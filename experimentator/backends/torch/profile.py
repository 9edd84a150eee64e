"""Profiles of programs: recorded by PyTorch, and written as a trace that Perfetto opens."""

from __future__ import annotations

import gzip
import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from experimentator.backends.keras.perfetto import Event, Lines, event_of, write_trace

ANNOTATIONS = ("user_annotation", "gpu_user_annotation")  # what `torch.profiler.record_function` leaves


@contextmanager
def profiled(folder: Path, scopes: Mapping[str, str]) -> Iterator[None]:
    """Record what runs within into `folder/trace.json.gz`; `scopes` holds the names of processors by name scope."""
    with torch.profiler.profile() as recording:
        yield
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        recording.export_chrome_trace(path := f"{place}/trace.json.gz")
        with gzip.open(path, "rt", encoding="utf-8") as file:
            events = [event for event in json.load(file)["traceEvents"] if event.get("ph") == "X" and "dur" in event]
    places: dict[tuple[Any, Any], list[Event]] = {}
    for event in sorted(events, key=lambda event: (event["ts"], -event["dur"])):
        places.setdefault((event["pid"], event["tid"]), []).append(event)
    write_trace(folder, [(f"process {pid}", _lines(pid, places, scopes)) for pid in {pid: None for pid, _ in places}])


def _lines(pid: Any, places: Mapping[tuple[Any, Any], list[Event]], scopes: Mapping[str, str]) -> Lines:
    for (process, thread), events in places.items():
        if process == pid:
            yield f"thread {thread}", list(_events(events, scopes))


def _events(events: list[Event], scopes: Mapping[str, str]) -> Iterator[Event]:
    """What ran on one line, each event with the scope of the annotation that it stands in."""
    scope, until = "", 0.0
    for event in events:
        if event.get("cat") in ANNOTATIONS:
            scope, until = event["name"], event["ts"] + event["dur"]
        yield event_of(event["name"], event["ts"], event["dur"], [scope] if event["ts"] < until else [], scopes)
