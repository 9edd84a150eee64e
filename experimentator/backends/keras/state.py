"""The state of an optimizer under keys that another process finds again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from experimentator.backends.keras.rates import kept_by
from experimentator.optimizer_parts import parts_of
from experimentator.saving.matching import WeightsError

BUILT_FOR = "built for"


def in_order(variables: Any) -> list[Any]:
    """Variables by their keys, in an order that does not depend on when their processors joined."""
    return [variable for _, variable in sorted(variables.keyed().items())]


def built_for(optimizer: Any, weights: Iterable[Any], usual: Iterable[Any]) -> dict[str, np.ndarray]:
    """Places of the weights that a built optimizer is for, among all `weights`; none if these are the `usual` ones.

    Processors that joined later brought weights that it does not know.
    """
    places = {id(variable): place for place, variable in enumerate(weights)}
    own = list(map(id, optimizer._trainable_variables))
    if own == list(map(id, usual)) or not places.keys() >= set(own):
        return {}
    return {BUILT_FOR: np.array([places[one] for one in own], np.int32)}


def keyed(optimizer: Any) -> dict[str, Any]:
    """Every variable of a built optimizer under its place, and what the rates that it follows read.

    Places are the keys, since names that Keras gives to slots hold counters of the process.
    """
    own = {f"{place:04d}": variable for place, variable in enumerate(optimizer.variables)}
    for place, part in enumerate(parts_of(optimizer)):
        whose = f"{place}/" if place else ""
        own |= {f"rates/{whose}{name}": variable for name, variable in kept_by(part._learning_rate).items()}
    return own


def variables_of(optimizer: Any) -> list[Any]:
    """Every variable that an update reads or assigns, but for tables of rates, of any length; none without one."""
    own = {} if optimizer is None else keyed(optimizer)
    return list({id(one): one for one in own.values() if None not in list(one.shape)}.values())


def assign(own: Mapping[str, Any], state: Mapping[str, np.ndarray]) -> None:
    """Assign a saved state; one of another optimizer is refused before anything is assigned."""
    sizes = {key: list(variable.shape) for key, variable in own.items()}
    odd = [key for key in {**own, **state} if not _fits(sizes.get(key), getattr(state.get(key), "shape", None))]
    if odd:
        raise WeightsError(
            "The optimizer's state does not fit; nothing was loaded.\n"
            f"Seen: {len(state)} saved variables for {len(own)}; the first that differs is {odd[0]!r}.\n"
            "Give the experiment the optimizer that was saved, with the same settings."
        )
    for key, variable in own.items():
        variable.assign(state[key])


def _fits(size: Any, seen: Any) -> bool:
    """Whether a shape is the one a variable has; the table of rates has any length."""
    if size is None or seen is None or len(size) != len(seen):
        return False
    return all(one in (None, real) for one, real in zip(size, seen, strict=True))
