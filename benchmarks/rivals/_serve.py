"""A contender in a process of its own: it trains one epoch for each line it is sent, and answers with the seconds."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path[:0] = [str(Path(__file__).parents[1])]

from _cases import CASES, Case  # noqa: E402  # it lies one folder up

Epoch = Callable[[], object]


def serve(build: Callable[[Case, str, int], Epoch]) -> None:
    """`python CONTENDER.py CASE VARIANT STEPS`: say `ready`, then `SECONDS` for each line read."""
    case, variant, steps = CASES[sys.argv[1]], sys.argv[2], int(sys.argv[3])
    answers, sys.stdout = sys.stdout, sys.stderr  # what frameworks print is no answer
    epoch = build(case, variant, steps)
    print("ready", file=answers, flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        epoch()
        print(time.perf_counter() - start, file=answers, flush=True)
