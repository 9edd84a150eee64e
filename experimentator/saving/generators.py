"""The generators that a process shares: Python's, numpy's, and PyTorch's (CPU and GPUs)."""

from __future__ import annotations

import random
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experimentator.checkpoint import CheckpointError
from experimentator.data.reading import lock


def states() -> dict[str, Any]:
    """Their states, which `pack` takes."""
    with lock:  # a thread that reads an item sets them to its address meanwhile
        version, words, gauss = random.getstate()
        kind, key, *rest = np.random.get_state(legacy=True)
    # as an array, since JSON would need a line for each word
    found = {"python": [version, np.array(words, np.uint64), gauss], "numpy": [str(kind), key, *map(_number, rest)]}
    if torch := sys.modules.get("torch"):
        of_gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
        found["torch"] = [state.numpy() for state in (torch.get_rng_state(), *of_gpus)]
    return found


def set_states(state: Mapping[str, Any], path: Path) -> None:
    """Set them to the states in the checkpoint at `path`."""
    try:
        version, words, gauss = state["python"]
        with lock:
            random.setstate((version, tuple(int(word) for word in words), gauss))
            np.random.set_state(tuple(state["numpy"]))
        if (torch := sys.modules.get("torch")) and "torch" in state:
            own, *of_gpus = (torch.tensor(np.asarray(one, np.uint8)) for one in state["torch"])
            torch.set_rng_state(own)
            for device, one in zip(range(torch.cuda.device_count()), of_gpus, strict=False):
                torch.cuda.set_rng_state(one, device)
    except (KeyError, TypeError, ValueError, OverflowError, RuntimeError) as error:
        seen = f"{type(error).__name__}: {error}"
        raise CheckpointError(f"{path} has no state of generators.\nSeen: {seen}.\nTake another checkpoint.") from None


def _number(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
