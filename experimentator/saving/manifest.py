"""Checkpoints on disk: folders that are verified byte by byte, and used only if they are whole.

A checkpoint is written as `.tmp-<random>`: its files, each forced to disk, then `MANIFEST.json` with the size and the
SHA-256 of every other file and the SHA-256 of itself. Then the folder is renamed to a number that counts up. Older
ones are removed once the new one was read back. Reading runs no code: files are safetensors and JSON, of three names.

>>> import tempfile
>>> with tempfile.TemporaryDirectory() as place:
...     path = write(place, {"state.json": b"{}"}, step=7)
...     path.name, read(path).files, read(path).about["step"]
('00000001', {'state.json': b'{}'}, 7)
"""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
import shutil
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experimentator.checkpoint import CheckpointError, as_path, make_folder, put, sync_folder
from experimentator.records.plainfile import opened
from experimentator.saving.packing import from_json, to_json

log = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"  # the folder of them in a run folder
MANIFEST = "MANIFEST.json"
FILES = ("weights.safetensors", "state.safetensors", "state.json")
FORMAT = 1
KEPT = 2  # not 1: the newest may be damaged by a power cut or a bad disk
ASIDE = ".tmp-"
MOST_BYTES = 1 << 20  # of a manifest


@dataclass(frozen=True)
class ReadCheckpoint:
    """A checkpoint that was verified: its files by name, and what the manifest says about it."""

    path: Path
    files: Mapping[str, bytes]
    about: Mapping[str, Any]


def write(place: str | os.PathLike[str], files: Mapping[str, bytes], *, keep: int = KEPT, **about: Any) -> Path:
    """Write a checkpoint into the folder `place`, verify it, and remove all but the newest `keep`.

    `about` are plain values for the manifest. When this returns, the checkpoint survives a power cut.

    Raises:
        CheckpointError: naming the path, when something cannot be written; the checkpoints before it stay.
    """
    place = as_path(place, write='exp.save_checkpoint("checkpoints")')
    try:
        make_folder(place)
        before = numbered(place)
        aside = place / f"{ASIDE}{secrets.token_hex(8)}"
        aside.mkdir()
        path = place / f"{int(before[0].name) + 1 if before else 1:08d}"
        try:
            _fill(aside, files, {**about, "parent": before[0].name if before else None})
            os.rename(aside, path)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
        sync_folder(place)
    except OSError as error:
        raise CheckpointError(
            f"A checkpoint cannot be written to {place}.\nSeen: {error.strerror or error}.\n"
            "Make room there, or name another place; the checkpoints before it are as they were."
        ) from error
    read(path, keep=False)
    for old in before[max(1, keep) - 1 :]:
        _remove(old)
    return path


def read(path: str | os.PathLike[str], *, keep: bool = True) -> ReadCheckpoint:
    """A checkpoint, after every byte of it was verified.

    Without `keep` it is verified only, and holds no files: of one just written, memory may not hold a second copy.

    Raises:
        CheckpointError: naming the file that is damaged, missing, unexpected, or no plain file.
    """
    path = Path(path)
    try:
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            raise _refusal(path, "it is no folder")
        found = sorted(os.listdir(path))
        if MANIFEST not in found:
            raise _refusal(path, f"it has no {MANIFEST}")
        told = _manifest(path / MANIFEST)
        if wrong := set(found) ^ {MANIFEST, *told["files"]}:
            name = sorted(wrong)[0]
            raise _refusal(path / name, "it is not in the manifest" if name in found else "it is missing")
        files = {name: _verified(path / name, **one, keep=keep) for name, one in told["files"].items()}
    except OSError as error:
        if isinstance(error, CheckpointError):
            raise
        raise _refusal(Path(error.filename or path), error.strerror or str(error)) from None
    return ReadCheckpoint(
        path,
        files if keep else {},
        {name: value for name, value in told.items() if name not in ("files", "manifest_sha256")},
    )


