"""Predictions: the outputs of INFER for each key of a subset, and the files that they are saved to."""

from __future__ import annotations

import csv
import io
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experimentator.averages import usual
from experimentator.checkpoint import write_atomically
from experimentator.config import ConfigError
from experimentator.data.padding import together
from experimentator.graph import Mode
from experimentator.patches import patched
from experimentator.predictor import not_by_row
from experimentator.records.plainfile import json_of

SUFFIXES = (".npz", ".jsonl", ".csv")
KEYS = "keys"
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a cell that begins so is a formula for spreadsheets


@dataclass(frozen=True)
class Predictions:
    """Keys of items [N], and for each output a value for each key, [N, ...].

    >>> Predictions(["a", "b"], {"batch_x": np.array([0.5, 1.0])}).csv()
    b'key,batch_x\\na,0.5\\nb,1.0\\n'
    """

    keys: Sequence[Hashable]
    outputs: Mapping[str, np.ndarray]

    @classmethod
    def of(cls, exp: Any, subset: Any, outputs: Sequence[str] = ()) -> Predictions:
        """Run INFER over a subset, in the order of its keys; the results are kept in memory.

        Returns `outputs`, or else the names that INFER computes, without those that have no value for each item. Values
        of several lengths, as with buckets, are padded with zeros to the longest.
        """
        with patched(subset, seed=subset.seed, epoch=subset.epoch):  # `address` sets both
            if subset.name != exp.walk.passing:  # else a pass over it is under way, and reads with its own seed
                exp.walk.address(subset, Mode.EVAL)
            return cls._passed(exp, subset, outputs)

    @classmethod
    def _passed(cls, exp: Any, subset: Any, outputs: Sequence[str]) -> Predictions:
        """What one pass gives, once the subset reads as it does in an evaluation."""
        keys: list[Hashable] = []
        parts: dict[str, list[np.ndarray]] = {}
        asked, passed_over = outputs or exp.program.selection.outputs(exp.graph(Mode.INFER)), set[str]()
        for block, results in _blocks(exp, subset, outputs):
            keys += [key for batch in block.keys for key in batch]
            for name, values in results.items():
                if values.shape[:2] != block.index.shape:
                    if name in asked:
                        seen = f"{list(values.shape[1:])} for {block.index.shape[1]} rows"
                        raise not_by_row(name, repr(subset.name), seen)
                    passed_over.add(name)
                else:
                    parts.setdefault(name, []).append(values.reshape(-1, *values.shape[2:]))
        parts = {name: values for name, values in parts.items() if name not in passed_over}
        if not parts:
            raise ConfigError(
                f"INFER computes no value for each sample of {subset.name!r}.",
                f"Seen: {', '.join(exp.graph(Mode.INFER).results) or 'nothing'}.",
                "Name what to keep: --outputs NAME, or `outputs` in the configuration.",
            )
        return cls._in_order(exp, subset, keys, parts)

    @classmethod
    def _in_order(
        cls, exp: Any, subset: Any, keys: list[Hashable], parts: Mapping[str, Sequence[np.ndarray]]
    ) -> Predictions:
        """The parts concatenated; with buckets, which come in another order, sorted to the order of the subset."""
        found = {name: together(arrays) for name, arrays in parts.items()}
        if subset.buckets is None:
            return cls(keys, found)
        rows = np.argsort(exp.program.feed(subset, Mode.INFER).rows(exp.batch_size).turns)
        return cls([keys[row] for row in rows], {name: values[rows] for name, values in found.items()})

    def save(self, filename: str) -> None:
        """Write a `.npz` (arrays, and `keys`), or a `.jsonl` or `.csv` with a line for each key."""
        check_suffix(filename)
        form = {".npz": self.npz, ".jsonl": self.jsonl, ".csv": self.csv}[Path(filename).suffix]
        write_atomically(Path(filename), form())

    def npz(self) -> bytes:
        """The bytes of a `.npz`: arrays by name, and `keys`, integers or texts; nothing is pickled."""
        if KEYS in self.outputs:
            raise ConfigError(f"An output is called {KEYS!r}, as the keys are.", "Seen: .npz.", "Write a .jsonl file.")
        file = io.BytesIO()
        # others than numpy does not know bfloat16, and would read bytes
        arrays: dict[str, Any] = {KEYS: _exact(_plain(self.keys)), **{n: usual(a) for n, a in self.outputs.items()}}
        np.savez_compressed(file, allow_pickle=False, **arrays)
        return file.getvalue()

    def jsonl(self) -> bytes:
        """The bytes of a `.jsonl`: a line for each key; NaN and infinity, which JSON lacks, become null."""
        named = self._named_keys()
        lines = (
            json_of({**named[row], **{name: values[row].tolist() for name, values in self.outputs.items()}})
            for row in range(len(self.keys))
        )
        return "".join(f"{line}\n" for line in lines).encode()

    def csv(self) -> bytes:
        """The bytes of a `.csv`: a line for each key, a column for each number: `name`, or `name_0`, `name_1`, ..."""
        flat = {name: values.reshape(len(values), -1) for name, values in self.outputs.items()}
        head = [
            name if self.outputs[name].ndim == 1 else f"{name}_{place}"
            for name, values in flat.items()
            for place in range(values.shape[1])
        ]
        file = io.StringIO(newline="")
        writer = csv.writer(file, lineterminator="\n")
        named = self._named_keys()
        writer.writerow([*(named[0] if named else ["key"]), *head])
        for row, key in enumerate(named):
            own = [_harmless(part) for part in key.values()]
            writer.writerow([*own, *(one for values in flat.values() for one in values[row].tolist())])
        return file.getvalue().encode(errors="backslashreplace")  # names of files may be no text

    def _named_keys(self) -> list[dict[str, int | str]]:
        """For each item its `key`; of NamedTuple keys, as in a combined subset, a `key_<name>` for each field."""
        kinds = {type(key) for key in self.keys}
        fields: Sequence[str] = getattr(kinds.pop(), "_fields", ()) if len(kinds) == 1 else ()
        if not fields:
            parts = {"key": _plain(self.keys)}
        else:
            plain = {name: _plain([getattr(key, name) for key in self.keys]) for name in fields}
            parts = {name if name == "key" else f"key_{name}": keys for name, keys in plain.items()}
        if taken := parts.keys() & self.outputs.keys():
            wrong, write = f"An output is called {min(taken)!r}, as the keys are.", "Write a .npz file."
            raise ConfigError(wrong, f"Seen: outputs {', '.join(self.outputs)}.", write)
        return [{name: part[row] for name, part in parts.items()} for row in range(len(self.keys))]


