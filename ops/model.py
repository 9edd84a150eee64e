"""Keras layers and models, and anything that is called like them, as chunk processors."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import keras

from experimentator.graph import Chunk, Mode
from experimentator.graph.signatures import signature_of
from experimentator.ops.errors import SignatureError
from experimentator.ops.op import Op, as_names

log = logging.getLogger(__name__)
RESHAPING = ("Flatten", "Permute", "Reshape", "Unflatten")  # layers, of Keras and of PyTorch, that keep every value
STEPS = {  # methods that the loops of Keras and of Lightning call, and nothing calls here
    "Model": ("train_step", "test_step", "compute_loss"),
    "LightningModule": ("training_step", "validation_step", "configure_optimizers"),
}
Arguments = tuple[list[Any], dict[str, Any]]
Names = str | Sequence[str] | Mapping[str, str]


@dataclass(eq=False)
class Model(Op):
    """Call a layer or model: the tensors named by `inputs` go in, what it returns is written to `outputs`.

    `model` is a Keras layer, a Keras model, or a function or object that holds layers. Names are given as one
    string, as a list in the model's own order, or as a dictionary from the model's names to ours.

    Several inputs are passed to a functional model as one list; to others by position if `call` takes that many, else
    as one list. A dictionary is passed to a functional model by its inputs' names; to others by the parameters of
    `call`, else as one dictionary. A returned dictionary or dataclass is written by its keys, of which `outputs` may
    leave some out; so is a named tuple where `outputs` is a dictionary. Every Keras layer, and any callable with a
    parameter `training`, is told whether this call trains; `training=False` says no in all modes (a frozen network
    without dropout), `training=True` yes (dropout that stays on, to be averaged over; a BatchNormalization then
    normalizes by the batch and changes its statistics in evaluations and predictions, too, which is warned of).

    >>> pair = lambda left, right: {"sum": left + right, "gap": left - right}
    >>> from experimentator.graph import Mode
    >>> chunk = Chunk({"a": 5, "b": 3}, mode=Mode.ALL)
    >>> Model(pair, inputs={"right": "a", "left": "b"}, outputs={"gap": "batch_gap"})(chunk)
    >>> chunk["batch_gap"]
    -2

    A layer is built when data first passes:

    >>> import numpy as np
    >>> head = Model(keras.layers.Dense(3), inputs="batch_input", outputs="batch_logits")
    >>> chunk = Chunk({"batch_input": np.zeros([2, 8], "float32")}, mode=Mode.ALL)
    >>> head(chunk)
    >>> tuple(chunk["batch_logits"].shape), len(head.model.weights)
    ((2, 3), 2)

    Raises:
        DeclarationError: if `model` cannot be called, is a class, or takes no `training` where it is given, when the op
            is made.
        SignatureError: if names or their number do not fit what the model takes or returns.
    """

    model: Any
    inputs: Names  # type: ignore[assignment]  # the tensors' names are kept
    outputs: Names  # type: ignore[assignment]  # the same
    training: bool | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        self._takes, self._gives = self.inputs, self.outputs
        self.inputs, self.outputs = _tensors(self.inputs), _tensors(self.outputs)
        super().__post_init__()
        _check_callable(self)
        _tell_steps(self.model)
        write = "Leave it out, or give True or False. A module of PyTorch has its own eval() instead."
        told = self._asks and not (isinstance(self._takes, Mapping) and "training" in self._takes)
        seen = "`training` is one of its inputs" if self._asks else "its model has no parameter `training`"
        self.require(self.training is None or told, seen=seen, write=write)
        fine = self.training is None or isinstance(self.training, bool)
        self.require(fine, seen=f"its training is {self.training!r}", write=write)
        _tell_statistics(self)

    @property
    def _asks(self) -> bool:
        """Whether the model is to be told if this call trains."""
        return isinstance(self.model, keras.Layer) or "training" in _parameters(self.model)

    @property
    def ends_in(self) -> dict[str, tuple[str, int | None]]:
        """The last activation of each output and its width, as far as they can be seen: `{name: ("sigmoid", 1)}`."""
        known = _ends(self.model)
        if isinstance(self._gives, Mapping):
            by_key = dict(zip(getattr(self.model, "output_names", ()), known))
            return {name: by_key[key] for key, name in self._gives.items() if key in by_key}
        return dict(zip(self.outputs, known)) if len(known) == len(self.outputs) else {}

    def __call__(self, chunk: Chunk) -> None:
        positional, named = _arguments(self, chunk)
        if self._asks and (isinstance(self.model, keras.Layer) or "training" not in named):
            named["training"] = chunk.training if self.training is None else self.training
        chunk.update(_results(self, self.model(*positional, **named)))


# What goes in


def _arguments(op: Model, chunk: Chunk) -> Arguments:
    known = _input_names(op.model)
    if isinstance(op._takes, Mapping):
        return _by_name(op, {key: chunk[name] for key, name in op._takes.items()}, known)
    tensors = [chunk[name] for name in _tensors(op._takes)]
    if known is not None and len(known) != len(tensors):
        raise _misfit(op, f"Its model takes {_listed(known)}", "inputs", known)
    kinds = {one.kind for one in _parameters(op.model).values()}
    if kinds and kinds <= {inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD}:
        parameters = [name for name, one in _parameters(op.model).items() if one.kind is one.KEYWORD_ONLY]
        raise _misfit(op, "Its model takes tensors only by name", "inputs", parameters or ["name"])
    if len(tensors) == 1:
        return tensors, {}
    if known is None:
        return (tensors, {}) if _positions(op.model) >= len(tensors) else ([tensors], {})
    if not isinstance(op.model, keras.Sequential) and isinstance(op.model.input, Mapping):
        raise _misfit(op, f"Its model takes a dictionary of {_listed(known)}", "inputs", known)
    return [tensors], {}


def _by_name(op: Model, tensors: dict[str, Any], known: Sequence[str] | None) -> Arguments:
    if known is not None:
        if set(known) != set(tensors):
            raise _misfit(op, f"Its model takes {_listed(known)}", "inputs", known)
        return [tensors], {}
    own = {name: one for name, one in _parameters(op.model).items() if name != "training"}
    named = {name: one for name, one in own.items() if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)}
    parameters = [name for name in named if name != "mask"]
    needed = {name for name in parameters if named[name].default is inspect.Parameter.empty}
    takes_any = any(one.kind is one.VAR_KEYWORD for one in own.values())  # as a wrapper does
    if set(tensors) <= named.keys() or (takes_any and needed <= set(tensors)):
        return [], tensors
    if len(parameters or own) == 1:
        return [tensors], {}
    raise _misfit(op, f"Its model's parameters are {_listed(parameters)}", "inputs", parameters)


def _input_names(model: Any) -> list[str] | None:
    """The names of a functional model's inputs; None where calling it is the only way to know."""
    tensors = getattr(model, "inputs", None) if isinstance(model, keras.Model) else None
    if tensors is None:
        return None
    struct = getattr(model, "input", None)  # a Sequential may lack it
    return list(struct) if isinstance(struct, Mapping) else [tensor.name for tensor in tensors]