def newest(place: str | os.PathLike[str]) -> ReadCheckpoint | None:
    """The newest whole checkpoint in a folder; None if it has no checkpoints. Damaged ones are warned of.

    Raises:
        CheckpointError: when there are checkpoints and none is whole.
    """
    found, reasons = numbered(Path(place)), []
    for path in found:
        try:
            return read(path)
        except CheckpointError as error:
            log.warning("Checkpoint %s is left out. %s", path.name, str(error).replace("\n", " "))
            reasons.append(error)
    if reasons:
        raise reasons[0]
    return None


def numbered(place: Path) -> list[Path]:
    """The checkpoints in a folder by their names, newest first; they may be damaged."""
    try:
        with os.scandir(place) as entries:
            names = [entry.name for entry in entries]
    except FileNotFoundError:
        return []
    return [
        place / name for name in sorted(names, reverse=True) if len(name) == 8 and name.isascii() and name.isdigit()
    ]


def remove_unfinished(place: Path) -> None:
    """Remove temporary folders of writers that were killed."""
    for path in place.glob(f"{ASIDE}*"):
        _remove(path)


def _fill(aside: Path, files: Mapping[str, bytes], about: Mapping[str, Any]) -> None:
    """Write the files, each forced to disk, and the manifest last."""
    told = {name: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in files.items()}
    for name, data in files.items():
        put(aside / name, data)
    put(aside / MANIFEST, _sealed({"format": FORMAT, **about, "files": told}))
    sync_folder(aside)


def _sealed(values: Mapping[str, Any]) -> bytes:
    """The bytes of a manifest that holds the hash of its own text."""
    digest = hashlib.sha256(to_json(values)).hexdigest()
    return to_json({**values, "manifest_sha256": digest})


def _manifest(path: Path) -> dict[str, Any]:
    """The values of a manifest, whose bytes must be just those that `_sealed` writes for them."""
    file, size = opened(path)
    with file:
        if size > MOST_BYTES:
            raise _refusal(path, f"it has {size} bytes, and {MOST_BYTES} is the most for such a file")
        data = file.read(MOST_BYTES)
    values = from_json(data, path)
    own = (
        {name: value for name, value in values.items() if name != "manifest_sha256"} if isinstance(values, dict) else {}
    )
    if not own or _sealed(own) != data:
        raise _refusal(path, "its text does not match its own SHA-256")
    if values.get("format") != FORMAT:
        raise _refusal(path, f"it is of format {values.get('format')!r}, and this version reads {FORMAT}")
    files = values.get("files")
    if not isinstance(files, dict) or not set(files) <= set(FILES) or not all(map(_is_entry, files.values())):
        raise _refusal(path, "it lists other files than a checkpoint has")
    return dict(values)


def _is_entry(one: Any) -> bool:
    if not isinstance(one, dict) or one.keys() != {"size", "sha256"}:
        return False
    return type(one["size"]) is int and one["size"] >= 0 and isinstance(one["sha256"], str)


def _verified(path: Path, *, size: int, sha256: str, keep: bool) -> bytes:
    """Check a file against its size and hash in the manifest; returns its bytes, or none without `keep`."""
    file, seen = opened(path)
    with file:
        if seen != size:
            raise _refusal(path, f"it has {seen} bytes, and the manifest says {size}")
        data = file.read(size) if keep else b""
        digest = hashlib.sha256(data) if keep else hashlib.file_digest(file, "sha256")
    if digest.hexdigest() != sha256:
        raise _refusal(path, "its bytes do not match the SHA-256 in the manifest")
    return data


def _refusal(path: Path, seen: str) -> CheckpointError:
    return CheckpointError(
        f"{path} is damaged, or no part of a checkpoint.\nSeen: {seen}.\nTake another checkpoint of that run."
    )


def _remove(path: Path) -> None:
    """Remove a folder: it is renamed first, so that no part of it is ever found under its name."""
    try:
        aside = path if path.name.startswith(ASIDE) else path.rename(path.with_name(f"{ASIDE}{secrets.token_hex(8)}"))
        shutil.rmtree(aside)
    except OSError as error:
        log.warning("%s could not be removed: %s", path, error)
