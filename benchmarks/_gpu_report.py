"""A report of this machine's GPU: every benchmark that needs one, without network, as one page.

Command:  python benchmarks/_gpu_report.py [--minutes N] [--only PART ...] [--missing] [--quick] [--cpu]
          (or: make bench-gpu ARGS="...")

Its parts (--list) are the trainings beside the rivals that are installed, in groups, the throughput in one process, and
`experimentator bench` on the digits example, with batch sizes swept. Each takes well under ten minutes, and is on the
page as soon as it is measured: stop when you like, and go on with --missing, which runs what the page lacks. --minutes
is the time that there is in all: no part is begun with less than four left, and a contender that comes too late is
shown as such. The page is README.md in the folder of benchmarks/results/ that is named after the card; its first table
says what was asked and what was reached. history.jsonl gets its lines. Without a GPU it stops, unless --cpu asks for a
trial run. A trial run, and a quick one, write to a temporary folder.

What a machine without network needs, in folders on PYTHONPATH or installed (wheels for its Python; nothing is built):
    this checkout itself, without make and without being installed: run `python3 benchmarks/_gpu_report.py` in it;
    for this library: numpy, networkx, rich (with markdown-it-py, mdurl, pygments);
    for TensorFlow: tensorflow with its CUDA libraries, keras, and what they need: absl-py, astunparse (with wheel),
        flatbuffers, gast, google-pasta, grpcio, h5py, ml-dtypes, namex, opt-einsum, optree, packaging, protobuf,
        requests (with certifi, charset-normalizer, idna, urllib3), setuptools, six, termcolor, typing-extensions, and
        wrapt;
    the rivals, each of which may be missing: torch (compiling takes triton and a C compiler), lightning, jax and optax;
    scikit-learn (with scipy, joblib, cloudpickle, narwhals, threadpoolctl), for the digits: without it the trainings
        take random images, and the two `bench` parts are left out.
Not needed: mlworkflow, pygraphviz, safetensors, loky, git. EXPERIMENTATOR_COMMIT tells the commit where git does not.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

from _asked import asked
from _report import TRIAL, device, gpu, join, latest, results_folder

ROOT = Path(__file__).resolve().parents[1]
DIGITS = ("-m", "experimentator", "bench", "examples/digits.py")
SWEEP = ("--sweep", "batch_size=32,128,512")
LONGEST, ENOUGH = 9.0, 4.0  # minutes that a part may take, and with fewer than which none is begun
PARTS = {
    "training-cnn-tensorflow": ("benchmarks/training.py", "--only", "cnn", "--beside", "tensorflow"),
    "training-cnn-torch-jax": ("benchmarks/training.py", "--only", "cnn", "--beside", "torch", "jax"),
    "training-resnet-torch": ("benchmarks/training.py", "--only", "resnet", "--beside", "torch"),
    "training-resnet-tensorflow": ("benchmarks/training.py", "--only", "resnet", "--beside", "tensorflow"),
    "training-cnn-streamed": ("benchmarks/training.py", "--only", "cnn", "--beside", "streamed"),
    "training-cnn-buffers-compilers": ("benchmarks/training.py", "--only", "cnn", "--beside", "buffers", "compilers"),
    "throughput-cnn": ("benchmarks/throughput.py", "--only", "cnn"),
    "throughput-mlp": ("benchmarks/throughput.py", "--only", "mlp", "--rounds", "5"),
    "training-cnn-1024-tensorflow": ("benchmarks/training.py", "--only", "cnn-1024", "--beside", "tensorflow"),
    "training-cnn-1024-torch-jax": ("benchmarks/training.py", "--only", "cnn-1024", "--beside", "torch", "jax"),
    "training-mlp": ("benchmarks/training.py", "--only", "mlp"),
    "bench-digits": (*DIGITS, "--against", "keras"),
    "bench-sweep": (*DIGITS, *SWEEP),
}
TOO_MUCH_WITHOUT_GPU = [part for part in PARTS if "resnet" in part or "1024" in part]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a check that everything runs; nothing is kept")
    parser.add_argument("--cpu", action="store_true", help="a trial run without a GPU, into a temporary folder")
    parser.add_argument("--only", nargs="+", choices=PARTS, metavar="PART", help="these parts alone")
    parser.add_argument("--missing", action="store_true", help="only what the page of this card lacks")
    parser.add_argument("--minutes", type=float, default=60 * 24, help="the time that there is")
    parser.add_argument("--list", action="store_true", help="print the parts, and stop")
    options = parser.parse_args()
    if options.list:
        print("\n".join(PARTS))
        return
    if not gpu() and not options.cpu:
        sys.exit("There is no GPU here: nvidia-smi names none.\nWrite --cpu for a trial run, which keeps nothing.")
    if options.cpu or options.quick:
        os.environ.setdefault(TRIAL, tempfile.mkdtemp(prefix="experimentator-"))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    print(f"{device()}: the page goes to {results_folder()}", flush=True)
    wanted = options.only or [part for part in PARTS if gpu() or part not in TOO_MUCH_WITHOUT_GPU]
    failed = run([part for part in wanted if not (options.missing and _page(part).exists())], options)
    if failed:
        sys.exit("\n".join(["Not everything was measured:", *failed]))


def run(parts: list[str], options: argparse.Namespace) -> list[str]:
    """Measure one part after the other; what failed. The page is written anew after each."""
    until, failed = time.monotonic() + 60 * options.minutes, []
    for part in parts:
        minutes = min(LONGEST, (until - time.monotonic()) / 60)
        start = time.monotonic()
        why = _measure(part, minutes, options) if minutes > min(ENOUGH, 0.9 * options.minutes) else "no time left"
        print(f"{part}: {why or 'measured'}, {time.monotonic() - start:.0f} s", flush=True)
        failed += [f"{part}: {why}"] if why else []
        (results_folder() / "asked.md").write_text(asked(latest()), "utf-8")
        join(results_folder())
    return failed


def _measure(part: str, minutes: float, options: argparse.Namespace) -> str | None:
    """Nothing, or what went wrong."""
    words = [sys.executable, *PARTS[part]]
    if part.startswith("bench") and not find_spec("sklearn"):
        return "its example needs scikit-learn, which is not installed"
    if part.startswith("training"):
        words += ["--minutes", f"{minutes - 0.5:.2f}", *(["--all"] if options.cpu else [])]
    if part.startswith("bench"):
        words += ["--seconds", "4" if options.quick else "60"]
    elif options.quick:
        words += ["--quick"]
    try:
        if part.startswith("bench"):
            _told(part, words, 60 * minutes)
        else:
            subprocess.run(words, check=True, timeout=60 * minutes, cwd=ROOT)
    except subprocess.TimeoutExpired:
        return "it took too long"
    except subprocess.CalledProcessError as error:
        return f"it ended with {error.returncode}"
    return None


def _told(part: str, words: list[str], seconds: float) -> None:
    """What the command prints, as a part of the page."""
    curve = _page(part).with_suffix(".svg")
    drawn = ["-o", str(curve)] if "--sweep" in words else []
    done = subprocess.run([*words, *drawn], check=True, timeout=seconds, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    print(done.stdout, flush=True)
    picture = f"\n![{part}]({curve.name})\n" if drawn else ""
    command = " ".join(["experimentator", *PARTS[part][2:]])
    _page(part).write_text(f"## {command}\n\n```\n{done.stdout.replace(f'{ROOT}/', '')}```\n{picture}", "utf-8")


def _page(part: str) -> Path:
    return results_folder() / f"{part}.md"


if __name__ == "__main__":
    main()
