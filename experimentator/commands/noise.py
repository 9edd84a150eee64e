"""Filters messages that TensorFlow prints during its import; all other output passes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

# No setting silences these: C++ code writes them to file descriptor 2 before logging is set up.
_FILTER = """
import re, sys
noise = re.compile(rb"WARNING: All log messages before absl|I\\d{4} [\\d:. ]+port\\.cc")
for line in sys.stdin.buffer:
    if not noise.match(line):
        sys.stderr.buffer.write(line)
        sys.stderr.buffer.flush()
"""


@contextmanager
def filtered() -> Iterator[None]:
    """Within, known noise is dropped from file descriptor 2; Python's own stderr bypasses the filter.

    The filter is a process, so that the last messages of a crash still come through.
    """
    if sys.stderr is not sys.__stderr__ or sys.stderr is None or sys.stderr.fileno() != 2:
        yield  # stderr was replaced, as by a test or a notebook
        return
    sys.stderr.flush()
    aside = os.dup(2)
    sys.stderr = open(aside, "w", buffering=1, encoding=sys.stderr.encoding, errors="backslashreplace")  # noqa: SIM115
    child = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _FILTER], stdin=subprocess.PIPE, stderr=aside, start_new_session=True
    )
    assert child.stdin is not None
    os.dup2(child.stdin.fileno(), 2)
    child.stdin.close()
    try:
        yield
    finally:
        os.dup2(aside, 2)
        with suppress(subprocess.TimeoutExpired):  # a process that the configuration started may keep the pipe open
            child.wait(timeout=1.0)
