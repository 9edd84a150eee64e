"""The setting `workers`: how many threads, or processes if asked for, read the batches of a streamed subset.

Threads share the dataset and cost nothing to start; numpy lets them run at once. Processes are for transforms that
spend their time in Python itself: each gets a copy of the subset, and sends whole batches back.
"""

from __future__ import annotations

import operator
import re
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Workers:
    """How many workers read ahead, and whether they are processes."""

    count: int
    are_processes: bool = False

    @classmethod
    def of(cls, wanted: Any) -> Workers | None:
        """From a number of threads, or words such as "4 processes"; None for anything else.

        >>> Workers.of(2), Workers.of("4 processes"), Workers.of("many")
        (Workers(count=2, are_processes=False), Workers(count=4, are_processes=True), None)
        """
        if isinstance(wanted, str):
            found = re.fullmatch(r"([1-9]\d*) (threads?|process(?:es)?)", wanted)
            return cls(int(found[1]), found[2].startswith("process")) if found else None
        try:
            count = 0 if isinstance(wanted, bool) else operator.index(wanted)
        except TypeError:
            return None
        return cls(count) if count >= 1 else None