def _parameters(model: Any) -> Mapping[str, inspect.Parameter]:
    try:
        return signature_of(_called(model)).parameters
    except ValueError:  # builtins without a signature
        return {}


def _called(model: Any) -> Any:
    """The function that takes the tensors: `call` of a Keras layer, `forward` of a module of PyTorch."""
    return model.call if isinstance(model, keras.Layer) else getattr(model, "forward", model)


def _positions(model: Any) -> float:
    """How many tensors the model takes by position."""
    parameters = [p for p in _parameters(model).values() if p.name not in ("training", "mask")]
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return float("inf")
    return sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)


# What comes out


def _results(op: Model, result: Any) -> dict[str, Any]:
    result = _with_keys(op, result)
    if isinstance(result, Mapping) or isinstance(op._gives, Mapping):
        return _chosen(op, _by_key(op, result))
    values = list(result) if isinstance(result, (list, tuple)) else [result]
    if len(values) != len(op.outputs):
        raise _misfit(op, f"Its model returns {_counted(len(values))}", "outputs", None)
    return dict(zip(op.outputs, values, strict=True))


def _with_keys(op: Model, result: Any) -> Any:
    """Fields of a dataclass by name, and of a named tuple if `outputs` is a dictionary; other results unchanged."""
    if is_dataclass(result) and not isinstance(result, (Mapping, type)):
        return {one.name: getattr(result, one.name) for one in fields(result)}
    return result._asdict() if isinstance(op._gives, Mapping) and hasattr(result, "_asdict") else result


def _chosen(op: Model, values: Mapping[str, Any]) -> dict[str, Any]:
    names = op._gives if isinstance(op._gives, Mapping) else dict(zip(op.outputs, op.outputs))
    if not set(names) <= set(values):
        raise _misfit(op, f"Its model returns {_listed(values)}", "outputs", list(values))
    return {name: values[key] for key, name in names.items()}


def _by_key(op: Model, result: Any) -> Mapping[str, Any]:
    if isinstance(result, Mapping):
        return result
    values = list(result) if isinstance(result, (list, tuple)) else [result]
    keys = getattr(op.model, "output_names", None)
    if keys is None or len(keys) != len(values):
        raise _misfit(op, f"Its model returns {_counted(len(values))} without names", "outputs", None)
    return dict(zip(keys, values, strict=True))


