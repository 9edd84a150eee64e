"""Where arrays lie: on one device, or on the several that `keras.distribution` names."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import keras
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

log = logging.getLogger(__name__)


class Devices:
    """One device, or those of `keras.distribution.set_distribution(...)`, as it was when an experiment began.

    Of several, each computes its part of every batch. The program is that of one device: a mean, a gradient and the
    statistics of a BatchNormalization are of the whole batch, and XLA adds up what the devices compute. Columns lie on
    each device whole, weights as the distribution says.
    """

    def __init__(self) -> None:
        self.distribution = keras.distribution.distribution()
        self.told: set[int] = set()
        first, count = jax.devices()[0], ""
        if self.distribution is not None:
            self.mesh = self.distribution.device_mesh.backend_mesh
            self.parts = self.mesh.shape[self.distribution.batch_dim_name]  # of a batch
            first, count = self.mesh.devices.flat[0], f"{self.mesh.size} x "
        self.is_host = first.platform == "cpu"
        self.name = f"{count}{'CPU' if self.is_host else first.device_kind}"

    def placed(self, array: Any) -> Any:
        """The array as it lies on the devices, or should: whole on each, unless it lies there in parts."""
        if self.distribution is None:
            return array
        axes = array.sharding.spec if getattr(array.sharding, "mesh", None) == self.mesh else ()
        while axes and axes[-1] is None:  # else equal layouts are written in two ways, and compiled twice
            axes = axes[:-1]
        layout = NamedSharding(self.mesh, PartitionSpec(*axes))
        return array if layout == array.sharding else jax.device_put(array, layout)

    def split(self, tensors: Mapping[str, Any], *, trains: bool) -> dict[str, Any]:
        """The same batch, its rows divided among the devices; within a trace. Rows that do not divide stay whole.

        The last rows of an evaluation may not divide; for batches of training, this is logged.
        """
        if self.distribution is None:
            return dict(tensors)
        rows = {len(tensor) for tensor in tensors.values()}
        if not any(number % self.parts for number in rows):
            layout = NamedSharding(self.mesh, PartitionSpec(self.distribution.batch_dim_name))
            return {name: lax.with_sharding_constraint(tensor, layout) for name, tensor in tensors.items()}
        if trains and not rows <= self.told:
            self.told |= rows
            several = "Batches of %s are not divisible by %s, so every device computes all of each. "
            log.warning(several + "Write a batch_size that is a multiple of %s.", max(rows), self.parts, self.parts)
        return dict(tensors)

    def kept(self, values: Sequence[Any], layouts: Sequence[Any]) -> list[Any]:
        """New values of variables in the layouts of the old ones; within a trace."""
        if self.distribution is None:
            return list(values)
        return [lax.with_sharding_constraint(value, layout) for value, layout in zip(values, layouts, strict=True)]
