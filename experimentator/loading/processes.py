"""Worker processes: each holds a copy of a subset, reads whole batches of it, and sends them back."""

from __future__ import annotations

import ctypes
import io
import logging
import os
import pickle
import signal
import sys
import threading
import time
import weakref
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import cloudpickle
import loky
import numpy as np
from loky.process_executor import TerminatedWorkerError

from experimentator.checkpoint import CheckpointError
from experimentator.config import CONFIG_MODULE
from experimentator.data.chance import ELSEWHERE, SHARED, modules_of_the_user, shared_generators
from experimentator.data.items import DatasetError
from experimentator.loading.memory import keep_large_buffers
from experimentator.loading.shared import Address, Borrowed, Lending
from experimentator.loading.threads import awaited
from experimentator.subset import Read

log = logging.getLogger(__name__)
IDLE_SECONDS = 60  # an idle process ends after this time, and starts again when needed
WATCH_SECONDS = 1  # a process looks this often whether its parent was killed, to end, too
LOOK_SECONDS = 2.0  # between two looks at a process that is waited for
LOOKS = 6  # at a stopped process in a row before it is killed; not seconds, since Ctrl-Z stops the one that looks, too
SET_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG, as Linux calls it
THREADS = "or write workers = 4, for threads."
_own: dict[str, Any] = {}  # in a worker process: its copy of the subset
_by_value = threading.Lock()  # held while modules are registered with cloudpickle


class Processes:
    """Processes with copies of a subset as it is now, which read one batch each at a time.

    Before each item, random generators in the dataset, and the shared ones, are set to the address of the item (see
    `reading`), or else copies would draw the same numbers. A process that dies is replaced, and its batch is read
    again; a key that kills its process again is named.
    """

    def __init__(self, subset: Any, count: int):
        self.subset, self.count = subset, count
        self._free: SimpleQueue[_Process] = SimpleQueue()
        self._content = _pickled(subset)
        started = [_Process(self._content) for _ in range(count)]
        for process in started:
            self._free.put(process)
        weakref.finalize(self, _end, started)

    def hold(self, subset: Any, count: int) -> bool:
        """Whether there are `count` of them, with copies equal to the subset as it is now."""
        return self.subset is subset and self.count == count and _pickled(subset) == self._content

    def read(
        self,
        keys: Sequence[Hashable],
        visits: Sequence[int],
        *,
        into: Mapping[str, np.ndarray] = {},
        bucket: int | None = None,
    ) -> Read:
        """The result of `Subset.read`, from the next free process."""
        process = self._free.get()
        try:
            read: Read = self._read(process, keys, visits, into, bucket)
            return read
        except (DatasetError, CheckpointError) as error:
            error.__cause__ = None  # it is the worker's traceback, as text
            raise
        finally:
            self._free.put(process)

    def _read(
        self,
        process: _Process,
        keys: Sequence[Hashable],
        visits: Sequence[int],
        into: Mapping[str, np.ndarray],
        bucket: int | None,
    ) -> Any:
        address = self.subset.seed, self.subset.epoch, bucket
        try:
            return process.read(keys, visits, address, into)
        except TerminatedWorkerError:
            log.warning("A worker process of subset %r died; its batch is read again.", self.subset.name)
        except (DatasetError, CheckpointError):
            raise
        except Exception as error:
            raise DatasetError(
                f"The items of subset {self.subset.name!r} cannot be sent back from a worker process: key {keys[0]!r} "
                "and those after it.",
                f"{type(error).__name__}: {error!s:.200}",
                f"Let items hold numbers, strings and other plain values; {THREADS}",
            ) from None
        for key, visit in zip(keys, visits, strict=True):
            try:
                process.read([key], [visit], address, {})
            except TerminatedWorkerError as error:
                raise DatasetError(
                    f"Key {key!r} of subset {self.subset.name!r} kills the worker process that reads it.",
                    f"{error!s:.200}".replace("\n", " "),
                    "Mend the item, or leave its key out: Subset(..., keys=[...]). A process that takes too much "
                    "memory is killed too: use fewer workers.",
                ) from None
        return process.read(keys, visits, address, into)


