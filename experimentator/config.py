"""Runs a Python configuration file, with some of its names overridden before it runs.

>>> text = "rate = 0.1\\nscale = rate * 10\\nhalve = lambda x: x / scale"
>>> config = load_text(text, {"rate": 0.2})
>>> config["scale"], config["halve"](4.0)
(2.0, 2.0)
>>> config.derived["rate"]
('scale', 'halve')
"""

from __future__ import annotations

import ast
import importlib
import io
import itertools
import linecache
import math
import os
import re
import reprlib
import sys
import traceback
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any
from zlib import crc32

from experimentator.assignments import grid, parse_assignment, parse_grid, refuse_unset
from experimentator.extras import to_type
from experimentator.graph.text import cut
from experimentator.other_libraries import to_write
from experimentator.overrides import (
    HIDDEN,
    ConfigError,
    Door,
    assigned,
    copied,
    derived,
    literal_seed,
    replace_values,
    tell_lost,
)
from experimentator.records.local_modules import home, tell_others
from experimentator.seeds import Seeds

__all__ = ["Config", "ConfigError", "as_config", "load", "load_text", "resolved"]
__all__ += ["grid", "parse_assignment", "parse_grid"]

JSON = None | bool | int | float | str | list["JSON"] | dict[str, "JSON"]
CONFIG_MODULE = "experimentator_config_"
_LONGEST, _MOST = 200, 20  # characters of a text, items of a list, stored with a run


class Config(dict[str, Any]):
    """The names a configuration sets, and their source.

    `filename` and `text` are its source; `derived` says which names the file computed from each name; `overrides` are
    the values that replaced what it assigns.

    >>> config = load_text("import os\\nrate = 0.1\\n_hidden = 1")
    >>> config["rate"], resolved(config)
    (0.1, {'rate': 0.1})
    """

    def __init__(
        self,
        values: Mapping[str, Any],
        *,
        filename: str = "",
        text: str = "",
        derived: Mapping[str, tuple[str, ...]] = {},
        overrides: Mapping[str, object] = {},
    ) -> None:
        super().__init__(values)
        self.overrides = dict(overrides)
        self.filename, self.text, self.derived = filename, text, dict(derived)


def load(
    path: str | os.PathLike[str],
    overrides: Mapping[str, object] = {},
    *,
    known: Collection[str] = (),
) -> Config:
    """Run the configuration file at `path`, or that of a run folder.

    `overrides` replace what it assigns, and names that it computes from these follow.

    Its folder is first in `sys.path` while it runs, so that `import my_task` finds `my_task.py` beside it; an import
    inside a function that is called later does not. That of a run folder runs in the place of the file that was
    trained, if that is there: modules and `__file__` are found beside it. Names in `known` may be overridden though
    the file does not assign them. With a `seed` (overridden, or literal in the file: `seed = 3`) Python's and numpy's
    generators are seeded first; a seed that the file computes (`seed = base + 1`) seeds them from that line on.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "task.py")
    ...     _ = path.write_text("batch_size = 64\\nsteps = 640 // batch_size")
    ...     load(path, {"batch_size": 32})["steps"]
    20
    """
    file = Path(path)
    file = file / "config.py" if (file / "config.py").is_file() else file
    try:
        text = file.read_text("utf-8-sig")
    except (OSError, ValueError) as error:
        raise _unreadable(file, error) from None
    return _run(_Source(text, str(file), os.path.abspath(file), home(file)), dict(overrides), known)


def load_text(
    text: str,
    overrides: Mapping[str, object] = {},
    *,
    filename: str = "<config>",
    folder: str | None = None,
    known: Collection[str] = (),
) -> Config:
    """Run a configuration given as text, as `load` runs a file in `folder`; `filename` is what errors call it.

    >>> load_text("rate: float = 0.1\\nname, scale = 'a', rate * 2", {"rate": 3.0})["scale"]
    6.0
    """
    text = text.removeprefix("\ufeff")
    # two texts under one name would show each other's lines in tracebacks
    code_name = f"{filename[:-1]} {crc32(text.encode('utf-8', 'replace')):08x}>" if filename[:1] == "<" else filename
    return _run(_Source(text, filename, code_name, folder), dict(overrides), known)


def as_config(source: object, overrides: Mapping[str, object] = {}, *, known: Collection[str] = ()) -> Config:
    """A configuration from a mapping, a path, config text, or an object with a `.dict` (Pyconfyg's).

    >>> as_config({"rate": 0.1}, {"rate": 0.2}), as_config("rate = 0.1", {"rate": 0.2})
    ({'rate': 0.2}, {'rate': 0.2})
    """
    values = source if isinstance(source, Mapping) else getattr(source, "dict", None)
    if isinstance(values, Mapping):
        return _overridden(values, overrides, known)
    if isinstance(source, os.PathLike) or (isinstance(source, str) and _is_path(source)):
        return load(source, overrides, known=known)
    if isinstance(source, str) and ("\n" in source or "=" in source):
        return load_text(source, overrides, known=known)
    seen = f"It is a {type(source).__name__}."
    if isinstance(source, str):
        seen = "Read as a path, there is no such file and it does not end in .py; "
        seen += "read as config text, it has no '=' and no second line."
    as_vars = "" if not hasattr(source, "__dict__") else ", as vars(it)" if vars(source) else ", as vars(type(it))"
    write = f"Write the path of a Python file, its text, or a dictionary{as_vars}."
    if isinstance(source, list | tuple):
        write += " Settings are given by their names: build_experiment(subsets=[...], chunk_processors=[...], ...)."
    raise ConfigError(f"{steady_repr(source)} is not a configuration.", seen, write)


