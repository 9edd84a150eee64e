"""The register of a sweep, `sweep.jsonl`: lines of JSON that are only appended to, each with a checksum.

A line is added, and forced to disk, before a point begins and after it has ended: however the sweep ends, the next one
knows which points are done, and which number, and so which run folder, belongs to which values.
"""

from __future__ import annotations

import json
import os
import time
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experimentator.checkpoint import CheckpointError, add_lines, make_folder, shorten
from experimentator.config import as_json
from experimentator.records.environment import sha256
from experimentator.records.hold import Hold
from experimentator.records.local_modules import changed
from experimentator.records.plainfile import finite, read_bytes, read_json, values_of
from experimentator.runs import STATUS
from experimentator.sweep.heartbeat import ORPHAN_SECONDS, WATCH_SECONDS
from experimentator.sweep.outcome import FINISHED, Outcome
from experimentator.sweep.points import key_of

REGISTER = "sweep.jsonl"
CHECK = "crc32"


class Register:
    """The points of the sweep in `folder`, by number; the folder is locked for this process.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     register = Register(Path(folder))
    ...     register.number({"rate": 0.1}), register.number({"rate": 0.01}), register.number({"rate": 0.1})
    (1, 2, 1)

    Raises:
        CheckpointError: if another process holds it, or a line is damaged other than an incomplete last one.
    """

    def __init__(self, folder: Path, config: str = ""):
        self.path, self.config = folder / REGISTER, config
        make_folder(folder)
        self._held = Hold(folder, what="sweep")
        self._numbers: dict[str, int] = {}
        self._ended: dict[int, Mapping[str, Any]] = {}
        self._begun: set[int] = set()
        for row in self._read():
            self._note(row)

    def close(self) -> None:
        """Release the lock."""
        self._held.release()

    def was_begun(self, number: int) -> bool:
        """Whether a point was begun by an earlier sweep, or by this one."""
        return number in self._begun

    def number(self, values: Mapping[str, Any]) -> int:
        """The number of a point: the one it has already, else the next free one."""
        return self._numbers.setdefault(key_of(values), 1 + max(self._numbers.values(), default=0))

    def begin(self, number: int, values: Mapping[str, Any], known_by: Mapping[str, Any]) -> None:
        """Note that a point is about to begin."""
        self._add(_about("begun", number, values, known_by))

    def end(self, outcome: Outcome, known_by: Mapping[str, Any], asked: str) -> None:
        """Note how a point ended; `asked` is the result of `asked_of` then."""
        row = _about("ended", outcome.number, outcome.values, known_by)
        row |= {"ended": outcome.ended, "status": outcome.status, "seconds": round(outcome.seconds, 3)}
        row |= {"done": outcome.is_finished, "run": self._near(outcome.folder), "error": outcome.error}
        row |= {"last": finite(dict(outcome.last)), "asked": asked}
        self._add(row)

    def done(self, number: int, values: Mapping[str, Any], asked: str) -> Outcome | None:
        """The outcome of a point that need not be trained again: finished, of the same `asked`, its run intact."""
        row = self._ended.get(number, {})
        run, last = row.get("run", ""), row.get("last", {})
        if not row.get("done") or row.get("asked") != asked or run != Path(run).name:
            return None
        if run and not _is_whole(self.path.parent.parent / run, self.config):
            return None
        return Outcome(number, values, 0, run and str(self.path.parent.parent / run), row["seconds"], last=last)

    def _near(self, folder: str) -> str:
        """The name of a run folder that is beside the sweep's, so that both may be moved together; else its path."""
        is_near = folder and Path(folder).parent == self.path.parent.parent.absolute()
        return Path(folder).name if is_near else folder

    def _add(self, row: Mapping[str, Any]) -> None:
        add_lines(self.path, _line(row))
        self._note(row)

    def _note(self, row: Mapping[str, Any]) -> None:
        self._numbers[row["key"]] = row["point"]
        self._begun.add(row["point"])
        if row["event"] == "ended":
            self._ended[row["point"]] = row

    def _read(self) -> Sequence[Mapping[str, Any]]:
        if not os.path.lexists(self.path):
            return []
        lines = read_bytes(self.path).splitlines(keepends=True)
        rows = []
        for place, line in enumerate(lines, start=1):
            try:
                rows.append(_row(line))
            except ValueError as error:
                if place < len(lines):
                    wrong = f"{self.path} is damaged in line {place}."
                    write = "Remove that line: its point is then trained again, or found done."
                    raise CheckpointError(f"{wrong}\nSeen: {error}.\n{write}") from None
                shorten(self.path, place - 1)  # an incomplete line, left by a crash
        return rows


def wait_for(run: Path) -> None:
    """Wait until a training releases its run folder: after its sweep was killed, it needs a moment to end."""
    until = time.monotonic() + ORPHAN_SECONDS + WATCH_SECONDS
    while run.is_dir() and time.monotonic() < until:
        try:
            Hold(run).release()
            return
        except CheckpointError:
            time.sleep(WATCH_SECONDS / 5)


def asked_of(config: str, epochs: int | None) -> str:
    """A hash of what all points share: the text of the configuration, and the epochs to train."""
    return sha256(json.dumps([Path(config).read_bytes().decode("utf-8", "replace"), epochs]))[:16]


def _about(event: str, number: int, values: Mapping[str, Any], known_by: Mapping[str, Any]) -> dict[str, Any]:
    return {"event": event, "point": number, "values": as_json(dict(values)), "key": key_of(known_by)}


def _line(row: Mapping[str, Any]) -> str:
    text = json.dumps(row, allow_nan=False)
    return f'{text[:-1]}, "{CHECK}": "{zlib.crc32(text.encode()):08x}"}}\n'


def _row(line: bytes) -> dict[str, Any]:
    """The values of a line, whose checksum must be right.

    Raises:
        ValueError: saying what is wrong with the line.
    """
    body, sign, check = line.rpartition(f', "{CHECK}": "'.encode())
    if not sign or check != f'{zlib.crc32(body + b"}"):08x}"}}\n'.encode():
        raise ValueError("its checksum is not that of its text")
    row = values_of(body + b"}")
    kinds = {"key": str, "point": int, "event": str}
    if row.get("event") == "ended":
        kinds |= {"ended": str, "asked": str, "run": str, "seconds": float, "last": dict, "done": bool}
    for name, kind in kinds.items():
        if type(row.get(name)) is not kind:
            raise ValueError(f"its {name!r} is {row.get(name)!r:.40}")
    return row


def _is_whole(run: Path, config: str) -> bool:
    """Whether a run folder says finished, and the modules beside the configuration are unchanged since."""
    try:
        modules = read_json(run / "environment.json").get("modules", {})
        status = read_json(run / STATUS).get("status")
    except CheckpointError:
        return False
    is_told = isinstance(modules, dict) and not any(Path(name).is_absolute() or ".." in name for name in modules)
    return status == FINISHED and is_told and not changed(Path(config).absolute().parent, modules)
