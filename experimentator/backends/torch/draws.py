"""Random numbers that are computed: what `keras.random` draws within a graph, as a function of its seeds.

Keras on PyTorch seeds a generator of PyTorch's with the value of a seed, which a trace does not know, and for which a
GPU would be waited for. Here each number is a hash of seed, counter and place (SplitMix64: Steele, Lea and Flood,
"Fast splittable pseudorandom number generators", 2014), so that numbers are the same however a graph is run.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import wraps
from math import erf, prod, sqrt
from threading import local
from typing import Any

import keras
import torch
from keras.src.backend.torch import random as of_keras  # where `keras.random` and layers look these functions up
from keras.src.random.seed_generator import draw_seed

from experimentator.backends.torch.symbolic import is_symbolic
from experimentator.patches import patched

GAMMA, FIRST, SECOND = 0x9E3779B97F4A7C15 - (1 << 64), 0xBF58476D1CE4E5B9 - (1 << 64), 0x94D049BB133111EB - (1 << 64)
DIGITS = {"float16": 11, "bfloat16": 8, "float32": 24, "float64": 53}  # binary digits of a number below 1
_HERE = local()


def computed(*, wanted: bool = True) -> AbstractContextManager[None]:
    """Within, in this thread, `keras.random` draws computed numbers; or the usual ones again, where not `wanted`."""
    return patched(_HERE, wanted=wanted)


def uniform(shape: Any, minval: Any = 0.0, maxval: Any = 1.0, dtype: Any = None, seed: Any = None) -> torch.Tensor:
    """Numbers of `shape` from `minval` to below `maxval`."""
    dtype, real = _dtypes(dtype)
    digits = DIGITS[dtype]
    numbers = _shifted(_bits(shape, seed), 64 - digits).to(real) * 2.0**-digits
    return (numbers * (maxval - minval) + minval).to(getattr(torch, dtype))


def normal(shape: Any, mean: Any = 0.0, stddev: Any = 1.0, dtype: Any = None, seed: Any = None) -> torch.Tensor:
    """Normal numbers of `shape`."""
    return _bell(shape, mean, stddev, dtype, seed, within=1.0)


def truncated_normal(
    shape: Any, mean: Any = 0.0, stddev: Any = 1.0, dtype: Any = None, seed: Any = None
) -> torch.Tensor:
    """Normal numbers of `shape` that are two deviations from the mean at most."""
    return _bell(shape, mean, stddev, dtype, seed, within=erf(sqrt(2.0)))


def randint(shape: Any, minval: Any, maxval: Any, dtype: Any = "int32", seed: Any = None) -> torch.Tensor:
    """Integers of `shape` from `minval` to below `maxval`."""
    numbers = _shifted(_bits(shape, seed), 1)  # 63 bits: the remainder favours no number to speak of
    low, high = (int(one) if isinstance(one, int | float) else keras.ops.cast(one, "int64") for one in (minval, maxval))
    return (numbers % (high - low) + low).to(of_keras.to_torch_dtype(dtype))


def categorical(logits: Any, num_samples: int, dtype: Any = "int32", seed: Any = None) -> torch.Tensor:
    """Classes [B, num_samples] for `logits` [B, C], the largest of them with Gumbel noise."""
    logits = keras.ops.convert_to_tensor(logits)
    share = uniform((len(logits), num_samples, logits.shape[-1]), dtype="float32", seed=seed)
    share = share.clamp(2.0**-25)  # else the noise could be infinite, and a class win that is ruled out
    return (logits[:, None] - torch.log(-torch.log(share))).argmax(-1).to(of_keras.to_torch_dtype(dtype))


def dropout(inputs: Any, rate: float, noise_shape: Any = None, seed: Any = None) -> torch.Tensor:
    """`inputs` with a share `rate` of them 0, and the others larger for it."""
    inputs = keras.ops.convert_to_tensor(inputs)
    if rate in (0.0, 1.0):
        return inputs if rate == 0.0 else torch.zeros_like(inputs)
    sizes = [size or known for size, known in zip(noise_shape or inputs.shape, inputs.shape, strict=True)]
    kept = uniform(sizes, dtype="float32", seed=seed) >= rate
    return torch.where(kept, inputs / (1.0 - rate), torch.zeros_like(inputs))


def shuffle(x: Any, axis: int = 0, seed: Any = None) -> torch.Tensor:
    """`x` with an axis in random order, another one for each place of the axes before it."""
    x = keras.ops.convert_to_tensor(x)
    axis = axis % x.ndim
    places = _bits(x.shape[: axis + 1], seed).argsort(axis)
    return x.gather(axis, places.reshape(*places.shape, *[1] * (x.ndim - axis - 1)).expand(x.shape))


def _bell(shape: Any, mean: Any, stddev: Any, dtype: Any, seed: Any, within: float) -> torch.Tensor:
    """Normal numbers: quantiles of uniform numbers in (-1, 1) times `within`, never of the ends."""
    dtype, real = _dtypes(dtype)
    digits = 52 if real == torch.float64 else 23
    numbers = (2 * _shifted(_bits(shape, seed), 64 - digits) + 1).to(real) * 2.0**-digits - 1.0
    return (torch.erfinv(numbers * within) * sqrt(2.0) * stddev + mean).to(getattr(torch, dtype))


def _bits(shape: Any, seed: Any) -> torch.Tensor:
    """64 random bits for every place of `shape`, int64: a part of one sequence, at a place that the seed gives.

    Two draws of one seed have no place in common: with these factors, it would take 2^31 draws and tensors of 2^25
    elements (the shortest vector of the lattice of places that coincide).
    """
    first, second = (part & 0xFFFFFFFF for part in draw_seed(seed).to(torch.int64).unbind())
    places = torch.arange(1, prod(map(int, shape)) + 1, dtype=torch.int64, device=first.device)
    return _hashed((places + (first * FIRST + second * GAMMA)) * GAMMA).reshape(tuple(map(int, shape)))


def _hashed(bits: torch.Tensor) -> torch.Tensor:
    bits = (bits ^ _shifted(bits, 30)) * FIRST
    bits = (bits ^ _shifted(bits, 27)) * SECOND
    return bits ^ _shifted(bits, 31)


def _shifted(bits: torch.Tensor, by: int) -> torch.Tensor:
    """Shifted to the right, with zeros from the left."""
    return (bits >> by) & ((1 << (64 - by)) - 1)


def _dtypes(dtype: Any) -> tuple[str, torch.dtype]:
    """The dtype that is asked for, and the one to compute in."""
    if isinstance(dtype, torch.dtype):
        dtype = str(dtype).removeprefix("torch.")
    name = keras.backend.standardize_dtype(dtype or keras.config.floatx())
    return name, torch.float64 if name == "float64" else torch.float32


def _standing(own: Callable[..., Any]) -> None:
    """Replace Keras' function of the same name: within `computed`, `own` answers."""
    usual = getattr(of_keras, own.__name__)

    @wraps(usual)
    def draw(*arguments: Any, **options: Any) -> Any:
        return (own if getattr(_HERE, "wanted", False) and not is_symbolic() else usual)(*arguments, **options)

    setattr(of_keras, own.__name__, draw)


for function in (uniform, normal, truncated_normal, randint, categorical, dropout, shuffle):
    _standing(function)
