"""Profiles of compiled steps: recorded by TensorFlow, and written as a trace that Perfetto opens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow.tsl.profiler.protobuf import xplane_pb2

from experimentator.backends.keras.perfetto import Event, Lines, event_of, write_trace


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
        found = sorted(folder.rglob("*.xplane.pb"))
        planes = [plane for path in found for plane in xplane_pb2.XSpace.FromString(path.read_bytes()).planes]
        write_trace(folder, ((plane.name, _lines(plane, scopes)) for plane in planes))


def _lines(plane: Any, scopes: Mapping[str, str]) -> Lines:
    for line in plane.lines:
        yield line.display_name or line.name, (_event(plane, line, event, scopes) for event in line.events)


def _event(plane: Any, line: Any, event: Any, scopes: Mapping[str, str]) -> Event:
    known = plane.event_metadata[event.metadata_id]
    paths = [known.name, known.display_name, *_texts(plane, event)]
    start = line.timestamp_ns / 1e3 + event.offset_ps / 1e6
    return event_of(known.name, start, event.duration_ps / 1e6, paths, scopes)


def _texts(plane: Any, event: Any) -> Iterator[str]:
    """Other texts of an event: on a GPU, the operation that a kernel was made from."""
    for stat in event.stats:
        kind = stat.WhichOneof("value")
        if kind == "str_value":
            yield stat.str_value
        elif kind == "ref_value":
            yield plane.stat_metadata[stat.ref_value].name