def _ends(model: Any) -> list[tuple[str, int | None]]:
    """Of each output of a layer, model or module: "softmax", "sigmoid", "linear", or "" for others; and its width."""
    if isinstance(model, keras.Sequential) and model.layers:
        return _ends_of(model.layers)
    if isinstance(model, keras.Model) and getattr(model, "outputs", None):  # a functional one
        found = []
        for tensor in model.outputs:
            origin = tensor._keras_history
            while type(origin.operation).__name__ in RESHAPING:
                origin = origin.operation.input._keras_history
            ends, place = _ends(origin.operation), origin.tensor_index
            found.append((ends[place][0] if place < len(ends) else "", tensor.shape[-1] if tensor.shape else None))
        return found
    room = type(model).__module__
    if type(model).__name__ == "Sequential" and room.startswith("torch.nn.") and len(model):
        return _ends_of(model)
    name = ""
    if room.startswith(("keras.", "torch.nn.")) and not isinstance(model, keras.layers.RNN):
        name = getattr(getattr(model, "activation", None), "__name__", type(model).__name__).lower()
    if isinstance(model, keras.layers.Activation) and name == "linear":
        name = ""  # it only casts what is before it, which may be probabilities
    width = getattr(model, "units", getattr(model, "out_features", None))  # of Keras and of PyTorch
    return [(name if name in ("softmax", "sigmoid", "linear") else "", width)]


def _ends_of(layers: Any) -> list[tuple[str, int | None]]:
    """What a chain ends in: an activation that is a layer of its own is as wide as the layer before it."""
    if len(layers) > 1 and type(layers[-1]).__name__ in RESHAPING:
        (*_, width) = getattr(layers[-1], "target_shape", None) or (None,)
        return [(name, width) for name, _ in _ends_of(layers[:-1])]
    before = _ends(layers[-2])[0][1] if len(layers) > 1 else None
    return [(name, before if width is None else width) for name, width in _ends(layers[-1])]


# Messages


def _misfit(op: Model, takes: str, side: str, keys: Sequence[str] | None) -> SignatureError:
    given = op._takes if side == "inputs" else op._gives
    text = ", ".join(f"{key!r}: {name!r}" for key, name in given.items()) if isinstance(given, Mapping) else ""
    is_numbered = all(key.startswith("keras_tensor") for key in keys or ())  # by Keras, anew in each process
    example = "" if is_numbered else ", ".join(f"{key!r}: ..." for key in keys or ())
    write = f"Write {side}={{{example}}}." if example else f"Write {side}=[...] with one name for each, in order."
    return SignatureError(op, takes=takes, given=f"{{{text}}}" if text else _listed(_tensors(given)), write=write)


def _tensors(names: Names) -> tuple[str, ...]:
    return as_names(names.values() if isinstance(names, Mapping) else names)


def _listed(names: Any) -> str:
    return ", ".join(map(str, names)) or "nothing"


def _counted(count: int) -> str:
    return "one tensor" if count == 1 else f"{count} tensors"


def _check_callable(op: Model) -> None:
    model: Any = op.model
    name = getattr(model, "__name__", "the class")
    op.require(not isinstance(model, type), seen="its model is a class", write=f"Write {name}(...).")
    seen = f"its model is a {type(model).__name__}, which cannot be called"
    op.require(callable(model), seen=seen, write="Give a Keras layer, a Keras model, or a function of tensors.")
    running = keras.backend.backend()
    is_torch = any(
        (kind.__module__, kind.__name__) == ("torch.nn.modules.module", "Module") for kind in type(model).__mro__
    )
    seen = f"its model is a module of PyTorch, and Keras runs on {running}"
    op.require(not is_torch or running == "torch", seen=seen, write="Set KERAS_BACKEND=torch before Keras is imported.")
    op.refuse_metric(model)


def _tell_steps(model: Any) -> None:
    """Warn of methods of the user's that the loop of another library would call: here nothing calls them."""
    kinds = type(model).__mro__
    theirs = [kind for kind in kinds if kind.__module__.startswith(("keras.", "lightning.", "pytorch_lightning."))]
    names = {name for kind in theirs for name in STEPS.get(kind.__name__, ())}
    own = sorted(name for kind in kinds if kind not in theirs for name in names & vars(kind).keys())
    if own:
        said = "%s has %s, which nothing calls here: compute the same in chunk processors; the optimizer is a setting."
        log.warning(said, type(model).__name__, ", ".join(dict.fromkeys(own)))


def _tell_statistics(op: Model) -> None:
    """Warn where an evaluation or a prediction would change the network."""
    parts = op.model._flatten_layers() if op.training and isinstance(op.model, keras.Layer) else ()
    norms = [one.name for one in parts if isinstance(one, keras.layers.BatchNormalization) and one.trainable]
    if norms and op.mode != Mode.TRAIN:
        log.warning(
            "training=True: %s of %s normalizes by the batch, and changes its statistics, in evaluations and "
            "predictions, too. If dropout alone is meant, set trainable = False on that layer once it is trained.",
            *(norms[0], op.model.name),
        )