def check_suffix(filename: str) -> None:
    """Refuse a file of another kind, before anything is computed.

    >>> check_suffix("scores.npy")
    Traceback (most recent call last):
    experimentator.overrides.ConfigError: 'scores.npy' is no file of predictions.
    Seen: .npy.
    Let it end in .npz, .jsonl or .csv.
    """
    suffix = Path(filename).suffix
    if suffix not in SUFFIXES:
        raise ConfigError(
            f"{filename!r} is no file of predictions.",
            f"Seen: {suffix or 'no suffix'}.",
            "Let it end in .npz, .jsonl or .csv.",
        )


def _plain(keys: Sequence[Any]) -> list[int | str]:
    """Keys as integers if all are, else as texts."""
    if all(isinstance(key, int | np.integer) and not isinstance(key, bool) for key in keys):
        return [int(key) for key in keys]
    return [key if isinstance(key, str) else repr(key) for key in keys]


def _exact(keys: list[int | str]) -> np.ndarray:
    """Keys as an array of integers, or of texts where these are too large: numpy would make some of them floats.

    >>> _exact([1, 2**63]).dtype, _exact([-1, 2**63]).tolist()
    (dtype('uint64'), ['-1', '9223372036854775808'])
    """
    for dtype in (np.int64, np.uint64) if all(isinstance(key, int) for key in keys) else ():
        with suppress(OverflowError):
            return np.array(keys, dtype)
    return np.array([str(key) for key in keys])


def _blocks(exp: Any, subset: Any, outputs: Sequence[str]) -> Iterator[tuple[Any, dict[str, np.ndarray]]]:
    """Each block of a pass in INFER, and its results: {name: [K, ...]}."""
    with closing(exp.cycle(exp.program.feed(subset, Mode.INFER), exp.batch_size)) as cycle:
        for first, runner, block in exp.program.runners_of(subset, Mode.INFER, cycle, outputs).blocks():
            yield block, runner.run(block, remaining=cycle.steps - first, where=repr(subset.name), first=first)


def _harmless(key: int | str) -> int | str:
    """A key that spreadsheets do not take for a formula."""
    return f"'{key}" if isinstance(key, str) and key.startswith(FORMULA) else key
