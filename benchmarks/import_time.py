"""Seconds until things begin: an import, a command, a short training, the points of a short sweep.

Command:  python benchmarks/import_time.py [--quick]

Imports and `--help` are told over a bare interpreter. A training of two epochs of two hundred digits
(tests/configs/digits.py) is started as a command, and by a script that does the same; a sweep of six such points beside
six commands one after the other. Each is a fresh process, all in turn, medians over the rounds. Says which frameworks
the import loads (there should be none). Unless it is quick, it writes to benchmarks/results/ and history.jsonl.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _report import publish, table

FRAMEWORKS = ("tensorflow", "keras", "jax", "torch")
COMMANDS = {
    "bare interpreter": ["-c", "pass"],
    "import experimentator": ["-c", "import experimentator"],
    "import experimentator.graph": ["-c", "import experimentator.graph"],
    "experimentator --help": ["-m", "experimentator", "--help"],
}
DIGITS = str(Path(__file__).resolve().parent.parent / "tests" / "configs" / "digits.py")
RUN = ["-m", "experimentator", "run", DIGITS, "--epochs", "2", "--quiet"]
SCRIPT = f"from experimentator import build_experiment; build_experiment({DIGITS!r}, output_folder='runs').train(2)"
POINTS = [0.1, 0.03, 0.01, 0.003, 0.001, 0.0003]


def seconds(arguments: list[str], folder: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True, cwd=folder)
    return time.perf_counter() - start


def trainings(folder: str, points: int) -> dict[str, float]:
    """Seconds of one round."""
    rates = POINTS[:points]
    return {
        "keras alone": seconds(["-c", "import keras"], folder),
        "experimentator run": seconds(RUN, folder),
        "the same by a script": seconds(["-c", SCRIPT], folder),
        f"a sweep of {points} points": seconds([*RUN, "--grid", f"learning_rate={rates}"], folder),
        f"{points} commands": sum(seconds([*RUN, "--set", f"learning_rate={rate}"], folder) for rate in rates),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="three rounds instead of fifteen; one of trainings, of two points"
    )
    options = parser.parse_args()
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(3 if options.quick else 15):
            for name, arguments in COMMANDS.items():
                times[name].append(seconds(arguments, folder))
        rounds = [trainings(folder, 2 if options.quick else len(POINTS)) for _ in range(1 if options.quick else 5)]
    bare = statistics.median(times["bare interpreter"])
    results = {name: round(statistics.median(values) - bare, 4) for name, values in times.items() if name[0] != "b"}
    begun = {name: round(statistics.median(one[name] for one in rounds), 2) for name in rounds[0]}
    probe = f"import experimentator, sys; print(*(set({FRAMEWORKS}) & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", probe], check=True, capture_output=True, text=True).stdout.split()
    text = table([{"command": name, "seconds over bare": value} for name, value in results.items()])
    text = f"## Import\n\n{text}\n\nFrameworks loaded by the import: {', '.join(loaded) or 'none'}.\n\n"
    text += table([{"two epochs of 200 digits": name, "seconds": value} for name, value in begun.items()])
    found = {**results, "bare": round(bare, 4), "frameworks": loaded, "trainings": begun}
    publish("import", found, f"{text}\n", bars={}, quick=options.quick)


if __name__ == "__main__":
    main()
