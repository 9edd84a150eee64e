"""A report of this machine's GPU: every benchmark that needs one, without network, as one page.

Command:  python benchmarks/_gpu_report.py [--quick] [--cpu]      (or: make bench-gpu)

Runs the trainings beside the rivals that are installed (others are shown as missing), the throughput in one process,
and `experimentator bench` on the digits example, with batch sizes swept. The page is README.md in the folder of
benchmarks/results/ that is named after the card, with tables and charts; history.jsonl gets its lines. Without a GPU it
stops, unless --cpu asks for a trial run: that writes to a temporary folder, and its page says CPU.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from _report import device, gpu, join, results_folder

ROOT = Path(__file__).resolve().parents[1]
DIGITS = str(ROOT / "examples" / "digits.py")
BENCH = [sys.executable, "-m", "experimentator", "bench", DIGITS]
FACTOR = 4  # between the batch sizes of the sweep


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a check that everything runs; nothing is kept")
    parser.add_argument("--cpu", action="store_true", help="a trial run without a GPU, into a temporary folder")
    options = parser.parse_args()
    if not gpu() and not options.cpu:
        sys.exit("There is no GPU here: nvidia-smi names none.\nWrite --cpu for a trial run, which keeps nothing.")
    if options.cpu:
        os.environ["EXPERIMENTATOR_RESULTS"] = tempfile.mkdtemp(prefix="experimentator-")
    print(f"{device()}: the page goes to {results_folder()}", flush=True)
    quick = ["--quick"] if options.quick else []
    for script in ("training.py", "throughput.py"):
        subprocess.run([sys.executable, str(ROOT / "benchmarks" / script), *quick], check=True)
    seconds = ["--seconds", "4" if options.quick else "60"]
    sweep = ["--sweep", f"batch_size={','.join(str(32 * FACTOR**power) for power in range(3))}"]
    _told("bench-digits", "experimentator bench examples/digits.py --against keras", [*seconds, "--against", "keras"])
    curve = results_folder() / "sweep-digits.svg"
    _told("bench-sweep", "experimentator bench examples/digits.py --sweep", [*seconds, *sweep, "-o", str(curve)], curve)
    join(results_folder())


def _told(name: str, title: str, words: list[str], picture: Path | None = None) -> None:
    """What the command prints, as a part of the page."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run([*BENCH, *words], check=True, env=environment, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    print(done.stdout, flush=True)
    shown = done.stdout.replace(f"{ROOT}/", "")
    drawn = f"\n![{title}]({picture.name})\n" if picture else ""
    text = f"## {title}\n\n```\n{shown}```\n{drawn}"
    (results_folder() / f"{name}.md").write_text(text, "utf-8")


if __name__ == "__main__":
    main()
