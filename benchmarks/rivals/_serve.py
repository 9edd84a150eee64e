"""A contender in a process of its own: it trains one epoch for each line it is sent, and answers with the seconds."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Contenders share the card, so none may take all of its memory; and what the driver compiles is kept for the next.
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
os.environ.setdefault("CUDA_CACHE_MAXSIZE", str(4 << 30))
sys.path[:0] = [str(Path(__file__).parents[1])]

from _cases import CASES, Case  # noqa: E402  # it lies one folder up

Epoch = Callable[[], object]


def serve(build: Callable[[Case, str, int], Epoch]) -> None:
    """`python CONTENDER.py CASE VARIANT STEPS BATCH`: say `ready` to the first line, then `SECONDS` to each line.

    Frameworks are imported by then: many may do that together, and get ready one after the other.
    """
    case, variant, steps = replace(CASES[sys.argv[1]], batch=int(sys.argv[4])), sys.argv[2], int(sys.argv[3])
    answers, sys.stdout = sys.stdout, sys.stderr  # what frameworks print is no answer
    sys.stdin.readline()
    epoch = build(case, variant, steps)
    print("ready", file=answers, flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        epoch()
        print(time.perf_counter() - start, file=answers, flush=True)