def resolved(mapping: Mapping[str, object]) -> dict[str, JSON]:
    """A configuration's values as JSON, to store with a run; other objects become a short `repr`.

    Modules, imported functions and classes, and names that start with `_` are left out; long values are cut.

    >>> resolved({"rate": 0.1, "shape": (2, 3), "best": float("inf"), "model": object(), "os": os})
    {'rate': 0.1, 'shape': [2, 3], 'best': 'inf', 'model': '<object object>'}
    """
    return {name: as_json(mapping[name]) for name in own_names(mapping)}


def own_names(mapping: Mapping[str, object]) -> list[str]:
    """The names that a configuration sets: neither private ones, nor modules, functions and classes that it imports."""
    return [name for name, value in mapping.items() if not name.startswith("_") and not _is_imported(name, value)]


@dataclass(frozen=True)
class _Source:
    text: str
    shown: str  # in messages
    code_name: str  # in tracebacks
    folder: str | None = None

    @property
    def lines(self) -> list[str]:
        return io.StringIO(self.text, newline=None).readlines()

    def error(self, line: int | None, kind: str, problem: object, *, write: str) -> ConfigError:
        what = f"{self.shown}:{line or 1}: {kind}: {problem}".removesuffix(": ")
        return ConfigError(what, "    " + "".join(self.lines[(line or 1) - 1 : line or 1]).strip(), write)


def _run(source: _Source, overrides: dict[str, Any], known: Collection[str]) -> Config:
    with _syntax_errors(source):
        tree = ast.parse(source.text, source.code_name)
        names, follows = assigned(tree), derived(tree, overrides)
        code = compile(replace_values(tree, overrides), source.code_name, "exec", dont_inherit=True)
    refuse_unset(tree, source.shown)
    settable, told = {*names, *known}, {*assigned(tree, values_only=True), *known}
    _refuse_unknown(overrides, settable, f"{source.shown} does not set", told=told)
    seeds = Seeds(overrides.get("seed", literal_seed(tree)), given=overrides.get("seed") is not None)
    values = _execute(source, code, door := Door({}, copied(overrides), seeds.written))
    tell_others(tree, source.folder)
    tell_lost(door.overrides, values)
    return Config(values, filename=source.shown, text=source.text, derived=follows, overrides=overrides)


@contextmanager
def _syntax_errors(source: _Source) -> Iterator[None]:
    try:
        yield
    except SyntaxError as error:
        write = "Correct this line: Python cannot read it."
        raise source.error(error.lineno, type(error).__name__, error.msg, write=write) from error
    except (ValueError, RecursionError, MemoryError) as error:  # null bytes, surrogates, endless nesting
        raise source.error(None, type(error).__name__, error, write="Python cannot read this text.") from error


def _execute(source: _Source, code: CodeType, door: Door) -> dict[str, Any]:
    """Run the code in a module of its own, which stays registered: dataclasses and pickle look it up."""
    linecache.cache[source.code_name] = (len(source.text), None, source.lines, source.code_name)
    module = _new_module(source)
    names = door.names = module.__dict__
    names |= {**door.overrides, HIDDEN: door.overrides}
    try:
        with importing_from(source.folder):
            exec(code, names, door)
    except BaseException as error:
        sys.modules.pop(module.__name__, None)
        if not isinstance(error, Exception):  # the user's Ctrl-C, the config's sys.exit()
            raise
        frames = traceback.walk_tb(error.__traceback__)
        line = [None, *(at for frame, at in frames if frame.f_code.co_filename == source.code_name)][-1]
        raises = line is not None and re.search(r"(^|[:;])\s*raise\b", source.lines[line - 1])
        is_told = raises or isinstance(error, ConfigError)  # the configuration's own message, no advice needed
        command = to_type(error.name) if isinstance(error, ModuleNotFoundError) else to_write(error)
        write = "" if is_told else command or "Correct this line, or override a name that it uses."
        raise source.error(line, type(error).__name__, error, write=write) from error
    return {name: value for name, value in names.items() if not name.startswith("__")}


def _new_module(source: _Source) -> ModuleType:
    for number in itertools.count(1):
        module = ModuleType(f"{CONFIG_MODULE}{number}")
        if sys.modules.setdefault(module.__name__, module) is module:
            break
    name = source.code_name  # of a run's copy: the place of the file that was trained, where its data lie
    module.__file__ = name if source.folder is None else os.path.join(source.folder, os.path.basename(name))
    return module


