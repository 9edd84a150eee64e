"""The arguments of the command line and their help, which is written by hand."""

from __future__ import annotations

import argparse
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from itertools import pairwise
from typing import NoReturn

COMMANDS = ("run", "graph", "bench", "runs", "evaluate", "predict", "export", "verify-resume")
LATEST, AUTO = "latest", "auto"  # values of --resume that name no run
OUTPUT_FOLDER = "runs"  # where runs go by default

HELP = """\
experimentator: train the experiment of a configuration file, look at its graph, use what was trained.

  experimentator run CONFIG [options]      train (the word `run` may be left out)
  experimentator graph CONFIG [options]    print or draw the graph of chunk processors
  experimentator bench CONFIG [options]    measure the training: what its time goes to, and what would help
  experimentator runs [FOLDER] [options]   list runs, filter and sort them
  experimentator evaluate RUN [options]    measure a run's weights on its subsets
  experimentator predict RUN [options]     write what a run's weights predict for a subset
  experimentator export RUN [options]      write what a run infers as a file for use elsewhere
  experimentator verify-resume CONFIG      kill the training at random moments, resume it, and compare
  experimentator COMMAND --help            options and examples of a command
  experimentator --version

A configuration is a Python program and runs with your rights: read it before you run it.

Exit status:
    0  done                                    4  the loss became NaN or infinite
    1  unexpected error, or one in your code   5  a file cannot be read or written
    2  usage, configuration, graph, callback   130  Ctrl-C
    3  data: a dataset or one of its items     143  terminated
"""

RUN_HELP = """\
experimentator run CONFIG [options]: train the experiment of a configuration file.

  --epochs N              train for N epochs (default: the configuration's `epochs`, else 10)
  --set NAME=VALUE        give a name of the configuration another value before anything uses it; repeat at will
  --grid NAME=[V1,V2]     train once for each value, each in a process and run folder of its own; repeat for more axes
  --grid NAME=RANGE       or with values drawn from uniform(LOW, HIGH) or loguniform(LOW, HIGH), for --sample
  --sample N              train N points of the grid, drawn at random; a larger N keeps these and adds others
  --jobs N                train N points at once; where there are several GPUs, on one each (default: 1)
  --hang-seconds S        end a point that made no progress for S seconds (default: 3600); before its first step, while
                          it imports and compiles, it has at least a minute
  --seed N                the same as --set seed=N
  --output-folder DIR     where run folders go (default: the configuration's `output_folder`, else runs)
  --experiment-id ID      name of the run folder (default: the time in UTC); never one that exists
  --resume [RUN]          continue a run at the very batch where it stopped: the one in that folder, else the latest of
                          this configuration that is no point of a --grid
  --resume auto           the same, or start if there is nothing to resume, so that a command may be repeated; of a
                          --grid, points that are done are kept, and others are continued or trained again
  --checkpoint-seconds S  save a checkpoint every S seconds (default: at epoch ends, in under a hundredth of the time)
  --profile               record half a second of training into <run folder>/profile, for TensorBoard and Perfetto
  --quiet                 no progress display; of a --grid, a line where each point begins and where it ends
  --traceback             show errors with every frame (or set EXPERIMENTATOR_TRACEBACK=1)

Values are Python literals or bare words: 1e-3, [32, 64], True, adam.

A run folder, DIR/<project>/<id>/, holds config.py, config.json, environment.json, history.jsonl, weights.safetensors,
checkpoints/, pipeline.svg, status.json and log.txt; DIR/<project>/latest leads to the newest. Progress goes to stderr,
results to stdout. `experimentator runs` lists runs. Points of a grid have DIR/<project>/<id>-<number>/ each, and
DIR/<project>/<id>/ holds sweep.jsonl, how each ended, and sweep.svg, a picture of what each axis does.

Examples:
  experimentator run examples/digits.py --epochs 12
  experimentator run task.py --set batch_size=64 --set optimizer_name=adam --output-folder results
  python -m experimentator task.py --epochs 10 --grid "learning_rate=[0.1,0.01,0.001]"
  experimentator run task.py --grid "learning_rate=loguniform(1e-4, 0.1)" --grid "seed=[0,1]" --sample 20 --jobs 2
"""

GRAPH_HELP = """\
experimentator graph CONFIG [options]: print or draw the graph of chunk processors.

CONFIG is a configuration file, a run folder, or a description that -o FILE.json wrote.

  --mode MODE             train, eval or infer (default: train; in a .html all three)
  --for NAME[,NAME]       only what these names depend on (default: what the mode computes)
  --plan                  show what is left out too, greyed, and why
  --all                   every processor of the mode, pruned or not
  --diff OTHER            what another configuration, run folder, description or mode adds, lacks or changes
  --cost                  measure what each processor costs, in about 20 seconds, and show it as heat and numbers
  --tree                  print the graph from each output back to what it needs
  -o FILE                 write it; the suffix says how: .svg .png .pdf (drawn), .html (to click through), .dot, .mmd or
                          .md (Mermaid), .txt, .json (to compare with later), .model-explorer.json (for Model Explorer)
  --open                  draw it and open it in the browser; without -o, as a page to click through
  --theme THEME           light, dark or auto (default: auto, where .svg and .html follow the reader's setting)
  --unfold                draw every processor of a large graph, instead of chains as one box
  --set NAME=VALUE        give a name of the configuration another value; repeat at will
  --traceback             show errors with every frame (or set EXPERIMENTATOR_TRACEBACK=1)

Examples:
  experimentator graph examples/digits.py
  experimentator graph task.py --mode infer --for batch_logits
  experimentator graph task.py --open
  experimentator graph task.py --mode eval -o pipeline.svg
  experimentator graph task.py --diff eval
  experimentator graph runs/task/first --diff runs/task/latest -o difference.svg
"""


