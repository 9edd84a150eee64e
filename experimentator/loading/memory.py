"""The memory that is free for columns, and how glibc reuses large buffers."""

from __future__ import annotations

import ctypes
import os
import sys
from functools import cache

SHARE = 0.5  # of the free memory that the columns of one subset may take, on the device or on the host
FALLBACK = 8 << 30  # bytes assumed to be free where the system does not say
_THRESHOLD = 1 << 30
_TRIM, _MMAP = -1, -3  # glibc's names for them: M_TRIM_THRESHOLD, M_MMAP_THRESHOLD


def free_host_memory() -> int:
    """Bytes of memory that are free, page cache not counted."""
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # Windows and macOS lack these
        return FALLBACK


@cache
def keep_large_buffers() -> bool:
    """Let glibc reuse large temporaries instead of returning them to the system; returns whether that worked.

    Augmentation in numpy makes temporaries of megabytes. By default each is mapped anew and its pages fault one by
    one: a 256x256x3 augmentation took four times as long. The thresholds apply to the whole process.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    return bool(mallopt(_MMAP, _THRESHOLD) and mallopt(_TRIM, _THRESHOLD))
