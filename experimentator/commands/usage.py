"""The arguments of the command line."""

from __future__ import annotations

import argparse
import math
import os
import re
from collections.abc import Sequence
from difflib import get_close_matches
from itertools import pairwise
from typing import NoReturn

from experimentator.commands import help as texts

LATEST, AUTO = "latest", "auto"  # values of --resume that name no run
OUTPUT_FOLDER = "runs"  # where runs go by default


class UsageError(ValueError):
    """A command line that cannot be understood."""


class _Parser(argparse.ArgumentParser):
    def __init__(self, command: str, text: str):
        super().__init__(prog=f"experimentator {command}".strip(), allow_abbrev=False)
        self.command, self.text = command, text

    def format_help(self) -> str:
        return self.text

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}\n{self._guess(message)}Type: {self.prog} --help")

    def _guess(self, message: str) -> str:
        """A guess of the options that were meant by unknown ones: those like them, else `--set`."""
        known = [name for name, action in self._option_string_actions.items() if action.help != argparse.SUPPRESS]
        words = message.partition("arguments: ")[2].split()
        near: list[str] = []
        changes: list[str] = []
        for word, following in pairwise([*words, ""]):
            name, _, value = word.partition("=")
            if not value and word[:1] != "-":
                continue
            like = get_close_matches(name if word[:1] == "-" else f"--{name}", known, n=1, cutoff=0.75)
            near += like
            name = name.lstrip("-").replace("-", "_")
            if not like and name.isidentifier() and (value or word[:2] == "--"):
                simple = re.fullmatch(r"[\w.][\w.+-]*", value or following)  # of a value with spaces, this is a part
                changes.append(f"--set {name}={simple[0] if simple else 'VALUE'}")
        guesses = [f"Did you mean {' and '.join(dict.fromkeys(near))}? "] if near else []
        if changes and "--set" in known:
            guesses.append(f"To give names of the configuration other values: {' '.join(changes)}\n")
        return "".join(guesses)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The parsed arguments; if `command` is `help` or `version`, only `text` is to be printed.

    >>> parse(["task.py", "--epochs", "3"]).command, parse(["graph", "task.py"]).theme
    ('run', 'auto')
    """
    first = argv[0] if argv else ""
    if first == "--version":
        from experimentator.version import __version__

        return argparse.Namespace(command="version", text=f"experimentator {__version__}\n")
    if first in ("-h", "--help", "help"):
        return argparse.Namespace(command="help", text=texts.HELP)
    if not argv:
        raise UsageError("there is nothing to do: name a configuration file\nType: experimentator --help")
    _check_first(first, argv[1:])
    command, rest = (first, argv[1:]) if first in USAGE else ("run", argv)
    parser = _parser(command)
    if {"-h", "--help"} & set(rest):
        return argparse.Namespace(command="help", text=parser.format_help())
    arguments = parser.parse_args(rest)
    arguments.command = command
    return arguments


def _check_first(word: str, rest: Sequence[str]) -> None:
    """Refuse a misspelt command, and an unknown word with further words after it, which is no configuration."""
    if word in USAGE or word.startswith("-") or word.endswith(".py") or os.path.exists(word):
        return
    near = get_close_matches(word.lower(), USAGE, n=1)
    if near or (rest and not rest[0].startswith("-")):
        write = f"Did you mean {near[0]!r}?" if near else f"Commands are {', '.join(USAGE)}."
        raise UsageError(f"{word!r} is no command and no file\n{write} Type: experimentator --help")


def _parser(command: str) -> _Parser:
    text, add = USAGE[command]
    parser = _Parser(command, text)
    parser.add_argument("--traceback", action="store_true")
    add(parser)
    return parser


def _add_run(parser: argparse.ArgumentParser) -> None:
    _add_config(parser)
    parser.add_argument("--epochs", type=_count)
    parser.add_argument("--grid", action="append", default=[], metavar="NAME=[V1,V2]")
    parser.add_argument("--sample", type=_times, metavar="N")
    parser.add_argument("--jobs", type=_times, metavar="N")
    parser.add_argument("--hang-seconds", type=_seconds, metavar="S")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--output-folder")
    parser.add_argument("--experiment-id")
    parser.add_argument("--resume", nargs="?", const=LATEST, metavar="RUN")
    parser.add_argument("--checkpoint-seconds", type=_seconds)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--quiet", action="store_true")
    parser.add_argument("--report", help=argparse.SUPPRESS)  # of points: the folder for progress reports
    parser.add_argument("--parent", type=int, help=argparse.SUPPRESS)  # of points: the sweep, with which they end
    parser.add_argument("--forked", action="store_true", help=argparse.SUPPRESS)  # by the fork server


def _add_graph(parser: argparse.ArgumentParser) -> None:
    _add_config(parser)
    parser.add_argument("--mode", type=str.lower, choices=("train", "eval", "infer"))
    parser.add_argument("--for", dest="names", type=_names)
    parser.add_argument("-o", "--output", metavar="FILE")
    parser.add_argument("--diff", metavar="OTHER")
    parser.add_argument("--theme", choices=("light", "dark", "auto"), default="auto")
    for option in ("plan", "all", "cost", "tree", "open", "unfold"):
        parser.add_argument(f"--{option}", action="store_true")


def _add_bench(parser: argparse.ArgumentParser) -> None:
    _add_config(parser)
    parser.add_argument("--seconds", type=_seconds, default=30.0)
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--against", choices=("keras",))
    kinds.add_argument("--sweep", metavar="NAME=V1,V2")
    kinds.add_argument("--compare", metavar="OTHER")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("-o", "--output", metavar="FILE")
    parser.add_argument("--epochs", type=_count)
    parser.add_argument("--seed", type=int)


def _add_runs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", nargs="?", default=OUTPUT_FOLDER, metavar="FOLDER")
    parser.add_argument("--filter", dest="filters", action="append", default=[])
    parser.add_argument("--sort", metavar="NAME")
    parser.add_argument("--descending", action="store_true")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true")
    form.add_argument("-o", "--output", metavar="FILE")
    parser.add_argument("--open", action="store_true")


def _add_evaluate(parser: argparse.ArgumentParser) -> None:
    _add_run_folder(parser)
    parser.add_argument("--subset", metavar="NAME")
    parser.add_argument("--json", action="store_true")


def _add_predict(parser: argparse.ArgumentParser) -> None:
    _add_run_folder(parser)
    parser.add_argument("--subset", metavar="NAME", required=True)
    parser.add_argument("-o", "--output", metavar="FILE", required=True)
    parser.add_argument("--outputs", dest="names", type=_names)


def _add_export(parser: argparse.ArgumentParser) -> None:
    _add_run_folder(parser)
    parser.add_argument("-o", "--output", metavar="FILE", required=True)
    parser.add_argument("--outputs", dest="names", type=_names)
    parser.add_argument("--sizes", action="append", default=[], metavar="NAME=SIZES")


def _add_run_folder(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("--weights", default="last")
    parser.add_argument("--config", metavar="FILE")
    _add_set(parser)


def _add_verify(parser: argparse.ArgumentParser) -> None:
    _add_config(parser)
    parser.add_argument("--kills", type=_times, default=3)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--epochs", type=_count)
    parser.add_argument("--output-folder")


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", metavar="CONFIG")
    _add_set(parser)


def _add_set(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set", dest="assignments", action="append", default=[], type=_assignment, metavar="NAME=VALUE"
    )


def _assignment(text: str) -> str:
    if "=" not in text:
        raise argparse.ArgumentTypeError(f"{text!r} is not an assignment: write {text}=VALUE")
    return text


def _names(text: str) -> list[str]:
    """Names separated by commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds above 0")
    return seconds


def _times(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 1")
    return int(text)


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 0")
    return int(text)


_STATUS = f"\n{texts.EXIT_STATUS}"
USAGE = {  # help and arguments by command
    "run": (texts.RUN_HELP + _STATUS, _add_run),
    "graph": (texts.GRAPH_HELP + _STATUS, _add_graph),
    "bench": (texts.BENCH_HELP + _STATUS, _add_bench),
    "runs": (texts.RUNS_HELP + _STATUS, _add_runs),
    "evaluate": (texts.EVALUATE_HELP + _STATUS, _add_evaluate),
    "predict": (texts.PREDICT_HELP + _STATUS, _add_predict),
    "export": (texts.EXPORT_HELP + _STATUS, _add_export),
    "verify-resume": (texts.VERIFY_HELP, _add_verify),
}
