"""A graph inside `keras.Model.fit`: what the same training is like without this library's loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras

from experimentator.backends import CannotRunError

Read = Callable[[Sequence[Any]], Mapping[str, Any]]  # keys to the batch of their items


class Items(keras.utils.PyDataset):
    """The items of a subset, read batch by batch in threads, as Keras does it."""

    def __init__(self, keys: Sequence[Any], batch_size: int, read: Read, workers: int):
        super().__init__(workers=workers, use_multiprocessing=False, max_queue_size=2 * workers)
        self.keys, self.batch_size, self.read = keys, batch_size, read

    def __len__(self) -> int:
        return len(self.keys) // self.batch_size or 1

    def __getitem__(self, place: int) -> tuple[Any]:
        return (self.read(self.keys[place * self.batch_size : (place + 1) * self.batch_size]),)


class GraphModel(keras.Model):
    """A Keras model whose training step runs a graph: forward, backward and update, with the loss that it writes."""

    def __init__(self) -> None:
        super().__init__()
        self.mean_loss = keras.metrics.Mean("loss")
        self.built = True

    @property
    def metrics(self) -> list[Any]:
        """The mean of the loss alone."""
        return [self.mean_loss]


def fitted(
    model: GraphModel, data: Any, batch_size: int, refused: tuple[type[Exception], ...]
) -> Callable[[int], None]:
    """`epoch(steps)`: one quiet epoch of so many steps.

    `data` are columns in host memory, which are shuffled, or (keys, read, workers).
    """
    data = data if isinstance(data, Mapping) else Items(data[0], batch_size, *data[1:])
    given: dict[str, Any] = {} if isinstance(data, Items) else {"batch_size": batch_size, "shuffle": True}

    def epoch(steps: int) -> None:
        source = data if isinstance(data, Items) else {n: column[: steps * batch_size] for n, column in data.items()}
        try:
            model.fit(source, epochs=1, steps_per_epoch=steps if isinstance(data, Items) else None, verbose=0, **given)
        except refused as error:
            raise CannotRunError(str(error).partition("\n")[0]) from error

    return epoch
