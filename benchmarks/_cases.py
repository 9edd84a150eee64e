"""The trainings that benchmarks share: shapes and data, without any framework."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class Case:
    """`mlp`: 64-32-10 on 8x8 digits. `cnn`: three times Conv-BN-ReLU-MaxPool with 4, 8 and 16 channels, 100, 10.

    `resnet`: ResNet-18 for 32x32 images, with a first convolution of 3x3 and no pooling behind it.
    """

    name: str
    network: str
    batch: int
    steps: int
    scale: float
    rounds: int = 3
    steps_on_gpu: int | None = None
    precision: str | None = None
    is_for_gpu: bool = False

    def data(self, steps: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Images uint8 ([N, 64], or digits blown up to [N, 28, 28, 1] or [N, 32, 32, 3]) and class ids [N] int32."""
        images, target = digits()
        if self.network == "mlp":
            images = images.reshape(-1, 64)
        elif self.network == "cnn":
            images = np.kron(images * 15, np.ones((1, 3, 3), np.uint8))
            images = np.pad(images, ((0, 0), (2, 2), (2, 2)))[..., None]
        else:
            images = np.repeat(np.kron(images * 15, np.ones((1, 4, 4), np.uint8))[..., None], 3, axis=-1)
        rows = np.resize(np.arange(len(target)), (steps or self.steps) * self.batch)
        return images[rows], target[rows]

    def small(self) -> Case:
        """The same for a check that all contenders run."""
        heavy = self.network == "resnet"
        return replace(self, batch=2 if heavy else min(self.batch, 64), steps=2 if heavy else 20, rounds=1)


def digits() -> tuple[np.ndarray, np.ndarray]:
    """Images [N, 8, 8] uint8 of 0 to 16, and class ids [N] int32; random ones where scikit-learn is missing."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        random = np.random.default_rng(0)
        return random.integers(0, 17, (1797, 8, 8), np.uint8), random.integers(0, 10, 1797, np.int32)
    found = load_digits()
    return found.images.astype(np.uint8), found.target.astype(np.int32)


MLP = Case("mlp", "mlp", 32, 1792, 16.0, rounds=7)
CNN = Case("cnn", "cnn", 64, 300, 255.0, rounds=7, steps_on_gpu=1024)
CNN_1024 = Case("cnn-1024", "cnn", 1024, 256, 255.0, is_for_gpu=True)
RESNET = Case("resnet", "resnet", 512, 128, 255.0, precision="bfloat16", is_for_gpu=True)
CASES = {case.name: case for case in (MLP, CNN, CNN_1024, RESNET)}


def turned(contenders: Iterable[str], number: int) -> list[str]:
    """In another order in each round: whoever follows a rival inherits its threads and its garbage."""
    names = list(contenders)
    return random.Random(number).sample(names, len(names))
