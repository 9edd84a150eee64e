"""Datasets that change the items of another: by transforms, functions of (key, item), or by drawing each twice."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from experimentator.data.chance import generators_in, seeds_in
from experimentator.data.copies import own_copy
from experimentator.data.datasets import WrappedDataset
from experimentator.data.items import DatasetError, is_deterministic
from experimentator.data.reading import drawing, item_random, reading
from experimentator.graph import Mode
from experimentator.graph.signatures import signature_of

log = logging.getLogger(__name__)
Transform = Callable[..., Any]


class DataAugmentationDataset(WrappedDataset):
    """A dataset whose items pass through `transforms`, functions of (key, item) or (key, item, mode) -> item or None.

    None leaves the item out: batches are filled with the items that follow. A transform may change the item in place,
    its arrays, tensors, lists and dictionaries included, at any depth: it gets a copy. `mode` is the mode of the subset
    that reads. A transform with a parameter `random` gets a `numpy.random.Generator`; one that draws from `np.random`,
    `random` or a generator that it holds finds that seeded. Either way, draws depend on seed, subset, key, visit and,
    in training, epoch: never on the workers. Transforms with `random` run in several threads at once, others that draw
    run one after the other. If all of them give the same each time, `dataset.deterministic = True` lets an experiment
    keep their items.

    >>> def brighten(key, item, random):
    ...     item["input"] = item["input"] + random.integers(10)
    ...     return item
    >>> def only_odd(key, item):
    ...     return item if key % 2 else None
    >>> dataset = DataAugmentationDataset([{"input": 0}] * 4, [brighten, only_odd])
    >>> dataset.query_item(2), list(dataset.query_item(3))
    (None, ['input'])

    Raises:
        DatasetError: when an item is read, for a transform that takes other arguments.
    """

    _draws_in = ("parent",)  # generators in transforms are set here

    def __init__(self, parent: Any, transforms: Iterable[Transform | None] = ()):
        super().__init__(parent)
        if not hasattr(transforms, "__iter__"):
            write = "Write DataAugmentationDataset(dataset, [transform])."
            raise DatasetError("The transforms of a dataset are a list.", f"{transforms!r:.80}", write)
        self.transforms = [transform for transform in transforms if transform is not None]
        self._plans: tuple[_Plan, ...] = ()

    def query_item(self, key: Hashable) -> Any:
        """The item of one key, or None if a transform leaves it out."""
        item = self.parent.query_item(key)
        if item is None or not self.transforms:
            return item
        item, now = own_copy(item), reading()
        mode = Mode.ALL if now is None else now.mode
        for plan in self._planned():
            item = plan(key, item, mode)
            if item is None:
                return None
        return item

    def _planned(self) -> tuple[_Plan, ...]:
        """How each transform is called; found once, and again when the list was changed."""
        plans = self._plans
        if [id(plan.transform) for plan in plans] != list(map(id, self.transforms)):
            self._plans = plans = tuple(map(_Plan.of, self.transforms))
        return plans

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_plans": ()}


@dataclass(frozen=True)
class _Plan:
    """A transform, what it takes, and the generators it draws from."""

    transform: Transform
    mode: str | None  # how it takes the mode: "by name", "by place", or None if not
    takes_random: bool
    generators: list[Any]
    seeds: list[Any]  # Keras' seed generators, which are not set; emptied once the warning was given

    KINDS: ClassVar = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)

    @classmethod
    def of(cls, transform: Transform) -> _Plan:
        parameters = signature_of(transform).parameters
        needed = [
            name for name, p in parameters.items() if p.default is p.empty and p.kind in cls.KINDS and name != "random"
        ]
        mode = "by name" if "mode" in parameters else "by place" if len(needed) == 3 else None
        others = len(needed) - (mode == "by place") - ("mode" in needed)
        is_open = any(p.kind is p.VAR_POSITIONAL for p in parameters.values())
        if others != 2 and not is_open:
            raise DatasetError(
                f"The transform {getattr(transform, '__qualname__', transform)!r} does not take (key, item).",
                ", ".join(map(str, parameters.values())) or "none",
                "Write a function of (key, item) or (key, item, mode); a parameter `random` gets a generator.",
            )
        return cls(transform, mode, "random" in parameters, generators_in(transform), seeds_in(transform))

    def __call__(self, key: Hashable, item: Any, mode: Any) -> Any:
        options: dict[str, Any] = {"random": item_random()} if self.takes_random else {}
        if self.mode == "by name":
            options["mode"] = mode
        places = (key, item, mode) if self.mode == "by place" else (key, item)
        if not self.generators and not self.seeds:
            return self.transform(*places, **options)
        with drawing(self.generators), self._watched():
            return self.transform(*places, **options)

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Warn once if it draws from Keras' seed generators: such draws depend on what was read before."""
        before = [np.asarray(seed.state).tolist() for seed in self.seeds]
        yield
        if [np.asarray(seed.state).tolist() for seed in self.seeds] != before:
            self.seeds.clear()
            log.warning(
                "The transform %r draws from a SeedGenerator of Keras: what an item gets depends on what was read "
                "before, and on the workers. Take its layer into the graph, ops.Model(layer, ..., mode=Mode.TRAIN), or "
                "draw from a parameter `random`.",
                getattr(self.transform, "__qualname__", self.transform),
            )


class PairedDataset(WrappedDataset):
    """Reads each key twice, with different draws, for contrastive training: `first_<name>` and `second_<name>`.

    Names in `shared`, such as a target, keep their name, with the value of the first draw. A key is left out if either
    draw is.

    >>> def noise(key, item, random):
    ...     return {**item, "input": item["input"] + random.normal()}
    >>> pairs = PairedDataset(DataAugmentationDataset([{"input": 0.0, "target": 1}], [noise]), shared=["target"])
    >>> item = pairs.query_item(0)
    >>> list(item), item["first_input"] == item["second_input"]
    (['first_input', 'second_input', 'target'], False)

    Raises:
        DatasetError: when an item is read, if it has no such name to share.
    """

    def __init__(self, parent: Any, *, shared: Collection[str] = ()):
        super().__init__(parent)
        self.shared = (shared,) if isinstance(shared, str) else tuple(shared)

    @property
    def deterministic(self) -> bool:  # type: ignore[override]  # computed, where the base has a constant
        """Whether the parent's items are the same every time, so that both draws are equal."""
        return is_deterministic(self.parent)

    def query_item(self, key: Hashable) -> Any:
        """The item of one key, drawn twice."""
        draws = [self.parent.query_item(key) for _ in range(2)]
        if any(item is None for item in draws):
            return None
        if missing := [name for name in self.shared if name not in draws[0]]:
            raise DatasetError(
                f"There is no {missing[0]!r} that a pair could share.",
                f"{', '.join(map(str, draws[0]))} in the item of key {key!r}",
                "Name values of the parent's items.",
            )
        drawn = {
            f"{place}_{name}": value
            for place, item in zip(("first", "second"), draws, strict=True)
            for name, value in item.items()
            if name not in self.shared
        }
        return drawn | {name: draws[0][name] for name in self.shared}