@contextmanager
def importing_from(folder: str | None) -> Iterator[None]:
    """Within, modules in this folder can be imported, as those beside a configuration."""
    if not folder:
        yield
        return
    sys.path.insert(0, folder)
    importlib.invalidate_caches()  # a module written a moment ago would not be seen
    try:
        yield
    finally:
        if folder in sys.path:
            sys.path.remove(folder)


def _refuse_unknown(names: Collection[str], settable: Collection[str], problem: str, *, told: Collection[str]) -> None:
    for name in [one for one in names if one not in settable]:
        whole = str(name).partition(".")[0]
        near = [] if whole in settable or name == "epochs" else get_close_matches(str(name), told, n=3)
        write = f"Write `{name} = ...` in it first" + ", or train(N), or --epochs N" * (name == "epochs")
        write = f"Override {whole!r} as a whole" if whole in settable else write
        seen = f"Names that can be: {', '.join(sorted(told)) or 'none'}."
        write = f"Did you mean {' or '.join(map(repr, near))}?" if near else f"{write}."
        raise ConfigError(f"{problem} {name!r}, so it cannot be overridden.", seen, write)


def _overridden(values: Mapping[Any, Any], overrides: Mapping[str, object], known: Collection[str]) -> Config:
    settable = {*values, *known}
    if odd := [key for key in (*settable, *overrides) if not isinstance(key, str)]:
        wrong, seen = "A configuration's keys are names.", f"One of them is {steady_repr(odd[0])}."
        raise ConfigError(wrong, seen, "Write a string for every key.")
    # any name may be added to a dictionary, but one that is nearly another, or a part of one, is a slip
    new = [n for n in overrides if n not in settable]
    slips = [n for n in new if n.partition(".")[0] in settable or get_close_matches(n, settable, n=1, cutoff=0.8)]
    _refuse_unknown(slips, settable, "The configuration does not set", told=settable)
    origin = values if isinstance(values, Config) else Config({})
    taken = {**origin.overrides, **overrides}
    of_file: Any = {"filename": origin.filename, "text": origin.text, "derived": origin.derived}
    return Config({**values, **overrides}, **of_file, overrides=taken)


def _is_path(source: str) -> bool:
    return "\n" not in source and (source.endswith(".py") or os.path.exists(source))


def _unreadable(file: Path, error: OSError | ValueError) -> ConfigError:
    if isinstance(error, ValueError):
        return ConfigError(f"{file} is not a text file.", f"{error}.", "Save it as UTF-8.")
    if not isinstance(error, FileNotFoundError):
        return ConfigError(f"{file} cannot be read.", f"{error.strerror}.", "Write the path of a Python file.")
    beside = [p.name for p in file.parent.glob("*.py")]
    near = [repr(str(file.with_name(name))) for name in get_close_matches(file.name, beside)]
    seen = f"Its folder holds: {', '.join(sorted(beside)) or 'no .py file'}."
    write = f"Did you mean {' or '.join(near)}?" if near else "Write the path of a Python file."
    return ConfigError(f"There is no configuration file {str(file)!r}.", seen, write)


def _is_imported(name: str, value: object) -> bool:
    """A module, or a function or class under its own name that no configuration defined."""
    if isinstance(value, FunctionType | BuiltinFunctionType | type):
        names = (value.__name__, "Stage", "ExperimentMode")  # the latter are older names of `Mode`
        return name in names and not str(value.__module__).startswith(CONFIG_MODULE)
    return isinstance(value, ModuleType) or type(value).__module__ == "__future__"


def as_json(value: Any, parents: tuple[int, ...] = ()) -> JSON:
    """A value of a configuration as JSON; long ones are cut, and one that lies in itself (`parents`) is told."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(float(value))
    if isinstance(value, str):
        return cut(str.__str__(value), _LONGEST)
    inside = (*parents, id(value))
    if isinstance(value, list | tuple | dict) and id(value) in parents:
        return "..."
    if isinstance(value, list | tuple):
        more = [f"... {len(value) - _MOST} more"] if len(value) > _MOST else []
        return [as_json(item, inside) for item in value[:_MOST]] + more
    if isinstance(value, dict):
        rest = {"...": f"{len(value) - _MOST} more"} if len(value) > _MOST else {}
        first = itertools.islice(value.items(), _MOST)
        return {
            cut(key, _LONGEST) if isinstance(key, str) else steady_repr(key): as_json(item, inside)
            for key, item in first
        } | rest
    if getattr(value, "shape", None) == () and callable(getattr(value, "item", None)):
        item = value.item()  # a numpy scalar, or an object that behaves like one
        return as_json(item) if type(item) is not type(value) else steady_repr(value)
    return steady_repr(value)


def steady_repr(value: object) -> str:
    """A `repr` that cannot fail and is the same in every process: sets sorted, no addresses."""
    shortener = reprlib.Repr()
    shortener.maxset = shortener.maxfrozenset = shortener.maxother = shortener.maxstring = 100_000
    text = re.sub(rf" at 0x[0-9a-fA-F]+|{CONFIG_MODULE}\d+\.", "", shortener.repr(value))
    return cut(text, _LONGEST)
