"""Files that are written whole or not at all, above all weights as safetensors; reading them runs no code.

A weights file holds the SHA-256 of its weights, in safetensors' metadata; other tools ignore it.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

WEIGHTS = "weights.safetensors"
DIGEST = "experimentator.sha256"  # the key in a file's metadata
AVERAGED = ".average.safetensors"  # suffix of files of averaged weights, which the training evaluated with
OF_KERAS = (".h5", ".hdf5", ".keras")  # suffixes of files of other formats
OF_PYTORCH = (".pt", ".pth", ".ckpt", ".bin")
# errors of systems that cannot force a folder to disk
UNABLE = (errno.EACCES, errno.EBADF, errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EPERM)


class CheckpointError(OSError):
    """Weights, a checkpoint, an export or another file of a run that cannot be written or read; the message names it.

    >>> from experimentator import build_experiment
    >>> build_experiment({}).load_weights("missing.safetensors")
    Traceback (most recent call last):
    experimentator.checkpoint.CheckpointError: There is no weights file 'missing.safetensors'.
    Train and save one first.
    """


def weights_in(folder: str | os.PathLike[str], name: str = WEIGHTS) -> Path:
    """The weights file of that name of a run: of averaged weights, if its training evaluated with these."""
    path = Path(folder, name)
    average = path.with_suffix(AVERAGED)
    return average if average.is_file() else path


def as_path(given: Any, *, write: str) -> Path:
    """A path from a string or path-like object; for others an error that says what to `write`.

    >>> as_path(3, write='exp.resume("runs/digits/latest")')
    Traceback (most recent call last):
    experimentator.checkpoint.CheckpointError: 3 is no path.
    Seen: int.
    Write exp.resume("runs/digits/latest").
    """
    if not isinstance(given, (str, os.PathLike)):
        raise CheckpointError(
            f"{' '.join(repr(given).split()):.80} is no path.\nSeen: {type(given).__name__}.\nWrite {write}."
        )
    return Path(given)


def save_weights(filename: str | os.PathLike[str], weights: Mapping[str, np.ndarray]) -> None:
    """Write weights to a temporary file, force it to disk, then rename it: a partial file is never seen."""
    path = as_path(filename, write='exp.save_weights("weights.safetensors")')
    write_atomically(path, to_safetensors(weights, {DIGEST: _digest(weights)}))


def to_safetensors(arrays: Mapping[str, np.ndarray], metadata: dict[str, str] | None = None) -> bytes:
    """Arrays by name as the bytes of a safetensors file."""
    from safetensors.numpy import save

    # safetensors writes memory as it lies; np.ascontiguousarray would make a vector of a scalar.
    return save({name: np.asarray(array, order="C") for name, array in arrays.items()}, metadata)


def load_weights(filename: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Read the weights of a safetensors file; the file is data, nothing in it is run.

    Raises:
        CheckpointError: naming the file, where it cannot be read or is not what was saved. Files of other tools hold no
            digest, so that damaged numbers in them are not noticed.
    """
    from safetensors import SafetensorError, safe_open

    as_path(filename, write='exp.load_weights("weights.safetensors")')
    try:
        if not stat.S_ISREG(os.stat(filename).st_mode):  # a pipe would wait for its writer, a device never end
            raise OSError("it is no plain file")
        with safe_open(filename, framework="np") as file:
            weights: dict[str, Any] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
            told = (file.metadata() or {}).get(DIGEST)
        if told is not None and told != _digest(weights):
            others = f"another tool that changes them leaves out {DIGEST}"
            raise ValueError(f"its weights do not match the SHA-256 that it holds; {others}")
    except FileNotFoundError:
        raise CheckpointError(f"There is no weights file {os.fspath(filename)!r}.\n{_others(filename)}") from None
    # numpy lacks some kinds of number
    except (SafetensorError, OSError, KeyError, AttributeError, ValueError) as error:
        wrong = f"{os.fspath(filename)!r} cannot be read as weights."
        raise CheckpointError(f"{wrong}\nSeen: {error}.\n{_instead_of(filename)}") from None
    return weights


def _others(filename: str | os.PathLike[str]) -> str:
    """Weights that lie where the file would, or in `weights/`, where SaveWeights leaves them."""
    folder = Path(filename).parent
    found = sorted((*folder.glob("*.safetensors"), *folder.glob("weights/*.safetensors")), reverse=True)
    seen = ", ".join(str(path) for path in found[:3])
    return f"Seen: {seen}.\nWrite the path of one." if found else "Train and save one first."


