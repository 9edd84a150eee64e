"""Functions of tensors inside a Keras layer, the loss that training minimises, and the update."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import keras

from experimentator.backends.keras.norms import Norms
from experimentator.backends.keras.reach import Reach
from experimentator.backends.keras.variables import Variables, copied
from experimentator.graph import Graph, GraphError
from experimentator.optimizer_parts import parts_of


class InContext(keras.Layer):
    """A layer around a function of tensors: layers called inside see the right `training`."""

    def __init__(self, function: Callable[[Any], Any]):
        super().__init__(autocast=False)
        self.function = function
        self.built = True
        self.error: Exception | None = None

    def call(self, tensors: Any, training: bool = False) -> Any:
        try:
            return self.function(tensors)
        except Exception as error:
            self.error = error
            raise

    def run(self, tensors: Any, *, training: bool) -> Any:
        """Call the function; its errors come out as they were raised, without the text Keras wraps around them."""
        self.error = None
        try:
            return self(tensors, training=training)
        except Exception:
            if self.error is None:
                raise
            raise self.error from self.error.__cause__


class Forward:
    """A graph as a function of the tensors of a batch; `added` are the losses that its layers added by themselves.

    Layers do so by `add_loss`, or by an `activity_regularizer`. `is_held(variable)` tells whether a variable is only
    read where no gradient reaches it; `variables` are all there are, those of other graphs too; `norms` are norms of
    gradients that processors ask for; `reach` looks at which weights gradients reach.
    """

    def __init__(
        self,
        run: Callable[[Any], dict[str, Any]],
        added: list[Any],
        is_held: Callable[[Any], bool],
        graph: Graph,
        variables: Variables,
    ):
        self.run, self.added, self.is_held = run, added, is_held
        self.graph, self.variables = graph, variables
        self.norms, self.reach = Norms(graph, variables.keyed), Reach(graph, variables)

    def __call__(self, tensors: Any) -> dict[str, Any]:
        """What the graph writes."""
        self.added.clear()
        outputs = self.run(tensors)
        if nothing := [name for name, value in outputs.items() if value is None]:
            raise GraphError(
                f"{nothing[0]!r} is asked for, and its processor writes no tensor.\n"
                "Seen: None.\n"
                "Write a tensor, or a number. The function that computes it may lack a `return`."
            )
        if odd := [name for name, value in outputs.items() if not is_dense(as_tensor(value))]:
            raise GraphError(
                f"{odd[0]!r} is asked for, and its processor writes no dense tensor.\n"
                f"Seen: a {type(outputs[odd[0]]).__name__}.\n"
                "Write each tensor that is in it under a name of its own, or leave it out: outputs=[...] lists others."
            )
        return outputs

    def trained(self) -> list[Any]:
        """The variables that are trained now: of others than the graph reads, not even a regularizer counts."""
        read = self.variables.read_by({node.name for node in self.graph.nodes})
        kept = [one for one in read if one.trainable and not self.is_held(one)]
        if odd := [one for one in kept if "complex" in str(one.dtype)]:
            raise GraphError(
                f"No optimizer of Keras trains the weight {odd[0].name!r}.\n"
                f"Seen: {keras.backend.standardize_dtype(odd[0].dtype)} {list(odd[0].shape)}.\n"
                "Make two float weights, and a complex tensor of both where it is used; or write trainable=False, or "
                "requires_grad=False."
            )
        return kept


def as_tensor(value: Any) -> Any:
    """What a processor wrote, as one tensor; None where it is none, as a dict is."""
    try:
        return keras.ops.convert_to_tensor(value)
    except (TypeError, ValueError):
        return None


def is_dense(tensor: Any) -> bool:
    """Whether batches of it can be stacked: not if it is ragged, or sparse."""
    return tensor is not None and keras.ops.convert_to_tensor(tensor, sparse=False, ragged=False) is tensor


def check_losses(outputs: Mapping[str, Any], names: Iterable[str]) -> None:
    """Refuse a loss that no gradient can be taken of."""
    for name in dict.fromkeys(("loss", *names)):
        sizes, dtype = list(outputs[name].shape), keras.backend.standardize_dtype(outputs[name].dtype)
        if sizes or "float" not in dtype:
            raise GraphError(
                f"{name!r} must be one floating number.\n"
                f"Seen: {sizes} {dtype}.\n"
                "Reduce it, with a mean over the batch, or cast it to float32."
            )


def objective_of(loss: Any, added: Iterable[Any], variables: Iterable[Any], optimizer: Any) -> Any:
    """What is minimised: a loss, with all that `keras.Model.fit` adds to it, scaled for float16.

    That is what layers `added` by themselves, and the regularisers on weights.
    """
    loss = keras.ops.convert_to_tensor(loss)  # a plain number has no gradient either, which is told where there is none
    terms = [keras.ops.sum(keras.ops.cast(one, loss.dtype)) for one in keras.tree.flatten(list(added))]
    terms += [variable.regularizer(variable) for variable in variables if getattr(variable, "regularizer", None)]
    return optimizer.scale_loss(loss + keras.ops.cast(sum(terms), loss.dtype) if terms else loss)


def update(optimizer: Any, gradients: Sequence[Any], variables: Sequence[Any]) -> None:
    """Update variables; an optimizer that was built for other variables or settings is refused in plain words."""
    put_back = copied(_averaged_untrained(optimizer, variables))
    try:
        optimizer.apply(gradients, variables)
    except (ValueError, IndexError) as error:
        if isinstance(error, ValueError) and "Unknown variable" not in str(error):
            raise
        wrong = "was made for other weights, and keeps moments of those"
        seen = "trained in another experiment, or before a change of chunk_processors or of layers in them"
        if isinstance(error, IndexError):
            wrong, seen = "keeps no moments for what it was changed to", f"which fails with {error!r}"
        name = type(optimizer).__name__
        where = "keras.optimizers." if hasattr(keras.optimizers, name) else "experimentator."
        raise ValueError(
            f"The optimizer {wrong}.\nSeen: {name}, {seen}.\n"
            f"Give the experiment a new one: exp.optimizer = {where}{name}(...)."
        ) from None
    put_back()


def _averaged_untrained(optimizer: Any, trained: Iterable[Any]) -> list[Any]:
    """Variables that are averaged but not trained: Keras would overwrite them with their averages, like weights."""
    known = {id(variable) for variable in trained}
    parts = [part for part in parts_of(optimizer) if part.use_ema and part.ema_overwrite_frequency]
    return [one for part in parts for one in part._trainable_variables if id(one) not in known]