class _Process:
    """One process at a time, started when there is something to read."""

    def __init__(self, content: bytes):
        self.content = content
        self.executor: Any = None
        _ALIVE.add(self)
        self.lending = Lending()

    def end(self) -> None:
        """End the process, if there is one."""
        if self.executor is not None:
            self.executor.shutdown(wait=False, kill_workers=True)

    def read(
        self,
        keys: Sequence[Hashable],
        visits: Sequence[int],
        address: tuple[int, int, int | None],
        into: Mapping[str, np.ndarray],
    ) -> Any:
        """The places kept, and a batch; large arrays that fit come by shared memory, and are copied `into` place."""
        if is_new := self.executor is None:
            self.executor = loky.ProcessPoolExecutor(
                1,
                timeout=IDLE_SECONDS,
                initializer=_start,
                initargs=(self.content, _folders(), modules_of_the_user()),
                env={"LOKY_MAX_MEMORY_LEAK_SIZE": "1e18"},  # datasets may cache items: that is no leak
            )
        try:
            lent = self.lending.addresses(into)
            try:
                asked = self.executor.submit(_serve, _sent(keys), visits, address, lent)
            except RuntimeError as error:  # loky's own thread removes a dead process while loky lists them
                raise TerminatedWorkerError(str(error)) from None
            if is_new and hasattr(threading, "_register_atexit"):
                threading._register_atexit(end_all)  # runs before loky's, which would wait for a hanging process
            self.looks = 0  # in a row that found the process stopped
            kept, batch = awaited(asked, self._end_stopped, LOOK_SECONDS)
            return kept, self.lending.taken(batch, into)
        except TerminatedWorkerError:
            self.executor = None
            raise

    def _end_stopped(self) -> None:
        """Kill a process that was stopped (SIGSTOP) at LOOKS looks in a row: it might never be continued."""
        stopped = list(filter(_is_stopped, list(self.executor._processes or ())))
        self.looks = self.looks + 1 if stopped else 0
        if self.looks == LOOKS:
            said = "Worker process %d has been stopped (SIGSTOP) for %.0f s and more; it is killed."
            log.warning(said, stopped[0], (LOOKS - 1) * LOOK_SECONDS)
            for pid in stopped:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def _is_stopped(pid: int) -> bool:
    """Whether a process is stopped, by /proc."""
    try:
        return Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()[0] == "T"
    except (OSError, IndexError):  # it is gone, or there is no /proc
        return False


_ALIVE: weakref.WeakSet[_Process] = weakref.WeakSet()


def end_all() -> None:
    """End every worker process; call it before `os._exit`, after which each must notice by itself (`_end_with`)."""
    _end(list(_ALIVE))


def _end(processes: Iterable[_Process]) -> None:
    for process in processes:
        process.end()


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # which has no types
    """Pickles the shared generators by name, which functions of `numpy.random` hold.

    Datasets of mlworkflow that filter or augment cache the last item in a Python generator, which cannot be pickled;
    copies begin without it.
    """

    def reducer_override(self, one: Any) -> Any:
        kept = getattr(one, "__dict__", {}).get("_cache")
        if isinstance(kept, tuple) and type(kept[-1]).__name__ == "GeneratorBackedCache":
            make, given, state, *rest = one.__reduce_ex__(pickle.HIGHEST_PROTOCOL)
            return make, given, {**state, "_cache": (None, None)}, *rest
        return super().reducer_override(one)

    def persistent_id(self, one: Any) -> str | None:
        return SHARED.get(id(one))


class _Unpickler(pickle.Unpickler):
    def persistent_load(self, place: str) -> Any:
        return next(one for one in shared_generators() if SHARED[id(one)] == place)


def _pickled(subset: Any) -> bytes:
    """The subset as bytes, including classes and functions that configurations and notebooks define."""
    try:
        file = io.BytesIO()
        with _configurations_by_value():
            _Pickler(file).dump(subset)
        return file.getvalue()
    except Exception as error:
        raise DatasetError(
            f"Subset {subset.name!r} cannot be sent to worker processes.",
            f"{type(error).__name__}: {error!s:.200}",
            "Open files and the like when an item is read, and leave them out of copies, as by def __getstate__(self): "
            f"return {{**vars(self), 'file': None}}; {THREADS}",
        ) from None


