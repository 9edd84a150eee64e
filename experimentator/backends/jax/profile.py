"""Profiles of compiled steps: recorded by JAX, and written as a trace that Perfetto opens."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax

from experimentator.backends.keras.perfetto import Event, Lines, event_of, write_trace

Names = Mapping[tuple[str, str], str]  # by module and instruction, the path of the operation that it was made from


@contextmanager
def profiled(folder: Path, scopes: Mapping[str, str], programs: Callable[[], Iterable[str]]) -> Iterator[None]:
    """Record what runs within: `folder/plugins/profile` for TensorBoard, and `folder/trace.json.gz` for Perfetto.

    `scopes` holds the names of processors by name scope. JAX records instructions; `programs`, the texts of what was
    compiled, tell which operation each was made from, and so which processor.
    """
    with jax.profiler.trace(str(folder)):
        yield
    names = {place: path for text in programs() for place, path in _instructions(text)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # as an error it would abort the process: JAX 0.12 warns
        found = [jax.profiler.ProfileData.from_file(str(path)) for path in sorted(folder.rglob("*.xplane.pb"))]
        planes = [plane for data in found for plane in data.planes]
        write_trace(folder, ((plane.name, _lines(plane, scopes, names)) for plane in planes))


def _instructions(text: str) -> Iterator[tuple[tuple[str, str], str]]:
    """Module, instruction, and the path of its operation.

    One that XLA gave no path, such as a gradient that it turned into another convolution, gets that of what it is made
    of, or reads: of the backward pass, if any, as only that reads both.
    """
    module, computation = re.match(r"HloModule ([^\s,]+)", text), ""
    paths: dict[str, str] = {}
    for line in text.splitlines():
        name, is_instruction, rest = line.strip().removeprefix("ROOT ").partition(" = ")
        if not is_instruction:
            computation = name.removeprefix("ENTRY ").partition(" ")[0] or computation
            continue
        read = [paths[one] for one in re.findall(r"%[\w.-]+", rest) if one in paths]
        told = re.findall(r'op_name="([^"]*)"', rest) or [one for one in read if "transpose(" in one] or read
        if told and not re.search(r" (while|conditional)\(", rest):  # what runs within is told by itself
            paths[name] = paths[computation] = told[-1]
            yield (module[1] if module else "", name.removeprefix("%")), told[-1]


def _lines(plane: Any, scopes: Mapping[str, str], names: Names) -> Lines:
    for line in plane.lines:
        yield line.name, (_event(event, scopes, names) for event in line.events)


def _event(event: Any, scopes: Mapping[str, str], names: Names) -> Event:
    told = {key: value for key, value in event.stats if key in ("hlo_module", "hlo_op", "tf_op", "name")}
    path = names.get((str(told.get("hlo_module")), str(told.get("hlo_op"))), "")
    paths = [text for text in (path, event.name, str(told.get("tf_op", "")), str(told.get("name", ""))) if text]
    return event_of(event.name, event.start_ns / 1e3, event.duration_ns / 1e3, paths, scopes)
