"""Reads a run folder without the library: a line for every saved value, with a hash of its bytes.

`python outside.py RUN` prints the lines, to compare one run with another. It imports the standard library only, so
that an error of the library cannot hide itself. Columns that end in `_time` are left out, since times differ between
runs.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TIME = re.compile(rb'"[^"]*_time": [^,}]*(, )?')
LOGS = ("history.jsonl", "state.jsonl")


def lines(run: Path) -> list[str]:
    """The lines for everything in the newest checkpoint of a run, and in its logs."""
    newest = sorted(path for path in (run / "checkpoints").iterdir() if path.name.isdigit())[-1]
    found = [line for file in ("weights", "state") for line in _tensors(newest / f"{file}.safetensors", file)]
    tree = json.loads((newest / "state.json").read_bytes())
    tree.pop("about")
    found += [f"{name} = {value}" for name, value in _leaves(tree, "state.json")]
    for name in LOGS:
        if (run / name).exists():
            rows = (run / name).read_bytes().splitlines()
            found += [f"{name} line {n} = {_hash(TIME.sub(b'', row))}" for n, row in enumerate(rows, start=1)]
    return found


def _tensors(path: Path, file: str) -> Iterator[str]:
    data = path.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    header.pop("__metadata__", None)
    for name in sorted(header):
        one = header[name]
        begin, end = one["data_offsets"]
        content = _hash(data[8 + size + begin : 8 + size + end])
        yield f"{file}/{name} {one['dtype']} {one['shape']} = {content}"


def _leaves(tree: Any, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(tree, dict):
        for key, value in tree.items():
            if not key.endswith("_time") and key != "seconds":
                yield from _leaves(value, f"{name}/{key}")
    elif isinstance(tree, list):
        yield f"{name}/length", str(len(tree))
        for place, value in enumerate(tree):
            yield from _leaves(value, f"{name}/{place}")
    else:
        yield name, repr(tree)


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


if __name__ == "__main__":
    sys.stdout.write("".join(f"{line}\n" for line in lines(Path(sys.argv[1]))))
