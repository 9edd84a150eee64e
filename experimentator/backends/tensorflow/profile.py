"""Profiles of compiled steps: recorded by TensorFlow, and written as a trace that Perfetto opens."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow.tsl.profiler.protobuf import xplane_pb2

TRACE = "trace.json.gz"


@contextmanager
def profiled(folder: Path, scopes: Mapping[str, str]) -> Iterator[None]:
    """Record what runs within: `folder/plugins/profile` for TensorBoard, and `folder/trace.json.gz` for Perfetto.

    `scopes` holds the names of processors by name scope. Events that stand in one carry that name, in the forward and
    in the backward pass.
    """
    tf.profiler.experimental.start(str(folder))
    try:
        yield
    finally:
        tf.profiler.experimental.stop()
        events = [event for path in sorted(folder.rglob("*.xplane.pb")) for event in _events(path, scopes)]
        with gzip.open(folder / TRACE, "wt", encoding="utf-8") as file:
            json.dump({"displayTimeUnit": "ns", "traceEvents": events}, file)


def _events(path: Path, scopes: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """Trace events: https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU (complete, "X")."""
    space = xplane_pb2.XSpace.FromString(path.read_bytes())
    threads = count(1)  # Perfetto takes numbers of 32 bits, and 0 for the system's idling; TensorFlow's are hashes
    for process, plane in enumerate(space.planes, start=1):
        yield {"ph": "M", "pid": process, "name": "process_name", "args": {"name": plane.name}}
        for line in plane.lines:
            place = {"pid": process, "tid": next(threads)}
            yield {"ph": "M", **place, "name": "thread_name", "args": {"name": line.display_name or line.name}}
            for event in line.events:
                start = line.timestamp_ns / 1e3 + event.offset_ps / 1e6
                yield {"ph": "X", **place, "ts": start, "dur": event.duration_ps / 1e6, **_told(plane, event, scopes)}


def _told(plane: Any, event: Any, scopes: Mapping[str, str]) -> dict[str, Any]:
    """The name of an event, and the processor it belongs to."""
    known = plane.event_metadata[event.metadata_id]
    texts = [known.name, known.display_name, *_texts(plane, event)]
    for text in texts:
        owner = owner_of(text, scopes)
        if owner:
            way = "backward" if "gradient_tape/" in text else "forward"
            return {"name": known.name, "cat": owner, "args": {"processor": owner, "pass": way, "scope": text}}
    return {"name": known.name}


def _texts(plane: Any, event: Any) -> Iterator[str]:
    """What else is told of an event in words: on a GPU, the operation that a kernel was made from."""
    for stat in event.stats:
        kind = stat.WhichOneof("value")
        if kind == "str_value":
            yield stat.str_value
        elif kind == "ref_value":
            yield plane.stat_metadata[stat.ref_value].name


def owner_of(path: str, scopes: Mapping[str, str]) -> str:
    """The processor whose scope an operation stands in; empty where it stands in none.

    >>> owner_of("while/gradient_tape/while/in_context/Model/dense/MatMul:MatMul", {"Model": "Model"})
    'Model'
    """
    parts = path.partition(":")[0].split("/")
    return next((scopes[part] for part in parts if part in scopes), "")
