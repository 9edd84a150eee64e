"""Weights on disk: safetensors, written whole or not at all, read without running anything."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np


WEIGHTS = "weights.safetensors"


class CheckpointError(OSError):
    """A weights file that cannot be written or read; the message names it."""


def save_weights(filename: str | os.PathLike[str], weights: Mapping[str, np.ndarray]) -> None:
    """Write weights aside, force them to disk, then give them their name: no half file is ever seen."""
    from safetensors.numpy import save

    write_atomically(Path(filename), save({name: np.ascontiguousarray(array) for name, array in weights.items()}))


def load_weights(filename: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Read the weights of a safetensors file; the file is data, nothing in it is run."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        weights: dict[str, Any] = load_file(filename)
    except FileNotFoundError:
        raise CheckpointError(f"There is no weights file {os.fspath(filename)!r}.\nTrain and save one first.") from None
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{os.fspath(filename)!r} cannot be read as weights.\nSeen: {error}.\nIt is damaged, or no safetensors file."
        ) from None
    return weights


def write_atomically(path: Path, data: bytes) -> None:
    """Replace `path` by a file holding `data`, or leave it as it was; the old file or the new one, never a part."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, aside = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(aside, 0o666 & ~_umask())
            os.replace(aside, path)
        except BaseException:
            Path(aside).unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)
    except OSError as error:
        raise CheckpointError(error.errno, f"{path} cannot be written: {error.strerror}") from error


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # folders cannot be opened there
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