BENCH_HELP = """\
experimentator bench CONFIG [options]: measure the training of a configuration on this machine.

CONFIG is a configuration file, or a run folder, whose stored configuration, a program, is run anew. Nothing is written
without -o: run folders are not changed, and callbacks of the library that leave files are left out; yours do run.

It shows steps and samples a second; where the time goes, adding up to the whole; the same loop written by hand as the
ceiling; what each processor costs; memory; and the one change that would help most.

  --seconds S             measure for about this long, not counting compilation (default: 30)
  --against keras         the same graph inside keras.Model.fit too: as it is, and with the options that make it quick
  --sweep NAME=V1,V2,V3   train with each of these values instead, in turn; -o FILE.svg draws the curve
  --compare OTHER         train another configuration or run in turn with it, and say whether they differ
  --json                  print the report as JSON
  -o FILE                 write it: .txt, .json, or .svg (the graph with its costs, or the curve of a sweep)
  --epochs N              the length of training that one-off costs are spread over (default: the configuration's)
  --set NAME=VALUE        give a name of the configuration another value; repeat at will
  --seed N                the same as --set seed=N
  --traceback             show errors with every frame (or set EXPERIMENTATOR_TRACEBACK=1)

The JSON says what the text does, in seconds, bytes, shares of 1. Spreads are {median, low, high (quartiles), rounds}.
  configuration, device, backend, compiler, batch_size, steps, epochs, place, left_out, is_cut    what was measured
  steps_per_second, samples_per_second    spreads
  time                    step and whole: seconds by kind; evaluation is its share of an epoch; callbacks, by name
  by_hand, keras          by name: steps_per_second, and ratio, of ours to it; refused says why others are missing
  costs                   step, rows, processors (names, forward, backward, spread, is_sure, is_fused), by_name
  peak_memory             host and device
  padded                  by subset with buckets: the one that holds all, which its items are padded to here
  verdict, also           kind, share, gain (times as fast), words
Of a sweep it says name, points and failed, of a comparison first, second, ratio, p_value, margin, rounds, test.

Examples:
  experimentator bench examples/digits.py
  experimentator bench task.py --against keras --set batch_size=64
  experimentator bench task.py --sweep batch_size=32,64,128 -o curve.svg
  experimentator bench task.py --compare runs/task/latest --json
"""


VERIFY_HELP = """\
experimentator verify-resume CONFIG [options]: prove that this training resumes exactly.

It is trained once without interruption, then killed (SIGKILL) at random moments and resumed until it is done. What both
left is compared bit for bit, by a reader that does not import the library: weights, optimizer, seeds, state of
callbacks, history. What the proof does not cover is printed, too.

  --kills N               how often it is killed (default: 3)
  --seed S                draw the moments from this seed, to repeat a trial (default: another each time)
  --epochs N              train for N epochs (default: the configuration's `epochs`, else 10)
  --set NAME=VALUE        give a name of the configuration another value; repeat at will
  --output-folder DIR     keep the runs there (default: a temporary folder, kept if they differ)
  --traceback             show errors with every frame (or set EXPERIMENTATOR_TRACEBACK=1)

Exit status: 0 equal, 1 not equal, 2 usage; if the training itself fails, its own.

Example:
  experimentator verify-resume task.py --kills 5 --epochs 3
"""


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
        return argparse.Namespace(command="help", text=HELP)
    if not argv:
        raise UsageError("there is nothing to do: name a configuration file\nType: experimentator --help")
    _check_first(first, argv[1:])
    command, rest = (first, argv[1:]) if first in COMMANDS else ("run", argv)
    parser = _parser(command)
    if {"-h", "--help"} & set(rest):
        return argparse.Namespace(command="help", text=parser.format_help())
    arguments = parser.parse_args(rest)
    arguments.command = command
    return arguments


def _check_first(word: str, rest: Sequence[str]) -> None:
    """Refuse a misspelt command, and an unknown word with further words after it, which is no configuration."""
    if word in COMMANDS or word.startswith("-") or word.endswith(".py") or os.path.exists(word):
        return
    near = get_close_matches(word.lower(), COMMANDS, n=1)
    if near or (rest and not rest[0].startswith("-")):
        write = f"Did you mean {near[0]!r}?" if near else f"Commands are {', '.join(COMMANDS)}."
        raise UsageError(f"{word!r} is no command and no file\n{write} Type: experimentator --help")


def _parser(command: str) -> _Parser:
    from experimentator.commands.usage_of_runs import USAGE_OF_RUNS

    text, add = {**USAGE, **USAGE_OF_RUNS}[command]
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
    parser.add_argument("--for", dest="names", type=names)
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


def _add_verify(parser: argparse.ArgumentParser) -> None:
    _add_config(parser)
    parser.add_argument("--kills", type=_times, default=3)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--epochs", type=_count)
    parser.add_argument("--output-folder")


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", metavar="CONFIG")
    add_set(parser)


def add_set(parser: argparse.ArgumentParser) -> None:
    """Add the option --set."""
    parser.add_argument("--set", dest="assignments", action="append", default=[], metavar="NAME=VALUE")


def names(text: str) -> list[str]:
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


Usage = Mapping[str, tuple[str, Callable[[argparse.ArgumentParser], None]]]  # help and arguments by command
USAGE: Usage = {
    "run": (RUN_HELP, _add_run),
    "graph": (GRAPH_HELP, _add_graph),
    "bench": (BENCH_HELP, _add_bench),
    "verify-resume": (VERIFY_HELP, _add_verify),
}
