"""The two trainings that benchmarks share: shapes and data, without any framework."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.datasets import load_digits


@dataclass(frozen=True)
class Case:
    """`mlp`: 64-32-10 on 8x8 digits. `cnn`: three times Conv-BN-ReLU-MaxPool with 4, 8 and 16 channels, 100, 10."""

    name: str
    batch: int
    steps: int
    scale: float

    def data(self, steps: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Images uint8 ([N, 64], or [N, 28, 28, 1] blown up to the size of MNIST) and class ids [N] int32."""
        digits = load_digits()
        images = digits.data.astype(np.uint8)
        if self.name == "cnn":
            images = np.kron(digits.images.astype(np.uint8) * 15, np.ones((1, 3, 3), np.uint8))
            images = np.pad(images, ((0, 0), (2, 2), (2, 2)))[..., None]
        rows = np.resize(np.arange(len(digits.target)), (steps or self.steps) * self.batch)
        return images[rows], digits.target.astype(np.int32)[rows]


CASES = {"mlp": Case("mlp", 32, 1792, 16.0), "cnn": Case("cnn", 64, 300, 255.0)}
