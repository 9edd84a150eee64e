"""Columns as tensors: a large one is copied once."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from experimentator.backends.tensorflow.loop import has_gpu

LARGE = 1 << 20  # bytes of an array, from which on a copy costs more than the calls around it
PLAIN = {f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)} | {"float16", "float32", "float64"}
ALIGNED = 64  # bytes: TensorFlow copies arrays that begin at other addresses


def placed(values: Any) -> Any:
    """An array as a tensor with memory of its own, which no later change of the array reaches.

    TensorFlow copies an array, and then the copy, unless it is aligned: while data were placed, they took three times
    their memory. Here an array is copied once, into aligned memory, which DLPack wraps as a tensor.

    >>> placed(np.arange(3)).numpy().tolist()
    [0, 1, 2]
    """
    is_plain = isinstance(values, np.ndarray) and values.dtype.name in PLAIN and values.dtype.isnative
    if not is_plain or values.nbytes < LARGE or has_gpu():
        return tf.convert_to_tensor(values)
    memory = np.empty(values.nbytes + ALIGNED, np.uint8)
    start = -memory.ctypes.data % ALIGNED
    copied = memory[start : start + values.nbytes].view(values.dtype).reshape(values.shape)
    copied[...] = values
    return tf.experimental.dlpack.from_dlpack(copied.__dlpack__())
