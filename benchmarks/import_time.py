"""Seconds that `import experimentator` and `experimentator --help` take over a bare interpreter.

Command:  python benchmarks/import_time.py [--quick]

Each is a fresh process; bare interpreter, import and help in turn, medians over the rounds. Says which frameworks the
import loads (there should be none). Unless it is quick, it writes
to benchmarks/results/ and history.jsonl.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

from _report import publish, table

FRAMEWORKS = ("tensorflow", "keras", "jax", "torch")
COMMANDS = {
    "bare interpreter": ["-c", "pass"],
    "import experimentator": ["-c", "import experimentator"],
    "import experimentator.graph": ["-c", "import experimentator.graph"],
    "experimentator --help": ["-m", "experimentator", "--help"],
}


def seconds(arguments: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three rounds instead of fifteen")
    options = parser.parse_args()
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(3 if options.quick else 15):
        for name, arguments in COMMANDS.items():
            times[name].append(seconds(arguments))
    bare = statistics.median(times["bare interpreter"])
    results = {name: round(statistics.median(values) - bare, 4) for name, values in times.items() if name[0] != "b"}
    probe = f"import experimentator, sys; print(*(set({FRAMEWORKS}) & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", probe], check=True, capture_output=True, text=True).stdout.split()
    text = table([{"command": name, "seconds over bare": value} for name, value in results.items()])
    text = f"## Import\n\n{text}\n\nFrameworks loaded by the import: {', '.join(loaded) or 'none'}.\n"
    found = {**results, "bare": round(bare, 4), "frameworks": loaded}
    publish("import", found, text, bars={}, quick=options.quick)


if __name__ == "__main__":
    main()