def _instead_of(filename: str | os.PathLike[str]) -> str:
    """What to write instead of a file that cannot be read as weights."""
    if os.fspath(filename).endswith(OF_KERAS):
        return "Keras wrote it: load it into the network, network.load_weights(...), then save_weights from here."
    if os.fspath(filename).endswith(OF_PYTORCH):
        return "PyTorch wrote it: load it into the module, module.load_state_dict(torch.load(...)), then save_weights."
    if weights_in(filename).is_file():
        return f"It is a folder: write {os.fspath(weights_in(filename))!r}."
    return "It is damaged, or no safetensors file: take a copy of it, or other weights of that run."


def _digest(weights: Mapping[str, np.ndarray]) -> str:
    """The SHA-256 of names, dtypes, shapes and little-endian bytes of weights."""
    digest = hashlib.sha256()
    for name, array in sorted(weights.items()):
        digest.update(f"{name!a} {array.dtype.name} {array.shape}\n".encode())
        digest.update(array.astype(array.dtype.newbyteorder("<"), copy=False).ravel().view(np.uint8).data)
    return digest.hexdigest()


def write_atomically(path: Path, data: bytes, *, lasting: bool = True) -> None:
    """Replace `path` by a file holding `data`, or leave it as it was, never in part.

    Without `lasting` it is not forced to disk: after a power cut the file may be missing or empty.
    """
    try:
        make_folder(path.parent)
        aside = path.parent / f".{path.name[:50]}.{secrets.token_hex(4)}"  # names of all lengths have room
        try:
            put(aside, data, lasting=lasting)
            os.replace(aside, path)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise
        if lasting:
            sync_folder(path.parent)
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be written.\nSeen: {error.strerror or error}.\nMake room there, or name another place."
        ) from error


def put(path: Path, data: bytes, *, lasting: bool = True) -> None:
    """Write a new file, and force it to disk if it is to be `lasting`; where that fails, it may be there in part."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(handle, view) :]
        if lasting:
            os.fsync(handle)
    finally:
        os.close(handle)


def remove_unfinished(folder: Path) -> None:
    """Remove the unfinished weights of writers that were killed, from a folder that nobody else writes weights into."""
    for path in folder.glob(f".*.safetensors.{'[0-9a-f]' * 8}"):
        with suppress(OSError):
            path.unlink()


def lines_in(path: Path) -> int:
    """How many whole lines a file has; none without it."""
    return path.read_bytes().count(b"\n") if path.exists() else 0


def add_lines(path: Path, text: str) -> None:
    """Add lines to a file and force them to disk; where they do not all fit, it stays as it was."""
    try:
        is_new = not path.exists()
        with path.open("ab", buffering=0) as file:
            if is_new:
                sync_folder(path.parent)
            size, data = file.seek(0, os.SEEK_END), memoryview(text.encode())
            try:
                while data:
                    data = data[file.write(data) :]
                os.fsync(file.fileno())
            except OSError:
                with suppress(OSError):
                    file.truncate(size)
                raise
    except OSError as error:
        raise CheckpointError(f"{path} cannot be written.\nSeen: {error.strerror}.\nMake room, or allow it.") from error


def shorten(path: Path, lines: int) -> None:
    """Cut a file to its first `lines` lines; a shorter one stays."""
    try:
        kept = path.read_bytes().splitlines(keepends=True)[:lines] if path.exists() else []
        size = sum(map(len, kept))
        if path.exists() and path.stat().st_size > size:
            with path.open("rb+") as file:
                file.truncate(size)
                os.fsync(file.fileno())
    except OSError as error:
        raise CheckpointError(f"{path} cannot be written.\nSeen: {error.strerror}.\nAllow it.") from error


def make_folder(folder: Path) -> None:
    """Make a folder and missing parents, and force the name of each to disk."""
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for one in missing:
        sync_folder(one.parent)


def sync_files(path: Path) -> None:
    """Force a file to disk, or all files in a folder, and their names."""
    for one in (path, *path.rglob("*")):
        if one.is_dir():
            sync_folder(one)
        else:
            with one.open("rb+") as file:
                os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Force the names in a folder to disk, if the system can: Windows and some network file systems cannot."""
    try:
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        if error.errno not in UNABLE:
            raise
