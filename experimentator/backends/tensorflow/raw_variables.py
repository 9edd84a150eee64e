"""The tf.Variables that a processor reads or changes, Keras' aside, trained or not, such as states of generators."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import get_ident
from typing import Any, NamedTuple

import tensorflow as tf
from tensorflow.python.ops import resource_variable_ops as own

from experimentator.backends.keras.memoised import ONE_AT_A_TIME
from experimentator.backends.keras.no_gradient import within_no_gradient
from experimentator.patches import patched


class Touch(NamedTuple):
    """A variable; whether no gradient reaches it there; and its value before, where tensors have values."""

    variable: Any
    is_held: bool
    before: Any = None

    @property
    def is_state(self) -> bool:
        """Whether it may be trained, or a file of weights can hold it: no text, nor a shape that differs by batch."""
        kind = self.variable.dtype
        is_number = kind.is_bool or kind.is_integer or kind.is_floating
        if self.variable.trainable:
            return bool(is_number or kind.is_complex)
        return bool(is_number and self.variable.shape.is_fully_defined())

    def put_back(self) -> None:
        """Give the variable the value it had."""
        if self.before is not None:
            self.variable.assign(self.before)


@contextmanager
def touched(listens: Callable[[], bool] = lambda: True) -> Iterator[Callable[[], list[Touch]]]:
    """Within, notes the variables that this thread touches, while `listens` says so, in order.

    Reading, assigning, scattering and drawing ask for a variable's handle, which is patched; a `tf.function` that was
    traced before tells that it accesses the variable. Tapes see trainable variables alone, and take a third longer.

    >>> counter = tf.Variable(1, trainable=False)
    >>> with touched() as found:
    ...     _ = counter.assign_add(1)
    >>> [touch.variable is counter for touch in found()], int(counter)
    ([True], 2)
    >>> found()[0].put_back()
    >>> int(counter)
    1
    """
    found: dict[int, Touch] = {}
    thread = get_ident()

    def note(variable: Any) -> None:
        if get_ident() != thread or id(variable) in found or not listens():
            return
        if getattr(variable, "_handle", None) is not None:
            found[id(variable)] = Touch(variable, within_no_gradient())  # first, since reading asks for the handle
            with suppress(tf.errors.FailedPreconditionError):  # it has no value yet
                before = variable.read_value() if tf.executing_eagerly() else None
                found[id(variable)] = found[id(variable)]._replace(before=before)

    def told(variable: Any) -> None:
        note(variable)
        accessed(variable)

    def asked(variable: Any) -> Any:
        note(variable)
        return handle.fget(variable)

    with ONE_AT_A_TIME:
        handle, accessed = own.BaseResourceVariable.handle, own.variable_accessed
        with (
            patched(own.BaseResourceVariable, handle=property(asked)),
            patched(own, variable_accessed=told),
            tf.GradientTape(watch_accessed_variables=False),  # within one, a `tf.function` tells in eager, too
        ):
            yield lambda: sorted(found.values(), key=_place)


def _place(touch: Touch) -> tuple[bool, int]:
    """Trainable ones first, in the order in which they were made, as in tapes: a `tf.function` tells in any order."""
    return not touch.variable.trainable, getattr(touch.variable._handle, "_id", 0)