@contextmanager
def _configurations_by_value() -> Iterator[None]:
    """Within, classes and functions of configurations are pickled by value: no other process can import them."""
    with _by_value:
        written = [module for name, module in sys.modules.copy().items() if name.startswith(CONFIG_MODULE)]
        for module in written:
            cloudpickle.register_pickle_by_value(module)
        try:
            yield
        finally:
            for module in written:
                cloudpickle.unregister_pickle_by_value(module)


def _sent(keys: Sequence[Hashable]) -> Sequence[Hashable] | bytes:
    """Keys to send; as bytes where they may be of classes that a configuration defines."""
    if all(map(_is_plain, keys)):
        return keys
    with _configurations_by_value():
        return cloudpickle.dumps(keys)  # type: ignore[no-any-return]  # which has no types


def _is_plain(key: Any) -> bool:
    return type(key) in (int, str, float, bytes) or (type(key) is tuple and all(map(_is_plain, key)))


def _folders() -> list[str]:
    """The folders of imported modules that `sys.path` lacks, such as the configuration's."""
    files = [getattr(module, "__file__", None) for name, module in sys.modules.copy().items() if "." not in name]
    places = [Path(file).parent for file in files if file]
    roots = [place.parent if (place / "__init__.py").exists() else place for place in places]
    return [root for root in dict.fromkeys(map(str, roots)) if root not in sys.path]


# In a worker process


def _start(content: bytes, folders: Sequence[str], modules: Sequence[str]) -> None:
    """Set a worker process up; it ignores Ctrl-C, since the training process ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    keep_large_buffers()
    _go_on_without_parent()
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    sys.path.extend(folders)
    ELSEWHERE.update(modules)
    _own["content"] = content


def _go_on_without_parent() -> None:
    """Let Linux send SIGCONT when the parent dies, so that a stopped process can see that, and end.

    It is sent when the parent's thread that started the process ends, as after each pass: so it must not be a signal
    that kills.
    """
    if sys.platform.startswith("linux"):
        with suppress(OSError, AttributeError):  # of another C library
            ctypes.CDLL(None).prctl(SET_DEATH_SIGNAL, signal.SIGCONT)


def _end_with(parent: int) -> None:
    """End when the training process has ended: if it was killed, this process has another parent."""
    while os.getppid() == parent:
        time.sleep(WATCH_SECONDS)
    os._exit(0)


def _serve(
    sent: Sequence[Hashable] | bytes,
    visits: Sequence[int],
    address: tuple[int, int, int | None],
    lent: Mapping[str, Address],
) -> Any:
    keys = pickle.loads(sent) if isinstance(sent, bytes) else sent  # noqa: S301  # from the training process
    if "subset" not in _own:
        _own["subset"], _own["borrowed"] = _unpickled(_own.pop("content")), Borrowed()
        _own["subset"].reads_alone = True
    subset, borrowed = _own["subset"], _own["borrowed"]
    subset.seed, subset.epoch, bucket = address
    into = borrowed.at(lent)
    try:
        kept, batch = subset.read(keys, visits, into=into, bucket=bucket)
    except (DatasetError, CheckpointError):
        raise
    except Exception as error:  # of a method of its own; others name the key
        raise DatasetError(
            f"Subset {subset.name!r} fails to read a batch in a worker process: key {keys[0]!r} and those after it.",
            f"{type(error).__name__}: {error!s:.200}",
            f"Mend its `batch` or `query_item`; to see the line, {THREADS.removeprefix('or ')}",
        ) from error
    return kept, borrowed.given(batch, into)


def _unpickled(content: bytes) -> Any:
    try:
        return _Unpickler(io.BytesIO(content)).load()  # the training process's own subset
    except Exception as error:
        raise DatasetError(
            "A subset cannot be made anew in a worker process.",
            f"{type(error).__name__}: {error!s:.200}",
            f"Write its dataset in the configuration or in a module that can be imported; {THREADS}",
        ) from None
