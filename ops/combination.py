"""Several losses into one: with factors that are given, or with factors that are learned.

>>> from experimentator.graph import Mode
>>> chunk = Chunk({"digit_loss": 2.0, "same_loss": 3.0}, mode=Mode.TRAIN)
>>> CombineLosses(["digit_loss", "same_loss"])(chunk)
>>> float(chunk["loss"])
5.0
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import keras

from experimentator.graph import Chunk, DeclarationError
from experimentator.ops.errors import TensorError
from experimentator.ops.op import Op, given_as, is_number

KINDS = {"regression": 0.5, "classification": 1.0}


@dataclass(eq=False)
class CombineLosses(Op):
    """Add up losses, each times its factor: every part [] keeps its own name, the sum is `output` [] float32.

    `parts` is a dictionary from name to factor, or a list of names with factors of 1; one name stands for a list of
    one, as in `inputs=` elsewhere. A part with a factor of 0 is still computed and reported.

    >>> from experimentator.graph import Mode
    >>> chunk = Chunk({"digit_loss": 2.0, "same_loss": 3.0}, mode=Mode.TRAIN)
    >>> CombineLosses({"digit_loss": 1.0, "same_loss": 0.5})(chunk)
    >>> float(chunk["loss"])
    3.5

    Raises:
        DeclarationError: if there are no parts, one twice, or a factor that is no number, when the op is made.
        TensorError: if a part is not a single number.
    """

    is_metric: ClassVar[bool] = True
    measures_inputs: ClassVar[bool] = True  # parts that no loss of the shelf writes, too
    parts: Mapping[str, float] | Sequence[str] | str
    output: str = "loss"

    def __post_init__(self) -> None:
        names = [self.parts] if isinstance(self.parts, str) else list(self.parts)
        if not names or len(set(names)) < len(names):
            seen = f"its parts are {', '.join(map(str, names)) or 'none'}"
            raise DeclarationError("CombineLosses", seen=seen, write="Name each loss once.")
        super().__post_init__()
        factors: Any = self.factors.values()
        fine = all(is_number(one) and (not isinstance(one, float) or math.isfinite(one)) for one in factors)
        self.require(fine, seen=f"its factors are {self.factors}", write="Give a number for each loss.")

    @property
    def factors(self) -> Mapping[str, float]:
        """What each part is multiplied by."""
        names = (self.parts,) if isinstance(self.parts, str) else self.parts
        return names if isinstance(names, Mapping) else dict.fromkeys(names, 1.0)

    @property
    def sums_of(self) -> Mapping[str, Mapping[str, float]]:
        """Over a pass, the sum is that of its parts' figures for the pass, each averaged with weights of its own."""
        return {self.output: {name: float(keras.ops.convert_to_numpy(one)) for name, one in self.factors.items()}}

    inputs = given_as("factors")
    outputs = given_as("output")

    def __call__(self, chunk: Chunk) -> None:
        terms = [factor * one_number(self, name, chunk[name]) for name, factor in self.factors.items()]
        chunk[self.output] = sum(terms[1:], start=terms[0])


@dataclass(eq=False)
class UncertaintyWeighting(Op):
    """Add up losses with factors that are learned: every part [] keeps its own name, the sum is `output` [] float32.

    `parts` is a dictionary from name to "regression" or "classification". Each part L has one trainable weight
    s = log(variance), 0 at first, and adds L / (2 exp(s)) + s / 2 for a regression (L a squared error), or
    L / exp(s) + s / 2 for a classification (L a cross entropy): Kendall, Gal, Cipolla, "Multi-Task Learning Using
    Uncertainty to Weigh Losses for Scene Geometry and Semantics", 2018, section 3. The sum may become negative.

    >>> from experimentator.graph import Mode
    >>> op = UncertaintyWeighting({"size_loss": "regression", "digit_loss": "classification"})
    >>> chunk = Chunk({"size_loss": 4.0, "digit_loss": 3.0}, mode=Mode.TRAIN)
    >>> op(chunk)
    >>> float(keras.ops.convert_to_numpy(chunk["loss"]))  # 4 / 2 + 3
    5.0
    >>> [variable.name for variable in op.log_variances.values()]
    ['log_variance_size_loss', 'log_variance_digit_loss']

    Raises:
        DeclarationError: if there are no parts, or one is of another kind, when the op is made.
        TensorError: if a part is not a single number.
    """

    is_metric: ClassVar[bool] = True
    measures_inputs: ClassVar[bool] = True  # parts that no loss of the shelf writes, too
    parts: Mapping[str, str]
    output: str = "loss"

    def __post_init__(self) -> None:
        given: Any = self.parts
        if not isinstance(given, Mapping) or not given or not set(given.values()) <= set(KINDS):
            write = "Give a dictionary from each loss's name to 'regression' or 'classification'."
            raise DeclarationError("UncertaintyWeighting", seen=f"its parts are {self.parts!r}", write=write)
        super().__post_init__()
        self._log_variances = {name: _scalar(f"log_variance_{name}") for name in self.parts}

    @property
    def log_variances(self) -> dict[str, Any]:
        """The trainable weights, one Keras variable [] float32 for each part."""
        return dict(self._log_variances)

    inputs = given_as("parts")
    outputs = given_as("output")

    def __call__(self, chunk: Chunk) -> None:
        terms = [self._term(name, one_number(self, name, chunk[name])) for name in self.parts]
        chunk[self.output] = sum(terms[1:], start=terms[0])

    def _term(self, name: str, part: Any) -> Any:
        s = keras.ops.convert_to_tensor(self._log_variances[name])
        return KINDS[self.parts[name]] * keras.ops.exp(-s) * part + 0.5 * s


def one_number(op: Op, name: str, part: Any) -> Any:
    """A part of a loss, as [] float32."""
    part = keras.ops.cast(keras.ops.convert_to_tensor(part), "float32")
    if len(part.shape):
        write = f"Write ops.Apply(keras.ops.mean, inputs={name!r}, outputs={name!r}) above it."
        raise TensorError(op, rule="A loss is one number", tensors={name: part}, write=write)
    return part


def _scalar(name: str) -> Any:
    return keras.Variable(0.0, dtype="float32", name=name.replace("/", "_"))  # Keras forbids slashes
